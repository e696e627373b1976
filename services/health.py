"""
``/metrics``, ``/healthz`` and ``/readyz``: what a process says of itself over HTTP.

Alive is: the event loop turns and no micro-batch is stuck; a process that is not should be ended.
Ready is: it does its work now. What it can do without, as slates without their ranker, makes it
degraded, which ``/readyz`` says and still answers 200.
"""

import asyncio
import itertools
import json
import threading
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from socketserver import ThreadingMixIn
from typing import TYPE_CHECKING, TypeVar
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

from prometheus_client import REGISTRY, CollectorRegistry, make_wsgi_app

if TYPE_CHECKING:
    from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

T = TypeVar("T")
R = TypeVar("R")
LOOP_TURNS_WITHIN_S = 10.0
BATCH_SETTLES_WITHIN_S = 120.0  # longer than every retry and deadline on its way together
ASK_EVERY_S = 2.0
ANSWERS_WITHIN_S = 5.0
REQUEST_WITHIN_S = 10.0


@dataclass(frozen=True)
class Check:
    """
    Something that a process works with.

    Attributes:
        ask: What is wrong with it, in words, or None.
        needed: Without it the process is not ready; else it is degraded.
    """

    name: str
    ask: Callable[[], Awaitable[str | None]]
    needed: bool = True


class Health:
    """
    What is known of a process, written by its event loop and read by the threads of HTTP.

    Until `keep_asking` is called it is starting: alive, and not ready.

    Args:
        clock: Monotonic seconds.
    """

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._turned_s: float | None = None
        self._batches_since_s: dict[int, float] = {}  # in flight, by number
        self._numbers = itertools.count()
        self._missing: dict[str, str] = {"worker": "starting"}
        self._degraded: dict[str, str] = {}

    def beat(self) -> None:
        """The event loop turns."""
        self._turned_s = self._clock()

    def watching(self, handle: Callable[[T], Awaitable[R]]) -> Callable[[T], Awaitable[R]]:
        """*handle*, noticed when it does not come to an end."""

        async def watched(batch: T) -> R:
            number = next(self._numbers)
            self._batches_since_s[number] = self._clock()
            try:
                return await handle(batch)
            finally:
                del self._batches_since_s[number]

        return watched

    def stuck(self) -> str | None:
        """Why the process should be ended, or None."""
        turned_s = self._turned_s
        # The oldest came first; HTTP's thread reads what the loop's changes.
        since_s = next(iter(list(self._batches_since_s.values())), None)
        if turned_s is not None and (still_s := self._clock() - turned_s) > LOOP_TURNS_WITHIN_S:
            return f"the event loop has not turned for {still_s:.0f} s"
        if since_s is not None and (took_s := self._clock() - since_s) > BATCH_SETTLES_WITHIN_S:
            return f"a micro-batch has been in flight for {took_s:.0f} s"
        return None

    def missing(self) -> dict[str, str]:
        """What keeps the process from its work, by name."""
        stuck = self.stuck()
        return self._missing if stuck is None else {**self._missing, "worker": stuck}

    def degraded(self) -> dict[str, str]:
        """What it does without, by name."""
        return self._degraded

    async def keep_asking(self, checks: Sequence[Check], tell: Callable[[str, bool], None]) -> None:
        """
        Ask *checks* in turn, over and over, until cancelled.

        Args:
            tell: Told each check's name and whether it found nothing wrong.
        """
        while True:
            problems = {check: await _asked(check) for check in checks}
            for check, problem in problems.items():
                tell(check.name, problem is None)
            # Whole dictionaries change places: a thread of HTTP reads the old one or the new.
            self._missing = {c.name: p for c, p in problems.items() if p and c.needed}
            self._degraded = {c.name: p for c, p in problems.items() if p and not c.needed}
            await asyncio.sleep(ASK_EVERY_S)


async def _asked(check: Check) -> str | None:
    try:
        async with asyncio.timeout(ANSWERS_WITHIN_S):
            return await check.ask()
    except TimeoutError:
        return f"no answer within {ANSWERS_WITHIN_S:g} s"
    except Exception as error:  # whatever it is, it does not work; its type names no user
        return type(error).__name__


def application(
    health: Health | None = None, registry: CollectorRegistry = REGISTRY
) -> "WSGIApplication":
    """The three pages; without *health* the process has nothing to say but that it is there."""
    metrics = make_wsgi_app(registry)

    def respond(environ: "WSGIEnvironment", start_response: "StartResponse") -> object:
        match environ["PATH_INFO"]:
            case "/healthz":
                stuck = health.stuck() if health is not None else None
                return _json(start_response, stuck is None, {"alive": stuck is None, "why": stuck})
            case "/readyz" if health is not None:
                missing = health.missing()
                said = {"ready": not missing, "missing": missing, "degraded": health.degraded()}
                return _json(start_response, not missing, said)
            case "/metrics":
                return metrics(environ, start_response)
        start_response("404 Not Found", [("Content-Type", "text/plain")])
        return [b"/metrics, /healthz or /readyz\n"]

    return respond  # type: ignore[return-value]


def _json(
    start_response: "StartResponse", good: bool, said: Mapping[str, object]
) -> Sequence[bytes]:
    status = "200 OK" if good else "503 Service Unavailable"
    start_response(status, [("Content-Type", "application/json")])
    return [json.dumps(said).encode() + b"\n"]


class _Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True


class _Handler(WSGIRequestHandler):
    timeout = REQUEST_WITHIN_S  # who is slower is no scraper

    def log_message(self, format: str, *args: object) -> None:
        """No line for each scrape."""


def serve_http(port: int, host: str = "127.0.0.1", health: Health | None = None) -> None:
    """Serve the three pages from a daemon thread; port 0 is off. Raises OSError if it is taken."""
    if port:
        server = make_server(host, port, application(health), _Server, _Handler)
        threading.Thread(target=server.serve_forever, name="http", daemon=True).start()
