"""What this package uses of redis-py beyond its documented interface, all in one place.

Each has a test in tests/test_seams.py that fails with a sentence if the library changes.
"""

import asyncio
import ssl
from collections.abc import Callable, Iterator
from typing import Any

import redis
import redis.asyncio
from redis.asyncio.cluster import RedisCluster as AsyncRedisCluster

# In redis-py, but not in its documentation: replies stay bytes whatever the client decodes.
from redis.client import NEVER_DECODE
from redis.cluster import ClusterPipeline
from redis.connection import SSLConnection

AS_BYTES: dict[str, Any] = {NEVER_DECODE: True}
"""Options of ``execute_command`` that make its reply bytes."""


def opened_in_another_loop(client: redis.asyncio.Redis | AsyncRedisCluster) -> bool:
    """Whether an idle connection of the client belongs to another event loop than the running one.

    Using it would raise in the middle of a command, some of which arrive all the same.
    """
    loop = asyncio.get_running_loop()
    writers = (connection._writer for connection in _idle(client))
    return any(writer is not None and writer._loop is not loop for writer in writers)


def _idle(client: redis.asyncio.Redis | AsyncRedisCluster) -> Iterator[Any]:
    if isinstance(client, AsyncRedisCluster):
        for node in client.get_nodes():
            yield from node._free
        return
    if client.connection is not None:
        yield client.connection
    yield from client.connection_pool._available_connections


class OwnTlsConnection(SSLConnection):
    """A TLS connection whose context is ours: redis-py's own always trusts the system too."""

    tls: Callable[[], ssl.SSLContext]

    def _wrap_socket_with_ssl(self, sock: Any) -> ssl.SSLSocket:
        return self.tls().wrap_socket(sock, server_hostname=self.host)


def last_words(connection: Any) -> bytes:
    """What the server of a connection sent before it hung up, and nobody has read.

    Args:
        connection: A connection of ``redis`` or ``redis.asyncio`` that is about to be dropped.
    """
    if hasattr(connection, "_reader"):
        return bytes(connection._reader._buffer) if connection._reader else b""
    if (sock := connection._sock) is None:
        return b""
    try:
        sock.settimeout(0)
        return bytes(sock.recv(4096))
    except OSError:
        return b""


def send_again(
    pipe: ClusterPipeline, retry: Callable[..., None], outages: tuple[type[Exception], ...]
) -> None:
    """Have a pipeline of a cluster, not a transaction, send again what an outage left unanswered.

    redis-py sends all of it again, what was answered included, and only as often as it counts.

    Args:
        pipe: The pipeline.
        retry: Calls its first argument until that succeeds or it is time to give up.
        outages: The errors after which a command is sent again.
    """
    strategy: Any = pipe._execution_strategy
    send = strategy.send_cluster_commands

    def send_patiently(stack: list[Any], raise_on_error: bool = True, **options: Any) -> list[Any]:
        def attempt() -> None:
            left = [one for one in stack if one.result is None or isinstance(one.result, outages)]
            send(left, raise_on_error=False, **options)
            for one in left:
                if isinstance(one.result, outages):
                    raise one.result

        try:
            retry(attempt, lambda _error: None)
        except outages as error:
            if all(one.result is not error for one in stack):
                raise
        for one in stack:
            if raise_on_error and isinstance(one.result, Exception):
                pipe.annotate_exception(one.result, one.position + 1, one.args)
                raise one.result
        return [one.result for one in stack]

    strategy.send_cluster_commands = send_patiently


class OwnListsPool(redis.ConnectionPool):
    """A pool that keeps its connections in a way of its own, and says which nobody has.

    redis-py reads its two lists to mark connections for a new login, and to count and drop them.
    """

    idle: Callable[[], list[Any]]
    in_use: Callable[[], set[Any]]

    @property
    def _available_connections(self) -> list[Any]:  # type: ignore[override]
        return self.idle()

    @property
    def _in_use_connections(self) -> set[Any]:  # type: ignore[override]
        return self.in_use()
