"""``headrace replay`` and ``headrace backfill``: publish a log of events."""

import signal
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, TypeVar

import click
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from services.commands.parameters import MAP, Moment, Speed
from services.connection import connect
from services.errors import CommandFailed
from services.kafka.publishing import Publisher
from services.kafka.slates import whole_topic
from services.logs.columns import Column, parse_mapping
from services.logs.eventlog import EventReader, parse_constants
from services.logs.following import Following
from services.logs.pacing import Pacer
from services.logs.replay_position import ReplayPosition
from services.logs.replaying import (
    FullSpeed,
    Selection,
    Sender,
    Tally,
    describe,
    log_name,
)
from services.logs.replaying import replay as publish
from services.logs.rows import FORMATS, STANDARD_INPUT, BadRow, Rows, format_of, open_rows
from services.settings import Settings, WorkerSettings
from stream import topics
from stream.records import BACKFILL

F = TypeVar("F", bound=Callable[..., Any])


OPTIONS = (
    click.argument(
        "log", type=click.Path(exists=True, dir_okay=False, allow_dash=True, path_type=Path)
    ),
    MAP,
    click.option(
        "--set",
        "constants",
        multiple=True,
        metavar="FIELD=VALUE",
        help="A value for rows that have none, such as currency=USD.",
    ),
    click.option(
        "--format",
        "format_name",
        type=click.Choice(FORMATS),
        help="By default the file's suffix tells; standard input is jsonl.",
    ),
    click.option("--from", "from_ms", type=Moment(), help="First event time to publish."),
    click.option("--until", "until_ms", type=Moment(), help="Event time to stop before."),
    click.option(
        "--max",
        "most",
        type=click.IntRange(1),
        help="Publish at most so many; the next run goes on.",
    ),
    click.option("--rate", type=click.FloatRange(0, min_open=True), help="Events per second."),
    click.option("--restart", is_flag=True, help="Begin at the first row again."),
    click.option(
        "--skip-bad", is_flag=True, help="Pass over rows that are not events, and count them."
    ),
    click.option("--data-dir", type=click.Path(file_okay=False, path_type=Path)),
)


def log_options(command: F) -> F:
    """The options that replay and backfill share."""
    for option in reversed(OPTIONS):
        command = option(command)
    return command


@click.command()
@log_options
@click.option("--speed", type=Speed(), help="Keep the log's own pace, so many times faster (10x).")
@click.option(
    "--slates",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Follow each event to its slate and write those to this file as JSON Lines.",
)
@click.option(
    "--wait-slates",
    is_flag=True,
    help="A user's next event waits for the slate of the one before.",
)
@click.option(
    "--window",
    default=256,
    show_default=True,
    type=click.IntRange(1, 100_000),
    help="With --wait-slates: users whose slate is awaited at once.",
)
def replay(**options: Any) -> None:
    """
    Publish the log LOG to events.v1, oldest row first.

    LOG is JSON Lines, CSV or Parquet, or - for standard input. Rows without an event_id get one
    that is the same whenever the log is read again, so nothing is ever counted twice. A replay that
    was stopped goes on where it was: run the same command again.

    \b
    headrace replay clicks.jsonl --rate 100
    headrace replay log.parquet --map event_type=event --map event_timestamp=ts_ms:ms --speed 10x
    zcat log.csv.gz | headrace replay - --format csv
    """
    _run("Replaying", options)


@click.command()
@log_options
def backfill(**options: Any) -> None:
    """
    Publish the log LOG to events.v1 as history.

    As `headrace replay`, but no slates are made for these events: users' rows are built, as fast as
    the workers can.
    """
    _run("Backfilling", options, backfill=True)


def _run(verb: str, options: dict[str, Any], *, backfill: bool = False) -> None:
    log: Path = options["log"]
    mapping = parse_mapping(options["mapping"])
    try:
        constants = parse_constants(options["constants"])
    except BadRow as error:
        raise click.UsageError(str(error)) from error
    settings = connect(WorkerSettings, data_dir=options["data_dir"])
    reader = EventReader(mapping, constants, max_ahead_s=settings.max_ahead_s)
    selection = Selection(
        options["from_ms"], options["until_ms"], options["most"], options["skip_bad"]
    )
    pacer = Pacer(speed=options.get("speed"), rate=options["rate"])
    format_name = format_of(log, options["format_name"])
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with ExitStack() as stack:
        follow = bool(options.get("slates") or options.get("wait_slates"))
        # Gathering events saves work at full speed; where latency is measured it would be in it.
        publisher = stack.enter_context(Publisher(settings.kafka, linger_ms=0 if follow else 5))
        topic = topics.with_prefix(settings.prefix, topics.EVENTS)
        cluster = publisher.cluster_id(topic)
        position = _position(log, settings, selection, mapping, constants, cluster, topic, backfill)
        if options["restart"]:
            position.restart()
        resumed = position.row
        sender: Sender
        if follow:
            sender = _following(stack, settings, publisher, topic, position, options)
        else:
            headers = (BACKFILL,) if backfill else ()
            sender = FullSpeed(publisher, topic, position, headers)
        rows = stack.enter_context(open_rows(log, format_name, reader.columns))
        rows.require([column.name for column in mapping.values()])
        on_row = stack.enter_context(_progress(verb, log, rows))
        try:
            tally = publish(rows.rows, reader, selection, pacer, position, sender, on_row)
        except KeyboardInterrupt:
            raise CommandFailed(
                f"stopped after {position.row:,} rows. The same command goes on from there."
            ) from None
    _summary(tally, topic, resumed, sender)


def _position(
    log: Path,
    settings: Settings,
    selection: Selection,
    mapping: dict[str, Column],
    constants: dict[str, str],
    cluster: str,
    topic: str,
    backfill: bool,
) -> ReplayPosition:
    if log == STANDARD_INPUT:
        return ReplayPosition()  # what was read is gone: there is nothing to go back to
    window = f"{selection.from_ms}-{selection.until_ms}"
    details = (describe(mapping, constants), window, cluster, topic, str(backfill))
    return ReplayPosition.load(settings.data_dir / "replays", log, *details)


def _following(
    stack: ExitStack,
    settings: Settings,
    publisher: Publisher,
    topic: str,
    position: ReplayPosition,
    options: dict[str, Any],
) -> Following:
    results = topics.with_prefix(settings.prefix, topics.RECOMMENDATIONS)
    consumer, _ = whole_topic(settings.kafka, results, from_beginning=False)
    stack.callback(consumer.close)
    path: Path | None = options["slates"]
    mode = "ab" if position.row else "wb"
    out = stack.enter_context(path.open(mode)) if path else None
    in_turn = options["wait_slates"]
    return Following(
        publisher,
        topic,
        position,
        consumer,
        out,
        in_turn,
        window=options["window"] if in_turn else 1_000_000,
    )


@contextmanager
def _progress(verb: str, log: Path, rows: Rows) -> Iterator[Callable[[Tally], None]]:
    console = Console(stderr=True)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.fields[events]:,} events"),
        TextColumn("{task.fields[rate]:,.0f}/s"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        task = progress.add_task(f"{verb} {log_name(log)}", total=rows.total, events=0, rate=0.0)

        def on_row(tally: Tally) -> None:
            if tally.rows % 512 == 0:
                elapsed_s = progress.tasks[0].elapsed or 1e-9
                progress.update(
                    task,
                    completed=rows.consumed(tally.rows),
                    events=tally.published,
                    rate=tally.published / elapsed_s,
                )

        yield on_row


def _summary(tally: Tally, topic: str, resumed: int, sender: Sender) -> None:
    if resumed:
        click.echo(f"Went on after {resumed:,} rows that an earlier run had published.")
    if resumed and not tally.published:
        click.echo("Nothing was left to publish. --restart begins at the first row again.")
    rate = tally.published / max(tally.seconds, 1e-9)
    click.echo(
        f"Published {tally.published:,} events to {topic} in {tally.seconds:.1f} s "
        f"({rate:,.0f} events/s)."
    )
    if tally.bad:
        click.echo(f"Passed over {tally.bad:,} bad rows, the first: {'; '.join(tally.first_bad)}")
    if isinstance(sender, Following):
        p50, p99 = sender.percentiles_ms()
        click.echo(
            f"{len(sender.latencies_s):,} events got their slate: "
            f"p50 {p50:.0f} ms, p99 {p99:.0f} ms. {sender.unanswered:,} got none."
        )
