"""redis-py's two clients, blocking and on the event loop, with the same timeouts and retries."""

import asyncio
from collections.abc import Mapping
from typing import Any

from redis import Redis
from redis.asyncio import Connection, ConnectionPool, SSLConnection
from redis.asyncio import Redis as AsyncRedis
from redis.asyncio.retry import Retry as AsyncRetry
from redis.backoff import ExponentialWithJitterBackoff
from redis.connection import HiredisRespSerializer
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.retry import Retry

# A Redis that restarts or fails over is back within seconds. After these retries, about three
# seconds of refused connections or at most a minute of silence, the error is the caller's.
RETRIES = 8
BACKOFF = ExponentialWithJitterBackoff(base=0.05, cap=1.0)  # seconds
TIMEOUT_S = 5.0


def blocking_client(options: Mapping[str, Any]) -> Redis:
    """A client for any thread. *options* are redis-py's; they may name other timeouts."""
    return Redis(retry=Retry(BACKOFF, RETRIES), **_with_timeouts(options))


def loop_client(options: Mapping[str, Any]) -> AsyncRedis:
    """A client for the tasks of one event loop; otherwise as `blocking_client`."""
    client = AsyncRedis(retry=AsyncRetry(BACKOFF, RETRIES), **_with_timeouts(options))
    pool = client.connection_pool  # as redis-py understands the options
    lean = _LEAN.get(pool.connection_class, pool.connection_class)
    return AsyncRedis.from_pool(_LeanPool(lean, pool.max_connections, **pool.connection_kwargs))


def _with_timeouts(options: Mapping[str, Any]) -> dict[str, Any]:
    return {"socket_timeout": TIMEOUT_S, "socket_connect_timeout": TIMEOUT_S, **options}


class _LeanPool(ConnectionPool):
    """redis.asyncio's pool without its own metrics, which cost more than finding a connection."""

    async def get_connection(self, *_: Any, **__: Any) -> Any:
        """One that is connected, with nothing left of an earlier call."""
        me: Any = self  # untyped there
        connection = me.get_available_connection()
        try:
            await self.ensure_connection(connection)
        except BaseException:
            await self.release(connection)
            raise
        return connection

    async def release(self, connection: Any) -> None:
        """Take *connection* back."""
        self._in_use_connections.remove(connection)
        if connection.should_reconnect():
            await connection.disconnect()
        self._available_connections.append(connection)


class _Lean(Connection):
    """
    redis.asyncio's connection, with a third less to do for a call.

    That one packs commands in Python, which for the rows of a full micro-batch takes longer than
    all else; makes a task of each send; and begins and cancels a read to learn whether anything
    is left of an earlier call.
    """

    def pack_command(self, *args: Any) -> list[bytes]:
        """As the blocking connection does it."""
        packed: list[bytes] = HiredisRespSerializer().pack(*args)
        return packed

    async def send_packed_command(self, command: Any, check_health: bool = True) -> None:
        """Send what `pack_command` has made; an error, or being cancelled, ends the connection."""
        if not self.is_connected or self.health_check_interval:
            await super().send_packed_command(command, check_health)
            return
        try:
            async with asyncio.timeout(self.socket_timeout):
                await self._send_packed_command(command)
        except BaseException as error:
            await self.disconnect(nowait=True)
            if isinstance(error, OSError):  # a timeout is one
                raise RedisConnectionError(f"Error while writing to socket: {error!r}") from error
            raise

    async def disconnect(self, nowait: bool = False, *more: Any, **named: Any) -> None:
        """End the connection: after an error (*nowait*) without what it has still to send."""
        me: Any = self  # untyped there
        if nowait and me._writer is not None:
            me._writer.transport.abort()
        await super().disconnect(nowait, *more, **named)

    async def can_read_destructive(self) -> bool:
        """
        Whether Redis has ended this connection, or anything is left of an earlier call.

        What the loop has received is all that is looked at. Nothing is on its way: a call that
        does not read its answer, for whatever reason, ends its connection.
        """
        me: Any = self  # untyped there
        return not me._socket_is_empty() or me._reader.at_eof()


class _LeanTls(_Lean, SSLConnection):
    pass


_LEAN: Mapping[type, type] = {Connection: _Lean, SSLConnection: _LeanTls}
