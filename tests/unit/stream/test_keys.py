"""Hashes that must be the same everywhere and for ever."""

import pytest

from stream.keys import item_key, murmur2


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("21", -973932308),
        ("foobar", -790332482),
        ("a-little-bit-long-string", -985981536),
        ("a-little-bit-longer-string", -1486304829),
        ("lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8", -58897971),
        ("abc", 479470107),
    ],
)
def test_murmur2_is_kafkas(text: str, expected: int) -> None:
    """Kafka's own test vectors: a user's events must lie where Java producers put them."""
    assert murmur2(text.encode()) == expected % (1 << 32)


def test_item_keys_never_change() -> None:
    """Rows, models and signals hold them; a changed hash would orphan all three."""
    assert [item_key(i) for i in ("hat", "Google Tote", "é")] == [
        -1526250801006860540,
        5692310798604276124,
        -606849052844159821,
    ]
