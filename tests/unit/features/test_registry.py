"""Feast's registry file, which processes share."""

from pathlib import Path

from features.store import open_store


def test_who_reads_a_registry_while_another_registers_reads_a_whole_one(tmp_path: Path) -> None:
    """Feast reads it for each view it is asked for; in place, half of it may be there."""
    registry = tmp_path / "registry.db"
    open_store("127.0.0.1:1", registry, "p")
    before = registry.read_bytes()

    with registry.open("rb") as reading:
        open_store("127.0.0.1:1", registry, "p")

        assert reading.read() == before
    assert registry.read_bytes() != before
    assert {path.name for path in tmp_path.iterdir()} == {"registry.db", "registry.lock"}
