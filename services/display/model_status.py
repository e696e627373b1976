"""How `headrace model status` looks."""

from rich.table import Table

from services.models.status import ModelStatus, Performance

COUNTED = ("slates", "requests", "failed", "p50", "p99", "overlap", "spearman")


def headline(found: ModelStatus) -> list[str]:
    """The last change, and whether Triton and every worker have followed it."""
    state = found.state
    if state is None:
        return ["No version serves. Begin with `headrace model deploy DIR`."]
    changed = f"{state.changed_at:%Y-%m-%d %H:%M:%S}"
    lines = [f"Revision {state.revision}, {changed} UTC: {state.reason}."]
    if found.loaded is None:
        lines.append("Triton does not answer.")
    elif missing := set(state.versions) - set(found.loaded):
        lines.append(f"Triton has not loaded version {', '.join(sorted(missing, key=int))}.")
    follow = [revision == state.revision for revision in found.workers.values()]
    lines.append(f"Workers that report: {len(follow)}, of which {sum(follow)} follow it.")
    behind = [name for name, revision in found.workers.items() if revision != state.revision]
    return lines + [f"  {name} follows revision {found.workers[name]}." for name in behind]


def performance_table(found: ModelStatus) -> Table:
    """A line for each version that has a part, or that a worker has asked."""
    table = Table("version", "part", "Triton", box=None, pad_edge=False)
    for heading in COUNTED:
        table.add_column(heading, justify="right", no_wrap=True)
    parts = found.state.versions if found.state else ()
    for version in sorted({*parts, *found.versions}, key=int):
        table.add_row(
            version,
            found.state.role_of(version) if found.state else "",
            "loaded" if version in (found.loaded or ()) else "",
            *_figures(found.versions.get(version)),
        )
    return table


def _figures(one: Performance | None) -> tuple[str, ...]:
    if one is None:
        return ("",) * len(COUNTED)
    failed = ", ".join(f"{count} {reason}" for reason, count in sorted(one.failures.items()))
    return (
        f"{one.slates:,}",
        f"{one.requests:,}",
        failed or "0",
        _number(one.p50_ms, ".1f", " ms"),
        _number(one.p99_ms, ".1f", " ms"),
        _number(one.overlap_at_20, ".3f"),
        _number(one.correlation, ".3f"),
    )


def _number(value: float | None, form: str, unit: str = "") -> str:
    return "" if value is None else f"{value:{form}}{unit}"
