"""Where wide tables are printed to."""

from rich.console import Console

WIDTH = 160  # columns, where no terminal says how wide it is


def wide_console(*, highlight: bool = True) -> Console:
    """As wide as the terminal; in a file or a pipe, as wide as our widest tables."""
    console = Console(highlight=highlight)
    return console if console.is_terminal else Console(width=WIDTH, highlight=highlight)
