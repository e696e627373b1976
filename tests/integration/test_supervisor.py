"""The supervisor on processes of a few lines, which fail in the ways that servers do."""

import asyncio
import os
import sys
import time
from itertools import pairwise
from pathlib import Path

import psutil
import pytest

from services.embedded import supervisor as supervision
from services.embedded.part import Part, Probe
from tests.integration.support import Supervise, eventually

FOR_EVER = "import time; time.sleep(600)"


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same behaviour in tenths of a second."""
    monkeypatch.setattr(supervision, "FIRST_BACKOFF_S", 0.05)
    monkeypatch.setattr(supervision, "CHECK_EVERY_S", 0.05)


async def works() -> str | None:
    return None


def a_part(name: str, code: str = FOR_EVER, probe: Probe = works, **fields: object) -> Part:
    command = (sys.executable, "-u", "-S", "-c", code)
    return Part(name, "", command, dict(os.environ), probe, **fields)  # type: ignore[arg-type]


async def test_the_reason_of_a_crash_is_its_exit_code_and_its_last_line(
    supervise: Supervise,
) -> None:
    """The first question of whoever sees a restart."""
    crashing = a_part("kafka", "print('disk is full'); raise SystemExit(3)", probe=_never)

    async with supervise(crashing) as running:
        await eventually(lambda: running.statuses["kafka"].restarts >= 2)

    assert running.statuses["kafka"].reason == "exit code 3; last line: disk is full"


async def test_pauses_between_restarts_grow(supervise: Supervise) -> None:
    """A server that cannot start must not take the machine from those that run."""
    starts: list[float] = []

    def started() -> None:
        starts.append(time.monotonic())

    crashing = a_part("kafka", "raise SystemExit(1)", probe=_never, prepare=started)

    async with supervise(crashing):
        await eventually(lambda: len(starts) >= 5)

    pauses = [after - before for before, after in pairwise(starts)]
    assert pauses[3] > 0.4  # 0.05 doubled three times, and the process itself


async def test_a_part_starts_when_what_it_needs_is_ready(supervise: Supervise) -> None:
    """A worker without its broker would only crash."""
    broker_ready = asyncio.Event()

    async def probe() -> str | None:
        return None if broker_ready.is_set() else "electing a leader"

    broker, worker = a_part("kafka", probe=probe), a_part("worker-1", requires=("kafka",))

    async with supervise(broker, worker) as running:
        await eventually(lambda: running.statuses["kafka"].reason == "electing a leader")
        assert running.statuses["worker-1"].state == "waiting"
        broker_ready.set()
        await asyncio.wait_for(running.all_ready(), 10)


async def test_what_needs_others_ends_before_them(supervise: Supervise, tmp_path: Path) -> None:
    """A worker finishes its batch while Kafka and Redis still answer."""
    said = tmp_path / "said"
    code = f"""
import signal, sys, time
def end(*_):
    time.sleep(0.2)
    open({str(said)!r}, "a").write(sys.argv[-1] + " ")
    sys.exit()
signal.signal(signal.SIGTERM, end)
open({str(tmp_path)!r} + "/" + sys.argv[-1], "w")
time.sleep(600)
"""

    def naming(name: str, **fields: object) -> Part:
        async def up() -> str | None:
            return None if (tmp_path / name).exists() else "not yet"

        part = a_part(name, code, up, **fields)
        return Part(**{**part.__dict__, "command": (*part.command, name)})

    async with supervise(naming("kafka"), naming("worker-1", requires=("kafka",))) as running:
        await asyncio.wait_for(running.all_ready(), 10)

    assert said.read_text() == "worker-1 kafka "


async def test_a_part_that_answers_nothing_for_long_is_started_again(supervise: Supervise) -> None:
    """A process that exists and does nothing is the failure that nobody notices."""
    answers = iter([None])

    async def hangs_after_its_first_answer() -> str | None:
        return next(answers, "no answer to PING")

    hung = a_part("redis", probe=hangs_after_its_first_answer, give_up_after_s=0.3)

    async with supervise(hung) as running:
        await eventually(lambda: running.statuses["redis"].restarts == 1)

    assert "did not answer for 0 s: no answer to PING" in (running.statuses["redis"].reason or "")


async def test_children_of_a_part_end_with_it(supervise: Supervise) -> None:
    """Triton's model processes are its children, and it may be killed."""
    code = f"""
import subprocess, sys, time
print(subprocess.Popen([sys.executable, "-c", {FOR_EVER!r}]).pid)
time.sleep(600)
"""
    async with supervise(a_part("triton", code)) as running:
        await eventually(lambda: running.statuses["triton"].pid)
        parent = psutil.Process(running.statuses["triton"].pid)
        children = await eventually(parent.children)
        parent.kill()
        await eventually(lambda: running.statuses["triton"].restarts == 1)

        await eventually(lambda: not any(child.is_running() for child in children))


async def _never() -> str | None:
    return "not ready"
