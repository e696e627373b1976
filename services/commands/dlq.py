"""``headrace dlq``: look at dead letters, and send them again once their cause is mended."""

import base64
from itertools import islice
from pathlib import Path
from typing import Any

import click
import orjson
from rich.console import Console
from rich.table import Table

from services.connection import connect
from services.display.rendering import safe_bytes, safe_text
from services.errors import CommandFailed
from services.kafka.dead_letters import Letter, read_letters, replay_letters
from services.kafka.publishing import Publisher
from services.settings import Settings
from stream import topics

LETTER_TOPICS = [name for name in topics.TOPICS if name.endswith(".dlq")]
TOPIC = click.option(
    "--topic",
    default=topics.EVENTS_DLQ,
    show_default=True,
    type=click.Choice(LETTER_TOPICS),
    help="Which letters.",
)
DATA_DIR = click.option("--data-dir", type=click.Path(file_okay=False, path_type=Path))


@click.group()
def dlq() -> None:
    """Dead letters: records that could never be processed, kept as they came."""


@dlq.command()
@TOPIC
@click.option("--max", "most", default=50, show_default=True, type=click.IntRange(1))
@click.option("--reason", help="Only letters whose reason contains this.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line; bytes in base64.")
@DATA_DIR
def show(topic: str, most: int, reason: str | None, as_json: bool, data_dir: Path | None) -> None:
    """Show the oldest letters: where they were, why they are here, what they hold."""
    settings = connect(Settings, data_dir=data_dir)
    name = topics.with_prefix(settings.prefix, topic)
    fitting = (
        letter
        for letter in read_letters(settings.kafka, name)
        if reason is None or reason in letter.reason
    )
    letters = list(islice(fitting, most))
    if as_json:
        for letter in letters:
            click.echo(_as_json(letter))
        return
    Console().print(_table(letters))
    more = sum(1 for _ in fitting)
    click.echo(f"{len(letters):,} of {len(letters) + more:,} letters in {name}.")


@dlq.command()
@TOPIC
@click.option("--max", "most", type=click.IntRange(1), help="Send so many, the oldest first.")
@click.option("--all", "every", is_flag=True, help="Send all that have not been sent yet.")
@click.option("--reason", help="Only letters whose reason contains this.")
@DATA_DIR
def replay(
    topic: str, most: int | None, every: bool, reason: str | None, data_dir: Path | None
) -> None:
    """
    Send letters to the topic they came from, key, value and headers as they were.

    What has been sent is remembered in Kafka: a second run goes on with the next letter.
    """
    if not (most or every or reason):
        raise click.UsageError("say which: --all, --max N or --reason TEXT.")
    settings = connect(Settings, data_dir=data_dir)
    name = topics.with_prefix(settings.prefix, topic)
    group = topics.with_prefix(settings.prefix, "headrace-dlq-replay")
    # Letters name a topic without the prefix. None goes into a dead-letter topic.
    destinations = {
        known: topics.with_prefix(settings.prefix, known)
        for known in topics.TOPICS
        if known not in LETTER_TOPICS
    }
    with Publisher(settings.kafka) as publisher:
        publisher.cluster_id(name)
        sent = replay_letters(
            settings.kafka, name, group, publisher, destinations, most=most, reason=reason
        )
    if not sent:
        raise CommandFailed(f"no letter in {name} is left to send that fits.")
    click.echo(f"Sent {sent:,} letters to where they came from.")


def _table(letters: list[Letter]) -> Table:
    table = Table(box=None, pad_edge=False)
    for heading in ("failed at", "source", "reason", "key", "value"):
        table.add_column(heading, overflow="fold")
    for letter in letters:
        table.add_row(
            safe_text(letter.failed_at, 32),
            safe_text(letter.source, 60),
            safe_text(letter.reason, 120),
            safe_bytes(letter.key, 40),
            safe_bytes(letter.value, 80),
        )
    return table


def _as_json(letter: Letter) -> str:
    return orjson.dumps(
        {
            "partition": letter.partition,
            "offset": letter.offset,
            "reason": letter.reason,
            "source": letter.source,
            "failed_at": letter.failed_at,
            "key": _base64(letter.key),
            "value": _base64(letter.value),
            "headers": [[name, _base64(value)] for name, value in letter.original_headers],
        }
    ).decode()


def _base64(raw: Any) -> str | None:
    return None if raw is None else base64.b64encode(raw).decode()
