"""A worker that cannot work says why in one line, and with which setting to mend it."""

import pytest

from services.embedded.ports import HOST
from tests.integration.support import Processes

NOBODY = f"{HOST}:1"


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ("kafka_servers", "Error: no Kafka at"),
        ("redis_address", "Error: no Redis at"),
    ],
)
def test_a_missing_server_is_named(process: Processes, setting: str, said: str) -> None:
    """Exit code 2, no traceback, no flood of a client library's own lines."""
    worker = process("worker", **{setting: NOBODY})

    assert worker.popen.wait(60) == 2
    assert said in worker.output
    assert f"HEADRACE_{setting.upper()}" in worker.output
    assert "Traceback" not in worker.output
    assert len(worker.output.splitlines()) < 5


def test_a_setting_out_of_bounds_is_named(process: Processes) -> None:
    """Before anything is connected to."""
    worker = process("worker", slate_size=0)

    assert worker.popen.wait(60) == 2
    assert "HEADRACE_SLATE_SIZE" in worker.output
