"""The trainer on real servers: from the archive to a version that serves, by itself."""

import asyncio
import time
import urllib.request
from pathlib import Path
from typing import Any

import orjson
import pyarrow as pa
import pytest

from services.archive.reader import SCHEMA, append, partition_dir
from services.models.deployment import deploy
from services.models.serving import Serving
from services.models.versions import read_manifest
from stream import topics
from stream.keys import partition_of
from tests.builders import event_json
from tests.integration.support import Processes, Servers, eventually
from tests.integration.test_archiver import free_port
from tests.tiny_model import build_tiny_version

ITEMS = [f"i{number}" for number in range(20)]
NEW = [f"new-{number}" for number in range(5)]


def archive(topic_dir: Path, now_ms: int) -> None:
    """Sixty shoppers of the last days who walk through the items, the new ones too."""
    records: dict[int, list[dict[str, Any]]] = {}
    items = ITEMS + NEW
    for user in range(60):
        for step in range(12):
            user_id = f"u{user}"
            partition = partition_of(user_id.encode(), topics.EVENT_PARTITIONS)
            at_ms = now_ms - 86_400_000 * 2 + user * 2_000_000 + step * 60_000
            event = event_json(
                user_id=user_id,
                session_id="s",
                item_id=items[(user + step) % len(items)],
                at_ms=at_ms,
            )
            mine = records.setdefault(partition, [])
            mine.append(
                {
                    "partition": partition,
                    "offset": len(mine),
                    "kafka_timestamp_ms": at_ms,
                    "key": user_id.encode(),
                    "value": orjson.dumps(event),
                    "headers": [],
                }
            )
    for partition, rows in records.items():
        table = pa.Table.from_pylist(rows, schema=SCHEMA)
        append(partition_dir(topic_dir, partition), table)


@pytest.mark.timeout(300)
async def test_the_trainer_learns_what_is_new_and_deploys_it(
    stack: Servers, environment: dict[str, str], process: Processes, tmp_path: Path
) -> None:
    """Nobody types anything: by morning the new items are in a version that serves."""

    prefix, data_dir = environment["HEADRACE_PREFIX"], Path(environment["HEADRACE_DATA_DIR"])
    serving = Serving(stack.models_dir / "ranker", stack.triton, stack.kafka, prefix)
    first = build_tiny_version(tmp_path / "first", ITEMS)
    before = await asyncio.to_thread(deploy, first, serving, say=lambda line: None)
    archive(data_dir / "archive" / f"{prefix}events.v1", round(time.time() * 1000))
    port = free_port()

    trainer = process("trainer", trainer_every_s=3600, metrics_port=port, log_format="json")

    def counted() -> bool:
        assert trainer.popen.poll() is None, trainer.output
        page = urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics").read().decode()
        return 'headrace_trainer_runs_total{outcome="deployed"} 1.0' in page

    trainer.wait_ready()
    try:
        await eventually(counted, timeout_s=200, every_s=0.5)
    except AssertionError as error:
        raise AssertionError(trainer.output) from error
    state = serving.state()
    assert state is not None and state.version != before
    manifest = read_manifest(serving.repository / state.version)
    assert manifest.vocabulary_size == len(ITEMS) + len(NEW)
    assert manifest.metrics["targets"] > 0
    assert trainer.terminate() == 0
