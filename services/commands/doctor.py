"""``headrace doctor``: what is missing or wrong, and the next step."""

from pathlib import Path

import click

from services.commands.up import DATA_DIR
from services.connection import connect
from services.settings import WorkerSettings


@click.command()
@DATA_DIR
@click.pass_context
def doctor(context: click.Context, data_dir: Path | None) -> None:
    """
    Check machine, installation, ports and servers; say what is wrong and what to do.

    The exit code is 0 if nothing is wrong, and 1 otherwise.
    """
    from services.embedded.checks import CHECKS

    settings = connect(WorkerSettings, data_dir=data_dir)
    wrong = 0
    for name, check in CHECKS.items():
        found = list(check(settings))
        wrong += len(found)
        if not found:
            click.echo(f"{name:<10} ok")
        for finding in found:
            click.secho(f"{name:<10} {finding.what}", fg="red")
            click.echo(f"{'':<10} -> {finding.next_step}")
    context.exit(1 if wrong else 0)
