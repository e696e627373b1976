"""The Faust agents: they move records between a topic and a function, and decide nothing."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import faust
from faust.types import StreamT, TopicT
from faust.types.auth import CredentialsT
from mode.supervisors import CrashingSupervisor

from stream.consume import Handle, MicroBatches
from stream.transport import TakeOver, Transport


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
    app = faust.App(
        group,
        broker=[f"kafka://{server}" for server in kafka_servers.split(",")],
        broker_credentials=credentials,
        datadir=directory / group,
        consumer_group_instance_id=instance_id or None,
        # The transport seeks; a position that the log has lost must not become another one.
        consumer_auto_offset_reset="none",
        broker_session_timeout=session_timeout_s,
        broker_heartbeat_interval=session_timeout_s / 4,
        # SIGTERM must not wait for a handler that waits for a dead server.
        stream_wait_empty=False,
        topic_allow_declare=False,
        topic_disable_leader=True,
        web_enabled=False,
    )
    app.transport = Transport(app)
    return app


def add_refresh_slates(
    app: faust.App,
    *,
    topic: str,
    handle: Handle,
    take_over: TakeOver,
    batch_size: int,
    lanes: int,
    on_ready: Callable[[], None] | None = None,
) -> MicroBatches:
    """
    Feed every event of *topic* to *handle* in micro-batches; see `MicroBatches`.

    Args:
        take_over: Says where the partitions begin that have just been assigned.
        on_ready: Called whenever partitions have been assigned, be it none.
    """
    transport: Any = app.transport  # ours: see `new_app`
    transport.room_for = topic
    batches = MicroBatches(
        app,
        topic=topic,
        handle=handle,
        batch_size=batch_size,
        lanes=lanes,
        room=transport.room,
        on_ready=on_ready,
    )

    @app.agent(
        _fetches(app, topic, take_over),
        name="refresh_slates",
        supervisor_strategy=CrashingSupervisor,
    )
    async def refresh_slates(records: StreamT[bytes]) -> None:
        """Fold each event into its user's row, then push that user's refreshed slate."""
        await batches.run(records)

    return batches


def add_keep_items(
    app: faust.App,
    *,
    topic: str,
    handle: Handle,
    take_over: TakeOver,
    batch_size: int,
    every_s: float,
) -> MicroBatches:
    """Feed every record of *topic*, what events say of items, to *handle*; see `MicroBatches`."""
    batches = MicroBatches(app, topic=topic, handle=handle, batch_size=batch_size, every_s=every_s)

    @app.agent(
        _fetches(app, topic, take_over), name="keep_items", supervisor_strategy=CrashingSupervisor
    )
    async def keep_items(records: StreamT[bytes]) -> None:
        """Fold what events say into the rows of their items."""
        await batches.run(records)

    return batches


def _fetches(app: faust.App, topic: str, take_over: TakeOver) -> TopicT:
    """*topic*, from where *take_over* says, a whole fetch at a time."""
    transport: Any = app.transport  # ours: see `new_app`
    transport.take_over[topic] = take_over
    # Undecoded: Faust acknowledges a record it cannot decode before we see it.
    return app.topic(
        topic, key_type=bytes, key_serializer="raw", value_type=bytes, value_serializer="raw"
    )
