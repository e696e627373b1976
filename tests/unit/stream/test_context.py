"""What the model sees of a moment: packed, stable, and the same for one event as for a column."""

import numpy as np
import pytest

from stream.context import (
    country_code,
    device_code,
    hour_code,
    pack,
    pack_context,
    page_code,
    price_buckets,
)


def test_the_codes_are_stable_for_ever():
    """They are in rows and in trained weights; another hash would be noise to both."""
    packed = pack_context("/home", "mobile", "US", 1_475_280_000_000)

    assert packed == pack(page_code("/home"), 2, country_code("US"), 1)
    assert packed == 9_487_425


def test_nothing_known_but_the_time_is_the_hour_alone():
    """0 is unknown: a shop that sends no context loses nothing."""
    assert pack_context(None, None, None, 23 * 3_600_000) == 24 == hour_code(23 * 3_600_000)


@pytest.mark.parametrize(("device", "code"), [("Mobile", 2), ("fridge", 7), ("", 0), (None, 0)])
def test_a_device_is_one_of_few(device: str | None, code: int):
    """Shops write it as they like."""
    assert device_code(device) == code


def test_arrays_pack_as_single_events_do():
    """Training packs columns, serving packs events."""
    pages = np.array([page_code(f"/p{n}") for n in range(50)])
    hours = np.arange(50) % 24 + 1
    nobody = np.zeros(50, np.int64)

    packed = pack(pages, nobody + 1, nobody + 255, hours)

    assert packed.max() < 2**28
    assert packed.tolist() == [
        pack(int(page), 1, 255, int(hour)) for page, hour in zip(pages, hours, strict=True)
    ]


def test_prices_fall_into_buckets_of_half_a_doubling():
    """NaN is no price; nothing is beyond the last bucket."""
    prices = np.array([np.nan, 0, 1, 3, 16.99, 1e12, np.inf], np.float32)

    assert price_buckets(prices).tolist() == [0, 1, 3, 5, 9, 31, 0]
