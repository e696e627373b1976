"""Redis 8 with an append-only file that is synced at every write: a write acknowledged is kept."""

import asyncio
import hashlib
import os
import ssl
import sys
from collections.abc import Sequence
from pathlib import Path

from services.embedded.install import Installation
from services.embedded.old_logs import free_little_by_little
from services.embedded.part import Part
from services.embedded.ports import HOST
from services.embedded.security import USER, Security, write_private

PROBE_TIMEOUT_S = 2.0
# All that our processes do, and nothing that reconfigures or empties the server.
RIGHTS = "~* &* +@all -@admin -@dangerous +info"


def redis(
    installation: Installation, directory: Path, *, port: int, security: Security | None = None
) -> Part:
    """The part; its append-only file lies in *directory*. With *security* it wants a login."""
    users = directory / "users.acl"

    def prepare() -> None:
        directory.mkdir(parents=True, exist_ok=True)
        if security is not None:
            password = hashlib.sha256(security.redis_password.encode()).hexdigest()
            write_private(users, f"user default off\nuser {USER} on #{password} {RIGHTS}\n")

    options = {
        "bind": HOST,
        "port": str(port),
        "dir": str(directory),
        "appendonly": "yes",
        "appendfsync": "always",
        # A store would be written anew every few seconds, a third of what Redis does.
        "auto-aof-rewrite-min-size": "512mb",
        "auto-aof-rewrite-percentage": "200",
        # A third of what the child works would be compression, on a core that slates wait for.
        "rdbcompression": "no",
        # A row with what is applied to it as one piece of memory, and not as a table of three.
        "hash-max-listpack-value": "8192",
        "save": "",
        "daemonize": "no",
        "logfile": "",
        **({"aclfile": str(users)} if security is not None else {}),
    }
    login = (USER, security.redis_password) if security is not None else None
    return Part(
        name="redis",
        address=f"{HOST}:{port}",
        command=(
            str(installation.redis),
            *(word for name, value in options.items() for word in (f"--{name}", value)),
        ),
        environment={"PATH": os.defpath, "LANG": "C.UTF-8"},
        probe=lambda: ping(f"{HOST}:{port}", login=login),
        prepare=prepare,
        beside=lambda: free_little_by_little(directory / "appendonlydir"),
    )


def redis_tls(security: Security, *, port: int, behind: int) -> Part:
    """The part that gives the Redis at port *behind* TLS, which this build of it lacks."""
    front = (sys.executable, "-m", "services.embedded.tls_front")
    login = USER, security.redis_password
    return Part(
        name="redis-tls",
        address=f"{HOST}:{port}",
        command=(*front, str(port), str(behind), str(security.server_file)),
        environment={"PATH": os.defpath, "LANG": "C.UTF-8"},
        probe=lambda: ping(f"{HOST}:{port}", login=login, ca_file=security.ca_file),
        requires=("redis",),
    )


async def ping(
    address: str,
    *,
    login: tuple[str, str] | None = None,
    ca_file: Path | None = None,
    tls: bool = False,
) -> str | None:
    """
    What is wrong with the Redis at *address*, or None: it answered a PING.

    Args:
        login: User (may be empty) and password.
        ca_file: Whose certificates to trust; implies *tls*.
    """
    # A few lines instead of a client: Redis is otherwise reached through the Feast store alone.
    context = ssl.create_default_context(cafile=ca_file) if tls or ca_file is not None else None
    commands = [["PING"]]
    if login is not None:
        commands.insert(0, ["AUTH", *(word for word in login if word)])
    try:
        async with asyncio.timeout(PROBE_TIMEOUT_S):
            host, _, port = address.partition(",")[0].rpartition(":")
            reader, writer = await asyncio.open_connection(host, port, ssl=context)
            try:
                for command in commands:
                    writer.write(_encoded(command))
                    answer = (await reader.readline()).decode(errors="replace").strip()
            finally:
                writer.close()
    except (OSError, TimeoutError) as error:
        return f"no answer to PING: {error or 'timeout'}"
    # A password may follow the address, where Feast reads it: the server is there all the same.
    works = answer == "+PONG" or (login is None and answer.startswith("-NOAUTH"))
    return None if works else f"PING was answered: {answer}"


def _encoded(command: Sequence[str]) -> bytes:
    words = [word.encode() for word in command]
    return b"*%d\r\n" % len(words) + b"".join(b"$%d\r\n%b\r\n" % (len(w), w) for w in words)
