"""Where the servers are: ``HEADRACE_*`` if set, else the embedded stack of this data directory."""

import json
from pathlib import Path
from typing import Any, TypeVar

import click
import psutil
from pydantic import ValidationError

from services.settings import Settings

STACK_FILE = "stack.json"
S = TypeVar("S", bound=Settings)


def connect(cls: type[S], **overrides: Any) -> S:
    """
    Build the settings of a process, pointed at a running ``headrace up`` if there is one.

    Each field comes from *overrides* (those that are not None), else from ``HEADRACE_*``, else
    from the live stack of the data directory, else from its default.

    Raises:
        click.UsageError: If a value is refused, naming the variable and the rule.
    """
    given = {name: value for name, value in overrides.items() if value is not None}
    try:
        settings = cls(**given)
        stack = running_stack(settings.data_dir)
        if stack is None:
            return settings
        found = {
            name: value
            for name, value in stack["settings"].items()
            if name in cls.model_fields and name not in settings.model_fields_set
        }
        return cls(**{**found, **given})
    except ValidationError as error:
        faults = "; ".join(
            f"HEADRACE_{'_'.join(map(str, fault['loc'])).upper()}: {fault['msg']}"
            for fault in error.errors()
        )
        raise click.UsageError(f"a setting is wrong. {faults}") from error


def running_stack(data_dir: Path) -> dict[str, Any] | None:
    """The content of ``stack.json`` if the ``headrace up`` that wrote it is alive, else None."""
    try:
        stack: dict[str, Any] = json.loads((data_dir / STACK_FILE).read_bytes())
        # A pid is used again after a while; together with its start time it is not.
        alive = abs(psutil.Process(stack["pid"]).create_time() - stack["created_s"]) < 1
    except (FileNotFoundError, psutil.NoSuchProcess, ValueError, KeyError):
        return None
    return stack if alive else None
