"""Outcomes as tables, as one JSON object and as a plot."""

import json
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from services.evaluation.results import Outcome, Row

ACCURACY = ("hr@5", "hr@10", "hr@20", "ndcg@5", "ndcg@10", "ndcg@20", "mrr@20", "accuracy@1")
SETS = ("precision@5", "precision@10", "precision@20", "recall@10", "recall@20", "f1@10", "f1@20")
LISTS = ("coverage@20", "novelty@20", "diversity@20", "long_tail@20", "calibration@20")
SPLIT = ("hr@10", "hr@20", "ndcg@10", "mrr@20")
PLOTTED = ("hr@20", "ndcg@10")
IN_CAPITALS = ("hr", "ndcg", "mrr", "f1")


def show(outcome: Outcome, console: Console) -> None:
    """Print every table of *outcome*."""
    numbers = {name: value for name, value in outcome.about.items() if isinstance(value, int)}
    about = ", ".join(f"{value:,} {name}" for name, value in numbers.items())
    console.print(_table(outcome.rows, ACCURACY, f"{outcome.protocol}: {about}", half_width=True))
    for metrics, title in ((SETS, "Sets"), (LISTS, "Beyond accuracy")):
        if any(name in row for row in outcome.rows for name in metrics):
            console.print(_table(outcome.rows, metrics, title))
    for fusion, weights in outcome.about.get("fusion weights", {}).items():
        console.print(f"{fusion}: " + ", ".join(f"{one} {w}" for one, w in weights.items()))
    for name, table in outcome.splits.items():
        targets = table[0]["targets"] if table else 0
        console.print(_table(table, SPLIT, f"{name}: {targets:,} targets"))


def write_json(outcome: Outcome, file: Path) -> None:
    """Write *outcome* as one object."""
    file.write_text(json.dumps(outcome.as_json(), indent=1, ensure_ascii=False) + "\n")


def plot(outcome: Outcome, file: Path) -> None:
    """
    Draw the rows of *outcome* with their intervals.

    Args:
        file: PNG, SVG or PDF, by its ending.
    """
    from matplotlib.figure import Figure

    rows = [row for row in reversed(outcome.rows) if any(name in row for name in PLOTTED)]
    figure = Figure(figsize=(11, 1.5 + 0.3 * len(rows)), layout="constrained")
    for axes, metric in zip(figure.subplots(1, len(PLOTTED), sharey=True), PLOTTED, strict=True):
        drawn = [row for row in rows if metric in row]
        values = [row[metric] for row in drawn]
        low = [row[metric] - row.get(f"{metric}_low", row[metric]) for row in drawn]
        high = [row.get(f"{metric}_high", row[metric]) - row[metric] for row in drawn]
        axes.barh([row["method"] for row in drawn], values, xerr=[low, high], color="#4878a8")
        axes.set_title(_heading(metric))
        axes.grid(axis="x", alpha=0.3)
    figure.suptitle(outcome.protocol)
    figure.savefig(file)


def _table(
    rows: Sequence[Row], metrics: Sequence[str], title: str, *, half_width: bool = False
) -> Table:
    table = Table(title=title, title_justify="left")
    table.add_column("")
    present = [name for name in metrics if any(name in row for row in rows)]
    for name in present:
        table.add_column(_heading(name), justify="right", no_wrap=True)
    for row in rows:
        if not any(name in row for name in present):
            continue  # papers do not report it
        table.add_row(row["method"], *(_cell(row, name, half_width) for name in present))
    return table


def _cell(row: Row, name: str, half_width: bool) -> str:
    if name not in row:
        return "—"
    value = f"{row[name]:.4f}" if row[name] < 1 else f"{row[name]:.3f}"
    if half_width and f"{name}_high" in row:
        value += f" ±{(row[f'{name}_high'] - row[f'{name}_low']) / 2:.4f}".replace("0.", ".")
    return value


def _heading(metric: str) -> str:
    name, _, cutoff = metric.partition("@")
    name = name.upper() if name in IN_CAPITALS else name.replace("_", " ")
    return f"{name}@{cutoff}" if cutoff else name
