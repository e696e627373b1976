"""Looking for bytes among records that are packed one after the other."""

from hypothesis import given
from hypothesis import strategies as st

from stream.packed import place_of

WIDTH = 4


@given(
    st.lists(st.binary(min_size=WIDTH, max_size=WIDTH).map(lambda raw: bytes(b % 2 for b in raw)))
)
def test_a_record_is_found_where_it_lies_and_nowhere_between(records: list[bytes]) -> None:
    """Of two kinds of byte: what is looked for also lies across records, before it and after."""
    for at in (0, 1):
        for wanted in (b"\1\1", b"\1\1\0"):
            places = [n for n, one in enumerate(records) if one[at : at + len(wanted)] == wanted]

            found = place_of(wanted, b"".join(records), width=WIDTH, at=at)

            assert found == (places[-1] if places else -1)
