"""
The proof that versions come and go without a dropped request: ``make swaps``, some five minutes.

Two hundred events a second, and all the while ten rounds of deploy, canary, promote and rollback.
"""

import os
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

import numpy as np
import orjson
import psutil
from prometheus_client.parser import text_string_to_metric_families
from rich.console import Console
from rich.table import Table

from services.connection import running_stack
from services.display.wide_console import wide_console
from services.kafka.connection import KafkaConnection
from services.kafka.slates import poll_slates, whole_topic
from services.processes import of_family, own_pss_bytes
from stream import topics
from stream.deployments import Deployment
from tests.integration.ledger import Ledger, read_topic
from tests.integration.support import HEADRACE
from tests.tiny_model import build_tiny_version

ITEM_IDS = [f"i{number}" for number in range(50)]
USERS = 2_000  # a row keeps 128 actions, and the ledger wants to find all of them
RATE = 200.0
ROUNDS = 10
SETTLED_FOR_S = 3.0  # a version takes two to load
CALM_S = 30.0
FOLLOWED_WITHIN_S = 1.0
MODEL = b"ranker"  # the topic holds other things under other keys
ANYTHING = ("--margin", "1")  # two tiny models are not compared here


@dataclass
class Arrivals:
    """Every slate, when it was received and how long after its event."""

    received_s: list[float] = field(default_factory=list)
    latencies_s: list[float] = field(default_factory=list)
    models: list[str | None] = field(default_factory=list)
    users: list[str] = field(default_factory=list)

    def p99_ms(self, windows: Sequence[tuple[float, float]]) -> float:
        """Of the slates received within *windows* of time."""
        received = np.array(self.received_s)
        inside = np.zeros(len(received), bool)
        for begin, end in windows:
            inside |= (received >= begin) & (received < end)
        return float(np.percentile(np.array(self.latencies_s)[inside], 99) * 1000)

    def first_s(self, announced_s: float, before: Deployment, after: Deployment) -> float:
        """When a slate came of whom another version had served; a canary's users prove nothing."""
        arrived = zip(self.received_s, self.models, self.users, strict=True)
        return next(
            received_s
            for received_s, model, user in arrived
            if received_s >= announced_s
            and model == after.version
            and before.version_for(user) != after.version
        )


@contextmanager
def watching(servers: str, topic: str) -> Iterator[Arrivals]:
    """Collect what arrives on the results *topic* until the end of the block."""
    consumer, _ = whole_topic(KafkaConnection(servers), topic, from_beginning=False)
    arrivals, stop = Arrivals(), threading.Event()

    def watch() -> None:
        while not stop.is_set():
            for slate in poll_slates(consumer, 0.05):
                assert slate.value is not None and slate.event_time_ms is not None
                arrivals.received_s.append(slate.received_s)
                arrivals.latencies_s.append(slate.received_s - slate.event_time_ms / 1000)
                model = slate.value["model"]
                arrivals.models.append(model and model["version"])
                arrivals.users.append(slate.user_id)

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield arrivals
    finally:
        stop.set()
        thread.join()
        consumer.close()


@contextmanager
def sending(ledger: Ledger, *, rate: float, users: int) -> Iterator[None]:
    """Send events, each user's in turn, until the end of the block."""
    stop = threading.Event()

    def send() -> None:
        began_s, number = time.monotonic(), 0
        while not stop.is_set():
            ledger.send(user_id=f"u{number % users}", item_id=ITEM_IDS[number % len(ITEM_IDS)])
            number += 1
            time.sleep(max(0.0, began_s + number / rate - time.monotonic()))

    thread = threading.Thread(target=send)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
        ledger.flush()


def put_items(ledger: Ledger) -> None:
    """Publish the catalogue."""
    for item_id in ITEM_IDS:
        value = orjson.dumps({"item_id": item_id, "title": f"The {item_id}"})
        ledger.producer.produce(ledger.topic(topics.ITEMS), key=item_id.encode(), value=value)
    ledger.flush()


def failed_requests(metrics_address: str) -> float:
    """What the worker counts as unanswered by any version, and as fallen back from a canary."""
    with urllib.request.urlopen(f"http://{metrics_address}/metrics") as answer:
        families = text_string_to_metric_families(answer.read().decode())
    counted = ("headrace_ranker_unavailable", "headrace_canary_fallbacks")
    return sum(
        sample.value
        for family in families
        if family.name in counted
        for sample in family.samples
        if sample.name.endswith("_total")
    )


def announced(servers: str, topic: str) -> list[tuple[float, Deployment]]:
    """Every state of the ranker that was announced on *topic*, and when, by its record."""
    return [
        (record.timestamp()[1] / 1000, Deployment.model_validate_json(record.value()))
        for record in read_topic(servers, topic)
        if record.key() == MODEL
    ]


def followed_after_s(states: Sequence[tuple[float, Deployment]], arrivals: Arrivals) -> list[float]:
    """Seconds from each change of the serving version to the first slate that it alone explains."""
    return [
        arrivals.first_s(announced_s, before, after) - announced_s
        for (_, before), (announced_s, after) in pairwise(states)
        if before.version != after.version
    ]


def memory_mb(pid: int) -> float:
    """
    Of a process and its children, shared pages divided among those who share them.

    Read when no child has come or gone for `SETTLED_FOR_S`: one that does is counted in part.
    """
    process = psutil.Process(pid)
    family, since_s = process.children(recursive=True), time.monotonic()
    while time.monotonic() - since_s < SETTLED_FOR_S:
        time.sleep(0.2)
        if (now := process.children(recursive=True)) != family:
            family, since_s = now, time.monotonic()
    return of_family(process, own_pss_bytes) / 1e6


def model(environment: dict[str, str], *arguments: str) -> None:
    """Run ``headrace model`` as a person would."""
    done = subprocess.run(
        [HEADRACE, "model", *arguments],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        sys.exit(f"headrace model {' '.join(arguments)}: {done.stdout}{done.stderr}")


@contextmanager
def stack(data_dir: Path) -> Iterator[dict[str, str]]:
    """`headrace up` with one worker on *data_dir*; the settings that lead to it."""
    ours = {name: value for name, value in os.environ.items() if not name.startswith("HEADRACE_")}
    where = ("--data-dir", str(data_dir))
    with (data_dir / "up.log").open("wb") as log:
        up = subprocess.Popen(
            [HEADRACE, "up", "--no-archiver", *where], env=ours, stdout=log, stderr=log
        )
    try:
        ready = (HEADRACE, "status", "--wait", *where)
        subprocess.run(ready, env=ours, stdout=subprocess.DEVNULL, check=True)
        found = running_stack(data_dir)
        assert found is not None
        yield {f"HEADRACE_{name.upper()}": value for name, value in found["settings"].items()}
    finally:
        up.terminate()
        up.wait(60)


def part(data_dir: Path, name: str) -> dict[str, str]:
    """What the stack says of one of its parts."""
    found = running_stack(data_dir)
    assert found is not None
    return dict(found["parts"][name])


def swap_rounds(
    environment: dict[str, str], versions: Sequence[Path], console: Console
) -> tuple[list[tuple[float, float]], list[float]]:
    """Ten rounds under load; the window of time of each step, and Triton's memory after each."""
    data_dir = Path(environment["HEADRACE_DATA_DIR"])
    windows, memories = [], []
    for number in range(1, ROUNDS + 1):
        for step in (
            ("deploy", str(versions[0]), *ANYTHING),
            ("canary", str(versions[1]), "--share", "20%", *ANYTHING),
            ("promote",),
            ("rollback",),
        ):
            begin_s = time.time()
            model(environment, *step)
            windows.append((begin_s, time.time()))
            console.print(f"{step[0]} took {windows[-1][1] - begin_s:.1f} s")
            time.sleep(1.0)
        memories.append(memory_mb(int(part(data_dir, "triton")["pid"])))
        console.print(f"round {number}: Triton has {memories[-1]:.0f} MB")
    return windows, memories


def main() -> None:
    """Run the proof, print its figures, and exit with 1 if a goal was missed."""
    console = wide_console()
    with tempfile.TemporaryDirectory(prefix="headrace-swaps-") as scratch:
        data_dir = Path(scratch) / "data"
        data_dir.mkdir()
        versions = [
            build_tiny_version(Path(scratch) / f"v{seed}", ITEM_IDS, seed=seed) for seed in (1, 2)
        ]
        with stack(data_dir) as environment:
            sys.exit(0 if prove(environment, versions, console) else 1)


def prove(environment: dict[str, str], versions: Sequence[Path], console: Console) -> bool:
    """The measurement on a running stack; whether every goal was met."""
    data_dir = Path(environment["HEADRACE_DATA_DIR"])
    ledger = Ledger(environment)
    put_items(ledger)
    model(environment, "deploy", str(versions[0]), *ANYTHING)
    results = ledger.topic(topics.RECOMMENDATIONS)
    with watching(ledger.servers, results) as arrivals:
        with sending(ledger, rate=RATE, users=USERS):
            time.sleep(10)  # the first requests warm everything up
            calm = (time.time(), time.time() + CALM_S)
            time.sleep(CALM_S)
            windows, memories = swap_rounds(environment, versions, console)
        deadline_s = time.monotonic() + 60
        while not ledger.settled() and time.monotonic() < deadline_s:
            time.sleep(0.5)
        time.sleep(1.0)
    ledger.assert_exact()
    failed = failed_requests(part(data_dir, "worker-1")["address"])
    before_ms, during_ms = arrivals.p99_ms([calm]), arrivals.p99_ms(windows)
    first, last = max(memories[: ROUNDS // 2]), max(memories[ROUNDS // 2 :])
    growth = last / first - 1
    states = announced(ledger.servers, ledger.topic(topics.DEPLOYMENTS))
    followed_s = followed_after_s(states, arrivals)
    rows = (
        ("events, none lost, none twice", f"{ledger.sent:,}", True),
        ("versions that made slates", str(len({m for m in arrivals.models if m})), True),
        ("requests without an answer", f"{failed:.0f}", failed == 0),
        ("slates without a model", str(arrivals.models.count(None)), None not in arrivals.models),
        ("p99 before", f"{before_ms:.0f} ms", True),
        ("p99 during a step", f"{during_ms:.0f} ms", during_ms < 3 * before_ms),
        ("a change is followed after", f"{np.median(followed_s):.2f} s", True),
        ("  at worst", f"{max(followed_s):.2f} s", max(followed_s) <= FOLLOWED_WITHIN_S),
        ("longest", f"{max(arrivals.latencies_s) * 1000:.0f} ms", True),
        ("Triton at most, first half of the rounds", f"{first:.0f} MB", True),
        ("  second half", f"{last:.0f} MB ({growth:+.1%})", growth <= 0.1),
    )
    table = Table("measured", "value", "goal met")
    for name, value, met in rows:
        table.add_row(name, value, "yes" if met else "no")
    console.print(table)
    for line in (data_dir / "logs" / "worker-1.log").read_text().splitlines():
        if "ranker_unavailable" in line:
            console.print(line, soft_wrap=True, markup=False)
    return all(met for _, _, met in rows)


if __name__ == "__main__":
    main()
