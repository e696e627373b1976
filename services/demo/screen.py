"""How the demo looks: one live screen on a terminal, a line now and then elsewhere."""

import time
from collections.abc import Mapping
from dataclasses import dataclass, field

from rich.columns import Columns
from rich.console import Console, Group, RenderableType
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from services.demo.live_shop import LiveShop, percentiles_ms
from services.display.rendering import safe_text
from services.display.titles import Titles
from services.embedded.display import table as parts_table
from services.embedded.part import Status

LIST_LENGTH = 10


@dataclass
class Scene:
    """Everything that is shown. The demo changes it; the screen draws it."""

    titles: Titles
    statuses: Mapping[str, Status] = field(default_factory=dict)
    steps: dict[str, str] = field(default_factory=dict)  # what is done before, and how far it is
    shop: LiveShop | None = None
    started_s: float = field(default_factory=time.monotonic)
    remaining_s: float | None = None


def moves(before: list[str], now: list[str]) -> list[str]:
    """How each item of *now* moved since *before*: ``new``, ``up 3``, ``down 1`` or nothing."""
    places = {item_id: place for place, item_id in enumerate(before)}
    shown = []
    for place, item_id in enumerate(now):
        if not before or places.get(item_id) == place:
            shown.append("")
        elif item_id not in places:
            shown.append("new")
        else:
            distance = places[item_id] - place
            shown.append(f"up {distance}" if distance > 0 else f"down {-distance}")
    return shown


def action(event: Mapping[str, object], titles: Titles) -> str:
    """One thing that the guest did, in words."""
    kind = str(event["event_type"]).replace("_", " ")
    what = event.get("query") if event["event_type"] == "search" else None
    text = f"{kind}: {safe_text(str(what)) if what else titles.of(str(event.get('item_id')))}"
    return f"{text} (recommended)" if "recommendation_id" in event else text


def draw(scene: Scene) -> RenderableType:
    """The whole screen."""
    elapsed = int(time.monotonic() - scene.started_s)
    title = f"Headrace demo, {elapsed // 60}:{elapsed % 60:02d}. Ctrl-C ends it"
    if scene.remaining_s is not None:
        title += f", else it ends in {max(0, int(scene.remaining_s))} s"
    parts: list[RenderableType] = [Text(title, style="bold"), parts_table(scene.statuses)]
    if scene.steps:
        steps = Table.grid(padding=(0, 2))
        for name, state in scene.steps.items():
            steps.add_row(name, Text(state, style="green" if state.startswith("done") else ""))
        parts.append(steps)
    if scene.shop is not None:
        parts.append(Columns([_figures(scene.shop), _guest(scene.shop, scene.titles)]))
    return Group(*parts)


def _figures(shop: LiveShop) -> Panel:
    figures = shop.figures
    p50, p99 = percentiles_ms(figures.latencies_s)
    grid = Table.grid(padding=(0, 2))
    grid.add_column(justify="left", style="dim")
    grid.add_column(justify="right")
    for name, value in (
        ("events in", f"{figures.events:,}"),
        ("slates out", f"{figures.slates:,}"),
        ("event to result, p50", f"{p50:,.0f} ms"),
        ("event to result, p99", f"{p99:,.0f} ms"),
        ("without a model", f"{figures.degraded_share:.0%}"),
        ("model", figures.model or "none yet"),
        ("recommended and clicked", f"{figures.followed:,}"),
    ):
        grid.add_row(name, value)
    return Panel(grid, title="the shop")


def _guest(shop: LiveShop, titles: Titles) -> Panel:
    grid = Table.grid(padding=(0, 1))
    for event in list(shop.guest_clicks):
        grid.add_row("", Text(action(event, titles), style="cyan"))
    slate = shop.guest_slate
    if slate is not None:
        grid.add_row("", Text("and now, best first:", style="dim"))
        now = slate.item_ids[:LIST_LENGTH]
        for place, (item_id, move) in enumerate(
            zip(now, moves(shop.guest_before, now), strict=True), start=1
        ):
            style = {"": "", "n": "bold green", "u": "green", "d": "dim"}[move[:1]]
            title = Text(titles.of(item_id), style=style)
            grid.add_row(f"{place:>2}", title, Text(move, style=style))
    return Panel(grid, title=f"pushed to {shop.guest.user_id}, click by click")


def line(scene: Scene) -> str:
    """The state in one line, for logs."""
    if scene.shop is None:
        under_way = (item for item in scene.steps.items() if not item[1].startswith("done"))
        return "; ".join(f"{name}: {state}" for name, state in under_way)
    figures = scene.shop.figures
    p50, p99 = percentiles_ms(figures.latencies_s)
    text = (
        f"{figures.events:,} events in, {figures.slates:,} slates out, event to result "
        f"p50 {p50:,.0f} ms, p99 {p99:,.0f} ms, without a model {figures.degraded_share:.0%}"
    )
    if (slate := scene.shop.guest_slate) is None or not scene.shop.guest_clicks:
        return text
    did = action(scene.shop.guest_clicks[-1], scene.titles)
    top = " | ".join(scene.titles.of(item_id, 40) for item_id in slate.item_ids[:3])
    return f"{text}\n    {scene.shop.guest.user_id}, {did}. Now first: {top}"


def summary(shop: LiveShop, console: Console) -> None:
    """What it was, when it is over."""
    figures = shop.figures
    p50, p99 = percentiles_ms(figures.all_latencies_s)
    strategies = ", ".join(f"{name} {count:,}" for name, count in figures.strategies.most_common())
    console.print(
        f"{figures.events:,} events in, {figures.slates:,} slates out ({strategies}). "
        f"From event to result p50 {p50:,.0f} ms, p99 {p99:,.0f} ms; "
        f"{figures.unanswered:,} events waited more than 15 s.",
        highlight=False,
        soft_wrap=True,
    )
