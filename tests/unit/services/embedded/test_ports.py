"""Ports are the given ones, else the last ones, else free ones."""

import json
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from services.embedded import ports
from services.errors import CommandFailed


@pytest.fixture
def taken() -> Iterator[int]:
    """A port on which someone listens."""
    with socket.create_server((ports.HOST, 0)) as held:
        yield held.getsockname()[1]


def test_the_same_ports_are_taken_again(tmp_path: Path) -> None:
    """Clients that were told an address yesterday find the server there today."""
    first = ports.choose(["kafka", "redis"], {}, tmp_path / "ports.json")
    second = ports.choose(["kafka", "redis"], {}, tmp_path / "ports.json")

    assert first == second
    assert len(set(first.values())) == 2


def test_a_remembered_port_that_was_taken_since_is_replaced(tmp_path: Path, taken: int) -> None:
    """It is better to start elsewhere than not at all."""
    (tmp_path / "ports.json").write_text(json.dumps({"kafka": taken}))

    assert ports.choose(["kafka"], {}, tmp_path / "ports.json")["kafka"] != taken


def test_a_given_port_is_used_or_refused_but_never_replaced(tmp_path: Path, taken: int) -> None:
    """Somebody has written it into a configuration elsewhere."""
    free = ports.choose(["x"], {}, tmp_path / "x.json")["x"]

    chosen = ports.choose(["kafka"], {"kafka": free}, tmp_path / "ports.json")
    with pytest.raises(CommandFailed, match=f"port {taken} for kafka is taken by .*pid"):
        ports.choose(["kafka"], {"kafka": taken}, tmp_path / "ports.json")

    assert chosen == {"kafka": free}


def test_free_ports_lie_below_those_of_outgoing_connections(tmp_path: Path) -> None:
    """A connection of some browser could take the port while its server restarts."""
    lowest = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])

    chosen = ports.choose(["kafka"], {}, tmp_path / "ports.json")

    assert chosen["kafka"] < max(lowest, ports.CHOSEN_FROM.stop)
