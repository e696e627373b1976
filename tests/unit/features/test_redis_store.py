"""Our short way into Redis must write what Feast would have written, byte for byte."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from redis.asyncio import SSLConnection

from features.importing import import_feast
from features.store import open_store


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Any:
    registry = tmp_path_factory.mktemp("feast") / "registry.db"
    return open_store("127.0.0.1:1", registry, "shop_dheadrace")


@pytest.mark.parametrize("user_id", ["u", "ü𝄞 \x00 user", "x" * 256, "123"])
def test_a_users_redis_key_is_the_one_that_feast_computes(store: Any, user_id: str) -> None:
    """Otherwise a notebook that asks Feast finds nobody."""
    from feast.infra.online_stores.helpers import _redis_key
    from feast.protos.feast.types.EntityKey_pb2 import EntityKey
    from feast.protos.feast.types.Value_pb2 import Value

    from features.redis_store import _redis_keys

    message = EntityKey(join_keys=["user_id"], entity_values=[Value(string_val=user_id)])
    expected = _redis_key(
        store.config.project, message, store.config.entity_key_serialization_version
    )
    assert _redis_keys(store.config, store.get_feature_view("user_row"), [user_id]) == [expected]


def test_a_partitions_redis_key_is_the_one_that_feast_computes(store: Any) -> None:
    """Marks are features too: `feast` shows how far each partition is."""
    from feast.infra.online_stores.helpers import _redis_key
    from feast.protos.feast.types.EntityKey_pb2 import EntityKey
    from feast.protos.feast.types.Value_pb2 import Value

    from features.redis_store import _redis_keys

    message = EntityKey(join_keys=["partition"], entity_values=[Value(int64_val=7)])
    expected = _redis_key(
        store.config.project, message, store.config.entity_key_serialization_version
    )
    assert _redis_keys(store.config, store.get_feature_view("partition_mark"), [7]) == [expected]


@pytest.mark.parametrize("more", ["", ",ssl=true,ssl_ca_certs=ca.pem", ",socket_timeout=9"])
async def test_both_clients_find_the_same_redis_and_have_the_same_patience(more: str) -> None:
    """The worker's is on the event loop; `headrace verify`'s, of the same settings, blocks."""
    from features.redis_store import RowOnlineStore, RowOnlineStoreConfig

    address = f"redis.example:6380,username=headrace,password=hush,db=2{more}"
    config = RowOnlineStoreConfig(connection_string=address)
    store = RowOnlineStore()

    blocking = store._get_client(config).connection_pool.make_connection()
    on_loop = (await store._get_client_async(config)).connection_pool.make_connection()

    names = ["host", "port", "db", "username", "password", "socket_timeout"]
    names += ["socket_connect_timeout", "health_check_interval"]
    for name in names:
        assert getattr(on_loop, name) == getattr(blocking, name), name
    assert on_loop.socket_timeout == (9 if "socket_timeout" in more else 5)
    assert on_loop.retry.get_retries() == blocking.retry.get_retries() == 8
    assert on_loop.retry._backoff == blocking.retry._backoff
    assert getattr(on_loop, "ca_certs", None) == getattr(blocking, "ca_certs", None)
    assert isinstance(on_loop, SSLConnection) == ("ssl" in more)


def test_importing_feast_does_not_import_torch(tmp_path: Path) -> None:
    """Torch costs every worker seconds at its start and hundreds of megabytes."""
    import subprocess
    import sys

    code = (
        "import sys; from features.importing import import_feast; import_feast();"
        "import feast; assert 'torch' not in sys.modules; import typeguard;"
        "assert typeguard.typechecked.__module__.startswith('typeguard')"
    )
    finished = subprocess.run(
        [sys.executable, "-c", code], check=False, capture_output=True, text=True
    )
    assert (finished.returncode, finished.stderr) == (0, "")


def test_the_interactions_of_a_row_are_unpacked_in_order() -> None:
    """What a data scientist reads through Feast is what the worker folded."""
    from features.unpacking import unpack_interactions
    from stream.events import parse_event
    from stream.fold import take_in
    from stream.history import UserRow
    from stream.keys import item_key

    row = UserRow()
    for offset, item in enumerate(("hat", "scarf")):
        event = parse_event(
            b'{"event_id":"%d","event_type":"click","event_timestamp":"2016-08-01T12:00:00.5Z",'
            b'"user_id":"u","item_id":"%s"}' % (offset, item.encode()),
            kafka_timestamp_ms=int(datetime(2016, 8, 1, 13, tzinfo=UTC).timestamp() * 1000),
            max_ahead_ms=0,
        )
        take_in(row, event, partition=0, offset=offset)

    actual = unpack_interactions({"row": [row.to_bytes(), None]})

    assert actual == {
        "event_types": [["click", "click"], []],
        "item_keys": [[item_key("hat"), item_key("scarf")], []],
        "event_timestamps_ms": [[1470052800500, 1470052800500], []],
        "offsets": [[0, 1], []],
    }


def test_feast_imports_once() -> None:
    """The second call must not pay, nor hide torch from those who want it."""
    import_feast()
    import_feast()
    import torch

    assert torch.tensor([1]).item() == 1
