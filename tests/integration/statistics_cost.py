"""
What item statistics add to an event's CPU time: ``make statistics-cost``, half an hour.

The tree as it is and a copy of it in which an event says nothing of items are measured in
turns by ``headrace bench``, each beside the bare loop of its own run: a machine that has become
slower has slowed that down as well, so what is compared are the ratios to it.
"""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import fmean
from typing import Any

import click
from rich.table import Table

from services.bench.figures import BARE_LOOP, PIPELINE
from services.display.wide_console import wide_console
from tests.chaos.mutations import Edit, Mutation, copy_tree, mutate
from tests.integration.support import HEADRACE

MOST = 0.40  # of the CPU time without them
NO_STATISTICS = Mutation(
    "an event says nothing of items",
    [
        Edit(
            "stream/signals.py",
            "    if key == PADDING_KEY:\n        return NO_DELTAS\n    source",
            "    return NO_DELTAS\n    source",
        )
    ],
)


def measured(tree: Path, seconds: float, ga360: Path | None) -> dict[tuple[str, str], float]:
    """CPU µs of an event at saturation, by way and traffic."""
    file = tree / "bench.json"
    command = [str(HEADRACE), "bench", "pipeline", "--rate", "100", "--seconds", str(seconds)]
    log = ["--ga360", str(ga360.resolve())] if ga360 else []
    subprocess.run(
        [*command, *log, "--json", str(file)],
        cwd=tree,
        env={**os.environ, "PYTHONPATH": str(tree)},
        stdout=subprocess.DEVNULL,
        check=True,
    )
    figures: list[dict[str, Any]] = json.loads(file.read_text())["figures"]
    return {
        (one["way"], one["traffic"]): sum(one["cpu_us"].values())
        for one in figures
        if one["rate"] is None
    }


@click.command()
@click.option("--turns", type=click.IntRange(1), default=2, show_default=True,
              help="Of both trees; a single one may be off by a tenth.")  # fmt: skip
@click.option("--seconds", type=float, default=8.0, show_default=True, help="For each round.")
@click.option("--ga360", type=click.Path(exists=True, file_okay=False, path_type=Path),
              help="A directory with the GA360 log, for its users and items as well.")  # fmt: skip
def main(turns: int, seconds: float, ga360: Path | None) -> None:
    """Measure both trees; exit with 1 if statistics add more than 40 %."""
    found: dict[str, list[dict[tuple[str, str], float]]] = {"with": [], "without": []}
    with tempfile.TemporaryDirectory(prefix="headrace-statistics-") as scratch:
        trees = {name: Path(scratch) / name for name in found}
        for tree in trees.values():
            tree.mkdir()
            copy_tree(tree)
        mutate(NO_STATISTICS, trees["without"])
        for name in list(found) * turns:
            found[name].append(measured(trees[name], seconds, ga360))
    table = Table("users", "with", "its bare loop", "without", "its bare loop", "more")
    most = 0.0
    for traffic in dict.fromkeys(traffic for _, traffic in found["with"][0]):
        us = [
            fmean(one[way, traffic] for one in runs)
            for runs in found.values()
            for way in (PIPELINE, BARE_LOOP)
        ]
        more = (us[0] / us[1]) / (us[2] / us[3]) - 1
        table.add_row(traffic, *(f"{one:.0f} µs" for one in us), f"{more:.0%}")
        most = max(most, more)
    wide_console().print(table)
    sys.exit(1 if most > MOST else 0)


if __name__ == "__main__":
    main()
