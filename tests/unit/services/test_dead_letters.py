"""Letters keep their bytes, are sent once, and cannot harm a terminal."""

from hypothesis import given
from hypothesis import strategies as st

from services.display.rendering import safe_bytes, safe_text
from services.kafka.dead_letters import Letter, Sent
from stream.records import FAILED_AT, REASON, SOURCE_OFFSET, SOURCE_PARTITION, SOURCE_TOPIC

ADDED = (
    (REASON, b"value: not JSON"),
    (SOURCE_TOPIC, b"events.v1"),
    (SOURCE_PARTITION, b"3"),
    (SOURCE_OFFSET, b"17"),
    (FAILED_AT, b"2026-11-22T00:00:00Z"),
)


def test_a_letter_gives_its_producers_headers_back() -> None:
    """Order, repeats, nulls, and names that look like ours, backfill's own among them."""
    own = (("trace", b"\x00"), ("headrace-mode", b"backfill"), ("trace", None), (REASON, b"mine"))
    letter = Letter(0, 0, b"k", b"v", own + ADDED)

    assert letter.original_headers == own
    assert letter.reason == "value: not JSON"
    assert letter.source == "events.v1/3:17"


@given(st.sets(st.integers(0, 60)), st.integers(0, 60), st.sets(st.integers(0, 60)))
def test_what_has_been_sent_is_remembered_exactly(
    known: set[int], position: int, picked: set[int]
) -> None:
    """Letters picked by reason leave gaps; those go out later, and none twice."""
    sent = Sent(position)
    for offset in picked & known:
        sent.add(offset)

    again = Sent.unpack(*sent.pack(known), low=0)

    assert {offset for offset in known if again.has(offset)} == {
        offset for offset in known if offset < position or offset in picked
    }


@given(st.binary(max_size=300), st.integers(2, 100))
def test_untrusted_bytes_stay_on_one_line_and_move_no_cursor(raw: bytes, width: int) -> None:
    """A dead letter is whatever somebody sent."""
    shown = safe_bytes(raw, width)

    assert len(shown) <= width
    assert shown.isprintable()


def test_bytes_are_readable_where_they_can_be() -> None:
    """Invalid UTF-8, colours, overrides and separators are escaped, text is text."""
    assert safe_bytes(b"caf\xc3\xa9 \xff\x1b[31m") == r"café \xff\x1b[31m"
    assert safe_text("a\u202eb\u2028c\td") == r"a\u202eb\u2028c\td"
    assert safe_bytes(None) == "(null)"
    assert safe_text("abcdef", 4) == "abc…"
