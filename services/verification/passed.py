"""How far a reading of the logs has come, for a progress bar."""

from collections.abc import Callable

Progress = Callable[[float], None]  # the share that is done


class Passed:
    """Tells *advanced* what share of *total* records has been read."""

    def __init__(self, advanced: Progress, total: int) -> None:
        self._advanced, self._total, self._read = advanced, max(total, 1), 0

    def add(self, records: int) -> None:
        """*records* more have been read."""
        self._read += records
        self._advanced(min(1.0, self._read / self._total))
