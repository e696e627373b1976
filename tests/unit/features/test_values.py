"""What Feast reads of ours, and we of Feast's: `Value` around bytes."""

import pytest
from google.protobuf.message import DecodeError
from hypothesis import given
from hypothesis import strategies as st

from features.importing import import_feast

import_feast()  # before anything of Feast's
from feast.protos.feast.types.Value_pb2 import Value  # noqa: E402

from features import values  # noqa: E402

AROUND_A_LONGER_LENGTH = [0, 1, 127, 128, 129, 130, 16_383, 16_384, 16_388, (1 << 21) + 5]


@pytest.mark.parametrize("length", AROUND_A_LONGER_LENGTH)
def test_a_value_is_packed_as_protobuf_packs_it_and_unpacked_again(length: int) -> None:
    """Its length takes one byte more at each power of 128."""
    value = b"\xff" * length

    packed = values.pack(value)

    assert packed == Value(bytes_val=value).SerializeToString()
    assert values.unpack(packed) == value


@given(st.binary())
def test_whatever_is_unpacked_is_what_protobuf_reads(packed: bytes) -> None:
    """A value of another kind has no bytes, and what is no message is refused."""
    try:
        expected = Value.FromString(packed).bytes_val
    except DecodeError:
        with pytest.raises(DecodeError):
            values.unpack(packed)
    else:
        assert values.unpack(packed) == expected


@pytest.mark.parametrize(
    ("packed", "value"),
    [
        (b"\x0a\x83\x00abc", b"abc"),  # a length in more bytes than it needs
        (b"\x0a\x01a\x0a\x01b", b"b"),  # the field twice: the last one counts
        (Value(string_val="abc").SerializeToString(), b""),
    ],
)
def test_what_others_have_packed_is_read_as_protobuf_reads_it(packed: bytes, value: bytes) -> None:
    """Not everybody who writes through Feast packs as we do."""
    assert values.unpack(packed) == value == Value.FromString(packed).bytes_val
