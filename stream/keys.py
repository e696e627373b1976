"""Stable hashes: which partition a user's events belong on, and the int64 key of an item."""

from functools import lru_cache

import xxhash

PADDING_KEY = 0
NO_ORDER = 0


def item_key(item_id: str) -> int:
    """
    The item key: a signed 64-bit xxh3 of *item_id*, the same everywhere and for ever.

    0 is padding, so the one id that would hash to 0 becomes 1.
    """
    unsigned = xxhash.xxh3_64_intdigest(item_id.encode())
    signed = unsigned - (1 << 64) if unsigned >= 1 << 63 else unsigned
    return signed or 1


def event_key(event_id: str) -> int:
    """Unsigned 64-bit xxh3 of an event id: what a user's row remembers of it."""
    return xxhash.xxh3_64_intdigest(event_id.encode())


def order_key(order_id: str) -> int:
    """
    Unsigned 32-bit xxh32 of an order id, never 0: which purchases of one user belong together.

    Of a user's 256 newest purchases two orders share a key with a chance of 8e-6.
    """
    return xxhash.xxh32_intdigest(order_id.encode()) or 1


@lru_cache(maxsize=1 << 16)  # shoppers act again soon, and hashing in Python takes 4 us
def partition_of(key: bytes, partitions: int) -> int:
    """Where Kafka's own (Java) default partitioner puts *key*: murmur2 modulo *partitions*."""
    return (murmur2(key) & 0x7FFFFFFF) % partitions


def murmur2(data: bytes) -> int:
    """
    Kafka's 32-bit murmur2, as an unsigned number.

    Source: ``org.apache.kafka.common.utils.Utils.murmur2``.
    """
    m = 0x5BD1E995
    length = len(data)
    h = (0x9747B28C ^ length) & 0xFFFFFFFF
    whole = length & ~3
    for i in range(0, whole, 4):
        k = int.from_bytes(data[i : i + 4], "little")
        k = (k * m) & 0xFFFFFFFF
        k ^= k >> 24
        k = (k * m) & 0xFFFFFFFF
        h = ((h * m) & 0xFFFFFFFF) ^ k
    if tail := data[whole:]:
        h ^= int.from_bytes(tail, "little")
        h = (h * m) & 0xFFFFFFFF
    h ^= h >> 13
    h = (h * m) & 0xFFFFFFFF
    return h ^ (h >> 15)
