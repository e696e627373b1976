"""The pipeline's figures as tables, as one JSON object and as a plot."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from statistics import mean, median

from rich.console import Console
from rich.table import Table

from services.bench.figures import BARE_LOOP, PIPELINE, Figure, Moment, Report

_LINES = ((PIPELINE, 99, "o-"), (PIPELINE, 50, "o--"), (BARE_LOOP, 99, "x:"))


def show(report: Report, console: Console) -> None:
    """Print every table of *report*."""
    asked = report.asked
    console.print(str(report.machine))
    console.print(
        f"{asked.users:,} users with {asked.history} actions each, {asked.items:,} items, "
        f"workers: {asked.workers}"
    )
    console.print(_speed(report.figures))
    console.print(_by_process("CPU µs per event", report.figures, "cpu_us", total=True))
    for traffic, ratio in ratios(report.figures).items():
        console.print(f"{traffic}: {ratio:.2f} times the bare loop's CPU time per event")
    for one in report.figures:
        if one.statistics_s is not None:
            console.print(f"{one.traffic}: statistics of items {one.statistics_s:.1f} s later")
    console.print(_by_process("Stages, µs per event", report.figures, "stage_us"))
    console.print(_by_process("Memory, MB", report.figures, "memory_mb", total=True))
    if report.soak:
        _show_soak(report.soak, report.soak_rate, console)


def _show_soak(moments: Sequence[Moment], rate: float, console: Console) -> None:
    rates, p99s_ms = [one.events_per_s for one in moments], [one.p99_ms for one in moments]
    console.print(
        f"soak: {mean(rates):,.0f} of {rate:,.0f} events/s answered; p99 of five seconds: "
        f"median {median(p99s_ms):,.0f} ms, worst {max(p99s_ms):,.0f} ms"
    )
    first, last = moments[len(moments) // 10], moments[-1]
    for name, mb in last.memory_mb.items():
        console.print(f"soak: {name} {first.memory_mb[name]:.0f} → {mb:.0f} MB")


def ratios(figures: Sequence[Figure]) -> dict[str, float]:
    """By traffic: CPU time per event of the pipeline over the bare loop's, both at saturation."""
    at_most = {(one.way, one.traffic): one.total_cpu_us for one in figures if one.rate is None}
    return {
        traffic: at_most[PIPELINE, traffic] / cpu_us
        for (way, traffic), cpu_us in at_most.items()
        if way == BARE_LOOP
    }


def write_json(report: Report, file: Path) -> None:
    """Write *report* as one object."""
    found = asdict(report) | {"ratios": ratios(report.figures)}
    file.write_text(json.dumps(found, indent=1, default=str) + "\n")


def plot(report: Report, file: Path) -> None:
    """
    Draw latency over rate, CPU time by process, and the soak's memory if there was a soak.

    Args:
        file: PNG, SVG or PDF, by its ending.
    """
    from matplotlib.figure import Figure as Drawing

    drawing = Drawing(figsize=(13, 4.5), layout="constrained")
    latency, cpu, *others = drawing.subplots(1, 3 if report.soak else 2)
    for number, traffic in enumerate(dict.fromkeys(one.traffic for one in report.figures)):
        for way, percent, style in _LINES:
            rated = [one for one in report.figures if (one.way, one.traffic) == (way, traffic)]
            points = sorted((one.rate, getattr(one, f"p{percent}_ms")) for one in rated if one.rate)
            label = f"{way} {traffic} p{percent}"
            if points:
                latency.plot(*zip(*points, strict=True), style, color=f"C{number}", label=label)
    latency.set(xscale="log", yscale="log", xlabel="events/s", title="Event to result, ms")
    latency.legend(fontsize="x-small")
    at_most = [one for one in report.figures if one.rate is None]
    labels = [f"{one.way}, {one.traffic}" for one in at_most]
    ends = [0.0] * len(at_most)
    for name in dict.fromkeys(name for one in at_most for name in one.cpu_us):
        values = [one.cpu_us.get(name, 0.0) for one in at_most]
        cpu.barh(labels, values, left=ends, label=name)
        ends = [end + value for end, value in zip(ends, values, strict=True)]
    cpu.invert_yaxis()
    cpu.set(title="CPU µs per event at saturation")
    cpu.tick_params(axis="y", labelsize="small")
    cpu.legend(fontsize="x-small")
    for memory in others:
        minutes = [one.seconds / 60 for one in report.soak]
        for name in report.soak[0].memory_mb:
            memory.plot(minutes, [one.memory_mb[name] for one in report.soak], label=name)
        memory.set(title="Memory, MB", xlabel="minutes at 80 % of saturation", ylim=(0, None))
        memory.legend(fontsize="x-small", loc="lower left")
    drawing.suptitle(str(report.machine))
    drawing.savefig(file)


def _speed(figures: Sequence[Figure]) -> Table:
    headings = ("events/s", "slates/s", "batch", "p50 ms", "p90 ms", "p99 ms", "worst", "no slate")
    table = Table("way", "traffic", "offered", *headings, "Redis' log rewritten")
    for column in table.columns[2:]:
        column.justify = "right"
    for one in figures:
        table.add_row(
            *_names(one),
            f"{one.events_per_s:,.0f}",
            f"{one.slates_per_s:,.0f}",
            f"{one.batch:.1f}" if one.batch else "",
            *(f"{ms:.1f}" for ms in (one.p50_ms, one.p90_ms, one.p99_ms, one.worst_ms)),
            f"{one.unanswered:,}",
            "" if one.log_rewritings is None else f"{one.log_rewritings}",
        )
    return table


def _by_process(
    title: str, figures: Sequence[Figure], values: str, *, total: bool = False
) -> Table:
    names = list(dict.fromkeys(name for one in figures for name in getattr(one, values)))
    table = Table("way", "traffic", "offered", *names, title=title, title_justify="left")
    if total:
        table.add_column("all")
    for column in table.columns[2:]:
        column.justify = "right"
    for one in figures:
        found = getattr(one, values)
        if not found:
            continue
        cells = [f"{found[name]:,.0f}" if name in found else "" for name in names]
        table.add_row(*_names(one), *cells, *([f"{sum(found.values()):,.0f}"] if total else []))
    return table


def _names(one: Figure) -> tuple[str, str, str]:
    return one.way, one.traffic, f"{one.rate:,.0f}/s" if one.rate else "all it takes"
