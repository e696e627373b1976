"""``headrace train``: from an event log to a version of the ranker."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import numpy as np
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn
from rich.table import Table

from services.commands.parameters import Moment
from services.connection import connect
from services.errors import CommandFailed
from services.logs.columns import Column, column_of, parse_mapping
from services.settings import Settings

if TYPE_CHECKING:
    from services.training.log import EventLog
    from services.training.pipeline import Trained


class Holdout(click.ParamType):
    """``10%`` of the time range, or the date from which on."""

    name = "share|date"

    def convert(self, value: Any, param: Any, ctx: Any) -> tuple[float | None, int | None]:
        """A share of the time range, or epoch ms; the other one is None."""
        if not str(value).endswith("%"):
            return None, Moment().convert(value, param, ctx)
        try:
            share = float(value[:-1]) / 100
        except ValueError:
            share = -1
        if not 0 <= share < 1:
            self.fail(f"{value!r} is not a share; write 10% or a date.")
        return share, None


@click.command()
@click.argument("events", type=click.Path(exists=True, path_type=Path))
@click.option("--out", type=click.Path(path_type=Path), help="The version directory to write.")
@click.option(
    "--map",
    "mapping",
    multiple=True,
    metavar="FIELD=COLUMN[:UNIT]",
    help="Which column holds a field; times that are numbers need a unit (s, ms, us, ns).",
)
@click.option(
    "--items",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="The catalogue (CSV, Parquet, JSON Lines): only items in it can be recommended.",
)
@click.option("--from", "from_ms", type=Moment(), help="First event time to read.")
@click.option("--until", "until_ms", type=Moment(), help="Read only events before this time.")
@click.option(
    "--holdout",
    type=Holdout(),
    default="10%",
    show_default=True,
    help="What to judge on: the last share of the time range, or all from a date on.",
)
@click.option(
    "--epochs",
    type=click.IntRange(1, 1000),
    help="Passes over the log; by default 10, or more if it is small.",
)
@click.option(
    "--final-epochs",
    type=click.IntRange(0, 1000),
    help="Passes over everything once it has been judged; 0 leaves the held-out part unlearnt.",
)
@click.option("--dim", type=click.IntRange(8, 1024), help="Width of the network.")
@click.option("--layers", type=click.IntRange(1, 16), help="Depth of the network.")
@click.option("--threads", type=click.IntRange(1, 256), help="CPU threads.")
@click.option("--seed", type=click.IntRange(0), help="The same seed and log give the same network.")
def train(
    events: Path,
    out: Path | None,
    mapping: tuple[str, ...],
    items: Path | None,
    from_ms: int | None,
    until_ms: int | None,
    holdout: tuple[float | None, int | None],
    **chosen: int | None,
) -> None:
    """
    Train the ranker on EVENTS and write a version that `headrace model deploy` takes.

    EVENTS is Parquet or JSON Lines, in our fields or renamed with --map, or the archive's
    directory. Quality is measured on the held-out part, which training has not seen, as the
    next item within 30 minutes in the same session, beside popularity and a Markov chain. The
    network then learns the held-out part too (--final-epochs).

    \b
    headrace train events.parquet --map event_type=event --map item_id=item \\
        --map event_timestamp=ts_ms:ms --holdout 2016-10-01
    """
    parsed = parse_mapping(mapping)
    out = out or _default_out()
    if out.exists():
        raise CommandFailed(f"{out} exists, and a version never changes. Name another --out.")
    console = Console(stderr=True)
    with console.status(f"Reading {events}"):
        from services.training.log import read_log

        log = read_log(events, parsed)
        log = log.where(_between(log, from_ms, until_ms))
        if items is not None:
            log = log.where(np.isin(log.items, _known(log, items, column_of(parsed, "item_id"))))
        if len(log) == 0:
            raise CommandFailed(f"{events}: no actions are left by --from, --until and --items.")
    from_holdout_ms = _holdout_from(log, holdout)
    console.print(f"{len(log):,} actions on {len(set(log.items.tolist())):,} items.")
    _train(log, from_holdout_ms, out, chosen, console)


def _train(
    log: "EventLog",
    holdout_from_ms: int,
    out: Path,
    chosen: dict[str, int | None],
    console: Console,
) -> None:
    with console.status("Loading PyTorch"):
        from services.training.options import TrainingOptions
        from services.training.pipeline import train as run
        from services.training.release import write_version
    given: dict[str, Any] = {name: one for name, one in chosen.items() if one is not None}
    if "epochs" in given:
        given["least_steps"] = 0
    options = TrainingOptions(**given)
    with _reported(console) as progress:
        trained = run(log, options, holdout_from_ms=holdout_from_ms, progress=progress)
    write_version(out, trained, options)
    _show(trained, holdout_from_ms)
    click.echo(f"Wrote {out}. Serve it with: headrace model deploy {out}")


def _known(log: "EventLog", items: Path, column: Column) -> list[int]:
    """The places of the log's items that are in the catalogue *items*."""
    from services.logs.rows import format_of, open_rows

    with open_rows(items, format_of(items, None), {column.name}) as rows:
        catalogue = {str(row.values.get(column.name)) for row in rows.rows if row.fault is None}
    return [place for place, item_id in enumerate(log.item_ids) if item_id in catalogue]


@contextmanager
def _reported(console: Console) -> Iterator[Callable[[float], None]]:
    """What to call with the share done: a bar on a terminal, elsewhere a line every 5 s."""
    if not console.is_terminal:
        yield _Lines()
        return
    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn())
    remaining = TimeRemainingColumn(elapsed_when_finished=True)
    with Progress(*columns, remaining, console=console) as bar:
        task = bar.add_task("Training", total=1.0)
        yield lambda share: bar.update(task, completed=share)
        bar.update(task, completed=1.0)


class _Lines:
    def __init__(self) -> None:
        self._started_s = self._said_s = time.monotonic()

    def __call__(self, share: float) -> None:
        now_s = time.monotonic()
        if now_s - self._said_s >= 5 and share > 0.01:  # the first steps tell nothing
            self._said_s = now_s
            left_s = (now_s - self._started_s) * (1 - share) / share
            click.echo(f"Training: {share:.0%}, about {left_s:.0f} s left", err=True)


def _show(trained: "Trained", holdout_from_ms: int) -> None:
    since = datetime.fromtimestamp(holdout_from_ms / 1000, UTC).strftime("%Y-%m-%d %H:%M")
    if not trained.targets:
        click.echo(f"Nothing to judge on since {since} UTC: quality is not known.")
        return
    table = Table(title=f"Next item within the session, {trained.targets:,} since {since} UTC")
    for heading in ("", "HR@20", "MRR@20", "NDCG@10"):
        table.add_column(heading, justify="right" if heading else "left")
    for name, one in trained.qualities.items():
        figures = (one.hr_at_20, one.mrr_at_20, one.ndcg_at_10)
        table.add_row(name, *(f"{figure:.4f}" for figure in figures))
    Console().print(table)


def _between(log: "EventLog", from_ms: int | None, until_ms: int | None) -> Any:
    after = log.times_ms >= from_ms if from_ms is not None else log.times_ms == log.times_ms
    return after & (log.times_ms < until_ms) if until_ms is not None else after


def _holdout_from(log: "EventLog", holdout: tuple[float | None, int | None]) -> int:
    share, from_ms = holdout
    first_ms, last_ms = int(log.times_ms[0]), int(log.times_ms[-1])
    if share is not None:
        # One millisecond on, so that a share of 0 holds out nothing.
        return last_ms + 1 - round(share * (last_ms - first_ms))
    if from_ms is None or not first_ms < from_ms:
        raise CommandFailed("--holdout begins before the first event: nothing to learn from.")
    return from_ms


def _default_out() -> Path:
    now = datetime.now(UTC).strftime("%Y%m%dT%H%M%SZ")
    return connect(Settings).data_dir / "versions" / now
