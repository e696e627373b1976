"""The kinds of user action and their codes, the same in rows, signals and Triton, for ever."""

from enum import IntEnum


class EventType(IntEnum):
    """What a user did. 0 is padding; a code is never reused."""

    IMPRESSION = 1
    VIEW = 2
    CLICK = 3
    SEARCH = 4
    ADD_TO_CART = 5
    REMOVE_FROM_CART = 6
    WISHLIST = 7
    CHECKOUT = 8
    PURCHASE = 9
    REFUND = 10
    DISLIKE = 11


BY_NAME = {kind.name.lower(): kind for kind in EventType}
