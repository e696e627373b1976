"""``headrace train``: from an event log to a version of the ranker."""

import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import numpy as np
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from services.commands.holdout import Held, Holdout, holdout_from
from services.commands.parameters import MAP, MAP_ITEM, Moment
from services.connection import connect
from services.display.progress import reported
from services.errors import CommandFailed
from services.logs.catalogue_log import FIELDS
from services.logs.columns import column_of, parse_mapping
from services.settings import ModelSettings, Settings
from services.training import distributed
from services.training.sources import read_source
from services.training.texts import archived_items, read_catalogue, text_vectors
from services.training.unfinished import Unfinished, newest_unfinished
from stream.items import Item

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from services.training.dataset import Dataset
    from services.training.options import TrainingOptions
    from services.training.pipeline import Trained

    Learn = Callable[..., Trained]


DAY_MS = 86_400_000


@click.command()
@click.argument("events", type=click.Path(exists=True, path_type=Path))
@click.option("--out", type=click.Path(path_type=Path), help="The version directory to write.")
@MAP
@click.option(
    "--items",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="The catalogue (CSV, Parquet, JSON Lines): only items in it can be recommended, and the "
    "model reads their texts.",
)
@MAP_ITEM
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
@click.option(
    "--patience",
    type=click.IntRange(1),
    metavar="EPOCHS",
    help="End early once so many epochs have brought no better NDCG@10 on the held-out part.",
)
@click.option("--precision", type=click.Choice(["fp32", "bf16"]), help="bf16 is for GPUs.")
@click.option(
    "--device", type=click.Choice(["cpu", "cuda"]), default="cpu", show_default=True, help="Where."
)
@click.option(
    "--processes",
    type=click.IntRange(1, 256),
    default=1,
    show_default=True,
    help="Share each batch out among so many processes; on GPUs one each.",
)
@click.option(
    "--continue",
    "base",
    metavar="DIR|serving",
    help="Go on from this version, or from the one that serves, with what is new.",
)
@click.option(
    "--days",
    type=click.FloatRange(min=0, min_open=True),
    default=7.0,
    show_default=True,
    help="With --continue: what is new, so much before the newest event.",
)
@click.option("--resume", is_flag=True, help="Go on where a run that was interrupted had come to.")
def train(
    events: Path,
    out: Path | None,
    mapping: tuple[str, ...],
    items: Path | None,
    item_mapping: tuple[str, ...],
    from_ms: int | None,
    until_ms: int | None,
    holdout: Held,
    device: str,
    processes: int,
    base: str | None,
    days: float,
    resume: bool,
    **chosen: Any,
) -> None:
    """
    Train the ranker on EVENTS and write a version that `headrace model deploy` takes.

    EVENTS is Parquet or JSON Lines, in our fields or renamed with --map, or the archive's
    directory, which knows the items' texts too. Quality is measured on the held-out part, which
    training has not seen, as the next item within 30 minutes in the same session, beside popularity
    and a Markov chain. The network then learns the held-out part too (--final-epochs).

    With --continue a version is not begun anew: the network learns the newest --days once, and some
    older events again, in seconds to minutes. New items get their places.

    The log is read once into a training set beside the version directory, and a checkpoint is kept
    there every minute: --resume goes on from it, and ends as an uninterrupted run would have.

    \b
    headrace train events.parquet --map event_type=event --map item_id=item \\
        --map event_timestamp=ts_ms:ms --holdout 2016-10-01 \\
        --items items.csv --map-item title=name --map-item categories=category
    """
    out = out or _default_out(resume=resume)
    if out.exists():
        raise CommandFailed(f"{out} exists, and a version never changes. Name another --out.")
    base_dir = None if base is None else _base(base)
    choices = {
        "log": str(events.absolute()),
        "--map": sorted(mapping),
        "--items": items and str(items.absolute()),
        "--map-item": sorted(item_mapping),
        "--from": from_ms,
        "--until": until_ms,
        "--continue": base_dir and str(base_dir.absolute()),
        "--days": days,
    }
    with distributed.joined(device):
        console = Console(stderr=True, quiet=distributed.rank() > 0)
        run = Unfinished(out)
        run.begin(choices, resume=resume)
        with run.preparing(), console.status(f"Reading {events}"):
            catalogue = None if items is None else _catalogue(items, mapping, item_mapping)
            data = run.data(
                lambda: read_source(events, parse_mapping(mapping), catalogue, from_ms, until_ms)
            )
            new_from_ms = data.first_ms
            if base_dir is not None:
                new_from_ms = max(new_from_ms, data.last_ms + 1 - round(days * DAY_MS))
            from_holdout_ms = holdout_from(new_from_ms, data.last_ms, holdout)
        console.print(f"{data.actions:,} actions on {len(data.item_ids):,} items.")
        if processes > 1 and not distributed.is_launched():
            distributed.launch(processes, [*sys.argv[1:], "--out", str(out), "--resume"])
        if catalogue is None and events.is_dir():
            with console.status("Reading the catalogue's history"):
                catalogue = archived_items(events, data, from_holdout_ms)
        texts = _text_vectors(data, catalogue, console) if catalogue else None
        given = {name: one for name, one in chosen.items() if one is not None}
        with console.status("Loading PyTorch"):
            lesson, options = _gone_on(base_dir, days, given) if base_dir else _begun(given)
        learn = partial(
            lesson,
            data,
            holdout_from_ms=from_holdout_ms,
            text_vectors=texts,
            device=device,
            keep_in=run.directory,
        )
        _train(run, learn, options, from_holdout_ms, out, console)


def _begun(given: dict[str, Any]) -> "tuple[Learn, TrainingOptions]":
    """A training from the beginning, to be called with its data, and its choices."""
    from services.training.options import TrainingOptions
    from services.training.pipeline import train as learn

    if "epochs" in given:
        given["least_steps"] = 0
    options = TrainingOptions(**given)
    return partial(learn, options=options), options


def _gone_on(base: Path, days: float, given: dict[str, Any]) -> "tuple[Learn, TrainingOptions]":
    """A training that goes on from *base*, likewise."""
    from services.training.continuing import Continuing, fine_tune, load_trained

    how = Continuing(days=days, epochs=given.pop("epochs", Continuing.epochs))
    trained, options = load_trained(base)
    options = replace(options, **given)
    return partial(fine_tune, trained, options=options, how=how), options


def _base(name: str) -> Path:
    """The directory of the version to go on from."""
    if name != "serving":
        return Path(name)
    from services.models.serving import Serving

    serving = Serving.of(connect(ModelSettings))
    state = serving.state()
    if state is None:
        raise CommandFailed("no version serves: train one without --continue.")
    return serving.repository / state.version


def _train(
    run: Unfinished,
    learn: "Learn",
    options: "TrainingOptions",
    holdout_from_ms: int,
    out: Path,
    console: Console,
) -> None:
    try:
        with run.preparing(), reported(console, "Training") as progress:
            trained = learn(progress=progress)
    except KeyboardInterrupt:
        raise CommandFailed(
            f"interrupted. Go on with the same options and --resume --out {out}."
        ) from None
    if distributed.rank():
        return
    from services.training.release import write_version

    write_version(out, trained, options)
    run.remove()
    _show(trained, holdout_from_ms)
    click.echo(f"Wrote {out}. Serve it with: headrace model deploy {out}")


def _catalogue(
    file: Path, mapping: tuple[str, ...], item_mapping: tuple[str, ...]
) -> dict[str, Item]:
    # The log and the catalogue of a shop mostly call an item's id the same.
    item_id = column_of(parse_mapping(mapping), "item_id")
    own = parse_mapping(item_mapping, FIELDS)
    return read_catalogue(file, {"item_id": item_id, **own})


def _text_vectors(
    data: "Dataset", catalogue: Mapping[str, Item], console: Console
) -> "NDArray[np.float16]":
    with Progress(console=console, disable=not console.is_terminal) as bar:
        task = bar.add_task("Reading the items' texts", total=len(data.item_ids))
        return text_vectors(
            data.item_ids,
            catalogue,
            Settings().cache_dir / "text",
            lambda texts: bar.advance(task, texts),
        )


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


def _default_out(*, resume: bool) -> Path:
    versions = connect(Settings).data_dir / "versions"
    if resume:
        unfinished = newest_unfinished(versions)
        if unfinished is None:
            raise CommandFailed(f"there is no unfinished run in {versions}. Name it with --out.")
        return unfinished
    return versions / datetime.now(UTC).strftime("%Y%m%dT%H%M%SZ")
