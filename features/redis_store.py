"""
Our Redis online store: Feast's own, with a short way in and out for one packed Bytes feature.

The layout is Feast's, byte for byte, so whatever reads features through Feast reads these rows.
The short way skips what costs most there: four protobuf messages and a datetime a row.
"""

import struct
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from feast import FeatureView, RepoConfig, ValueType
from feast.infra.key_encoding_utils import serialize_entity_key_prefix
from feast.infra.online_stores.helpers import _mmh3
from feast.infra.online_stores.redis import (
    RedisOnlineStore,
    RedisOnlineStoreConfig,
    RedisType,
)
from feast.protos.feast.types.Value_pb2 import Value
from google.protobuf.timestamp_pb2 import Timestamp
from redis import Redis
from redis.backoff import ExponentialWithJitterBackoff
from redis.retry import Retry

from stream.state import Replacement, StateMoved

REPLACE = Path(__file__).with_name("replace.lua").read_text()

# A Redis that restarts or fails over is back within seconds. After these retries, about three
# seconds of refused connections or at most a minute of silence, the error is the caller's.
RETRIES = 8
BACKOFF_FIRST_S = 0.05
BACKOFF_MOST_S = 1.0
TIMEOUT_S = 5.0

Key = str | int
"""The join key of an entity that has one: text, or an int64."""


class RowOnlineStoreConfig(RedisOnlineStoreConfig):
    """``online_store`` in feature_store.yaml."""

    type: Literal["features.redis_store.RowOnlineStore"] = "features.redis_store.RowOnlineStore"  # type: ignore[assignment]


class RowOnlineStore(RedisOnlineStore):
    """Reads and writes views that have one entity and one Bytes feature, a batch a round trip."""

    _replace: Any = None

    def read_bytes(
        self, config: RepoConfig, wanted: Sequence[tuple[FeatureView, Sequence[Key]]]
    ) -> list[list[bytes | None]]:
        """
        Read the one feature of each view for each key, all in one round trip.

        Returns:
            For each of *wanted*, its values in the order of its keys; None where there is none.

        Raises:
            redis.RedisError: If Redis does not answer after the retries.
        """
        with self._get_client(config.online_store).pipeline(transaction=False) as pipe:
            for view, keys in wanted:
                field, _ = _fields(view)
                for redis_key in _redis_keys(config, view, keys):
                    pipe.execute_command("HGET", redis_key, field)
            replies = iter(pipe.execute())
        return [[_unpack(next(replies)) for _ in keys] for _, keys in wanted]

    def replace_bytes(
        self,
        config: RepoConfig,
        new: Sequence[tuple[FeatureView, Mapping[Key, Replacement]]],
        expected: Sequence[tuple[FeatureView, Mapping[Key, str]]] = (),
    ) -> None:
        """
        Replace the one feature of each view for each key, all of them or none, in one round trip.

        Beside a view's feature its hash has a field ``_applied:<view>``, which Feast ignores.
        A call that is repeated because its answer was lost finds its own values, and is content.

        Args:
            new: Views, keys, and the values that replace what is expected there.
            expected: What must be applied elsewhere for this to be written.

        Raises:
            StateMoved: If anything expected is not so. Nothing is written.
            redis.RedisError: If Redis does not answer after the retries. All or nothing may have
                been written.
        """
        redis_keys: list[bytes] = []
        arguments: list[bytes | str | int] = [_timestamp(datetime.now(UTC))]
        for view, rows in new:
            field, timestamp_field = _fields(view)
            redis_keys += _redis_keys(config, view, list(rows))
            for row in rows.values():
                value = Value(bytes_val=row.value).SerializeToString()
                arguments += [_applied_field(view), row.expected, row.applied]
                arguments += [timestamp_field, field, value]
        replaced = len(redis_keys)
        for view, others in expected:
            redis_keys += _redis_keys(config, view, list(others))
            for applied in others.values():
                arguments += [_applied_field(view), applied]
        if replaced == 0:
            return
        moved = self._script(config)(keys=redis_keys, args=[replaced, *arguments])
        if moved:
            raise StateMoved(moved.decode())

    def _script(self, config: RepoConfig) -> Any:
        """The script, which redis-py sends by its hash, and whole if Redis has forgotten it."""
        if self._replace is None:
            self._replace = self._get_client(config.online_store).register_script(REPLACE)
        return self._replace

    def _get_client(self, online_store_config: RedisOnlineStoreConfig) -> Any:
        """Feast's client, with timeouts and retries that a connection string cannot express."""
        if self._client is None and online_store_config.redis_type == RedisType.redis:
            nodes, options = self._parse_connection_string(online_store_config.connection_string)
            options.setdefault("socket_timeout", TIMEOUT_S)
            options.setdefault("socket_connect_timeout", TIMEOUT_S)
            backoff = ExponentialWithJitterBackoff(base=BACKOFF_FIRST_S, cap=BACKOFF_MOST_S)
            self._client = Redis(
                host=nodes[0]["host"],
                port=int(nodes[0]["port"]),
                retry=Retry(backoff, RETRIES),
                **options,
            )
        return super()._get_client(online_store_config)


def _fields(view: FeatureView) -> tuple[bytes, bytes]:
    """The hash fields of a view's one feature and of its timestamp."""
    (feature,) = view.features
    return _mmh3(f"{view.name}:{feature.name}"), f"_ts:{view.name}".encode()


def _applied_field(view: FeatureView) -> str:
    return f"_applied:{view.name}"


def _redis_keys(config: RepoConfig, view: FeatureView, keys: Sequence[Key]) -> list[bytes]:
    """As `feast.infra.online_stores.helpers._redis_key`, without a message for each key."""
    (join_key,) = view.join_keys
    prefix = serialize_entity_key_prefix([join_key], config.entity_key_serialization_version)
    project = config.project.encode()
    return [prefix + _entity_value(key) + project for key in keys]


def _entity_value(key: Key) -> bytes:
    if isinstance(key, int):
        return struct.pack("<IIq", ValueType.INT64.value, 8, key)
    text = key.encode()
    return struct.pack("<II", ValueType.STRING.value, len(text)) + text


def _unpack(stored: bytes | None) -> bytes | None:
    if stored is None:
        return None
    unpacked: bytes = Value.FromString(stored).bytes_val
    return unpacked


def _timestamp(moment: datetime) -> bytes:
    stamp = Timestamp()
    stamp.FromDatetime(moment)
    packed: bytes = stamp.SerializeToString()
    return packed
