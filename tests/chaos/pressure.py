"""
``python -m tests.chaos.pressure``: more events than a worker can take, and a user with too many.

One worker, so that its capacity is what is exceeded. Nothing may be dropped, memory must level off,
a queue that is behind must coalesce, and other users must hardly notice one who sends 30 %.
"""

import signal
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import median

import click
import numpy as np
import orjson
import psutil
from rich.console import Console
from rich.table import Table

from services.display.wide_console import wide_console
from services.processes import of_family
from stream import topics
from tests.chaos.generator import WHALE, Generator, Traffic
from tests.chaos.recovery import Waiting, Watch
from tests.chaos.run import prepare
from tests.chaos.stack import ChaosStack
from tests.chaos.verdict import judge, lag, settle

CAPACITY_S = 10.0
BACKLOG_S = 3.0
SAMPLE_S = 5.0
FAIR_S = 20.0
FAIR_TURNS = 3
WARM_S = 10.0
SETTLE_WITHIN_S = 600.0
WHALE_SHARE = 0.3
MOST_GROWTH = 0.1  # of the worker's memory, over the second half of the pressure
MOST_SLOWER = 2.0
MOST_WORKER_MB = 600.0


@dataclass
class Figures:
    """What was measured."""

    capacity: float = 0.0  # events/s settled while behind
    offered: float = 0.0  # events/s
    memory_mb: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    backlog: list[int] = field(default_factory=list)
    events_a_slate: float = 0.0
    recovered_after_s: float | None = None
    others_ms: dict[str, list[tuple[float, float]]] = field(  # p50 and p99 of each turn
        default_factory=lambda: defaultdict(list)
    )
    misses: list[str] = field(default_factory=list)


class Latencies:
    """Seconds from sending an event to its slate, of everybody but the whale."""

    def __init__(self) -> None:
        self._seconds: list[float] = []

    def add(self, user_id: str, seconds: float) -> None:
        """`recovery.OnAnswer`."""
        if user_id != WHALE:
            self._seconds.append(seconds)

    def take_ms(self) -> tuple[float, float]:
        """p50 and p99 of what has come since the last call."""
        taken, self._seconds = self._seconds, []
        p50, p99 = np.percentile(np.array(taken) * 1000, [50, 99])
        return float(p50), float(p99)


def measure(data_dir: Path, seconds: float, console: Console) -> Figures:
    """The whole measurement on a stack of its own."""
    figures, latencies = Figures(), Latencies()
    with ExitStack() as open_:
        stack = open_.enter_context(ChaosStack(data_dir, workers=1))
        calm = Traffic(rate=50.0, users=20_000)
        prepare(stack, calm, data_dir.parent)
        environment = stack.environment
        servers, prefix = environment["HEADRACE_KAFKA_SERVERS"], environment["HEADRACE_PREFIX"]
        results = topics.with_prefix(prefix, topics.RECOMMENDATIONS)
        watch = open_.enter_context(Watch(servers, results, Waiting(latencies.add)))
        generator = open_.enter_context(
            Generator(servers, prefix, calm, 1, watch.waiting.delivered)
        )
        figures.capacity = _capacity(generator, watch)
        console.print(f"capacity {figures.capacity:,.0f} events/s; twice as many now")
        _press(figures, seconds, stack, generator, watch, console)
        console.print("catching up …")
        # Events go on, a few, and offsets are committed once a second.
        figures.recovered_after_s = settle(stack, SETTLE_WITHIN_S, at_most=4 * int(calm.rate))
        console.print("at half of the capacity, without and with a heavy user …")
        _fairness(figures, generator, latencies)
        generator.stop()
        settle(stack, SETTLE_WITHIN_S)
        figures.misses = judge(stack, generator.ledger).misses
    return figures


def _capacity(generator: Generator, watch: Watch) -> float:
    """Events answered a second by a worker that always has more waiting."""
    time.sleep(WARM_S)
    calm = generator.traffic
    generator.traffic = replace(calm, rate=5_000.0)
    time.sleep(BACKLOG_S)
    before, began_s = watch.waiting.answers, time.monotonic()
    time.sleep(CAPACITY_S)
    capacity = (watch.waiting.answers - before) / (time.monotonic() - began_s)
    generator.traffic = calm
    return capacity


def _press(
    figures: Figures,
    seconds: float,
    stack: ChaosStack,
    generator: Generator,
    watch: Watch,
    console: Console,
) -> None:
    calm = generator.traffic
    sent, slates, began_s = len(generator.ledger.entries), watch.slates, time.monotonic()
    answers = watch.waiting.answers
    generator.traffic = replace(calm, rate=2 * figures.capacity)
    while time.monotonic() < began_s + seconds:
        time.sleep(SAMPLE_S)
        for name, part in stack.parts().items():
            figures.memory_mb[name].append(_memory_mb(part["pid"]))
        figures.backlog.append(lag(stack.environment))
        console.print(
            f"{time.monotonic() - began_s:5.0f} s  {figures.backlog[-1]:,} behind  "
            + "  ".join(f"{name} {mb[-1]:.0f} MB" for name, mb in figures.memory_mb.items()),
            highlight=False,
        )
    figures.offered = (len(generator.ledger.entries) - sent) / (time.monotonic() - began_s)
    figures.events_a_slate = (watch.waiting.answers - answers) / max(1, watch.slates - slates)
    generator.traffic = calm


def _fairness(figures: Figures, generator: Generator, latencies: Latencies) -> None:
    """
    Others' latency at half of the capacity, without and with one who sends 30 % of it.

    In turns: one bad second decides the p99 of half a minute.
    """
    for name, whale in (("without", 0.0), ("with", WHALE_SHARE)) * FAIR_TURNS:
        generator.traffic = replace(
            generator.traffic, rate=figures.capacity / 2, hot_share=0.0, whale=whale
        )
        time.sleep(WARM_S)
        latencies.take_ms()
        time.sleep(FAIR_S)
        figures.others_ms[name].append(latencies.take_ms())


def _memory_mb(pid: int) -> float:
    return of_family(psutil.Process(pid), lambda one: float(one.memory_info().rss)) / 1e6


def goals(figures: Figures) -> list[tuple[str, str, bool]]:
    """Name, value, and whether it is as it should be."""
    worker = figures.memory_mb["worker-1"]
    growth = worker[-1] / worker[len(worker) // 2] - 1
    without, with_ = _middle(figures.others_ms["without"]), _middle(figures.others_ms["with"])
    slower = max(after / before for before, after in zip(without, with_, strict=True))
    recovered = figures.recovered_after_s
    return [
        ("capacity", f"{figures.capacity:,.0f} events/s", True),
        ("offered", f"{figures.offered:,.0f} events/s", True),
        ("longest queue", f"{max(figures.backlog):,}", True),
        ("lost, or counted twice", str(len(figures.misses)), not figures.misses),
        ("worker's memory", f"{max(worker):.0f} MB", max(worker) < MOST_WORKER_MB),
        ("its growth in the second half", f"{growth:+.0%}", growth < MOST_GROWTH),
        ("caught up after", f"{recovered:.0f} s" if recovered else "never", recovered is not None),
        ("events a slate while behind", f"{figures.events_a_slate:.2f}",
         figures.events_a_slate > 1),
        ("others, without a heavy user", f"p50 {without[0]:.0f} ms, p99 {without[1]:.0f} ms", True),
        ("others, one user sends 30 %", f"p50 {with_[0]:.0f} ms, p99 {with_[1]:.0f} ms",
         slower < MOST_SLOWER),
    ]  # fmt: skip


def _middle(turns: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """p50 and p99, each the median of its turns."""
    p50s, p99s = zip(*turns, strict=True)
    return median(p50s), median(p99s)


def show(figures: Figures, console: Console) -> None:
    """Print the figures beside the goals."""
    table = Table("measured", "value", "goal met")
    for name, value, met in goals(figures):
        table.add_row(name, value, "yes" if met else "NO")
    console.print(table)
    for miss in figures.misses:
        console.print(f"MISS  {miss}", soft_wrap=True, markup=False, highlight=False)


@click.command()
@click.option("--seconds", default=120.0, show_default=True, help="At twice the capacity.")
@click.option("--json", "json_file", type=click.Path(dir_okay=False, path_type=Path))
@click.option("--keep", type=click.Path(file_okay=False, path_type=Path),
              help="Leave data and logs here.")  # fmt: skip
def main(seconds: float, json_file: Path | None, keep: Path | None) -> None:
    """Offer twice what a worker can take; exit with 1 if a goal is missed."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    console = wide_console()
    with tempfile.TemporaryDirectory(prefix="headrace-pressure-") as scratch:
        data_dir = (keep or Path(scratch)).resolve() / "data"
        figures = measure(data_dir, seconds, console)
    show(figures, console)
    if json_file is not None:
        json_file.write_bytes(orjson.dumps(vars(figures), option=orjson.OPT_INDENT_2) + b"\n")
    sys.exit(0 if all(met for _, _, met in goals(figures)) else 1)


if __name__ == "__main__":
    main()
