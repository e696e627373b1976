"""What a write depends on."""

from stream.state import Dependencies, Dependency, Replacement, nearest_dependencies


def after(earlier: Dependencies, **applied: tuple[str, str]) -> Dependencies:
    """Of keys in their order, what was applied and what is now."""
    new = {key: Replacement(b"", was, now) for key, (was, now) in applied.items()}
    return nearest_dependencies(new, str.upper, earlier)


EARLIER = (Dependency("earlier", "3"),)


def test_the_last_value_that_has_changed_stands_for_all() -> None:
    """One comparison for a batch of hundreds; one that is as it was says nothing of a loss."""
    assert after(EARLIER, ada=("", "1"), bob=("1", "2"), eve=("5", "5")) == (
        Dependency("BOB", "2"),
    )


def test_where_nothing_has_changed_all_of_it_is_looked_at() -> None:
    """A repeat: what it found may have been written last of all."""
    found = after(EARLIER, ada=("1", "1"), bob=("2", "2"))

    assert found == (*EARLIER, Dependency("ADA", "1"), Dependency("BOB", "2"))


def test_a_write_of_nothing_changes_nothing_of_it() -> None:
    """A batch of nothing but refused records, say."""
    assert after(EARLIER) == EARLIER
