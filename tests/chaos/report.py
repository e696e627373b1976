"""What a run found, for people and as JSON."""

from dataclasses import asdict
from pathlib import Path
from statistics import median

import orjson
from rich.console import Console
from rich.table import Column, Table

from tests.chaos.run import Report, kinds


def show(report: Report, console: Console) -> None:
    """Print the tables, and every miss."""
    console.print(_recovery(report))
    console.print(_accounts(report))
    for miss in report.misses:
        console.print(f"MISS  {miss}", soft_wrap=True, markup=False, highlight=False)


def save(report: Report, path: Path) -> None:
    """Write everything to *path* as JSON."""
    content = {**asdict(report), "misses": report.misses}
    path.write_bytes(orjson.dumps(content, option=orjson.OPT_INDENT_2) + b"\n")


def _recovery(report: Report) -> Table:
    measures = ("fresh again", "model back", "after Triton's return")
    ends = [heading for measure in measures for heading in (f"{measure}: median", "worst")]
    table = Table(Column("fault", no_wrap=True), "times", *ends)
    for name in kinds(report.struck):
        of_kind = [one for one in report.struck if one.name == name]
        table.add_row(
            name,
            str(len(of_kind)),
            *_seconds([one.fresh_after_s for one in of_kind]),
            *_seconds([one.model_after_s for one in of_kind]),
            *_seconds([one.model_after_triton_s for one in of_kind]),
        )
    return table


def _seconds(values: list[float | None]) -> tuple[str, str]:
    known = [value for value in values if value is not None]
    if not known:
        return "", ""
    return f"{median(known):.1f} s", f"{max(known):.1f} s"


def _accounts(report: Report) -> Table:
    table = Table("accounted for", "")
    table.add_row("seed", str(report.seed))
    for kind, count in report.sent.items():
        table.add_row(f"sent: {kind}", f"{count:,}")
    if verdict := report.verdict:
        for outcome, count in sorted(verdict.outcomes.items()):
            table.add_row(f"outcome: {outcome}", f"{count:,}")
        table.add_row("slates", f"{verdict.slates:,}")
        table.add_row("slates repeated", f"{verdict.repeated_slates:,}")
        table.add_row("sent, never confirmed", f"{verdict.unreported:,}")
        table.add_row("headrace verify", verdict.verified)
    if report.settled_after_s is not None:
        table.add_row("lag zero after the last event", f"{report.settled_after_s:.1f} s")
    table.add_row("restarts", ", ".join(f"{k} {v}" for k, v in report.restarts.items() if v))
    table.add_row("misses", f"{len(report.misses)}")
    return table
