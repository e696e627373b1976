"""``headrace setup``: fetch what the embedded stack needs, or create the topics on your Kafka."""

import time

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from services.connection import connect
from services.settings import Settings


@click.command()
@click.option(
    "--topics",
    is_flag=True,
    help="Create the topics on HEADRACE_KAFKA_SERVERS instead (what compose.yaml runs once).",
)
@click.option(
    "--replication-factor",
    type=click.IntRange(min=-1),
    default=-1,
    show_default="the broker's own",
    help="For --topics: replicas of each partition.",
)
@click.option(
    "--features",
    is_flag=True,
    help="Register the feature definitions with Feast, in HEADRACE_DATA_DIR.",
)
def setup(topics: bool, replication_factor: int, features: bool) -> None:
    """
    Fetch what `headrace up` needs and the Python environment does not hold.

    That is Kafka's jars (43 MB, each checked against its SHA-256) and a small environment for
    Triton's models (60 MB). They are kept in HEADRACE_CACHE_DIR. A second run checks them,
    downloads nothing and needs no network; an interrupted one goes on where it stopped.
    """
    settings = connect(Settings)
    if topics:
        _create_topics(settings, replication_factor)
    if features:
        _register_features(settings)
    if not topics and not features:
        fetch(settings)


def fetch(settings: Settings) -> None:
    """Install with a progress bar. Raises `CommandFailed` with the next step."""
    from services.embedded.install import install

    started = time.monotonic()
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, TimeElapsedColumn(), console=Console(stderr=True)) as progress:
        bars = {}

        def began(title: str, files: int) -> None:
            bars[title] = progress.add_task(title, total=files)

        fetched = install(
            settings.cache_dir,
            began=began,
            advanced=lambda title: progress.advance(bars[title]),
        )
    took = f"{time.monotonic() - started:.1f} s"
    if fetched:
        click.echo(f"Fetched {fetched} files into {settings.cache_dir} in {took}.")
    else:
        click.echo(f"Everything is there and right ({settings.cache_dir}, checked in {took}).")


def _create_topics(settings: Settings, replication_factor: int) -> None:
    from services.kafka.topics_setup import ensure_topics

    created = ensure_topics(
        settings.kafka, prefix=settings.prefix, replication_factor=replication_factor
    )
    listed = ", ".join(created) or "none was missing"
    click.echo(f"Topics on {settings.kafka}: created {listed}; configuration up to date.")


def _register_features(settings: Settings) -> None:
    from features.store import open_store
    from services import states

    project = states.project(settings, states.live_number(settings))
    open_store(settings.redis_connection, settings.feast_registry, project)
    click.echo(f"Features of {project}: registered in {settings.feast_registry}.")
