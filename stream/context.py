"""What a moment looked like beside the action: page, device, country and hour in one int32."""

from typing import overload

import numpy as np
import xxhash
from numpy.typing import NDArray

HOUR_BITS, DEVICE_BITS, COUNTRY_BITS, PAGE_BITS = 5, 3, 8, 12
_DEVICE_AT = HOUR_BITS
_COUNTRY_AT = _DEVICE_AT + DEVICE_BITS
_PAGE_AT = _COUNTRY_AT + COUNTRY_BITS

DEVICES = {"desktop": 1, "mobile": 2, "tablet": 3, "tv": 4}
OTHER_DEVICE = 7
PRICE_BUCKETS = 32

_HOUR_MS = 3_600_000


def hour_code(timestamp_ms: int) -> int:
    """1 to 24: the hour of the day, UTC."""
    return timestamp_ms // _HOUR_MS % 24 + 1


def device_code(device: str | None) -> int:
    """A code below 8; 0 is unknown."""
    return DEVICES.get(device.lower(), OTHER_DEVICE) if device else 0


def country_code(country: str | None) -> int:
    """A hash below 256, whatever the shop calls its countries; 0 is unknown."""
    return _hashed(country, COUNTRY_BITS)


def page_code(page: str | None) -> int:
    """A hash below 4096, which tells a shop's page kinds or listing pages apart; 0 is unknown."""
    return _hashed(page, PAGE_BITS)


def _hashed(text: str | None, bits: int) -> int:
    return xxhash.xxh3_64_intdigest(text.encode()) % ((1 << bits) - 1) + 1 if text else 0


@overload
def pack(page: int, device: int, country: int, hour: int) -> int: ...
@overload
def pack(
    page: NDArray[np.int64],
    device: NDArray[np.int64],
    country: NDArray[np.int64],
    hour: NDArray[np.int64],
) -> NDArray[np.int64]: ...
def pack(page, device, country, hour):  # type: ignore[no-untyped-def]
    """The four codes as one number below 2 ** 28, or arrays of them as one array."""
    return hour | device << _DEVICE_AT | country << _COUNTRY_AT | page << _PAGE_AT


def pack_context(
    page: str | None, device: str | None, country: str | None, timestamp_ms: int
) -> int:
    """An event's context as the row keeps it and the ranker reads it."""
    return pack(
        page_code(page), device_code(device), country_code(country), hour_code(timestamp_ms)
    )


def price_buckets(prices: NDArray[np.floating]) -> NDArray[np.int32]:
    """
    Prices as buckets, two for each doubling: ``(N,)`` to ``(N,)``, 1 to 31; 0 is no price (NaN).

    A shop has one currency here: what matters is dear or cheap among its own.
    """
    known = np.isfinite(prices)
    buckets = 1 + np.floor(2 * np.log2(np.where(known, np.maximum(prices, 0), 0) + 1))
    return np.where(known, np.minimum(buckets, PRICE_BUCKETS - 1), 0).astype(np.int32)
