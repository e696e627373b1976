"""``headrace status``: what runs, for people and for scripts."""

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click
import psutil
from rich.console import Console

from services.commands.up import DATA_DIR
from services.connection import connect, running_stack
from services.embedded.display import table
from services.embedded.part import Status
from services.processes import of_family, own_cpu_s
from services.settings import Settings

POLL_S = 0.2
WORKING = ("ready", "external")


@click.command()
@DATA_DIR
@click.option("--wait", is_flag=True, help="Wait until every part is ready.")
@click.option("--timeout", type=click.FloatRange(min=0), default=120.0, show_default=True,
              help="For --wait: seconds.")  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="For scripts: parts by name.")
@click.pass_context
def status(
    context: click.Context, data_dir: Path | None, wait: bool, timeout: float, as_json: bool
) -> None:
    """
    Show the parts of the running stack.

    The exit code is 0 if every part is ready, and 1 if not or if nothing runs.
    """
    where = connect(Settings, data_dir=data_dir).data_dir
    deadline = time.monotonic() + timeout
    parts = _parts(where)
    while wait and not _all_ready(parts) and time.monotonic() < deadline:
        time.sleep(POLL_S)
        parts = _parts(where)
    if as_json:
        click.echo(json.dumps(parts))
    elif not parts:
        click.echo(f"Nothing runs on {where}. Start it with `headrace up`.")
    else:
        Console().print(table({name: Status(**part) for name, part in parts.items()}))
    context.exit(0 if _all_ready(parts) else 1)


def _parts(data_dir: Path) -> dict[str, dict[str, Any]]:
    stack = running_stack(data_dir)
    parts: dict[str, dict[str, Any]] = stack["parts"] if stack else {}
    for part in parts.values():
        part["cpu_s"], part["memory_mb"] = _used(part["pid"])
    return parts


def _used(pid: int | None) -> tuple[float | None, float | None]:
    """CPU seconds and resident MB of a process and its children (Triton's models are such)."""
    if pid is None:
        return None, None
    try:
        parent = psutil.Process(pid)
        cpu_s = of_family(parent, own_cpu_s)
        memory = of_family(parent, lambda one: float(one.memory_info().rss))
    except psutil.NoSuchProcess:
        return None, None
    return round(cpu_s, 2), round(memory / 1e6, 1)


def _all_ready(parts: Mapping[str, Mapping[str, Any]]) -> bool:
    return bool(parts) and all(part["state"] in WORKING for part in parts.values())
