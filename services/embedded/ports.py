"""Ports on 127.0.0.1: the given ones, else those of the last run, else free ones."""

import json
import random
import socket
from collections.abc import Mapping, Sequence
from pathlib import Path

import psutil

from services.errors import CommandFailed

HOST = "127.0.0.1"
FILE = "ports.json"
# Below the range from which Linux takes the ports of outgoing connections: one of ours must
# still be free when a crashed part is started again.
CHOSEN_FROM = range(20_000, 32_000)


def choose(names: Sequence[str], given: Mapping[str, int], file: Path) -> dict[str, int]:
    """
    A port for each of *names*, written to *file* for the next run.

    Raises:
        CommandFailed: If a given port is taken, naming by whom.
    """
    last = remembered(file)
    chosen: dict[str, int] = {}
    for name in names:
        if port := given.get(name):
            if not is_free(port):
                raise CommandFailed(
                    f"port {port} for {name} is taken by {holder(port)}. Give another, or leave "
                    "the option out: a free one is found."
                )
            chosen[name] = port
    for name in names:
        if name not in chosen:
            usable = {port for port in (last.get(name),) if port and is_free(port)}
            chosen[name] = min(usable - set(chosen.values()), default=0) or _free(chosen)
    new = file.with_suffix(".new")
    new.write_text(json.dumps({**last, **chosen}, indent=1))
    new.replace(file)
    return chosen


def is_free(port: int) -> bool:
    """Whether a server could listen on *port* now."""
    with socket.socket() as listener:
        # As servers do: connections of the last one that are still closing are no obstacle.
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((HOST, port))
            listener.listen()
        except OSError:
            return False
    return True


def holder(port: int) -> str:
    """Who listens on *port*, as far as this user may know."""
    try:
        for connection in psutil.net_connections("tcp"):
            if connection.status != psutil.CONN_LISTEN or not connection.laddr:
                continue
            if connection.laddr.port == port and connection.pid:
                return f"{psutil.Process(connection.pid).name()} (pid {connection.pid})"
    except psutil.Error:
        pass  # another user's: the number alone must do
    return "another process"


def _free(chosen: Mapping[str, int]) -> int:
    for port in random.sample(CHOSEN_FROM, 1000):
        if port not in chosen.values() and is_free(port):
            return port
    raise CommandFailed("no free port was found on 127.0.0.1. Run `headrace doctor`.")


def remembered(file: Path) -> dict[str, int]:
    """The ports of the last run."""
    try:
        return {name: int(port) for name, port in json.loads(file.read_text()).items()}
    except (FileNotFoundError, ValueError):
        return {}
