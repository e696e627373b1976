"""Asking one of Triton's models, and having it loaded again if it fails."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Collection, Mapping
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import structlog

from services.errors import CommandFailed
from stream.ranking import RankerUnavailable

PROBE_TIMEOUT_S = 5.0  # a busy machine is slow, not ill
LOAD_TIMEOUT_S = 80.0
LOAD_AGAIN_AFTER_S = 10.0  # where a load has not helped; twice as long each time
LONGEST_PAUSE_S = 640.0
LATE_ANSWERS = 3  # so many in a row count as a hung stub
TEXT_DIM = 384

log = structlog.get_logger()

# Given an address, a model's folder and a version: what is wrong with its answer, or None. Raises
# `RankerUnavailable` if there is no answer.
Ask = Callable[[str, Path, str], Awaitable[str | None]]


class ModelProbe:
    """
    One model of the repository.

    Triton goes on calling a version ready whose stub is dead or hung, while every call fails, until
    it is loaded again. So this asks each for an inference, and loads again what fails. A version
    that cannot be healed while others answer is its author's fault, and not the server's.
    """

    def __init__(self, address: str, folder: Path, ask: Ask) -> None:
        self._address = address
        self._folder = folder
        self._model = folder.name
        self._ask = ask
        self._late = 0
        self._loading: asyncio.Task[None] | None = None
        self._why = ""
        self._loaded_s = float("-inf")  # when it was last told to
        self._pause_s = LOAD_AGAIN_AFTER_S  # until it is told again
        self._refused = False  # and Triton could not

    async def problem(self) -> str | None:
        """Why it cannot be used now; None if it can, or is not in the repository."""
        # No answer while it loads: Triton itself may hang if the stub dies then, and only a
        # restart of the server helps, for which the supervisor's patience has to run out.
        if self._loading is not None and not self._loading.done():
            return f"loading {self._model} again: {self._why}"
        if not (self._folder / "config.pbtxt").exists():
            return None  # no ranker yet: slates come from the live sources
        from services.models import control

        try:
            versions = await control.ready_versions(self._address, self._model)
        except RankerUnavailable as error:
            return str(error)
        asked = {version: await self._problem_of(version) for version in versions}
        problems = {version: problem for version, problem in asked.items() if problem}
        if versions and not problems:
            self._late = 0
            self._loaded_s = float("-inf")  # it has helped
            self._pause_s = LOAD_AGAIN_AFTER_S
            return None
        return self._heal(problems, some_answer=len(problems) < len(versions))

    async def _problem_of(self, version: str) -> str | None:
        try:
            problem = await self._ask(self._address, self._folder, version)
        except RankerUnavailable as error:
            return str(error)
        return problem and f"version {version} answers wrongly: {problem}"

    def _heal(self, problems: Mapping[str, str], *, some_answer: bool) -> str | None:
        from services.models import repository

        problem = next(iter(problems.values()), "no version is loaded")
        self._late = self._late + 1 if problem.startswith("late") else 0
        if problem.startswith("down") or 0 < self._late < LATE_ANSWERS:
            return problem
        if time.monotonic() - self._loaded_s < self._pause_s:
            # A model that Triton refuses is no fault of the server, and has been logged.
            return None if self._refused or some_answer else problem
        lock = ExitStack()
        try:
            lock.enter_context(repository.locked(self._folder, patience_s=0))
        except CommandFailed:  # what is on trial may well be ill: the gate will see to it
            return None if some_answer else problem
        if self._loaded_s > float("-inf"):
            self._pause_s = min(2 * self._pause_s, LONGEST_PAUSE_S)
        self._late = 0
        self._loaded_s = time.monotonic()
        self._why = problem
        self._loading = asyncio.create_task(self._load(problems if some_answer else (), lock))
        return f"loading {self._model} again: {problem}"

    async def _load(self, versions: Collection[str], lock: ExitStack) -> None:
        """Load *versions* again, or all of them if it names none; then give *lock* back."""
        from services.models import control

        self._refused = False
        address, model = self._address, self._model
        try:
            with lock:
                if versions:
                    await control.restart(address, model, versions, timeout_s=LOAD_TIMEOUT_S)
                else:
                    await control.load(address, model, timeout_s=LOAD_TIMEOUT_S)
        except RankerUnavailable as error:
            self._refused = str(error).startswith("refused")
            log.error("model_not_loaded", model=self._model, reason=str(error))


async def ask_ranker(address: str, folder: Path, version: str) -> str | None:
    """The golden batch, where a manifest has one. See `Ask`."""
    from services.models import control
    from services.models.triton import DTYPES
    from services.models.versions import BadVersion, disagreement, read_manifest

    # Read each time: the number of a version that was refused is given to the next one.
    try:
        manifest = read_manifest(folder / version)
    except BadVersion:
        manifest = None
    empty = {name: np.zeros((1, 1), kind) for name, (_, kind) in DTYPES.items()}
    inputs = manifest.golden_inputs if manifest else empty
    answer = await control.answers(address, folder.name, version, inputs, timeout_s=PROBE_TIMEOUT_S)
    return disagreement(manifest, answer) if manifest else None


async def ask_item_tower(address: str, folder: Path, version: str) -> str | None:
    """A vector of some text. See `Ask`."""
    from services.models.towers import TritonTowers

    towers = TritonTowers(address, timeout_s=PROBE_TIMEOUT_S)
    try:
        text = np.ones((1, TEXT_DIM), np.float32)
        vectors = await towers.vectors(version, np.ones(1, np.int64), text)
    finally:
        await towers.close()
    return None if np.isfinite(vectors).all() else "its vector is not finite"


async def ask_text_encoder(address: str, folder: Path, version: str) -> str | None:
    """The vector of a word. See `Ask`."""
    from services.models.towers import TritonTowers

    towers = TritonTowers(address, timeout_s=PROBE_TIMEOUT_S)
    try:
        (vector,) = await towers.read(["hat"])
    finally:
        await towers.close()
    return None if abs(float(vector @ vector) - 1) < 0.01 else "its vector is not of length 1"
