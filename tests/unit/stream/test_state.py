"""What a write stands on."""

from stream.state import Foundation, Replacement, Written, foundation


def on(below: Foundation, **applied: tuple[str, str]) -> Foundation:
    """Of keys in their order, what was applied and what is now."""
    new = {key: Replacement(b"", was, now) for key, (was, now) in applied.items()}
    return foundation(new, str.upper, below)


BELOW = (Written("earlier", "3"),)


def test_the_last_value_that_has_changed_stands_for_all() -> None:
    """One comparison for a batch of hundreds; one that is as it was says nothing of a loss."""
    assert on(BELOW, ada=("", "1"), bob=("1", "2"), eve=("5", "5")) == (Written("BOB", "2"),)


def test_where_nothing_has_changed_all_of_it_is_looked_at() -> None:
    """A repeat: what it found may have been written last of all."""
    stood_on = on(BELOW, ada=("1", "1"), bob=("2", "2"))

    assert stood_on == (*BELOW, Written("ADA", "1"), Written("BOB", "2"))


def test_a_write_of_nothing_stands_on_what_the_one_before_stood_on() -> None:
    """A batch of nothing but refused records, say."""
    assert on(BELOW) == BELOW
