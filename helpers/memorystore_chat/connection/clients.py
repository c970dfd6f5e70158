"""The redis-py clients that `connect` hands out: of one server or a cluster, sync or async."""

import asyncio
import ssl
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Self, cast

import redis
import redis.asyncio
from redis.asyncio.cluster import RedisCluster as AsyncRedisCluster
from redis.asyncio.connection import SSLConnection as AsyncSSLConnection
from redis.asyncio.connection import UnixDomainSocketConnection as AsyncUnixConnection
from redis.cluster import ClusterPipeline, RedisCluster
from redis.connection import Connection, SSLConnection, UnixDomainSocketConnection
from redis.driver_info import DriverInfo
from redis.exceptions import MaxConnectionsError, ResponseError

from memorystore_chat import signals
from memorystore_chat.connection.endpoint import Endpoint
from memorystore_chat.connection.outages import AsyncOutageRetry, Login, OutageRetry
from memorystore_chat.connection.tls import tls_context
from memorystore_chat.errors import ANOTHER_LOOP, ConnectError

if TYPE_CHECKING:
    from collections.abc import Callable

_HEALTH_CHECK: dict[str, Any] = {"health_check_interval": 30}
_NOTHING_FREE = "No connection available"  # what redis-py's pools say


class PlainConnection(Connection):
    """A TCP connection."""

    def __init__(self, **options: Any) -> None:
        # RedisCluster takes no option for the health check, so it is set here.
        super().__init__(**_HEALTH_CHECK | options)  # type: ignore[no-untyped-call]


class TlsConnection(SSLConnection):
    """A TLS connection that trusts what was given; redis-py's own trusts the system's as well."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**_HEALTH_CHECK | options)

    def _wrap_socket_with_ssl(self, sock: Any) -> ssl.SSLSocket:
        context = tls_context(self.ca_data, self.host, self.check_hostname)
        return context.wrap_socket(sock, server_hostname=self.host)


class AsyncTlsConnection(AsyncSSLConnection):
    """`TlsConnection` for redis-py's asynchronous half."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.ssl_context.context = tls_context(self.ca_data, self.host, self.check_hostname)


class Pool(redis.BlockingConnectionPool):
    """redis-py's pool, with an error of its own if no connection becomes free."""

    def get_connection(self, *_: Any, **__: Any) -> Any:
        """Lend a connection that is logged in."""
        try:
            return super().get_connection()  # type: ignore[no-untyped-call]
        except redis.ConnectionError as error:
            if _NOTHING_FREE not in str(error):
                raise
            raise _exhausted(self.max_connections, self.timeout) from error


class AsyncPool(redis.asyncio.BlockingConnectionPool):
    """`Pool` for redis-py's asynchronous half; it keeps to one event loop."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._loop: asyncio.AbstractEventLoop | None = None

    async def get_connection(self, *_: Any, **__: Any) -> Any:
        """Lend a connection that is logged in."""
        self._loop = _same_loop(self._loop)
        try:
            return await super().get_connection()  # type: ignore[no-untyped-call]
        except redis.ConnectionError as error:
            if _NOTHING_FREE not in str(error):
                raise
            raise _exhausted(self.max_connections, self.timeout) from error

    async def disconnect(self, inuse_connections: bool = True) -> None:
        """Disconnect; afterwards another event loop may use the pool."""
        await super().disconnect(inuse_connections)
        if inuse_connections:
            self._loop = None


def _exhausted(most: int, seconds: float | None) -> MaxConnectionsError:
    return MaxConnectionsError(f"all {most} connections were in use for {seconds:g} s")


def _same_loop(first: asyncio.AbstractEventLoop | None) -> asyncio.AbstractEventLoop:
    """Return the running event loop; connections of another one would fail in mid-command."""
    loop = asyncio.get_running_loop()
    if first not in (None, loop):
        raise ConnectError(f"Nothing was sent. {ANOTHER_LOOP}")
    return loop


class ServerClient(redis.Redis):
    """A client of one server. Its pipelines are redis-py's: a signal may interrupt them."""

    def __enter__(self) -> Self:
        return self

    def execute_command(self, *args: Any, **options: Any) -> Any:
        """Run a command; after an outage, run it again until it succeeds or time is up."""
        run: Callable[..., Any] = super().execute_command
        with signals.postponed():
            return run(*args, **options)


class ClusterClient(RedisCluster):
    """A client of a cluster that waits for a failover, and closes all that it opened.

    A pipeline sends again, one by one, the commands that an outage left unanswered. It does not
    wait for a node that cannot be reached when it begins, and a signal may interrupt it.
    """

    def __enter__(self) -> Self:
        return self

    def execute_command(self, *args: Any, **kwargs: Any) -> Any:
        """Run a command; after an outage, run it again until it succeeds or time is up."""
        run: Callable[..., Any] = super().execute_command
        with signals.postponed():
            return self.retry.call_with_retry(lambda: run(*args, **kwargs), self._drop_idle)

    def _drop_idle(self, error: BaseException) -> None:
        # After the others redis-py has done so itself.
        if isinstance(error, ResponseError | redis.AuthenticationError) or not isinstance(
            error, Exception
        ):
            for node in self.get_nodes():
                if node.redis_connection is not None:
                    node.redis_connection.connection_pool.disconnect(inuse_connections=False)

    def pipeline(self, transaction: bool | None = None, shard_hint: Any = None) -> ClusterPipeline:
        """Return a pipeline."""
        make: Callable[..., ClusterPipeline] = super().pipeline
        pipe = make(transaction, shard_hint)
        pipe.parent_execute_command = self.execute_command
        return pipe

    def close(self) -> None:
        """Close every connection to every node."""
        super().close()
        # Its nodes' pools stay open without this, as they were made apart from their clients.
        if hasattr(self, "nodes_manager"):
            self.disconnect_connection_pools()


class AsyncClusterClient(AsyncRedisCluster):
    """A client of a cluster that waits for a failover; its pipelines, which are redis-py's, don't.

    While slots move it relies on redis-py, which sends ASKING and the command apart: with several
    commands under way they may be tried again until the slot has moved.
    """

    def __init__(self, *, patience: float, connection_class: Any = None, **options: Any) -> None:
        super().__init__(**options)
        self._patience = patience
        self._loop: asyncio.AbstractEventLoop | None = None
        if connection_class is not None:
            # There is no option for it; every node reads it from these two places.
            self.connection_kwargs["connection_class"] = connection_class
            for node in self.startup_nodes:
                node.connection_class = connection_class

    async def __aenter__(self) -> Self:
        await super().__aenter__()
        return self

    async def execute_command(self, *args: Any, **kwargs: Any) -> Any:
        """Run a command; after an outage, run it again until it succeeds or time is up."""
        self._loop = _same_loop(self._loop)
        run = super().execute_command
        try:
            return await self.retry.call_with_retry(lambda: run(*args, **kwargs), self._drop_idle)
        except MaxConnectionsError as error:
            most = self.connection_kwargs["max_connections"]
            raise _exhausted(most, self._patience) from error

    async def _drop_idle(self, error: Exception) -> None:
        if isinstance(error, ResponseError | redis.AuthenticationError):
            for node in self.get_nodes():
                await node.disconnect_free_connections()

    async def aclose(self) -> None:
        """Close all connections; afterwards another event loop may use the client."""
        await super().aclose()
        self._loop = None


def warm_up(endpoint: Endpoint) -> None:
    """Read from disk, once, what connections would read otherwise, on the event loop even."""
    _driver_info()
    if endpoint.tls:
        tls_context("\n".join(endpoint.ca_certs) or None, endpoint.host, endpoint.check_hostname)


def open_server(
    endpoint: Endpoint, timeout: float, patience: float, *, unreachable: bool = True, **options: Any
) -> ServerClient:
    """Return a client of one server; see `connect` for what the arguments mean."""
    place = _place(endpoint, UnixDomainSocketConnection, TlsConnection, Connection)
    all_options = _options(endpoint, timeout) | place | options
    retry = OutageRetry(patience, all_options["credential_provider"], unreachable=unreachable)
    pool = Pool(retry=retry, timeout=timeout, **all_options)
    return cast("ServerClient", ServerClient.from_pool(pool))


def open_server_async(
    endpoint: Endpoint, timeout: float, patience: float, *, unreachable: bool = True, **options: Any
) -> redis.asyncio.Redis:
    """Return the asynchronous twin of `open_server`."""
    place = _place(endpoint, AsyncUnixConnection, AsyncTlsConnection, redis.asyncio.Connection)
    all_options = _options(endpoint, timeout) | place | options
    retry = AsyncOutageRetry(patience, all_options["credential_provider"], unreachable=unreachable)
    return redis.asyncio.Redis.from_pool(AsyncPool(retry=retry, timeout=timeout, **all_options))


def open_cluster(
    endpoint: Endpoint, timeout: float, patience: float, **options: Any
) -> ClusterClient:
    """Return a client of a cluster; see `connect` for what the arguments mean."""
    host = f"[{endpoint.host}]" if ":" in endpoint.host else endpoint.host
    all_options = _options(endpoint, timeout) | options
    return ClusterClient(
        # Only with a url does RedisCluster take a connection class; the class speaks TLS or not.
        url=f"redis://{host}:{endpoint.port}",
        connection_class=TlsConnection if endpoint.tls else PlainConnection,
        connection_pool_class=Pool,
        timeout=timeout,
        retry=OutageRetry(patience, all_options["credential_provider"]),
        **all_options,
    )


def open_cluster_async(
    endpoint: Endpoint, timeout: float, patience: float, **options: Any
) -> AsyncClusterClient:
    """Return the asynchronous twin of `open_cluster`."""
    all_options = _options(endpoint, timeout) | options
    return AsyncClusterClient(
        host=endpoint.host,
        port=endpoint.port,
        ssl=endpoint.tls,
        connection_class=AsyncTlsConnection if endpoint.tls else None,
        # Its nodes have no pool that waits for a free connection: trying again does the waiting.
        retry=AsyncOutageRetry(patience, all_options["credential_provider"], crowded=True),
        patience=patience,
        **all_options,
    )


def _place(endpoint: Endpoint, unix: Any, tls: Any, plain: Any) -> dict[str, Any]:
    if endpoint.unix_socket:
        return {"connection_class": unix, "path": endpoint.unix_socket, "db": endpoint.db}
    place = {"host": endpoint.host, "port": endpoint.port, "db": endpoint.db}
    return place | {"connection_class": tls if endpoint.tls else plain}


def _options(endpoint: Endpoint, timeout: float) -> dict[str, Any]:
    """Return what all four clients are given."""
    provider = endpoint.credential_provider
    if provider is None and endpoint.password is not None:
        provider = redis.UsernamePasswordCredentialProvider(endpoint.user, endpoint.password)
    options = _HEALTH_CHECK | {
        # RESP3 begins with HELLO, which Redis 5 does not know and no reply here needs.
        "protocol": 2,
        "socket_timeout": timeout,
        "socket_connect_timeout": timeout,
        "max_connections": 20,
        "driver_info": _driver_info(),
        "credential_provider": provider and Login(provider),
    }
    if endpoint.tls:
        options["ssl_ca_data"] = "\n".join(endpoint.ca_certs) or None
        options["ssl_check_hostname"] = endpoint.check_hostname
    return options


@lru_cache(maxsize=1)
def _driver_info() -> DriverInfo:
    """Return what a connection says about its library; redis-py reads package metadata for it."""
    return DriverInfo()
