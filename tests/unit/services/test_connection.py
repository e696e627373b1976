"""Which servers a command speaks to."""

import json
import os
from pathlib import Path
from typing import Any

import click
import psutil
import pytest

from services.connection import connect, running_stack
from services.settings import Settings, WorkerSettings


@pytest.fixture(autouse=True)
def clean(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith("HEADRACE_"):
            monkeypatch.delenv(name)


def a_stack(data_dir: Path, **fields: Any) -> None:
    stack = {
        "pid": os.getpid(),
        "created_s": psutil.Process().create_time(),
        "settings": {"kafka_servers": "127.0.0.1:20001", "redis_address": "127.0.0.1:20002"},
        "parts": {},
    }
    (data_dir / "stack.json").write_text(json.dumps({**stack, **fields}))


def test_a_command_finds_the_running_stack_by_itself(tmp_path: Path) -> None:
    """`headrace up` here, `headrace watch` there, and nothing to configure."""
    a_stack(tmp_path)

    found = connect(WorkerSettings, data_dir=tmp_path)

    assert (found.kafka_servers, found.redis_address) == ("127.0.0.1:20001", "127.0.0.1:20002")
    assert found.triton_address == "127.0.0.1:8001"  # the stack does not say


def test_an_address_that_is_set_wins_over_the_running_stack(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who names a server means it, one by one."""
    a_stack(tmp_path)
    monkeypatch.setenv("HEADRACE_KAFKA_SERVERS", "shop:9092")

    found = connect(Settings, data_dir=tmp_path, redis_address=None)

    assert (found.kafka_servers, found.redis_address) == ("shop:9092", "127.0.0.1:20002")


def test_a_stack_whose_process_has_died_is_not_believed(tmp_path: Path) -> None:
    """Its pid may be someone else's by now: only together with its start time it is the same."""
    a_stack(tmp_path, created_s=psutil.Process().create_time() - 60)

    assert running_stack(tmp_path) is None
    assert connect(Settings, data_dir=tmp_path).kafka_servers == "127.0.0.1:9092"


def test_half_a_stack_file_is_no_stack(tmp_path: Path) -> None:
    """A disk that was full, a hand that edited it."""
    (tmp_path / "stack.json").write_text('{"pid": 1')

    assert running_stack(tmp_path) is None


def test_a_wrong_setting_is_one_line_that_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody reads a validation traceback."""
    monkeypatch.setenv("HEADRACE_SLATE_SIZE", "many")

    with pytest.raises(click.UsageError) as refused:
        connect(WorkerSettings)

    assert "HEADRACE_SLATE_SIZE" in refused.value.message
    assert "\n" not in refused.value.message
