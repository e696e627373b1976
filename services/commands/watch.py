"""``headrace watch``: slates as they arrive."""

import math
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import click
import orjson
from rich.console import Console
from rich.text import Text

from services.connection import connect
from services.display.rendering import safe_text
from services.display.titles import Titles
from services.kafka.slates import Newest, Slate, poll_slates, whole_topic
from services.settings import Settings
from stream import topics


@click.command()
@click.argument("user", required=False)
@click.option("--from-beginning", is_flag=True, help="Begin with the slates that are there.")
@click.option("--count", type=click.IntRange(1), help="End after so many slates.")
@click.option("--for", "for_s", type=click.FloatRange(0), help="End after so many seconds.")
@click.option("--items", default=8, show_default=True, type=click.IntRange(1, 200))
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line.")
@click.option("--data-dir", type=click.Path(file_okay=False, path_type=Path))
def watch(
    user: str | None,
    from_beginning: bool,
    count: int | None,
    for_s: float | None,
    items: int,
    as_json: bool,
    data_dir: Path | None,
) -> None:
    """
    Show slates as they arrive: of everybody, or of USER.

    The latency is from the event's arrival in Kafka to the slate's arrival here. Slates that are
    older than one already shown are left out, as DESIGN asks of every consumer.
    """
    settings = connect(Settings, data_dir=data_dir)
    console = Console(highlight=False)
    titles = Titles()
    with ExitStack() as stack:
        if not as_json:
            catalogue = topics.with_prefix(settings.prefix, topics.ITEMS)
            stack.callback(titles.follow(settings.kafka, catalogue).stop)
        results = topics.with_prefix(settings.prefix, topics.RECOMMENDATIONS)
        consumer, _ = whole_topic(settings.kafka, results, from_beginning=from_beginning)
        stack.callback(consumer.close)
        click.echo(f"Watching {results} …", err=True)
        started_s = time.time()
        try:
            for slate in _wanted(consumer, user, count, started_s + (for_s or math.inf)):
                live = slate.received_s >= started_s and not _is_old(slate, started_s)
                if as_json:
                    click.echo(_as_json(slate, live))
                else:
                    console.print(render(slate, titles, items, live=live))
        except KeyboardInterrupt:
            click.echo("", err=True)


def _wanted(consumer: Any, user: str | None, count: int | None, until_s: float) -> Iterator[Slate]:
    newest = Newest()
    shown = 0
    while time.time() < until_s:
        for slate in poll_slates(consumer, min(0.5, max(0.0, until_s - time.time()))):
            if (user is None or slate.user_id == user) and newest.is_news(slate):
                yield slate
                shown += 1
                if shown == count:
                    return


def _is_old(slate: Slate, started_s: float) -> bool:
    # A slate from before we looked did arrive somewhere in time; here its latency means nothing.
    return slate.published_ms < started_s * 1000


def latency_ms(slate: Slate) -> float | None:
    """From the event's arrival in Kafka to the slate's arrival here; None if no event caused it."""
    if slate.event_time_ms is None:
        return None
    return max(0.0, slate.received_s * 1000 - slate.event_time_ms)


def _as_json(slate: Slate, live: bool) -> str:
    latency = latency_ms(slate) if live else None
    value = slate.value if slate.value is not None else {"user_id": slate.user_id, "items": None}
    return orjson.dumps({**value, "latency_ms": latency}).decode()


def render(slate: Slate, titles: Titles, items: int, *, live: bool = True) -> Text:
    """One slate as a few lines. Ids and titles come from outside: they are escaped."""
    text = Text(safe_text(slate.user_id, 40), style="bold cyan")
    if slate.value is None:
        return text.append("  forgotten", style="dim")
    value = slate.value
    model = value.get("model")
    made_by = f"{model['name']} {model['version']}" if model else "no model"
    latency = latency_ms(slate) if live else None
    text.append(f"  {value['strategy']} ({made_by})", style="dim")
    text.append("  " if latency is None else f"  {latency:,.0f} ms", style="green")
    text.append(f"  state {slate.state[0]}:{slate.state[1]}", style="dim")
    for item in value["items"][:items]:
        text.append(f"\n  {item['rank']:>3}  ", style="dim")
        text.append(titles.of(item["item_id"]))
        text.append(f"  {item['score']:.3f} {'+'.join(item['sources'])}", style="dim")
    if (hidden := len(value["items"]) - items) > 0:
        text.append(f"\n       … {hidden} more", style="dim")
    return text
