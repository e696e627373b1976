"""``headrace verify``: whether what is served is exactly what the log says."""

import sys
import time
from pathlib import Path

import click
from rich.console import Console

from services import states
from services.connection import connect
from services.display.progress import reported
from services.display.wide_console import wide_console
from services.errors import CommandFailed
from services.settings import WorkerSettings
from services.verification.recorded import RecordedTopic
from services.verification.report import FIRST, Report
from stream import topics
from stream.topics import with_prefix


@click.command()
@click.option("--json", "json_path", type=click.Path(dir_okay=False, path_type=Path))
@click.option("--slates", is_flag=True, help="Instead: replay the slates traced on trace.v1.")
@click.option("--show-ids", is_flag=True, help="Name users by their ids, not by a hash.")
@click.option("--first", type=click.IntRange(1), default=FIRST, show_default=True, metavar="N",
              help="Print the first N differences.")  # fmt: skip
@click.option("--data-dir", type=click.Path(file_okay=False, path_type=Path))
def verify(
    slates: bool, json_path: Path | None, show_ids: bool, first: int, data_dir: Path | None
) -> None:
    """
    Fold the whole log again, and compare with what is served; the system may go on meanwhile.

    Each user's row is compared with the archive and the log folded up to the record that the row
    names, every list and every byte; the counters of each partition with what became of its
    records; the signals of those events with signals.v1; and item rows with signals.v1 folded in
    its own order.

    With --slates, each slate that was traced (HEADRACE_TRACE_SHARE) is made again from its trace,
    and compared byte for byte with what was published.

    Exit code 1: something differs. 2: something could not be checked.
    """
    settings = connect(WorkerSettings, data_dir=data_dir)
    report = Report(show_ids=show_ids, first=first)
    if slates:
        _verify_slates(settings, report)
    else:
        began_s = time.monotonic()
        _verify(settings, report)
        took_s = time.monotonic() - began_s
        folded = report.counts["events folded"]
        click.echo(f"{folded:,} events in {took_s:.1f} s: {folded / took_s:,.0f} a second.")
    report.show(wide_console(highlight=False))
    if json_path is not None:
        report.write_json(json_path)
    sys.exit(report.exit_code)


def _verify(settings: WorkerSettings, report: Report) -> None:
    from features.store import StoreError
    from services.verification import live

    state = states.live(settings)
    if state is None:
        raise CommandFailed(
            "no worker has run yet: there is nothing to verify. Start `headrace up`."
        )
    users = states.open_rows(settings, state.number)
    items = users.beside(rows="item_row", marks="signals_mark")
    events_topic = with_prefix(settings.prefix, topics.EVENTS)
    signals_topic = with_prefix(settings.prefix, topics.SIGNALS)
    try:
        with (
            RecordedTopic(
                settings.kafka, events_topic, settings.archive_dir / events_topic
            ) as events,
            RecordedTopic(settings.kafka, signals_topic) as signals,
            reported(Console(stderr=True), "Folding the log") as advanced,
        ):
            live.verify(
                live.System(
                    state=state,
                    events=events,
                    signals=signals,
                    users=users,
                    items=items,
                    max_ahead_ms=round(settings.max_ahead_s * 1000),
                ),
                report,
                advanced,
            )
    except StoreError as error:
        host = settings.redis_address
        raise CommandFailed(
            f"Redis at {host} does not answer ({type(error).__name__}). Start it with `headrace "
            "up`, or set HEADRACE_REDIS_ADDRESS."
        ) from error


def _verify_slates(settings: WorkerSettings, report: Report) -> None:
    from services.verification.slates import verify_slates

    traces_topic = with_prefix(settings.prefix, topics.TRACE)
    slates_topic = with_prefix(settings.prefix, topics.RECOMMENDATIONS)
    with (
        RecordedTopic(settings.kafka, traces_topic) as traces,
        RecordedTopic(settings.kafka, slates_topic) as slates,
    ):
        verify_slates(traces, slates, report)
