"""The one place where our processes meet Feast: packed rows in and out, a batch a round trip."""

import fcntl
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from string import Template
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import yaml
from redis.exceptions import RedisError as StoreError

from features.importing import import_feast
from stream.state import Dependencies, Replacement

if TYPE_CHECKING:
    from feast import FeatureStore

__all__ = ["AsyncRows", "FeatureRows", "StoreError", "open_store"]

CONFIG = Path(__file__).with_name("feature_store.yaml")


K = TypeVar("K", str, int)


class FeatureRows(Generic[K]):
    """
    Rows, and the marks of the partitions that they are folded from, in Feast's online store.

    Calls block, and may come from any thread. Redis is asked again for a few seconds when it does
    not answer; then its error, a `StoreError`, is raised as it is. Writes are compare-and-set, all
    or nothing: they raise `StateMoved`, and write nothing, if any value is not the expected one, or
    what they come *after* is gone. They return what the next one may name as *after*.

    Args:
        store: Feast's own store, with our definitions registered.
        rows, marks: Names of the two views.
    """

    def __init__(
        self, store: "FeatureStore", *, rows: str = "user_row", marks: str = "partition_mark"
    ) -> None:
        self._store = store
        self._config = store.config
        self._online: Any = store._get_provider().online_store
        # As registered: only there has Feast filled in a view's join keys.
        self._rows = store.get_feature_view(rows)
        self._marks = store.get_feature_view(marks)

    @staticmethod
    def open(redis_address: str, registry: Path, project: str) -> "FeatureRows[str]":
        """
        Register the definitions with Feast and open users' rows; takes seconds, once.

        Args:
            redis_address: ``host:port``; Feast's options may follow: ``,password=…,ssl=true``.
            registry: The registry file, made if it is missing. Processes may share it.
            project: Feast project; projects share nothing.
        """
        return FeatureRows(open_store(redis_address, registry, project))

    @property
    def project(self) -> str:
        """The Feast project."""
        return str(self._config.project)

    @property
    def client(self) -> Any:
        """The Redis client, for what concerns no row in particular."""
        return self._online._get_client(self._config.online_store)

    def beside(self, *, rows: str, marks: str) -> "FeatureRows[int]":
        """Other views of the same project, keyed by an int64, over the same connections."""
        return FeatureRows(self._store, rows=rows, marks=marks)

    def read(self, keys: Sequence[K]) -> list[bytes | None]:
        """The rows of *keys*, in their order; None where there is none."""
        (rows,) = self._online.read_bytes(self._config, [(self._rows, keys)])
        return list(rows)

    def read_marks(self, partitions: Sequence[int]) -> list[bytes | None]:
        """The marks of *partitions*, in their order; None for a partition that has none."""
        (marks,) = self._online.read_bytes(self._config, [(self._marks, partitions)])
        return list(marks)

    def read_with_marks(
        self, keys: Sequence[K], partitions: Sequence[int]
    ) -> tuple[list[bytes | None], list[bytes | None]]:
        """Rows and marks in one round trip, the marks read after the rows."""
        rows, marks = self._online.read_bytes(
            self._config, [(self._rows, keys), (self._marks, partitions)]
        )
        return rows, marks

    def write_rows(
        self,
        rows: Mapping[K, Replacement],
        expected_marks: Mapping[int, str] | None = None,
        after: Dependencies = (),
    ) -> Dependencies:
        """Replace rows, while the marks of their partitions are still the expected ones."""
        expected = self._marks, expected_marks or {}
        written: Dependencies = self._online.replace_bytes(
            self._config, self._rows, rows, expected, after
        )
        return written

    def write_marks(
        self, marks: Mapping[int, Replacement], after: Dependencies = ()
    ) -> Dependencies:
        """Replace marks."""
        written: Dependencies = self._online.replace_bytes(
            self._config, self._marks, marks, after=after
        )
        return written

    def close(self) -> None:
        """Close the connections."""
        if self._online._client is not None:
            self._online._client.close()


class AsyncRows(Generic[K]):
    """
    The same rows on the event loop: `stream.pipeline.RowStore`, `stream.item_statistics.ItemStore`.

    Any tasks of one event loop may use it at once. It has connections of its own, which all views
    of a project share, and raises what `FeatureRows` raises.

    Args:
        rows: What is read and written.
    """

    def __init__(self, rows: FeatureRows[K]) -> None:
        self._online = rows._online
        self._config = rows._config
        self._rows = rows._rows
        self._marks = rows._marks

    async def read(
        self, keys: Sequence[K], partitions: Sequence[int]
    ) -> tuple[list[bytes | None], list[bytes | None]]:
        """Rows and marks in one round trip, the marks read after the rows."""
        rows, marks = await self._online.read_bytes_async(
            self._config, [(self._rows, keys), (self._marks, partitions)]
        )
        return rows, marks

    async def write_rows(
        self,
        rows: Mapping[K, Replacement],
        expected_marks: Mapping[int, str],
        after: Dependencies = (),
    ) -> Dependencies:
        """Replace rows, while the marks of their partitions are still the expected ones."""
        expected = self._marks, expected_marks
        written: Dependencies = await self._online.replace_bytes_async(
            self._config, self._rows, rows, expected, after
        )
        return written

    async def write_marks(
        self, marks: Mapping[int, Replacement], after: Dependencies = ()
    ) -> Dependencies:
        """Replace marks."""
        written: Dependencies = await self._online.replace_bytes_async(
            self._config, self._marks, marks, after=after
        )
        return written

    async def aclose(self) -> None:
        """Close the connections, in the event loop that has used them."""
        if self._online._client_async is not None:
            await self._online._client_async.aclose()


def open_store(redis_address: str, registry: Path, project: str) -> "FeatureStore":
    """
    Feast's own store on the same rows, with our definitions registered.

    Registering again changes nothing. Processes that share a registry wait for each other, since
    Feast reads that file, adds to it and writes it: what one has added would be lost.
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
