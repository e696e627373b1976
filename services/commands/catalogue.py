"""``headrace catalogue``: publish items."""

from pathlib import Path

import click
from rich.console import Console
from rich.progress import track

from services.commands.parameters import MAP
from services.connection import connect
from services.errors import CommandFailed
from services.kafka.publishing import Publisher
from services.logs.catalogue_log import FIELDS, ItemReader
from services.logs.columns import parse_mapping
from services.logs.eventlog import parse_constants
from services.logs.rows import FORMATS, BadRow, format_of, open_rows
from services.settings import Settings
from stream import topics


@click.command()
@click.argument(
    "file", type=click.Path(exists=True, dir_okay=False, allow_dash=True, path_type=Path)
)
@MAP
@click.option("--set", "constants", multiple=True, metavar="FIELD=VALUE")
@click.option(
    "--separator", default="/", show_default=True, help="Cuts a text of several categories."
)
@click.option("--format", "format_name", type=click.Choice(FORMATS))
@click.option("--data-dir", type=click.Path(file_okay=False, path_type=Path))
def catalogue(
    file: Path,
    mapping: tuple[str, ...],
    constants: tuple[str, ...],
    separator: str,
    format_name: str | None,
    data_dir: Path | None,
) -> None:
    """
    Publish the items in FILE to items.v1.

    FILE is JSON Lines, CSV or Parquet, or - for standard input. An item is replaced by a later one
    with the same item_id; every worker knows it within a second.

    \b
    headrace catalogue items.csv --map item_id=sku --map title=name --map categories=category
    """
    try:
        defaults = parse_constants(constants, FIELDS)
    except BadRow as error:
        raise click.UsageError(str(error)) from error
    columns = parse_mapping(mapping, FIELDS)
    reader = ItemReader(columns, defaults, separator=separator)
    settings = connect(Settings, data_dir=data_dir)
    topic = topics.with_prefix(settings.prefix, topics.ITEMS)
    with (
        open_rows(file, format_of(file, format_name), reader.columns) as log,
        Publisher(settings.kafka) as publisher,
    ):
        log.require([column.name for column in columns.values()])
        publisher.cluster_id(topic)
        console = Console(stderr=True)
        count = 0
        for row in track(
            log.rows, "Publishing items", console=console, disable=not console.is_terminal
        ):
            try:
                item, value = reader.read(row)
            except BadRow as error:
                raise CommandFailed(f"line {row.line} is not an item: {error}.") from error
            publisher.send(topic, item.item_id.encode(), value)
            count += 1
    click.echo(f"Published {count:,} items to {topic}.")
