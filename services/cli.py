"""The ``headrace`` command. Each subcommand lies in its own module and is imported when used."""

import importlib

import click

COMMANDS = {
    "up": "services.commands.up",
    "down": "services.commands.up",
    "status": "services.commands.status",
    "doctor": "services.commands.doctor",
    "setup": "services.commands.setup",
    "demo": "services.commands.demo",
    "simulate": "services.commands.simulate",
    "replay": "services.commands.replay",
    "backfill": "services.commands.replay",
    "catalogue": "services.commands.catalogue",
    "watch": "services.commands.watch",
    "features": "services.commands.features",
    "dlq": "services.commands.dlq",
    "verify": "services.commands.verify",
    "rebuild": "services.commands.rebuild",
    "train": "services.commands.train",
    "evaluate": "services.commands.evaluate",
    "model": "services.commands.model",
    "bench": "services.commands.bench",
    "worker": "services.worker.main",
    "archiver": "services.archive.archiver",
    "trainer": "services.trainer.main",
}


class LazyGroup(click.Group):
    """Imports a subcommand when it is called: ``import feast`` alone takes seconds."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        command: click.Command = getattr(importlib.import_module(COMMANDS[cmd_name]), cmd_name)
        return command


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="headrace")
def main() -> None:
    """
    Headrace: a click on one Kafka topic becomes a refreshed slate on another.

    \b
    see it work    demo
    run it here    up; then catalogue, backfill, train, model deploy
    feed it        replay, simulate
    look at it     watch, features, dlq, status, doctor
    trust it       verify, rebuild
    the model      train, evaluate, model, bench
    production     setup --topics --features; then worker, archiver, trainer

    Every setting is a HEADRACE_* variable: see docs/settings.md. While `headrace up` runs, the
    other commands find its servers by themselves.

    Exit codes: 0, done; 1, the answer is no (status, doctor, verify); 2, it cannot be done, and
    one line says why and what to do next.
    """
