"""The one place where our processes meet Feast: packed rows in and out, a batch a round trip."""

import fcntl
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from string import Template
from typing import TYPE_CHECKING, Any, Self

import yaml
from redis.exceptions import RedisError as StoreError

from features.importing import import_feast

if TYPE_CHECKING:
    from feast import FeatureStore, FeatureView

    from features.redis_store import Key

__all__ = ["FeatureRows", "StoreError", "open_store"]

CONFIG = Path(__file__).with_name("feature_store.yaml")


class FeatureRows:
    """
    User rows and partition marks, as bytes, in Feast's online store.

    Calls block, and may come from any thread. Redis is asked again for a few seconds when it does
    not answer; then its error, a `StoreError`, is raised as it is.
    """

    def __init__(self, store: "FeatureStore") -> None:
        self._config = store.config
        self._online: Any = store._get_provider().online_store
        # As registered: only there has Feast filled in a view's join keys.
        self._user_row = store.get_feature_view("user_row")
        self._mark = store.get_feature_view("partition_mark")

    @classmethod
    def open(cls, redis_address: str, registry: Path, project: str) -> Self:
        """
        Register the definitions with Feast and open the online store; takes seconds, once.

        Args:
            redis_address: ``host:port``; Feast's options may follow: ``,password=…,ssl=true``.
            registry: The registry file, made if it is missing. Processes may share it.
            project: Feast project; projects share nothing.
        """
        return cls(open_store(redis_address, registry, project))

    def read(self, user_ids: Sequence[str]) -> list[bytes | None]:
        """The rows of *user_ids*, in their order; None for a user who has none."""
        (rows,) = self._online.read_bytes(self._config, [(self._user_row, user_ids)])
        return list(rows)

    def read_marks(self, partitions: Sequence[int]) -> list[bytes | None]:
        """The marks of *partitions*, in their order; None for a partition that has none."""
        (marks,) = self._online.read_bytes(self._config, [(self._mark, partitions)])
        return list(marks)

    def read_with_marks(
        self, user_ids: Sequence[str], partitions: Sequence[int]
    ) -> tuple[list[bytes | None], list[bytes | None]]:
        """Rows and marks in one round trip, the marks read after the rows."""
        rows, marks = self._online.read_bytes(
            self._config, [(self._user_row, user_ids), (self._mark, partitions)]
        )
        return rows, marks

    def write(self, rows: Mapping[str, bytes], timestamp: datetime) -> None:
        """Write each user's row; *timestamp*, aware, is what Feast shows as its event time."""
        self._write(self._user_row, rows, timestamp)

    def write_marks(self, marks: Mapping[int, bytes]) -> None:
        """Write each partition's mark."""
        self._write(self._mark, marks, datetime.now(UTC))

    def close(self) -> None:
        """Close the connections."""
        if self._online._client is not None:
            self._online._client.close()

    def _write(
        self,
        view: "FeatureView",
        rows: "Mapping[Key, bytes] | Mapping[str, bytes] | Mapping[int, bytes]",
        at: datetime,
    ) -> None:
        if rows:
            self._online.write_bytes(self._config, view, rows, at)


def open_store(redis_address: str, registry: Path, project: str) -> "FeatureStore":
    """
    Feast's own store on the same rows, with our definitions registered.

    Registering again changes nothing. Processes that share a registry wait for each other, since
    Feast writes that file in place.
    """
    import_feast()
    from feast import FeatureStore, RepoConfig

    from features import definitions

    filled = Template(CONFIG.read_text()).substitute(
        HEADRACE_REDIS_ADDRESS=redis_address,
        HEADRACE_FEAST_REGISTRY=registry.absolute(),
        HEADRACE_FEAST_PROJECT=project,
    )
    registry.parent.mkdir(parents=True, exist_ok=True)
    with _locked(registry.with_suffix(".lock")), warnings.catch_warnings():
        # About the offline use of on-demand views, which we have none of.
        warnings.filterwarnings("ignore", "On demand feature view", RuntimeWarning)
        store = FeatureStore(config=RepoConfig(**yaml.safe_load(filled), repo_path=CONFIG.parent))
        store.apply(definitions.DEFINITIONS)
    return store


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold an exclusive lock, which the kernel releases even if we are killed."""
    with path.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
