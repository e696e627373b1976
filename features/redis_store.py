"""
Our Redis online store: Feast's own, with a short way in and out for one packed Bytes feature.

The layout is Feast's, byte for byte, so whatever reads features through Feast reads these rows.
The short way skips what costs most there: protobuf messages and a datetime for each row.
"""

import struct
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cache
from hashlib import sha1
from itertools import chain, islice
from pathlib import Path
from typing import Any, Literal, NamedTuple, Self

from feast import FeatureView, RepoConfig, ValueType
from feast.infra.key_encoding_utils import serialize_entity_key_prefix
from feast.infra.online_stores.helpers import _mmh3
from feast.infra.online_stores.redis import (
    RedisOnlineStore,
    RedisOnlineStoreConfig,
    RedisType,
)
from google.protobuf.timestamp_pb2 import Timestamp
from redis.exceptions import NoScriptError

from features import values
from features.redis_clients import blocking_client, loop_client
from stream.state import Dependencies, Dependency, Replacement, StateMoved, nearest_dependencies

READ_AT_ONCE = 1000  # keys: Redis does nothing else during a script, here for a millisecond

Key = str | int
"""The join key of an entity that has one: text, or an int64."""


class RowOnlineStoreConfig(RedisOnlineStoreConfig):
    """``online_store`` in feature_store.yaml."""

    type: Literal["features.redis_store.RowOnlineStore"] = "features.redis_store.RowOnlineStore"  # type: ignore[assignment]


class _Script(NamedTuple):
    """A script that Redis runs."""

    text: str
    sha1: str

    @classmethod
    def beside(cls, name: str) -> Self:
        """That of this folder."""
        text = Path(__file__).with_name(name).read_text()
        return cls(text, sha1(text.encode(), usedforsecurity=False).hexdigest())


READ = _Script.beside("read.lua")
REPLACE = _Script.beside("replace.lua")


class _Call(NamedTuple):
    """
    One call of a script: sent by its hash, and whole if Redis has forgotten it.

    `redis.commands.core.Script` would load it and send the hash again, and fail if Redis was
    restarted in between.
    """

    script: _Script
    keys: Sequence[bytes]
    arguments: Sequence[bytes | str | int]

    def words(self) -> Iterator[bytes | str | int]:
        """What follows the script on the wire."""
        return chain([len(self.keys)], self.keys, self.arguments)


class RowOnlineStore(RedisOnlineStore):
    """
    Reads and writes views that have one entity and one Bytes feature, a batch a round trip.

    Calls block, and may come from any thread; those named ``_async`` wait on the event loop
    instead, and keep to one loop. Both send and understand the same.
    """

    def read_bytes(
        self, config: RepoConfig, wanted: Sequence[tuple[FeatureView, Sequence[Key]]]
    ) -> list[list[bytes | None]]:
        """
        Read the one feature of each view for each key, in that order, `READ_AT_ONCE` a round trip.

        Returns:
            For each of *wanted*, its values in the order of its keys; None where there is none.

        Raises:
            redis.RedisError: If Redis does not answer after the retries.
        """
        return _values(wanted, [self._send(config, call) for call in _reads(config, wanted)])

    async def read_bytes_async(
        self, config: RepoConfig, wanted: Sequence[tuple[FeatureView, Sequence[Key]]]
    ) -> list[list[bytes | None]]:
        """As `read_bytes`."""
        calls = _reads(config, wanted)
        return _values(wanted, [await self._send_async(config, call) for call in calls])

    def replace_bytes(
        self,
        config: RepoConfig,
        view: FeatureView,
        new: Mapping[Key, Replacement],
        expected: tuple[FeatureView, Mapping[Key, str]] | None = None,
        after: Dependencies = (),
    ) -> Dependencies:
        """
        Replace the one feature of *view* for each key, all of them or none, in one round trip.

        Beside the view's feature its hash has a field ``_applied:<view>``, which Feast ignores.
        A call that is repeated because its answer was lost finds its own values, and is content.

        Args:
            new: The values, and what each of them replaces.
            expected: What must be applied in another view for this to be written.
            after: What an earlier write has returned, and must be there still.

        Returns:
            What a write that depends on this one names as *after*.

        Raises:
            StateMoved: If anything expected is not so. Nothing is written.
            redis.RedisError: If Redis does not answer after the retries. All or nothing may have
                been written.
        """
        if not new:
            return after
        call = _replacement(config, view, new, expected, after)
        _require_unmoved(self._send(config, call))
        return _dependencies(config, view, new, after)

    async def replace_bytes_async(
        self,
        config: RepoConfig,
        view: FeatureView,
        new: Mapping[Key, Replacement],
        expected: tuple[FeatureView, Mapping[Key, str]] | None = None,
        after: Dependencies = (),
    ) -> Dependencies:
        """As `replace_bytes`. If it is cancelled, all or nothing may have been written."""
        if not new:
            return after
        call = _replacement(config, view, new, expected, after)
        _require_unmoved(await self._send_async(config, call))
        return _dependencies(config, view, new, after)

    def _send(self, config: RepoConfig, call: _Call) -> Any:
        client = self._get_client(config.online_store)
        try:
            return client.evalsha(call.script.sha1, *call.words())
        except NoScriptError:
            return client.eval(call.script.text, *call.words())

    async def _send_async(self, config: RepoConfig, call: _Call) -> Any:
        client = await self._get_client_async(config.online_store)
        try:
            return await client.evalsha(call.script.sha1, *call.words())
        except NoScriptError:
            return await client.eval(call.script.text, *call.words())

    def _get_client(self, online_store_config: RedisOnlineStoreConfig) -> Any:
        """Feast's client, with timeouts and retries that a connection string cannot express."""
        if self._client is None and online_store_config.redis_type == RedisType.redis:
            self._client = blocking_client(self._options(online_store_config))
        return super()._get_client(online_store_config)

    async def _get_client_async(self, online_store_config: RedisOnlineStoreConfig) -> Any:
        """Likewise; a connection belongs to the event loop that it was made in."""
        if self._client_async is None and online_store_config.redis_type == RedisType.redis:
            self._client_async = loop_client(self._options(online_store_config))
        return await super()._get_client_async(online_store_config)

    def _options(self, online_store_config: RedisOnlineStoreConfig) -> dict[str, Any]:
        (node, *_), options = self._parse_connection_string(online_store_config.connection_string)
        return {"host": node["host"], "port": int(node["port"]), **options}


def _reads(
    config: RepoConfig, wanted: Sequence[tuple[FeatureView, Sequence[Key]]]
) -> Iterator[_Call]:
    redis_keys: list[bytes] = []
    fields: list[bytes] = []
    for view, keys in wanted:
        field, _ = _fields(view)
        redis_keys += _redis_keys(config, view, keys)
        fields += [field] * len(keys)
    for first in range(0, len(redis_keys), READ_AT_ONCE):
        some = slice(first, first + READ_AT_ONCE)
        yield _Call(READ, redis_keys[some], fields[some])


def _values(
    wanted: Sequence[tuple[FeatureView, Sequence[Key]]], answers: Iterable[list[bytes | None]]
) -> list[list[bytes | None]]:
    """What the answers to `_reads` say of each of *wanted*."""
    unpacked = (
        None if packed is None else values.unpack(packed) for packed in chain.from_iterable(answers)
    )
    return [list(islice(unpacked, len(keys))) for _, keys in wanted]


def _replacement(
    config: RepoConfig,
    view: FeatureView,
    new: Mapping[Key, Replacement],
    expected: tuple[FeatureView, Mapping[Key, str]] | None,
    after: Dependencies,
) -> _Call:
    keys = _redis_keys(config, view, list(new))
    field, timestamp_field = _fields(view)
    arguments: list[bytes | str | int] = [len(new), _timestamp(time.time_ns())]
    arguments += [_applied_field(view), timestamp_field, field]
    for row in new.values():
        arguments += (row.expected, row.applied, values.pack(row.value))
    for other in _others(config, expected, after):
        redis_key, applied_field = other.key
        keys.append(redis_key)
        arguments += (applied_field, other.applied)
    return _Call(REPLACE, keys, arguments)


def _others(
    config: RepoConfig,
    expected: tuple[FeatureView, Mapping[Key, str]] | None,
    after: Dependencies,
) -> Iterator[Dependency]:
    """All that is compared without being replaced."""
    if expected is not None:
        view, applied = expected
        yield from map(Dependency, _places(config, view, list(applied)), applied.values())
    yield from after


def _dependencies(
    config: RepoConfig, view: FeatureView, new: Mapping[Key, Replacement], after: Dependencies
) -> Dependencies:
    return nearest_dependencies(new, lambda key: _places(config, view, [key])[0], after)


def _places(config: RepoConfig, view: FeatureView, keys: Sequence[Key]) -> list[tuple[bytes, str]]:
    """Where what is applied lies: the hash of each key, and the field in it."""
    return [(redis_key, _applied_field(view)) for redis_key in _redis_keys(config, view, keys)]


def _require_unmoved(moved: bytes | None) -> None:
    """Understand the answer to `_replacement`."""
    if moved:
        raise StateMoved(moved.decode())


def _fields(view: FeatureView) -> tuple[bytes, bytes]:
    """The hash fields of a view's one feature and of its timestamp."""
    (feature,) = view.features
    return _field(view.name, feature.name), f"_ts:{view.name}".encode()


@cache
def _field(view: str, feature: str) -> bytes:
    field: bytes = _mmh3(f"{view}:{feature}")
    return field


def _applied_field(view: FeatureView) -> str:
    return f"_applied:{view.name}"


def _redis_keys(config: RepoConfig, view: FeatureView, keys: Sequence[Key]) -> list[bytes]:
    """As `feast.infra.online_stores.helpers._redis_key`, without a message for each key."""
    (join_key,) = view.join_keys
    prefix = _prefix(join_key, config.entity_key_serialization_version)
    project = config.project.encode()
    return [prefix + _entity_value(key) + project for key in keys]


@cache
def _prefix(join_key: str, version: int) -> bytes:
    prefix: bytes = serialize_entity_key_prefix([join_key], version)
    return prefix


def _entity_value(key: Key) -> bytes:
    if isinstance(key, int):
        return struct.pack("<IIq", ValueType.INT64.value, 8, key)
    text = key.encode()
    return struct.pack("<II", ValueType.STRING.value, len(text)) + text


def _timestamp(epoch_ns: int) -> bytes:
    seconds, nanos = divmod(epoch_ns, 1_000_000_000)
    packed: bytes = Timestamp(seconds=seconds, nanos=nanos).SerializeToString()
    return packed
