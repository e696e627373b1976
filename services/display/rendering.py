"""Untrusted bytes and texts as a person can read them in a terminal, and only read them."""

import unicodedata

ELLIPSIS = "…"


def safe_text(text: str, width: int = 80) -> str:
    """
    *text* on one line of at most *width* characters.

    Control characters, line and paragraph separators, directional overrides and lone surrogates
    become escapes: a title or a dead letter must not move the cursor or hide what follows.
    """
    shown = "".join(_shown(character) for character in text[: width + 1])
    return shown if len(shown) <= width else shown[: width - 1] + ELLIPSIS


def safe_bytes(raw: bytes | None, width: int = 80) -> str:
    """*raw* as text where it is UTF-8, escaped (``\\xff``) where it is not; None is a tombstone."""
    if raw is None:
        return "(null)"
    return safe_text(raw[: 4 * (width + 1)].decode(errors="backslashreplace"), width)


def _shown(character: str) -> str:
    if unicodedata.category(character)[0] not in "CZ" or character == " ":
        return character
    if unicodedata.category(character) == "Zs":
        return " "
    return character.encode("unicode_escape").decode()
