"""``headrace bench``: how fast a part is on this machine."""

import asyncio
import json
import signal
import tempfile
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.console import Console
from rich.table import Table

from services.connection import connect
from services.display.progress import steps
from services.display.wide_console import wide_console
from services.settings import WorkerSettings

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from services.bench.serving import Asked, Figure

CATALOGUES = (1_000, 10_000, 100_000, 1_000_000)
BATCHES = (1, 32, 256)
NOBODY = "127.0.0.1:1"  # an address where nothing listens


def _present(context: click.Context, option: click.Parameter, device: str) -> str:
    if device == "gpu":
        from services.bench.machine import require_gpu

        require_gpu()
    return device


DEVICE = click.option(
    "--device", type=click.Choice(("cpu", "gpu")), default="cpu", show_default=True,
    envvar="HEADRACE_TRITON_DEVICE", callback=_present, help="Where Triton runs the model.",
)  # fmt: skip


class PipelineByDefault(click.Group):
    """``headrace bench --json FILE`` is ``headrace bench pipeline --json FILE``."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if not args or (args[0] not in self.commands and args[0] != "--help"):
            args = ["pipeline", *args]
        return super().parse_args(ctx, args)


@click.group(cls=PipelineByDefault)
def bench() -> None:
    """Measure how fast this is on this machine: the pipeline, if no part is named."""
    # As on Ctrl-C: what runs for it is stopped, and its directory deleted.
    signal.signal(signal.SIGTERM, signal.default_int_handler)


@bench.command()
@click.option("--users", type=click.IntRange(1), default=20_000, show_default=True)
@click.option("--items", type=click.IntRange(200), default=12_000, show_default=True)
@click.option(
    "--history", type=click.IntRange(1, 128), default=50, show_default=True,
    help="Actions of each user before the first event, and those that the model reads.",
)  # fmt: skip
@click.option("--dim", type=click.IntRange(2), default=64, show_default=True, help="Of the model.")
@DEVICE
@click.option("--workers", type=click.IntRange(1, 8), default=1, show_default=True)
@click.option(
    "--rate", "rates", type=click.FloatRange(1), multiple=True, default=(50, 100, 500, 1000),
    show_default=True, help="Events a second; may be given several times.",
)  # fmt: skip
@click.option(
    "--seconds",
    type=click.FloatRange(1),
    default=8.0,
    show_default=True,
    help="For each figure; four times as long at a rate, twelve times from 1,000 events/s on.",
)
@click.option(
    "--ga360", type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="A directory with the GA360 log, for its users and items as well.",
)  # fmt: skip
@click.option("--soak", "soak_minutes", type=click.FloatRange(0), default=0.0,
              help="Minutes at 80 % of the saturation of users whose rows are full.")  # fmt: skip
@click.option("--quick", is_flag=True,
              help="Few users and items, a second for each figure: does it work?")  # fmt: skip
@click.option("--json", "json_file", type=click.Path(dir_okay=False, path_type=Path))
@click.option("--plot", "plot_file", type=click.Path(dir_okay=False, path_type=Path))
def pipeline(quick: bool, json_file: Path | None, plot_file: Path | None, **asked: Any) -> None:
    """
    Measure the pipeline as it is shipped, on servers of its own, beside a bare loop.

    Throughput at saturation; then latency from the moment that an event was due to the receipt of
    its slate, at fixed rates and at 80 % of saturation, whatever becomes of the events before it;
    CPU time of each process, memory, and time by stage. The model's weights are random.
    """
    from services.bench import report as reports
    from services.bench.figures import QUICK, Asked
    from services.bench.pipeline import Bench, measured

    kept = {name: asked[name] for name in ("soak_minutes", "device")}
    chosen = replace(QUICK, **kept) if quick else Asked(**asked)
    with tempfile.TemporaryDirectory(prefix="headrace-bench-") as scratch:
        settings = connect(WorkerSettings, data_dir=Path(scratch))
        with steps(Console(stderr=True), "Starting") as say:
            report = asyncio.run(measured(chosen, settings, say, Bench.run))
    reports.show(report, wide_console())
    if json_file:
        reports.write_json(report, json_file)
    if plot_file:
        reports.plot(report, plot_file)


@bench.command()
@click.option("--only", type=click.Choice(("workers", "users", "items", "history", "batch")),
              help="What grows; by default one after the other.")  # fmt: skip
@click.option("--largest", type=click.IntRange(1), default=1_000_000, show_default=True,
              help="The most users, and the most items.")  # fmt: skip
@click.option(
    "--seconds", type=click.FloatRange(1), default=8.0, show_default=True, help="For each figure."
)
@click.option("--json", "json_file", type=click.Path(dir_okay=False, path_type=Path))
@click.option("--plot", "plot_file", type=click.Path(dir_okay=False, path_type=Path))
def scaling(
    only: str | None,
    largest: int,
    seconds: float,
    json_file: Path | None,
    plot_file: Path | None,
) -> None:
    """
    Measure what an event costs as workers, users, items, histories and batches grow.

    One of them at a time, each on servers of its own, at saturation; and how many bytes a user, an
    item and an event take. Some twenty minutes; a million users need 5 GB of memory.
    """
    from services.bench import scaling as growing
    from services.bench.pipeline import Bench, measured

    points = []
    with steps(Console(stderr=True), "Starting") as say:
        for grown, value, asked in growing.plan(only, largest, seconds):
            with tempfile.TemporaryDirectory(prefix="headrace-bench-") as scratch:
                settings = connect(WorkerSettings, data_dir=Path(scratch))
                of_this = partial(_say, say, f"{value:,} {grown}")
                report = asyncio.run(measured(asked, settings, of_this, Bench.at_most))
            points.append(growing.Point(grown, value, report.figures[0], report.bytes_each))
    wide_console().print(growing.table(points))
    if json_file:
        growing.write_json(points, json_file)
    if plot_file:
        growing.plot(points, plot_file)


def _say(say: "Callable[[str], None]", what: str, step: str) -> None:
    say(f"{what}: {step}")


@bench.command()
@click.option(
    "--items", "catalogues", type=click.IntRange(200), multiple=True, default=CATALOGUES,
    show_default=True, help="Items in the catalogue; may be given several times.",
)  # fmt: skip
@click.option(
    "--batch", "batches", type=click.IntRange(1, 256), multiple=True, default=BATCHES,
    show_default=True, help="Users in a request; may be given several times.",
)  # fmt: skip
@click.option("--dim", type=click.IntRange(2), default=64, show_default=True)
@DEVICE
@click.option(
    "--seconds", type=click.FloatRange(0), default=2.0, show_default=True, help="For each figure."
)
@click.option("--json", "json_file", type=click.Path(dir_okay=False, path_type=Path))
def serving(
    catalogues: "Sequence[int]",
    batches: "Sequence[int]",
    dim: int,
    device: str,
    seconds: float,
    json_file: Path | None,
) -> None:
    """
    Rank batches of users on a Triton of its own, and the same in this process.

    Beside both: the matrix product and top-k that no ranker can do without, and the same network
    as PyTorch runs it by itself. One thread each. The ranker's weights are random.
    """
    from services.bench.serving import Asked

    asked = Asked(catalogues, batches, dim, device, seconds)
    with tempfile.TemporaryDirectory(prefix="headrace-bench-") as scratch:
        figures = asyncio.run(_with_triton(asked, Path(scratch)))
    wide_console().print(_table(figures))
    if json_file:
        json_file.write_text(json.dumps([asdict(figure) for figure in figures], indent=1) + "\n")


async def _with_triton(asked: "Asked", data_dir: Path) -> "list[Figure]":
    from services.bench.serving import measured
    from services.embedded import stack

    # Servers that are somebody else's are not started, and nobody asks these.
    settings = connect(
        WorkerSettings, data_dir=data_dir, kafka_servers=NOBODY, redis_address=NOBODY
    )
    options = stack.Options(workers=0, archiver=False)
    with steps(Console(stderr=True), "Starting Triton") as say:
        async with stack.running(settings, options, lambda statuses: None) as running:
            await running.all_ready()
            address = running.statuses["triton"].address
            return await measured(asked, data_dir / "models", address, say)


def _table(figures: "Sequence[Figure]") -> Table:
    from services.bench.serving import IN_PROCESS, by_size

    table = Table("items", "batch", "way", "rows/s", "p50 ms", "p99 ms", f"p50 / {IN_PROCESS}")
    for column in table.columns:
        column.justify = "left" if column.header == "way" else "right"
    for size in by_size(figures):
        for number, one in enumerate(size):
            table.add_row(
                f"{one.catalogue:,}" if number == 0 else "",
                str(one.batch) if number == 0 else "",
                one.way,
                f"{one.rows_per_s:,.0f}",
                f"{one.p50_ms:.2f}",
                f"{one.p99_ms:.2f}",
                f"{one.p50_ms / next(f.p50_ms for f in size if f.way == IN_PROCESS):.2f}",
                end_section=number == len(size) - 1,
            )
    return table
