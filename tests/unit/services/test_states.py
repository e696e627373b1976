"""Which state is live: what workers follow when a rebuilt one replaces it."""

from datetime import UTC, datetime

from services.settings import Settings
from services.states import KEY, State, StateFeed, first, project


def a_state(number: int) -> bytes:
    moment = datetime(2016, 8, 1, tzinfo=UTC)
    state = State(number=number, partitions=8, announced_at=moment, reason="test")
    return state.model_dump_json().encode()


def test_the_highest_number_is_live_whenever_it_is_read() -> None:
    """A worker that starts for the first time announces state 1, maybe after a rebuild."""
    seen: list[State] = []
    feed = StateFeed(seen.append)

    for offset, number in enumerate((1, 2, 1, 2)):
        feed.take(KEY, a_state(number), 0, offset)

    assert [state.number for state in seen] == [1, 2]
    assert feed.current is not None and feed.current.number == 2


def test_models_other_formats_and_garbage_change_nothing() -> None:
    """The topic is shared with the models' deployments, and with workers of other versions."""
    feed = StateFeed()

    feed.take(b"ranker", a_state(9), 0, 0)
    feed.take(b"state/1", a_state(9), 0, 1)
    feed.take(KEY, b"garbage", 0, 2)
    feed.take(KEY, None, 0, 3)

    assert feed.current is None


def test_states_share_no_rows() -> None:
    """A project's name is all that keeps the rows of two states apart."""
    shops = (Settings(prefix=""), Settings(prefix="a."))

    projects = {project(shop, number) for shop in shops for number in (1, 2, 11)}

    assert len(projects) == 6
    assert first(8).partitions == 8
