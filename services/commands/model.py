"""``headrace model``: which version of a model serves."""

from pathlib import Path

import click
from rich.console import Console
from rich.table import Table

from services.connection import connect
from services.models.deployment import Serving, configured, versions
from services.models.deployment import deploy as bring_into_service
from services.models.deployment import use as go_to
from services.settings import ModelSettings

REPOSITORY = click.option(
    "--repository",
    type=click.Path(file_okay=False, path_type=Path),
    help="Triton's model repository; by default <data_dir>/models.",
)


@click.group()
def model() -> None:
    """Deploy versions of the ranker, and go back to earlier ones."""


@model.command()
@click.argument("directory", type=click.Path(exists=True, file_okay=False, path_type=Path))
@REPOSITORY
def deploy(directory: Path, repository: Path | None) -> None:
    """
    Serve the version in DIRECTORY, as `headrace train` wrote it.

    It is checked, copied into Triton's repository, loaded beside the version that serves, and
    asked for the answers it was released with. Only then do the workers follow, at once and
    without a restart. A version that fails any of this is refused and the old one keeps serving.
    """
    version = bring_into_service(directory, _serving(repository), say=click.echo)
    click.echo(f"Version {version} serves.")


@model.command()
@click.argument("version")
@REPOSITORY
def use(version: str, repository: Path | None) -> None:
    """Go back (or forward) to VERSION, which was deployed before."""
    go_to(version, _serving(repository))
    click.echo(f"Version {version} serves.")


@model.command("list")
@REPOSITORY
def list_versions(repository: Path | None) -> None:
    """Show the deployed versions, oldest first."""
    serving = _serving(repository)
    loaded = configured(serving)
    table = Table("version", "released", "items", "HR@20", "state")
    for number, manifest in versions(serving):
        quality = manifest.metrics.get("ranker", {}).get("hr_at_20")
        state = "serves" if number in loaded[-1:] else "loaded" if number in loaded else ""
        table.add_row(
            number,
            manifest.created_at,
            f"{manifest.vocabulary_size:,}",
            "" if quality is None else f"{quality:.4f}",
            state,
        )
    Console().print(table)


def _serving(repository: Path | None) -> Serving:
    settings = connect(ModelSettings)
    models = repository or settings.model_repository or settings.data_dir / "models"
    return Serving(
        repository=models / settings.model_name,
        triton_address=settings.triton_address,
        kafka_servers=settings.kafka_servers,
        prefix=settings.prefix,
        device=settings.triton_device,
    )
