"""A training run on disk: tensors and a little JSON in one safetensors file, never a pickle."""

import json
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from services.errors import CommandFailed

STATE = "state"


class Checkpoint:
    """
    One file that a run replaces as a whole, so that a kill leaves the old one or the new one.

    Args:
        path: Where it lies.
        run: What the run was started with. A checkpoint of another run is refused.
        every_s: `due` says yes this long after the last save.
    """

    def __init__(self, path: Path, *, run: Mapping[str, Any], every_s: float = 60.0) -> None:
        self._path = path
        self._run = json.loads(json.dumps(run))
        self._every_s = every_s
        self._saved_s = time.monotonic()

    def due(self) -> bool:
        """Whether it is time for the next one."""
        return time.monotonic() - self._saved_s >= self._every_s

    def save(self, tensors: Mapping[str, Tensor], state: Mapping[str, Any]) -> None:
        """Replace what is kept, durably."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        unfinished = self._path.with_suffix(".unfinished")
        # Clones: tied or sliced tensors share memory, which safetensors refuses.
        ours = {name: tensor.detach().cpu().clone() for name, tensor in tensors.items()}
        save_file(ours, unfinished, {STATE: json.dumps({"run": self._run, **state})})
        with unfinished.open("rb") as file:
            os.fsync(file.fileno())
        unfinished.rename(self._path)
        self._saved_s = time.monotonic()

    def load(self) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
        """
        What was saved last; None if nothing was.

        Raises:
            CommandFailed: If the file is damaged, or another run's.
        """
        if not self._path.exists():
            return None
        try:
            with safe_open(self._path, framework="pt") as file:
                state = json.loads(file.metadata()[STATE])
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        except (SafetensorError, ValueError, KeyError, TypeError) as error:
            raise CommandFailed(
                f"{self._path} is damaged ({error}). Delete it to train from the beginning."
            ) from error
        theirs = state.pop("run")
        if theirs != self._run:
            differ = sorted(
                name
                for name in theirs.keys() | self._run.keys()
                if theirs.get(name) != self._run.get(name)
            )
            raise CommandFailed(
                f"{self._path} is of a run with other choices ({', '.join(differ)}). Resume with "
                "the same ones, or delete it to train from the beginning."
            )
        return tensors, state
