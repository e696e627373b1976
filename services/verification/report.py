"""What a verification found: counts, what could not be checked, and the first differences."""

from collections import Counter
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import orjson
import xxhash
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from services.display.rendering import safe_text

FIRST = 10


@dataclass(frozen=True, slots=True)
class Difference:
    """
    One value that is not what the log makes of it.

    Attributes:
        what: What kind of thing it is part of: ``user row``, ``counter``, ``signal``, …
        subject: Which one.
        where: The part of it.
        stored: What is there.
        folded: What the log says.
    """

    what: str
    subject: str
    where: str
    stored: str
    folded: str


@dataclass
class Report:
    """
    Fills while a verification goes on.

    Attributes:
        show_ids: Whether users are called by their ids.
        first: How many differences are kept.
        counts: What was compared, by name, in the order of first counting.
        differences: The first of them.
        different: How many there are.
        unchecked: One line for each thing that could not be checked, and why.
    """

    show_ids: bool = False
    first: int = FIRST
    counts: Counter[str] = field(default_factory=Counter)
    differences: list[Difference] = field(default_factory=list)
    different: int = 0
    unchecked: list[str] = field(default_factory=list)

    def count(self, name: str, number: int = 1) -> None:
        """Add *number* to a count; 0 makes it appear."""
        self.counts[name] += number

    def differ(self, what: str, subject: str, where: str, stored: object, folded: object) -> None:
        """Note a difference."""
        self.different += 1
        if len(self.differences) < self.first:
            one = Difference(what, subject, where, safe_text(str(stored)), safe_text(str(folded)))
            self.differences.append(one)

    def user(self, user_id: str) -> str:
        """What a user is called here: their id only if that was asked for."""
        hashed = f"user {xxhash.xxh3_64_hexdigest(user_id.encode())}"
        return safe_text(user_id) if self.show_ids else hashed

    @property
    def exit_code(self) -> int:
        """1: something differs; 2: something could not be checked; 0: neither."""
        if self.different:
            return 1
        return 2 if self.unchecked else 0

    def show(self, console: Console) -> None:
        """Print the counts, then what could not be checked, then the first differences."""
        counts = Table(show_header=False)
        counts.add_column()
        counts.add_column(justify="right")
        for name, number in self.counts.items():
            counts.add_row(name, f"{number:,}")
        console.print(counts)
        for line in self.unchecked:
            console.print(f"[yellow]Not checked:[/] {escape(line)}")
        if not self.different:
            console.print("No difference." if not self.unchecked else "No difference in the rest.")
            return
        table = Table(title=f"{self.different:,} differences", title_justify="left")
        for column in ("what", "which", "where", "stored", "by the log"):
            table.add_column(column, overflow="fold")
        for one in self.differences:
            table.add_row(*map(escape, asdict(one).values()))
        console.print(table)
        if (hidden := self.different - len(self.differences)) > 0:
            console.print(f"… and {hidden:,} more")

    def write_json(self, path: Path) -> None:
        """The same, for programs."""
        found: dict[str, Any] = {
            "counts": dict(self.counts),
            "different": self.different,
            "differences": [asdict(one) for one in self.differences],
            "unchecked": self.unchecked,
        }
        path.write_bytes(orjson.dumps(found, option=orjson.OPT_INDENT_2) + b"\n")
