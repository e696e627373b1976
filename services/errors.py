"""What a command says when it cannot go on: one line, the next step, exit code 2."""

import click


class CommandFailed(click.ClickException):
    """Shown as ``Error: …`` without a traceback."""

    exit_code = 2
