"""Redis 8 with an append-only file that is synced at every write: a write acknowledged is kept."""

import asyncio
import os
from pathlib import Path

from services.embedded.install import Installation
from services.embedded.part import Part
from services.embedded.ports import HOST

PROBE_TIMEOUT_S = 2.0
PING = b"*1\r\n$4\r\nPING\r\n"


def redis(installation: Installation, directory: Path, *, port: int) -> Part:
    """The part; its append-only file lies in *directory*."""

    def prepare() -> None:
        directory.mkdir(parents=True, exist_ok=True)

    options = {
        "bind": HOST,
        "port": str(port),
        "dir": str(directory),
        "appendonly": "yes",
        "appendfsync": "always",
        "save": "",
        "daemonize": "no",
        "logfile": "",
    }
    return Part(
        name="redis",
        address=f"{HOST}:{port}",
        command=(
            str(installation.redis),
            *(word for name, value in options.items() for word in (f"--{name}", value)),
        ),
        environment={"PATH": os.defpath, "LANG": "C.UTF-8"},
        probe=lambda: ping(f"{HOST}:{port}"),
        prepare=prepare,
    )


async def ping(address: str) -> str | None:
    """What is wrong with the Redis at *address*, or None: it answered a PING."""
    # Eight lines instead of a client: Redis is otherwise reached through the Feast store alone.
    try:
        async with asyncio.timeout(PROBE_TIMEOUT_S):
            host, _, port = address.partition(",")[0].rpartition(":")
            reader, writer = await asyncio.open_connection(host, port)
            try:
                writer.write(PING)
                answer = (await reader.readline()).decode(errors="replace").strip()
            finally:
                writer.close()
    except (OSError, TimeoutError) as error:
        return f"no answer to PING: {error or 'timeout'}"
    # A server of yours may want a password, which Feast gives it: it is there all the same.
    works = answer == "+PONG" or answer.startswith("-NOAUTH")
    return None if works else f"PING was answered: {answer}"
