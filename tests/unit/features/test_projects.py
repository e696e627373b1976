"""Deleting a project must never touch another one's rows."""

from pathlib import Path

import pytest

from features.importing import import_feast
from features.projects import project_of
from features.store import open_store


@pytest.mark.parametrize("user_id", ["ada", "", "x" * 256, "ü𝄞", "aheadrace_r3_s1", "\x00*[?]"])
def test_a_key_tells_its_project_whatever_the_user_is_called(tmp_path: Path, user_id: str) -> None:
    """The name of one project may be the end of another's, and of a user's id."""
    import_feast()
    from features.redis_store import _redis_keys

    for project in ("headrace_r3_s1", "aheadrace_r3_s1"):
        store = open_store("127.0.0.1:1", tmp_path / "registry.db", project)
        (key,) = _redis_keys(store.config, store.get_feature_view("user_row"), [user_id])
        (mark,) = _redis_keys(store.config, store.get_feature_view("partition_mark"), [3])

        assert project_of(key) == project_of(mark) == project.encode()


@pytest.mark.parametrize("key", [b"", b"cache:1", b"\xff\xff\xff\xff" * 8, b"\x01\x00\x00\x00"])
def test_the_key_of_somebody_else_has_no_project_of_ours(key: bytes) -> None:
    """A Redis may be shared."""
    assert project_of(key) in (None, b"")
