"""How the cost of an event grows: one thing at a time, the others as `Asked` has them."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from rich.table import Table

from services.bench.figures import SHIPPED_BATCH, Asked, Figure

STEPS: Mapping[str, Sequence[int]] = {
    "workers": (1, 2, 3, 4),
    "users": (1_000, 20_000, 100_000, 1_000_000),
    "items": (500, 12_000, 100_000, 1_000_000),
    "history": (5, 50, 128),
    "batch": (16, 64, 256, SHIPPED_BATCH, 1024),
}


@dataclass(frozen=True)
class Point:
    """What an event costs where one thing, *grown*, has this value."""

    grown: str
    value: int
    figure: Figure
    bytes_each: Mapping[str, float]


def plan(only: str | None, largest: int, seconds: float) -> Iterator[tuple[str, int, Asked]]:
    """What grows, to which value, and what is then asked; nothing beyond *largest*."""
    usual = Asked(seconds=seconds, exponents=(0.0,))
    for grown, values in STEPS.items():
        for value in values:
            if only in (None, grown) and value <= largest:
                change: dict[str, Any] = {grown: value}
                yield grown, value, replace(usual, **change)


def table(points: Sequence[Point]) -> Table:
    """A line for each point."""
    processes = list(dict.fromkeys(_part(name) for one in points for name in one.figure.cpu_us))
    kept = list(dict.fromkeys(name for one in points for name in one.bytes_each))
    costs = [f"{name} µs" for name in processes]
    sizes = [f"B: {name}" for name in kept]
    found = Table("grown", "to", "events/s", "batch", *costs, "all µs", "workers MB", *sizes)
    for column in found.columns[1:]:
        column.justify = "right"
    for number, one in enumerate(points):
        cpu_us, memory_mb = _by_part(one.figure.cpu_us), _by_part(one.figure.memory_mb)
        found.add_row(
            one.grown,
            f"{one.value:,}",
            f"{one.figure.events_per_s:,.0f}",
            f"{one.figure.batch:.0f}",
            *(f"{cpu_us.get(name, 0):,.0f}" for name in processes),
            f"{one.figure.total_cpu_us:,.0f}",
            f"{memory_mb['worker']:,.0f}",
            *(f"{one.bytes_each.get(name, 0):,.0f}" for name in kept),
            end_section=number + 1 < len(points) and points[number + 1].grown != one.grown,
        )
    return found


def write_json(points: Sequence[Point], file: Path) -> None:
    """Write *points* as one array."""
    file.write_text(json.dumps([asdict(one) for one in points], indent=1) + "\n")


def plot(points: Sequence[Point], file: Path) -> None:
    """Draw the CPU time of an event, by process, over each thing that grows."""
    from matplotlib.figure import Figure as Drawing

    grown = list(dict.fromkeys(one.grown for one in points))
    drawing = Drawing(figsize=(3.4 * len(grown), 4), layout="constrained")
    for axes, name in zip(drawing.subplots(1, len(grown), squeeze=False)[0], grown, strict=True):
        drawn = [one for one in points if one.grown == name]
        labels, heights = [f"{one.value:,}" for one in drawn], [0.0] * len(drawn)
        for part in dict.fromkeys(_part(p) for one in drawn for p in one.figure.cpu_us):
            values = [_by_part(one.figure.cpu_us).get(part, 0.0) for one in drawn]
            axes.bar(labels, values, bottom=heights, label=part)
            heights = [height + value for height, value in zip(heights, values, strict=True)]
        axes.set_title(name)
        axes.tick_params(axis="x", rotation=30)
    drawing.axes[0].set_ylabel("CPU µs per event")
    drawing.axes[0].legend()
    drawing.savefig(file)


def _part(process: str) -> str:
    return "worker" if process.startswith("worker-") else process


def _by_part(values: Mapping[str, float]) -> dict[str, float]:
    """Workers taken together."""
    found: dict[str, float] = {}
    for process, value in values.items():
        found[_part(process)] = found.get(_part(process), 0.0) + value
    return found
