"""``headrace worker`` whose consumer hangs, in the way that its first argument says."""

import asyncio
import sys
import threading
from typing import Any

from services.worker import silence
from stream import transport

silence.SILENT_FOR_S = silence.STALLED_FOR_S = 3.0
silence.ASK_EVERY_S = 0.5
HANGS_AT = b"hang"  # the key of a record

way = sys.argv.pop(1)
fetch = transport.Consumer._fetch
hung = threading.Event()


async def hanging(self: transport.Consumer) -> tuple[int, Any]:
    """As `_fetch`, until it has seen `HANGS_AT`."""
    if hung.is_set() and way == "waits":
        await asyncio.sleep(3600)
    generation, records = await fetch(self)
    if any(one.key == HANGS_AT for fetched in records.values() for one in fetched):
        hung.set()
    return generation, {} if hung.is_set() else records


transport.Consumer._fetch = hanging  # type: ignore[method-assign]

from services.cli import main  # noqa: E402

main()
