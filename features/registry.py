"""Feast's registry file, replaced whole: who reads it never finds half of it."""

import os
from uuid import uuid4

from feast.infra.registry.file import FileRegistryStore
from feast.protos.feast.core.Registry_pb2 import Registry


class WholeFileRegistryStore(FileRegistryStore):
    """
    Feast's own, which writes the file in place, but for that.

    Feast reads the registry whenever it is asked for a view, by which time another process may be
    registering its own; see `features.store.open_store`.
    """

    def _write_registry(self, registry_proto: Registry) -> None:
        registry_proto.version_id = str(uuid4())
        registry_proto.last_updated.GetCurrentTime()
        beside = self._filepath.with_suffix(f".{os.getpid()}.tmp")
        with beside.open("wb") as file:
            file.write(registry_proto.SerializeToString())
            file.flush()
            os.fsync(file.fileno())
        beside.replace(self._filepath)
