"""``headrace demo``: everything at once, to look at."""

import asyncio
import contextlib
import os
import signal
import time
import uuid
from collections.abc import AsyncIterator, Callable
from functools import partial
from pathlib import Path

import click
from rich.console import Console
from rich.live import Live

from services.connection import connect
from services.demo import screen
from services.demo.live_shop import LiveShop
from services.demo.preparation import Shop, mark, publish_shop, run_command, shop_in
from services.display.titles import Titles
from services.embedded import stack as stacks
from services.embedded.part import Status
from services.errors import CommandFailed
from services.settings import Settings, WorkerSettings
from services.simulator.history import EVENTS_FILE, ITEMS_FILE
from stream import topics

LINE_EVERY_S = 5.0
TROUBLE = ("failing", "restarting")
HISTORY, ROWS, TRAINING, DEPLOYMENT = "history", "users' rows", "training", "deployment"


@click.command()
@click.option(
    "--for",
    "for_s",
    type=click.FloatRange(1),
    help="End by itself after so many seconds of live shoppers with the model serving.",
)
@click.option(
    "--data-dir",
    type=click.Path(file_okay=False, path_type=Path),
    help="Kept for the next run. [default: demo/ in HEADRACE_DATA_DIR]",
)
@click.option("--rate", default=20.0, show_default=True, help="Events per second.")
@click.option("--users", default=800, show_default=True, type=click.IntRange(10, 100_000))
@click.option("--items", default=1_000, show_default=True, type=click.IntRange(50, 20_000))
@click.option("--days", default=21, show_default=True, type=click.IntRange(2, 365))
@click.option("--epochs", default=10, show_default=True, type=click.IntRange(1, 100))
@click.option("--seed", default=7, show_default=True, type=click.IntRange(0))
def demo(
    for_s: float | None,
    data_dir: Path | None,
    rate: float,
    users: int,
    items: int,
    days: int,
    epochs: int,
    seed: int,
) -> None:
    """
    Start everything, make a shop's history, train on it, and let live shoppers in.

    Kafka, Redis, Triton, worker, archiver and model are the real ones; only the shop is simulated
    (see `headrace simulate --help`). You see events going in, slates coming out, the time between,
    and one shopper's list changing click by click. A second run finds history and model as they
    were. Nothing is left running.
    """
    # Processes are started while gRPC asks Triton how it is: its warnings would tear the screen.
    os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "false")
    directory = data_dir or connect(Settings).data_dir / "demo"
    settings = connect(WorkerSettings, data_dir=directory)
    shop = partial(shop_in, directory / "shop", seed=seed, users=users, items=items, days=days)
    try:
        asyncio.run(_Demo(settings, directory, for_s, rate, epochs).run(shop))
    except* CommandFailed as failures:
        raise failures.exceptions[0] from None


class _Demo:
    def __init__(
        self,
        settings: WorkerSettings,
        directory: Path,
        for_s: float | None,
        rate: float,
        epochs: int,
    ) -> None:
        self._settings, self._directory = settings, directory
        self._for_s, self._rate, self._epochs = for_s, rate, epochs
        self._console = Console()
        self._titles = Titles()
        self._scene = screen.Scene(self._titles)
        self._stop = asyncio.Event()
        self._said: dict[str, str] = {}

    async def run(self, make_shop: Callable[[], Shop]) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            loop.add_signal_handler(number, self._stop.set)
        stack = stacks.running(self._settings, stacks.Options(brief=True), self._statuses_changed)
        async with self._screen(), stack as running:
            show = asyncio.create_task(self._show(running, make_shop))
            stopped = asyncio.create_task(self._stop.wait())
            broken = asyncio.create_task(running.failed())
            try:
                await asyncio.wait({show, stopped, broken}, return_when=asyncio.FIRST_COMPLETED)
            finally:
                await self._close_shop()
                for task in (show, stopped, broken):
                    task.cancel()
                results = await asyncio.gather(show, stopped, broken, return_exceptions=True)
        for result in results:
            if isinstance(result, Exception):
                raise result
        if self._scene.shop is not None:
            screen.summary(self._scene.shop, self._console)

    async def _show(self, stack: stacks.Stack, make_shop: Callable[[], Shop]) -> None:
        self._step(HISTORY, "shoppers are being simulated")
        shop = await asyncio.to_thread(make_shop)
        self._step(HISTORY, f"done: {shop.users:,} shoppers, {shop.items:,} items")
        async with asyncio.TaskGroup() as work:
            version = work.create_task(self._train())
            await stack.all_ready()
            settings = connect(WorkerSettings, data_dir=self._directory)
            say = partial(self._step, ROWS)
            await asyncio.to_thread(publish_shop, settings, self._directory / "shop", say)
            await self._open_shop(settings, shop)
            await self._deploy(settings, await version)
        if self._for_s is not None:
            self._scene.remaining_s = self._for_s
            while self._scene.remaining_s > 0:
                await asyncio.sleep(0.25)
                self._scene.remaining_s -= 0.25
        else:
            await asyncio.Event().wait()

    async def _train(self) -> Path:
        version = self._directory / "version"
        if version.exists():
            self._step(TRAINING, "done by an earlier run")
            return version
        files = self._directory / "shop"
        await run_command(
            [
                "train",
                str(files / EVENTS_FILE),
                *("--items", str(files / ITEMS_FILE)),
                *("--epochs", str(self._epochs)),
                *("--final-epochs", "1"),
                *("--out", str(version)),
            ],
            self._directory,
            self._environment(),
            partial(self._step, TRAINING),
        )
        self._step(TRAINING, "done: trained on the history")
        return version

    async def _deploy(self, settings: WorkerSettings, version: Path) -> None:
        done = await asyncio.to_thread(mark, settings, self._directory / "shop", "deployed")
        if done.exists():
            self._step(DEPLOYMENT, "done by an earlier run")
            return
        await run_command(
            ["model", "deploy", str(version)],
            self._directory,
            self._environment(),
            partial(self._step, DEPLOYMENT),
        )
        done.touch()
        self._step(DEPLOYMENT, "done: workers use it")

    def _environment(self) -> dict[str, str]:
        return {"HEADRACE_DATA_DIR": str(self._directory)}

    async def _open_shop(self, settings: WorkerSettings, shop: Shop) -> None:
        name = partial(topics.with_prefix, settings.prefix)
        items = name(topics.ITEMS)
        self._follower = await asyncio.to_thread(self._titles.follow, settings.kafka, items)
        self._scene.shop = LiveShop(
            settings.kafka,
            events=name(topics.EVENTS),
            results=name(topics.RECOMMENDATIONS),
            world=shop.world(),
            users=shop.users,
            rate=self._rate,
            run=uuid.uuid4().hex[:8],
        )
        self._scene.shop.open()

    async def _close_shop(self) -> None:
        if self._scene.shop is not None:
            await asyncio.to_thread(self._scene.shop.close)
            self._follower.stop()

    def _statuses_changed(self, statuses: dict[str, Status]) -> None:
        self._scene.statuses = statuses
        for name, status in statuses.items():
            why = f" ({status.reason})" if status.state in TROUBLE and status.reason else ""
            self._say(name, f"{name}: {status.state}{why}")

    def _step(self, name: str, state: str) -> None:
        self._scene.steps[name] = state
        if state.startswith("done"):
            self._say(name, f"{name}: {state}")

    def _say(self, about: str, line: str) -> None:
        if not self._console.is_terminal and self._said.get(about) != line:
            self._said[about] = line
            elapsed_s = time.monotonic() - self._scene.started_s
            self._console.print(
                f"[{elapsed_s:5.1f} s] {line}", highlight=False, markup=False, soft_wrap=True
            )

    @contextlib.asynccontextmanager
    async def _screen(self) -> AsyncIterator[None]:
        drawing = asyncio.create_task(
            self._draw_live() if self._console.is_terminal else self._print_lines()
        )
        try:
            yield
        finally:
            drawing.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await drawing

    async def _draw_live(self) -> None:
        with Live(screen.draw(self._scene), console=self._console, auto_refresh=False) as live:
            while True:
                live.update(screen.draw(self._scene), refresh=True)
                await asyncio.sleep(0.25)

    async def _print_lines(self) -> None:
        while True:
            await asyncio.sleep(LINE_EVERY_S)
            if line := screen.line(self._scene):
                self._say("figures", line)

    async def _shop_failed(self) -> None:
        # The shop is a thread: it has no event of this loop to set.
        while self._scene.shop is None or self._scene.shop.failure is None:  # noqa: ASYNC110
            await asyncio.sleep(0.5)
        raise self._scene.shop.failure
