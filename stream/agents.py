"""The Faust agents: they move records between a topic and a function, and decide nothing."""

from collections.abc import Callable
from pathlib import Path

import faust
from faust.types import StreamT
from faust.types.auth import CredentialsT
from mode.supervisors import CrashingSupervisor

from stream.consume import Handle, MicroBatches


def new_app(
    *,
    group: str,
    kafka_servers: str,
    instance_id: str,
    session_timeout_s: float,
    directory: Path,
    credentials: CredentialsT | None = None,
) -> faust.App:
    """
    A Faust app that only consumes: no tables, no web server, no topics of its own.

    Args:
        group: Consumer group.
        kafka_servers: Bootstrap servers, separated by commas.
        instance_id: Static membership, so that a quick restart needs no rebalance; may be empty.
        session_timeout_s: A worker silent for so long has lost its partitions.
        directory: For what Faust keeps on disk.
        credentials: How to log in, and whom to trust; None: in the clear.
    """
    directory.mkdir(parents=True, exist_ok=True)
    return faust.App(
        group,
        broker=[f"kafka://{server}" for server in kafka_servers.split(",")],
        broker_credentials=credentials,
        datadir=directory / group,
        consumer_group_instance_id=instance_id or None,
        consumer_auto_offset_reset="earliest",
        broker_session_timeout=session_timeout_s,
        broker_heartbeat_interval=session_timeout_s / 4,
        # SIGTERM must not wait for a handler that waits for a dead server.
        stream_wait_empty=False,
        topic_allow_declare=False,
        topic_disable_leader=True,
        web_enabled=False,
    )


def add_refresh_slates(
    app: faust.App,
    *,
    topic: str,
    handle: Handle,
    batch_size: int,
    on_ready: Callable[[], None] | None = None,
) -> MicroBatches:
    """
    Feed every event of *topic* to *handle* in micro-batches; see `MicroBatches`.

    Args:
        on_ready: Called whenever partitions have been assigned, be it none.
    """
    # Bytes, undecoded: Faust acknowledges a record it cannot decode before an agent sees it.
    events = app.topic(
        topic, key_type=bytes, key_serializer="raw", value_type=bytes, value_serializer="raw"
    )
    batches = MicroBatches(
        app, topic=topic, handle=handle, batch_size=batch_size, on_ready=on_ready
    )

    @app.agent(events, name="refresh_slates", supervisor_strategy=CrashingSupervisor)
    async def refresh_slates(records: StreamT[bytes]) -> None:
        """Fold each event into its user's row, then push that user's refreshed slate."""
        await batches.run(records)

    return batches
