"""``headrace evaluate``: how good the ranker is, beside what else could be recommended."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import numpy as np
from rich.console import Console

from services.commands.holdout import Holdout
from services.commands.parameters import MAP, MAP_ITEM, Moment
from services.connection import connect
from services.display.progress import reported
from services.display.wide_console import wide_console
from services.errors import CommandFailed
from services.logs.catalogue_log import FIELDS
from services.logs.columns import column_of, parse_mapping
from services.settings import Settings

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from services.evaluation.contest import Frozen
    from services.evaluation.protocols import Task
    from services.evaluation.queries import Histories
    from services.evaluation.results import Outcome
    from services.training.log import EventLog
    from services.training.options import TrainingOptions
    from stream.items import Item

    Rankers = dict[str, Callable[[Histories], Frozen]]

FILE = click.Path(exists=True, dir_okay=False, path_type=Path)
DIRECTORY = click.Path(exists=True, file_okay=False, path_type=Path)
NEW_FILE = click.Path(dir_okay=False, path_type=Path)
PLOTS = (".png", ".svg", ".pdf")

Since = tuple[float | None, int | None]  # a share of the time range, or epoch ms
Decorator = Callable[[Callable[..., None]], Callable[..., None]]


def _all(*options: Decorator) -> Decorator:
    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        for option in reversed(options):
            command = option(command)
        return command

    return decorate


RESULTS = _all(
    click.option("--json", "json_file", type=NEW_FILE, help="Write all figures to this file."),
    click.option("--plot", "plot_file", type=NEW_FILE, help="Draw them: .png, .svg or .pdf."),
)
LOG = _all(
    click.argument("events", type=click.Path(exists=True, path_type=Path)),
    MAP,
    click.option("--items", type=FILE, help="The catalogue: texts to read, categories to compare."),
    MAP_ITEM,
    click.option("--from", "from_ms", type=Moment(), help="First event time to read."),
    click.option("--until", "until_ms", type=Moment(), help="Read only events before this time."),
    click.option("--baselines", is_flag=True, help="Only the baselines: train nothing."),
    click.option("--epochs", type=click.IntRange(1, 1000), help="Passes of training over the log."),
    click.option("--seed", type=click.IntRange(0), default=1, show_default=True),
    RESULTS,
)
SINCE = click.option(
    "--since",
    type=Holdout(),
    default="10%",
    show_default=True,
    help="Where the test begins: a date, or the last share of the time range.",
)
VERSION = click.option(
    "--version", type=DIRECTORY, help="Judge this version; otherwise one is trained here."
)


@click.group()
def evaluate() -> None:
    """
    Judge the ranker and the baselines by a named protocol, all on the same targets.

    Every method ranks the whole catalogue from what came before the target. The ranker is trained
    on what the protocol lets it know, unless --version names a published one.

    \b
    live           predict, then learn: each next item of a session, as a shop sees it
    time-split     all that a user does after a moment, from what was known then
    leave-one-out  each user's last item, history masked and kept, as academic papers do
    cold-items     next items that nothing was learnt of, from their text
    beauty, ga360  two public data sets, with everything set as in docs/evaluation.md
    """


@evaluate.command()
@LOG
@SINCE
@VERSION
@click.option("--nightly", is_flag=True, help="Also fine-tune the ranker after each day.")
def live(since: Since, version: Path | None, **given: Any) -> None:
    """Predict each next item of a session in EVENTS, then learn it."""
    from services.evaluation import protocols

    run = Run.of(given)
    since_ms = run.since_ms(since)
    rankers = run.rankers(run.log.times_ms < since_ms, version)
    run.report(rankers, lambda task: protocols.live(task, since_ms))


@evaluate.command("time-split")
@LOG
@SINCE
@VERSION
def time_split(since: Since, version: Path | None, **given: Any) -> None:
    """Predict all that each user in EVENTS does after a moment, from what was known then."""
    from services.evaluation import protocols

    run = Run.of(given)
    since_ms = run.since_ms(since)
    rankers = run.rankers(run.log.times_ms < since_ms, version)
    run.report(rankers, lambda task: protocols.time_split(task, since_ms))


@evaluate.command("leave-one-out")
@LOG
def leave_one_out(**given: Any) -> None:
    """Predict each user's last item in EVENTS; training sees neither it nor the one before."""
    from services.evaluation import protocols
    from services.evaluation.queries import last_items

    run = Run.of(given)
    run.report(run.rankers(last_items(run.log, 2)[1]), protocols.leave_one_out)


@evaluate.command("cold-items")
@LOG
@SINCE
@click.option("--share", default=0.1, show_default=True, type=click.FloatRange(0.001, 0.9))
def cold_items(since: Since, share: float, **given: Any) -> None:
    """Hide a random share of the items in EVENTS until the test begins, then predict these."""
    from services.evaluation import protocols

    run = Run.of(given)
    since_ms = run.since_ms(since)
    hidden = protocols.hide_items(run.log, share, given["seed"])
    rankers = run.rankers((run.log.times_ms < since_ms) & ~hidden[run.log.items])
    run.report(rankers, lambda task: protocols.cold_items(task, since_ms, hidden))


@evaluate.command()
@click.argument("directory", type=DIRECTORY)
@click.option("--seeds", default=3, show_default=True, type=click.IntRange(1, 20), help="Networks.")
@click.option("--epochs", type=click.IntRange(1, 1000), help="Passes of training.")
@RESULTS
def beauty(
    directory: Path, seeds: int, epochs: int | None, json_file: Path | None, plot_file: Path | None
) -> None:
    """
    The literature's protocol on Amazon Beauty: leave-one-out over all items.

    DIRECTORY has sequences.txt (one user a line: user item item …, oldest first) and items.tsv.
    Rows are means over the networks; published figures stand beside them.
    """
    check_plot(plot_file)
    console = Console(stderr=True)
    with console.status(f"Reading {directory}"):
        from services.evaluation.beauty import Beauty, evaluate_beauty
        from services.training.options import TrainingOptions

        data = Beauty.read(directory)
    options = TrainingOptions.small_data()
    if epochs is not None:
        options = replace(options, epochs=epochs)
    texts = texts_of(data.log, data.items, console)
    with reported(console, "Training and judging") as progress:
        outcome = evaluate_beauty(data, texts, range(1, seeds + 1), options, progress)
    finish(outcome, json_file, plot_file)


@evaluate.command()
@click.argument("directory", type=DIRECTORY)
@click.option(
    "--without",
    type=click.Choice(["types", "text", "context", "fresh"]),
    multiple=True,
    help="Also train without this part of the input (fresh: slates of the midnight before).",
)
@click.option("--epochs", type=click.IntRange(1, 1000), help="Passes of training.")
@click.option("--seed", type=click.IntRange(0), default=1, show_default=True)
@RESULTS
def ga360(
    directory: Path,
    without: tuple[str, ...],
    epochs: int | None,
    seed: int,
    json_file: Path | None,
    plot_file: Path | None,
) -> None:
    """
    The live protocol on a real storefront: trained before 2016-10-01, judged from then on.

    DIRECTORY has events.parquet and items.csv.
    """
    check_plot(plot_file)
    console = Console(stderr=True)
    with console.status(f"Reading {directory}"):
        from services.evaluation.ga360 import Ga360, evaluate_ga360

        data = Ga360.read(directory)
    texts = texts_of(data.log, data.items, console)
    with reported(console, "Training and judging") as progress:
        outcome = evaluate_ga360(data, texts, _options(epochs, seed), without, progress)
    finish(outcome, json_file, plot_file)


def _options(epochs: int | None, seed: int) -> "TrainingOptions":
    from services.training.options import TrainingOptions

    options = TrainingOptions(seed=seed)
    return options if epochs is None else replace(options, epochs=epochs, least_steps=0)


@dataclass(frozen=True)
class Run:
    """A log and its catalogue, read as the options *given* say."""

    given: dict[str, Any]
    console: Console
    log: "EventLog"
    catalogue: "Mapping[str, Item]"

    @classmethod
    def of(cls, given: dict[str, Any]) -> "Run":
        """Read what *given* names."""
        check_plot(given["plot_file"])
        console = Console(stderr=True)
        mapping = parse_mapping(given["mapping"])
        with console.status(f"Reading {given['events']}"):
            from services.training.log import read_log
            from services.training.texts import read_catalogue

            log = read_log(given["events"], mapping)
            catalogue: dict[str, Item] = {}
            if given["items"] is not None:
                own = parse_mapping(given["item_mapping"], FIELDS)
                item_id = column_of(mapping, "item_id")
                catalogue = read_catalogue(given["items"], {"item_id": item_id, **own})
        kept = np.ones(len(log), bool)
        if given["from_ms"] is not None:
            kept &= log.times_ms >= given["from_ms"]
        if given["until_ms"] is not None:
            kept &= log.times_ms < given["until_ms"]
        if not kept.any():
            raise CommandFailed(f"{given['events']}: no actions are left by --from and --until.")
        return cls(given, console, log.where(kept), catalogue)

    def since_ms(self, since: Since) -> int:
        """Where the test begins."""
        share, from_ms = since
        first_ms, last_ms = self.log.first_ms, self.log.last_ms
        if from_ms is None:
            from_ms = last_ms + 1 - round((share or 0) * (last_ms - first_ms))
        if not first_ms < from_ms <= last_ms:
            raise CommandFailed("--since leaves nothing to learn from, or nothing to predict.")
        return from_ms

    def rankers(self, allowed: "NDArray[np.bool_]", version: Path | None = None) -> "Rankers":
        """The ranker: *version*, or one that learns the events *allowed* ``(E,)`` now."""
        if self.given["baselines"]:
            return {}
        with self.console.status("Loading PyTorch"):
            from services.evaluation.network import Ranker
            from services.evaluation.protocols import NIGHTLY, RANKER
            from services.evaluation.training import Learner, Nightly, published
        if version is not None:
            served, length = published(version, int(self.log.times_ms[~allowed].min()))
            return {RANKER: lambda histories: Ranker(served, histories, length)}
        options = _options(self.given["epochs"], self.given["seed"])
        texts = texts_of(self.log, self.catalogue, self.console) if self.catalogue else None
        learner = Learner(self.log, options, texts)
        with reported(self.console, "Training") as progress:
            trained = learner.learn(allowed, progress)
        rankers: Rankers = {RANKER: lambda histories: learner.ranker(trained, histories)}
        if self.given.get("nightly"):
            rankers[NIGHTLY] = lambda histories: Nightly(learner, trained, histories)
        return rankers

    def report(self, rankers: "Rankers", protocol: "Callable[[Task], Outcome]") -> None:
        """Run *protocol*, and show what it found."""
        from services.evaluation.lists import category_shares
        from services.evaluation.protocols import Task

        known = [self.catalogue.get(item_id) for item_id in self.log.item_ids]
        categories = category_shares([item.categories if item else () for item in known])
        with reported(self.console, "Judging") as progress:
            outcome = protocol(Task(self.log, rankers, categories=categories, progress=progress))
        finish(outcome, self.given["json_file"], self.given["plot_file"])


def texts_of(
    log: "EventLog", catalogue: "Mapping[str, Item]", console: Console
) -> "NDArray[np.float16]":
    """``(V, 384)`` of the log's items, 0 for those that are not in the catalogue."""
    from services.training.texts import text_vectors

    cache_dir = connect(Settings).cache_dir / "text"
    done = 0
    with reported(console, "Reading the items' texts") as progress:

        def advanced(texts: int) -> None:
            nonlocal done
            done += texts
            progress(done / len(log.item_ids))

        return text_vectors(log.item_ids, catalogue, cache_dir, advanced)


def check_plot(file: Path | None) -> None:
    """Refuse what cannot be drawn before hours have gone by."""
    if file is not None and file.suffix not in PLOTS:
        raise click.UsageError(f"--plot {file}: its name must end in one of {', '.join(PLOTS)}.")


def finish(outcome: "Outcome", json_file: Path | None, plot_file: Path | None) -> None:
    """Print the tables, and write the files asked for."""
    from services.evaluation import report

    if json_file is not None:
        report.write_json(outcome, json_file)
    if plot_file is not None:
        report.plot(outcome, plot_file)
    report.show(outcome, wide_console())
