"""What goes on in a thread of its own from the beginning of a block to its end."""

import threading
from abc import ABC, abstractmethod
from typing import Self


class Background(ABC):
    """
    Runs `_run` in a thread while the block lasts.

    Args:
        name: The thread's.
    """

    def __init__(self, name: str) -> None:
        self._stop = threading.Event()  # `_run` returns soon after it is set
        self._thread = threading.Thread(target=self._run, name=name)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    @abstractmethod
    def _run(self) -> None: ...
