"""The simulated shop's past, as files that `headrace catalogue` and `headrace backfill` publish."""

import math
import random
from collections.abc import Callable, Iterator
from pathlib import Path

import orjson

from services.logs.eventlog import timestamp_text
from services.simulator.catalogue import DAY_MS, as_record
from services.simulator.world import Moment, World

ITEMS_FILE = "items.jsonl"
EVENTS_FILE = "events.jsonl"
SESSIONS_PER_WEEK = 0.5  # of the middle shopper; the mean is about twice that


def past_events(
    world: World, users: int, on_user: Callable[[], None] = lambda: None
) -> Iterator[bytes]:
    """Every event of *users* shoppers between the world's start and end, oldest first, as JSON."""
    moments: list[Moment] = []
    for number in range(users):
        rng = random.Random(f"past {world.seed} {number}")  # noqa: S311
        shopper = world.shopper(number)
        for start_ms in sorted(_visits(world, rng)):
            moments.extend(world.session(shopper, start_ms, rng))
        on_user()
    moments = [moment for moment in moments if moment[0] < world.end_ms]
    moments.sort(key=lambda moment: moment[0])  # stable: a session keeps its order
    for number, (at_ms, fields) in enumerate(moments):
        event_id = f"sim-{world.seed}-{number}"
        yield orjson.dumps(
            {"event_id": event_id, "event_timestamp": timestamp_text(at_ms, "ms"), **fields}
        )


def _visits(world: World, rng: random.Random) -> Iterator[int]:
    days = (world.end_ms - world.start_ms) / DAY_MS
    mean = SESSIONS_PER_WEEK / 7 * days * rng.lognormvariate(0, 1.2)
    count = max(1, min(int(2 * days), int(mean) + (rng.random() < math.modf(mean)[0])))
    for _ in range(count):
        day = rng.randrange(max(1, int(days)))
        hour = rng.gauss(15, 4.5) % 24  # afternoons
        yield world.start_ms + int(day * DAY_MS + hour * 3_600_000)


def write_history(
    world: World, users: int, directory: Path, on_user: Callable[[], None] = lambda: None
) -> int:
    """
    Write `ITEMS_FILE` and `EVENTS_FILE` into *directory*, each by temporary file and rename.

    Returns:
        The number of events.
    """
    directory.mkdir(parents=True, exist_ok=True)
    items = (orjson.dumps(as_record(item, world.types)) for item in world.items)
    _write_lines(directory / ITEMS_FILE, items)
    return _write_lines(directory / EVENTS_FILE, past_events(world, users, on_user))


def _write_lines(path: Path, lines: Iterator[bytes]) -> int:
    temporary = path.with_suffix(".tmp")
    count = 0
    with temporary.open("wb") as stream:
        for line in lines:
            stream.write(line + b"\n")
            count += 1
    temporary.replace(path)
    return count
