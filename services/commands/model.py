"""``headrace model``: the life of a version, from a directory to everybody's slates and back."""

import asyncio
import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.table import Table

from services.connection import connect
from services.display.model_status import headline, performance_table
from services.models import control, deployment, gate
from services.models import repository as repositories
from services.models.proof import Limits
from services.models.serving import Serving
from services.models.status import ModelStatus, model_status
from services.settings import ModelSettings
from stream.deployments import EVERYBODY
from stream.ranking import RankerUnavailable

DEFAULTS = Limits()


class Percent(click.ParamType):
    """A share written as a percentage; 0 to 1."""

    name = "percent"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        if isinstance(value, float):
            return value
        try:
            share = float(str(value).removesuffix("%")) / 100
        except ValueError:
            share = -1.0
        if not str(value).endswith("%") or not 0 <= share <= 1:
            self.fail(f"{value!r} is not a percentage such as 5%", param, ctx)
        return share


REPOSITORY = click.option(
    "--repository",
    type=click.Path(file_okay=False, path_type=Path),
    help="Triton's model repository; by default <data_dir>/models.",
)
JSON = click.option("--json", "as_json", is_flag=True, help="For scripts.")


def limited(command: Callable[..., None]) -> Callable[..., None]:
    """Give *command* the options of the gate, as one argument `limits`."""
    options = (
        click.option(
            "--least-coverage",
            type=Percent(),
            default=f"{DEFAULTS.least_coverage:.0%}",
            show_default=True,
            help="Share of the live catalogue that it must know.",
        ),
        click.option(
            "--margin",
            type=click.FloatRange(0, 1),
            default=DEFAULTS.margin,
            show_default=True,
            help="By how much HR@20 may be below the serving version's.",
        ),
        click.option(
            "--within-ms",
            type=click.FloatRange(min=0, min_open=True),
            default=DEFAULTS.within_ms,
            show_default=True,
            help="Median time allowed for the golden batch.",
        ),
        click.option(
            "--items",
            type=click.Path(exists=True, dir_okay=False, path_type=Path),
            help="A catalogue file, to compare with in place of items.v1.",
        ),
    )

    def called(
        *, least_coverage: float, margin: float, within_ms: float, items: Path | None, **rest: Any
    ) -> None:
        known = gate.items_in(items) if items else frozenset[str]()
        command(limits=Limits(least_coverage, margin, within_ms, known), **rest)

    called.__name__, called.__doc__ = command.__name__, command.__doc__
    called.__click_params__ = getattr(command, "__click_params__", [])  # type: ignore[attr-defined]
    for option in reversed(options):
        called = option(called)
    return called


@click.group()
def model() -> None:
    """
    Bring versions of the model into service, watch them, and go back.

    \b
    look           list, status
    try            verify DIR: the gate alone; nothing changes
    bring in       shadow DIR: answers unseen, and is compared
                   canary DIR --share 5%: serves some users, and is guarded
                   deploy DIR: serves everybody
    go on          promote: the canary, or the shadow, serves everybody
    go back        rollback: the canary stops, or the previous version serves
    clear up       retire VERSION

    Every version passes the same gate: its files are as released and no pickles, its inputs and
    outputs keep the contract, it knows the catalogue, it is no worse than what serves, and Triton
    loads it beside what serves and gets the answers that it was released with, in time. What
    fails is refused, and nothing has changed. Workers follow a change within a second. In place
    of DIR, the number of a version that is there already will do.

    docs/model-updates.md says how to make a version of your own.
    """


@model.command()
@click.argument("directory", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--no-triton", is_flag=True, help="Do not load it: only look at the files.")
@limited
@REPOSITORY
def verify(directory: Path, no_triton: bool, limits: Limits, repository: Path | None) -> None:
    """
    Check the version in DIRECTORY as a deployment would, and change nothing.

    Triton loads it under a name of its own, is asked for the golden batch, and unloads it. The
    exit code is 2, and one line says why, if the version would be refused.
    """
    serving = _serving(repository)
    manifest = gate.check(directory, serving, limits, say=click.echo)
    if not no_triton:
        median_ms = gate.try_out(directory, manifest, serving, limits)
        click.echo(f"Triton: it answers as it was released to, in {median_ms:.0f} ms.")
    click.echo(f"{directory} would be accepted.")


@model.command()
@click.argument("version", metavar="DIRECTORY|VERSION")
@limited
@REPOSITORY
def deploy(version: str, limits: Limits, repository: Path | None) -> None:
    """
    Serve a version to everybody.

    It is checked, copied into Triton's repository, loaded beside the version that serves, and
    asked for the answers it was released with. Only then do the workers follow, at once and
    without a restart. A version that fails any of this is refused and the old one keeps serving.
    """
    number = deployment.deploy(
        _source(version), _serving(repository), say=click.echo, limits=limits
    )
    click.echo(f"Version {number} serves.")


@model.command()
@click.argument("version", metavar="DIRECTORY|VERSION")
@limited
@REPOSITORY
def shadow(version: str, limits: Limits, repository: Path | None) -> None:
    """
    Ask a version what the serving one is asked, and compare; nobody sees its answers.

    It is asked when the slates are out, of at most 32 users of a micro-batch, and left out when
    it is behind. `headrace model status` shows how near it is: the share of the top 20 in common,
    and Spearman's correlation of the ranks. `retire` ends it, `canary` or `promote` goes on.
    """
    number = deployment.shadow(
        _source(version), _serving(repository), say=click.echo, limits=limits
    )
    click.echo(f"Version {number} is the shadow.")


@model.command()
@click.argument("version", metavar="DIRECTORY|VERSION")
@click.option("--share", type=Percent(), required=True, help="Of the users, such as 5%.")
@limited
@REPOSITORY
def canary(version: str, share: float, limits: Limits, repository: Path | None) -> None:
    """
    Serve a version to a share of the users, always the same ones.

    Each worker guards it, and rolls it back by itself when it alone fails three of fifty
    requests, answers with wrong values, or takes more than twice as long as the serving version
    (95th percentile, and more than 50 ms, after 30 answers). A request that it fails is answered
    by the serving version. Give the version's number and another share to go on; a greater share
    keeps the users that there were.
    """
    parts = round(share * EVERYBODY)
    if parts < 1:
        raise click.BadParameter("the least share is 0.01%", param_hint="--share")
    number = deployment.canary(
        _source(version), parts, _serving(repository), say=click.echo, limits=limits
    )
    click.echo(f"Version {number} serves {share:.2%} of the users.")


@model.command()
@click.argument("version", required=False)
@REPOSITORY
def promote(version: str | None, repository: Path | None) -> None:
    """
    Serve the canary to everybody; where there is none, the shadow; or else VERSION.

    The version that served stays loaded: `headrace model rollback` goes back to it at once.
    """
    number = deployment.promote(_serving(repository), version, say=click.echo)
    click.echo(f"Version {number} serves.")


@model.command()
@REPOSITORY
def rollback(repository: Path | None) -> None:
    """
    Take back the last step.

    Where there is a canary, it is stopped. Where there is none, the previous version serves again.
    """
    click.echo(deployment.rollback(_serving(repository), say=click.echo))


@model.command()
@click.argument("version")
@REPOSITORY
def retire(version: str, repository: Path | None) -> None:
    """
    Unload VERSION and delete its files.

    It stops being the shadow, the canary or the previous version; the serving one cannot be
    retired. Its manifest stays, because slates go on naming it.
    """
    deployment.retire(version, _serving(repository))
    click.echo(f"Version {version} is retired.")


@model.command("list")
@JSON
@REPOSITORY
def list_versions(as_json: bool, repository: Path | None) -> None:
    """Show the versions in the repository, oldest first, and the part of each."""
    rows = list(_versions(_serving(repository)))
    if as_json:
        click.echo(json.dumps(rows))
        return
    table = Table("version", "released", "items", "HR@20", "part", "on Triton")
    for row in rows:
        table.add_row(
            row["version"],
            row["released"],
            f"{row['items']:,}",
            "" if row["hr_at_20"] is None else f"{row['hr_at_20']:.4f}",
            row["part"],
            "loaded" if row["loaded"] else "",
        )
    Console().print(table)


def _versions(serving: Serving) -> Any:
    state = serving.state()
    try:
        loaded = asyncio.run(control.ready_versions(serving.triton_address, serving.model))
    except RankerUnavailable:
        loaded = ()
    for number, manifest in repositories.versions(serving.repository):
        whole = repositories.is_whole(serving.repository / number)
        part = state.role_of(number) if state else ""
        yield {
            "version": number,
            "released": manifest.created_at,
            "items": manifest.vocabulary_size,
            "hr_at_20": manifest.metrics.get("ranker", {}).get("hr_at_20"),
            "part": part if whole else "retired",
            "loaded": number in loaded,
        }


@model.command()
@JSON
@REPOSITORY
def status(as_json: bool, repository: Path | None) -> None:
    """
    Show who serves whom, and how each version is doing on all workers together.

    Counts are since each worker's start; p50, p99, overlap and correlation are of its newest
    200 answers.
    """
    found = model_status(_serving(repository))
    if as_json:
        click.echo(json.dumps(_as_json(found)))
        return
    console = Console(highlight=False)
    for line in headline(found):
        console.print(line, soft_wrap=True, markup=False)
    console.print(performance_table(found))


def _as_json(found: ModelStatus) -> dict[str, Any]:
    return {
        "state": found.state.model_dump(mode="json") if found.state else None,
        "loaded": found.loaded,
        "workers": dict(found.workers),
        "versions": {version: dataclasses.asdict(one) for version, one in found.versions.items()},
    }


def _source(given: str) -> str:
    """A version's number, or a directory that is there."""
    if not given.isdecimal() and not Path(given).is_dir():
        raise click.BadParameter(f"{given!r} is neither a directory nor a version's number")
    return given


def _serving(repository: Path | None) -> Serving:
    return Serving.of(connect(ModelSettings), repository)
