"""``headrace simulate``: make a shop's catalogue and history."""

import time
from datetime import datetime
from pathlib import Path

import click
from rich.console import Console
from rich.progress import Progress

from services.simulator.catalogue import DAY_MS
from services.simulator.history import EVENTS_FILE, ITEMS_FILE, write_history
from services.simulator.world import World


@click.command()
@click.option(
    "--out", required=True, type=click.Path(file_okay=False, path_type=Path), help="Directory."
)
@click.option("--users", default=3_000, show_default=True, type=click.IntRange(1, 10_000_000))
@click.option("--items", default=1_500, show_default=True, type=click.IntRange(50, 20_000))
@click.option("--days", default=28, show_default=True, type=click.IntRange(1, 3650))
@click.option("--seed", default=7, show_default=True, type=click.IntRange(0))
@click.option(
    "--end",
    type=click.DateTime(("%Y-%m-%d",)),
    default="2026-01-01",
    show_default=True,
    help="The day after the last (UTC).",
)
def simulate(out: Path, users: int, items: int, days: int, seed: int, end: datetime) -> None:
    """
    Write a simulated shop into a directory: items.jsonl and events.jsonl.

    The same options give the same bytes. It is there to try things: it only knows what it was told
    about people, so no figure about the quality of recommendations should come from it. What it
    simulates is described in services/simulator/__init__.py.

    \b
    headrace simulate --out shop
    headrace catalogue shop/items.jsonl
    headrace backfill shop/events.jsonl
    """
    end_ms = int(end.timestamp() * 1000) // DAY_MS * DAY_MS
    started_s = time.monotonic()
    world = World(seed, items, end_ms - days * DAY_MS, end_ms)
    console = Console(stderr=True)
    with Progress(console=console, disable=not console.is_terminal) as progress:
        task = progress.add_task("Simulating shoppers", total=users)
        events = write_history(world, users, out, lambda: progress.advance(task))
    click.echo(
        f"Wrote {events:,} events of {users:,} shoppers to {out / EVENTS_FILE} and {items:,} items "
        f"to {out / ITEMS_FILE} in {time.monotonic() - started_s:.1f} s."
    )
