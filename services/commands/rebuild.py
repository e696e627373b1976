"""``headrace rebuild``: a new state from the archive and the logs, beside the live one."""

from datetime import UTC, datetime
from pathlib import Path

import click
from rich.console import Console

from services import states
from services.connection import connect
from services.display.progress import reported
from services.errors import CommandFailed
from services.settings import WorkerSettings
from stream import topics
from stream.topics import with_prefix


@click.command()
@click.option("--dry-run", is_flag=True, help="Say what would be folded, and stop.")
@click.option("--accept-gap", is_flag=True, help="Leave out records that nobody has any more.")
@click.option("--drop", "dropped", type=click.IntRange(1), help="Instead: delete an old state.")
@click.option("--data-dir", type=click.Path(file_okay=False, path_type=Path))
def rebuild(dry_run: bool, accept_gap: bool, dropped: int | None, data_dir: Path | None) -> None:
    """
    Fold the archive and the logs into the next state, then have the workers go on from it.

    For when Redis has been lost, when events.v1 has been given more partitions, or before workers
    with another format of rows are started. The live state serves on meanwhile, and stays until
    `--drop NUMBER` gives its memory back. May be ended and begun again at any time.
    """
    settings = connect(WorkerSettings, data_dir=data_dir)
    from features.store import StoreError
    from stream.state import StateMoved

    try:
        if dropped is not None:
            _drop(settings, dropped)
        else:
            _rebuild(settings, dry_run=dry_run, accept_gap=accept_gap)
    except StateMoved as error:
        raise CommandFailed(
            f"somebody else writes that state ({error}). Let them finish, or repeat the command."
        ) from error
    except StoreError as error:
        raise CommandFailed(
            f"Redis at {settings.redis_address} does not answer ({type(error).__name__}). Start it "
            "with `headrace up`, or set HEADRACE_REDIS_ADDRESS."
        ) from error


def _rebuild(settings: WorkerSettings, *, dry_run: bool, accept_gap: bool) -> None:
    from services import rebuilding
    from services.verification.recorded import RecordedTopic

    events_topic = with_prefix(settings.prefix, topics.EVENTS)
    signals_topic = with_prefix(settings.prefix, topics.SIGNALS)
    with (
        RecordedTopic(settings.kafka, events_topic, settings.archive_dir / events_topic) as events,
        RecordedTopic(settings.kafka, signals_topic) as signals,
    ):
        planned = rebuilding.plan(settings, events, signals, now=datetime.now(UTC))
        number = planned.state.number
        click.echo(
            f"State {number}: {sum(planned.ends.values()):,} records of {events_topic}, "
            f"{sum(planned.signal_ends.values()):,} of {signals_topic}."
        )
        for gap in planned.gaps:
            click.echo(f"Neither the archive nor Kafka has {gap}.")
        if planned.gaps and not accept_gap:
            raise CommandFailed(
                "what is missing would be missing from the state. Bring the archive back, or "
                "repeat with --accept-gap."
            )
        if dry_run:
            return
        with reported(Console(stderr=True), "Folding") as advanced:
            rebuilding.rebuild(settings, planned, events, signals, advanced)
    click.echo(f"State {number} is live. Workers go on from it within seconds.")
    if number > 1:
        click.echo(f"When all is well: headrace rebuild --drop {number - 1}")


def _drop(settings: WorkerSettings, number: int) -> None:
    from features.projects import drop

    if number == states.live_number(settings):
        raise CommandFailed(f"state {number} is live. `headrace rebuild` makes another one first.")
    rows = states.open_rows(settings, number)
    click.echo(f"State {number}: {drop(rows):,} keys deleted.")
    rows.close()
