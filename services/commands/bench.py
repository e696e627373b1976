"""``headrace bench``: how fast a part is on this machine."""

import asyncio
import json
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click
from rich.console import Console
from rich.table import Table

from services.connection import connect
from services.settings import WorkerSettings

if TYPE_CHECKING:
    from collections.abc import Sequence

    from services.bench.serving import Asked, Figure

CATALOGUES = (1_000, 10_000, 100_000, 1_000_000)
BATCHES = (1, 32, 256)
NOBODY = "127.0.0.1:1"  # an address where nothing listens


@click.group()
def bench() -> None:
    """Measure how fast a part is on this machine."""


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
@click.option(
    "--seconds", type=click.FloatRange(0), default=2.0, show_default=True, help="For each figure."
)
@click.option("--json", "json_file", type=click.Path(dir_okay=False, path_type=Path))
def serving(
    catalogues: "Sequence[int]",
    batches: "Sequence[int]",
    dim: int,
    seconds: float,
    json_file: Path | None,
) -> None:
    """
    Rank batches of users on a Triton of its own, and the same in this process.

    Beside both: the matrix product and top-k that no ranker can do without, and the same network
    as PyTorch runs it by itself. One thread each. The ranker's weights are random.
    """
    from services.bench.serving import Asked

    asked = Asked(catalogues, batches, dim, seconds)
    console = Console(stderr=True)
    with tempfile.TemporaryDirectory(prefix="headrace-bench-") as scratch:
        figures = asyncio.run(_with_triton(asked, Path(scratch), console))
    Console().print(_table(figures))
    if json_file:
        json_file.write_text(json.dumps([asdict(figure) for figure in figures], indent=1) + "\n")


async def _with_triton(asked: "Asked", data_dir: Path, console: Console) -> "list[Figure]":
    from services.bench.serving import measured
    from services.embedded import stack

    # Servers that are somebody else's are not started, and nobody asks these.
    settings = connect(
        WorkerSettings, data_dir=data_dir, kafka_servers=NOBODY, redis_address=NOBODY
    )
    options = stack.Options(workers=0, archiver=False)
    with console.status("Starting Triton") as status:
        async with stack.running(settings, options, lambda statuses: None) as running:
            await running.all_ready()
            address = running.statuses["triton"].address
            return await measured(asked, data_dir / "models", address, status.update)


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
