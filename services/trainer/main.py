"""
``headrace trainer``: goes on from the serving version with what the archive has that is new.

Each run is two commands that a person could type, each in a process of its own: ``headrace train
--continue serving`` and ``headrace model deploy``. So a run leaves no memory behind, and whatever
comes out of it passes the gate that every version passes.
"""

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Literal, NamedTuple

import click
import structlog

from services.connection import connect
from services.errors import CommandFailed
from services.health import serve_http
from services.log_lines import configure_logging
from services.models.repository import remove_version
from services.models.serving import Serving
from services.models.versions import MANIFEST, read_manifest
from services.settings import ModelSettings, TrainerSettings
from services.telemetry import TrainerMetrics
from services.training.unfinished import SUFFIX
from stream import topics

log = structlog.get_logger()

KEPT = 3  # versions; what serves is in Triton's repository anyway
AGAIN_S = 600.0  # after a run without a version: a new shop's archive fills in minutes
LAST_RUN = "last-run"  # its time of change: a restarted trainer does not begin anew

Outcome = Literal["deployed", "refused", "not_trained"]


class Said(NamedTuple):
    """How a command ended."""

    code: int
    last_line: str


Headrace = Callable[[Sequence[str]], Said]


@click.command()
def trainer() -> None:
    """
    Train on a schedule: go on from the serving version with the newest events, and deploy.

    It reads the archive, so an archiver must run. The first run begins at once, and trains from the
    beginning if no version serves yet. A version that the gate refuses costs nothing but the run.
    """
    settings = connect(TrainerSettings)
    configure_logging(
        settings.log_format, settings.log_level, key=settings.log_key.get_secret_value()
    )
    serve_http(settings.metrics_port, settings.metrics_host)
    stop = threading.Event()
    commands = Commands(stop)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: commands.end())
    serving = Serving.of(connect(ModelSettings))
    run = Trainer(
        settings, TrainerMetrics(), commands, is_serving=lambda: serving.state() is not None
    )
    if settings.ready_file:
        settings.ready_file.touch()
    run.run(stop)


class Commands:
    """Runs ``headrace …``, one at a time, until *stop*."""

    def __init__(self, stop: threading.Event) -> None:
        self._stop = stop
        self._running: subprocess.Popen[str] | None = None

    def __call__(self, arguments: Sequence[str]) -> Said:
        """Run ``headrace *arguments`` to its end; what it says goes to our log."""
        command = [str(Path(sys.executable).with_name("headrace")), *arguments]
        said = ""
        with subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace"
        ) as self._running:
            for line in self._running.stdout or ():
                if line := line.strip():
                    said = line
                    log.info("command_said", command=arguments[0], line=line)
        return Said(self._running.returncode, said)

    def end(self) -> None:
        """Stop, and end the command that runs."""
        self._stop.set()
        if self._running is not None and self._running.poll() is None:
            self._running.terminate()


class Trainer:
    """
    The schedule.

    Args:
        headrace: Runs a command of ours.
        is_serving: Whether there is a version to go on from.
    """

    def __init__(
        self,
        settings: TrainerSettings,
        metrics: TrainerMetrics,
        headrace: Headrace,
        *,
        is_serving: Callable[[], bool],
    ) -> None:
        self._settings = settings
        self._metrics = metrics
        self._headrace = headrace
        self._is_serving = is_serving
        self._directory = settings.data_dir / "trainer"
        events = topics.with_prefix(settings.prefix, topics.EVENTS)
        self._archive = settings.archive_dir / events

    def run(self, stop: threading.Event) -> None:
        """Train whenever it is due, until *stop* is set."""
        self._directory.mkdir(parents=True, exist_ok=True)
        while not stop.wait(max(0.0, self.due_in_s())):
            began_s = time.monotonic()
            try:
                outcome = self.train_once(datetime.now(UTC))
            except CommandFailed as error:  # Kafka is away: the next run may find it again
                log.error("training_failed", reason=error.message)
                outcome = "not_trained"
            if not stop.is_set():
                self._metrics.count_run(outcome, time.monotonic() - began_s)
            self._note(outcome)

    def due_in_s(self) -> float:
        """Seconds until the next run."""
        last = self._directory / LAST_RUN
        if not last.exists():
            return 0.0
        return last.stat().st_mtime + self._settings.trainer_every_s - time.time()

    def _note(self, outcome: Outcome) -> None:
        """Remember when the next run is due: soon if there was nothing to train on yet."""
        every_s = self._settings.trainer_every_s
        again_s = min(every_s, AGAIN_S) if outcome == "not_trained" else every_s
        last = self._directory / LAST_RUN
        last.touch()
        at_s = time.time() + again_s - every_s
        os.utime(last, (at_s, at_s))

    def train_once(self, now: datetime) -> Outcome:
        """Train, and bring what came out into service if the gate lets it pass."""
        settings = self._settings
        for unfinished in self._directory.glob(f"*{SUFFIX}"):
            shutil.rmtree(unfinished)  # of a run that was ended
        out = self._directory / f"{now:%Y%m%dT%H%M%S%fZ}"
        since = now - timedelta(days=settings.trainer_history_days)
        arguments = ["train", str(self._archive), "--out", str(out), "--from", since.isoformat()]
        arguments += ["--holdout", settings.trainer_holdout]
        if self._is_serving():
            arguments += ["--continue", "serving", "--days", str(settings.trainer_days)]
        trained = self._headrace(arguments)
        if trained.code:
            log.error("training_failed", reason=trained.last_line)
            return "not_trained"
        ranker = read_manifest(out).metrics.get("ranker", {})
        self._metrics.set_quality({name: float(one) for name, one in ranker.items()})
        deployed = self._headrace(["model", "deploy", str(out)])
        self._prune()
        if deployed.code:
            log.error("version_refused", directory=str(out), reason=deployed.last_line)
            return "refused"
        log.info("version_deployed", directory=str(out), said=deployed.last_line)
        return "deployed"

    def _prune(self) -> None:
        made = sorted(path.parent for path in self._directory.glob(f"*/{MANIFEST}"))
        for old in made[:-KEPT]:
            remove_version(old)
