"""A run on disk until it has ended: its training set, its checkpoints, and what was asked for."""

import json
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from services.errors import CommandFailed
from services.training import distributed
from services.training.arrivals import Source
from services.training.dataset import META, Dataset, write_dataset

SUFFIX = ".training"
CHOICES = "choices.json"


class Unfinished:
    """
    The directory beside the version directory *out* in which its training goes on.

    Of several processes the first one writes; the others find what it wrote.
    """

    def __init__(self, out: Path) -> None:
        self.directory = out.with_name(f"{out.name}{SUFFIX}")
        self._out = out
        self._resumed = False

    def begin(self, choices: Mapping[str, Any], *, resume: bool) -> None:
        """
        Begin a run, or go on with the one that is there.

        Args:
            choices: What decides what is read, as JSON. A run resumes with the same ones only.

        Raises:
            CommandFailed: If there is none to resume, one that is not to be, or another's.
        """
        path = self.directory / CHOICES
        if not resume and path.exists() and not distributed.is_launched():
            raise CommandFailed(
                f"{self.directory} holds an unfinished run. Go on with --resume --out {self._out}, "
                "or delete it."
            )
        if resume and not path.exists():
            raise CommandFailed(f"there is no unfinished run in {self.directory} to resume.")
        asked = json.loads(json.dumps(choices))
        if resume:
            before = json.loads(path.read_text())
            if differ := sorted(name for name in asked if asked[name] != before.get(name)):
                raise CommandFailed(
                    f"the run in {self.directory} was begun with another {', '.join(differ)}. "
                    "Resume it with the same, or delete it."
                )
        elif distributed.rank() == 0:
            self.directory.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(asked))
        self._resumed = resume
        distributed.wait_for_all()

    @contextmanager
    def preparing(self) -> Iterator[None]:
        """What is refused in here leaves nothing of a run that was begun for it."""
        try:
            yield
        except CommandFailed:
            if not self._resumed:
                self.remove()
            raise

    def data(self, source: Callable[[], Source]) -> Dataset:
        """
        The run's training set, made of *source* if it has not been yet.

        Raises:
            UnreadableLog: If the log cannot be read.
        """
        directory = self.directory / "data"
        if distributed.rank() == 0 and not (directory / META).exists():
            write_dataset(source(), directory)
        distributed.wait_for_all()
        return Dataset(directory)

    def remove(self) -> None:
        """Forget the run: it has ended."""
        shutil.rmtree(self.directory, ignore_errors=True)


def newest_unfinished(directory: Path) -> Path | None:
    """The version directory of the newest unfinished run in *directory*, if there is one."""
    found = sorted(path.parent for path in directory.glob(f"*{SUFFIX}/{CHOICES}"))
    return found[-1].with_name(found[-1].name.removesuffix(SUFFIX)) if found else None
