"""The redis-py clients that `connect` hands out: of one server or a cluster, sync or async."""

import ssl
from functools import lru_cache, partial
from typing import Any, Self, cast

import redis
import redis.asyncio
from redis.asyncio.cluster import RedisCluster as AsyncRedisCluster
from redis.asyncio.connection import SSLConnection as AsyncSSLConnection
from redis.asyncio.connection import UnixDomainSocketConnection as AsyncUnixConnection
from redis.cluster import RedisCluster
from redis.connection import Connection, SSLConnection, UnixDomainSocketConnection
from redis.driver_info import DriverInfo

from memorystore_chat import signals
from memorystore_chat.commands import drop_idle_connections
from memorystore_chat.connection.endpoint import Endpoint
from memorystore_chat.connection.outages import AsyncOutageRetry, Login, OutageRetry
from memorystore_chat.connection.tls import tls_context

# What a connection says about its library: made once, as it reads the package's metadata.
driver_info = lru_cache(maxsize=1)(DriverInfo)


class TlsConnection(SSLConnection):
    """A TLS connection that trusts what was given; redis-py's own trusts the system's as well."""

    def _wrap_socket_with_ssl(self, sock: Any) -> ssl.SSLSocket:
        context = tls_context(self.ca_data, self.host, self.check_hostname)
        return context.wrap_socket(sock, server_hostname=self.host)


class AsyncTlsConnection(AsyncSSLConnection):
    """`TlsConnection` for redis-py's asynchronous half."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.ssl_context.context = tls_context(self.ca_data, self.host, self.check_hostname)


class ServerClient(redis.Redis):
    """A client of one server. Its pipelines are redis-py's: a signal may interrupt them."""

    def __enter__(self) -> Self:
        return self

    def execute_command(self, *args: Any, **options: Any) -> Any:
        """Run a command; after an outage, run it again until it succeeds or time is up."""
        run: Any = super().execute_command
        with signals.postponed():
            return run(*args, **options)


class ClusterClient(RedisCluster):
    """A client of a cluster that waits for a failover; its pipelines are redis-py's and don't.

    If none of its connections to a node becomes free in time, redis-py looks for the nodes again.
    """

    def __enter__(self) -> Self:
        return self

    def execute_command(self, *args: Any, **options: Any) -> Any:
        """Run a command; after an outage, run it again until it succeeds or time is up."""
        run: Any = super().execute_command
        with signals.postponed():
            return self.retry.call_with_retry(lambda: run(*args, **options), self._drop_idle)

    def _drop_idle(self, error: BaseException) -> None:
        # redis-py drops what an error breaks, and not what a second Ctrl-C leaves with a reply.
        if not isinstance(error, Exception):
            drop_idle_connections(self)

    def close(self) -> None:
        """Close every connection to every node."""
        super().close()
        # Its nodes' pools stay open without this, as they were made apart from their clients.
        self.disconnect_connection_pools()


class AsyncClusterClient(AsyncRedisCluster):
    """A client of a cluster that waits for a failover; its pipelines are redis-py's and don't.

    While slots move it relies on redis-py, which sends ASKING and the command apart: with several
    commands under way they may be tried again until the slot has moved.
    """

    retry: AsyncOutageRetry

    async def execute_command(self, *args: Any, **options: Any) -> Any:
        """Run a command; after an outage, run it again until it succeeds or time is up."""
        run = super().execute_command
        return await self.retry.call_with_retry(lambda: run(*args, **options))


def open_client(
    endpoint: Endpoint, timeout: float, patience: float, **client_options: Any
) -> ServerClient | ClusterClient:
    """Return a client that has been pinged; see `connect` for what the arguments mean."""
    kinds = (Connection, TlsConnection, UnixDomainSocketConnection)
    options = _options(endpoint, timeout, OutageRetry, *kinds) | client_options
    client: Any
    if endpoint.cluster:
        host = f"[{endpoint.host}]" if ":" in endpoint.host else endpoint.host
        # Only with a url does RedisCluster take a connection class; that speaks TLS or not.
        options["url"] = f"redis://{host}:{endpoint.port}"
        # It has no option for the health check.
        check = options.pop("health_check_interval")
        pool = partial(redis.BlockingConnectionPool, health_check_interval=check)
        client = ClusterClient(connection_pool_class=pool, timeout=timeout, **options)
    else:
        client = ServerClient.from_pool(redis.BlockingConnectionPool(timeout=timeout, **options))
    try:
        client.ping(**_one_node(endpoint))
    except BaseException:
        client.close()
        raise
    options["retry"].patience = patience
    return cast("ServerClient | ClusterClient", client)


async def open_client_async(
    endpoint: Endpoint,
    timeout: float,  # noqa: ASYNC109 - of its connections
    patience: float,
    **client_options: Any,
) -> redis.asyncio.Redis | AsyncClusterClient:
    """Return the asynchronous twin of `open_client`."""
    kinds = (redis.asyncio.Connection, AsyncTlsConnection, AsyncUnixConnection)
    options = _options(endpoint, timeout, AsyncOutageRetry, *kinds) | client_options
    client: Any
    if endpoint.cluster:
        tcp = options.pop("connection_class")
        client = AsyncClusterClient(endpoint.host, endpoint.port, ssl=endpoint.tls, **options)
        # There is no option for it; every node reads it from these two places.
        client.connection_kwargs["connection_class"] = tcp
        for node in client.startup_nodes:
            node.connection_class = tcp
    else:
        pool = redis.asyncio.BlockingConnectionPool(timeout=timeout, **options)
        client = redis.asyncio.Redis.from_pool(pool)
    try:
        await client.ping(**_one_node(endpoint))
    except BaseException:
        await client.aclose()
        raise
    options["retry"].patience = patience
    return cast("redis.asyncio.Redis | AsyncClusterClient", client)


def _one_node(endpoint: Endpoint) -> dict[str, Any]:
    return {"target_nodes": RedisCluster.DEFAULT_NODE} if endpoint.cluster else {}


def _options(
    endpoint: Endpoint, timeout: float, retry: Any, tcp: Any, tls: Any, unix: Any
) -> dict[str, Any]:
    """Return what all four clients are given, with their own kinds of retry and connection."""
    provider = endpoint.credential_provider
    if provider is None and endpoint.password is not None:
        provider = redis.UsernamePasswordCredentialProvider(endpoint.user, endpoint.password)
    login = provider and Login(provider)
    options = {
        # RESP3 begins with HELLO, which Redis 5 does not know and no reply here needs.
        "protocol": 2,
        "socket_timeout": timeout,
        "socket_connect_timeout": timeout,
        "health_check_interval": 30,
        "max_connections": 20,
        "driver_info": driver_info(),
        "credential_provider": login,
        "retry": retry(0, login),
        "connection_class": tls if endpoint.tls else tcp,
    }
    if endpoint.tls:
        options["ssl_ca_data"] = "\n".join(endpoint.ca_certs) or None
        options["ssl_check_hostname"] = endpoint.check_hostname
    if endpoint.unix_socket:
        return options | {"connection_class": unix, "path": endpoint.unix_socket, "db": endpoint.db}
    if endpoint.cluster:
        return options
    return options | {"host": endpoint.host, "port": endpoint.port, "db": endpoint.db}
