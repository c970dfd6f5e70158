"""The redis-py clients that `connect` hands out: of one server or a cluster, sync or async."""

from functools import lru_cache
from typing import Any, Self, cast

import redis
import redis.asyncio
from redis.driver_info import DriverInfo

from memorystore_chat.connection.clusters import AsyncClusterClient, ClusterClient
from memorystore_chat.connection.connections import (
    HEALTH_CHECK_SECONDS,
    AsyncPlainConnection,
    AsyncTlsConnection,
    AsyncUnixConnection,
    PlainConnection,
    TlsConnection,
    UnixConnection,
)
from memorystore_chat.connection.endpoint import Endpoint
from memorystore_chat.connection.pools import AsyncPool, Pool
from memorystore_chat.connection.retries import AsyncOutageRetry, OutageRetry
from memorystore_chat.connection.tls import tls_context


class ServerClient(redis.Redis):
    """A client of one server. redis-py does not say what its ``with`` block is given."""

    def __enter__(self) -> Self:
        return self


def warm_up(endpoint: Endpoint) -> None:
    """Read from disk, once, what connections would read otherwise, on the event loop even."""
    _driver_info()
    if endpoint.tls:
        tls_context("\n".join(endpoint.ca_certs) or None, endpoint.host)


def open_server(
    endpoint: Endpoint, timeout: float, patience: float | None = None, **options: Any
) -> ServerClient:
    """A client of one server; see `connect` for what the arguments mean."""
    pool = Pool(
        connection_class=_connection_class(
            endpoint, UnixConnection, TlsConnection, PlainConnection
        ),
        retry=OutageRetry(_patience(patience, timeout), timeout=timeout),
        **_place(endpoint, timeout) | _options(endpoint, timeout) | options,
    )
    return cast("ServerClient", ServerClient.from_pool(pool))


def open_server_async(
    endpoint: Endpoint, timeout: float, patience: float | None = None, **options: Any
) -> redis.asyncio.Redis:
    """The asynchronous twin of `open_server`."""
    pool = AsyncPool(
        connection_class=_connection_class(
            endpoint, AsyncUnixConnection, AsyncTlsConnection, AsyncPlainConnection
        ),
        retry=AsyncOutageRetry(_patience(patience, timeout)),
        **_place(endpoint, timeout) | _options(endpoint, timeout) | options,
    )
    return redis.asyncio.Redis.from_pool(pool)


def open_cluster(
    endpoint: Endpoint, timeout: float, patience: float | None, **options: Any
) -> ClusterClient:
    """A client of a cluster; see `connect` for what the arguments mean."""
    host = f"[{endpoint.host}]" if ":" in endpoint.host else endpoint.host
    return ClusterClient(
        # Only with a url does RedisCluster take a connection class; the class speaks TLS or not.
        url=f"redis://{host}:{endpoint.port}",
        connection_class=_connection_class(endpoint, None, TlsConnection, PlainConnection),
        connection_pool_class=Pool,
        timeout=timeout,
        retry=OutageRetry(_patience(patience, timeout), timeout=timeout, cluster=True),
        **_options(endpoint, timeout) | options,
    )


def open_cluster_async(
    endpoint: Endpoint, timeout: float, patience: float | None, **options: Any
) -> AsyncClusterClient:
    """The asynchronous twin of `open_cluster`."""
    return AsyncClusterClient(
        host=endpoint.host,
        port=endpoint.port,
        ssl=endpoint.tls,
        connection_class=_connection_class(
            endpoint, None, AsyncTlsConnection, AsyncPlainConnection
        ),
        retry=AsyncOutageRetry(_patience(patience, timeout), cluster=True),
        **_options(endpoint, timeout) | options,
    )


def _patience(given: float | None, timeout: float) -> float:
    return 2 * timeout if given is None else given


def _connection_class(endpoint: Endpoint, unix: Any, tls: Any, plain: Any) -> Any:
    if endpoint.unix_socket:
        return unix
    return tls if endpoint.tls else plain


def _place(endpoint: Endpoint, timeout: float) -> dict[str, Any]:
    place = {"db": endpoint.db, "timeout": timeout}
    if endpoint.unix_socket:
        return place | {"path": endpoint.unix_socket}
    return place | {"host": endpoint.host, "port": endpoint.port}


def _options(endpoint: Endpoint, timeout: float) -> dict[str, Any]:
    """What all four clients are given."""
    options: dict[str, Any] = {
        # RESP3 begins with HELLO, which Redis 5 does not know and no reply here needs.
        "protocol": 2,
        "socket_timeout": timeout,
        "socket_connect_timeout": timeout,
        "max_connections": 20,
        "health_check_interval": HEALTH_CHECK_SECONDS,
        "driver_info": _driver_info(),
    }
    if endpoint.credential_provider is not None:
        options["credential_provider"] = endpoint.credential_provider
    elif endpoint.password is not None:
        options["credential_provider"] = redis.UsernamePasswordCredentialProvider(
            endpoint.user, endpoint.password
        )
    if endpoint.tls and endpoint.ca_certs:
        options["ssl_ca_data"] = "\n".join(endpoint.ca_certs)
    return options


@lru_cache(maxsize=1)
def _driver_info() -> DriverInfo:
    """What a connection says about its library; redis-py reads package metadata for it."""
    return DriverInfo()
