"""The redis-py clients that `connect` hands out: when they try again, log in again, and trust.

redis-py leaves four things open that this module settles for its four clients (one server and
cluster, each sync and async): a refused login is not tried again, an access token that went out of
date leads to a new login, a given certificate authority is the only one trusted, and a cluster's
fail-over is waited for.
"""

import asyncio
import ssl
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import lru_cache
from ipaddress import ip_address
from typing import Any, TypeVar

import redis
import redis.asyncio
from redis.asyncio.cluster import RedisCluster as AsyncRedisCluster
from redis.asyncio.connection import Connection as AsyncConnection
from redis.asyncio.connection import SSLConnection as AsyncSSLConnection
from redis.asyncio.connection import UnixDomainSocketConnection as AsyncUnixSocketConnection
from redis.asyncio.retry import Retry as AsyncRetry
from redis.backoff import ExponentialWithJitterBackoff, NoBackoff
from redis.cluster import RedisCluster
from redis.connection import Connection, SSLConnection, UnixDomainSocketConnection
from redis.exceptions import (
    AuthenticationError,
    AuthorizationError,
    ClusterError,
    RedisClusterException,
    SlotNotCoveredError,
)
from redis.retry import Retry

from memorystore_chat.connection.endpoint import Endpoint
from memorystore_chat.connection.iam import IamCredentials

T = TypeVar("T")

MAX_CONNECTIONS = 20
HEALTH_CHECK_SECONDS = 30
FIRST_PAUSE, LONGEST_PAUSE = 0.05, 1.0
SERVER_RETRIES = 5
# A cluster chooses a new primary within seconds; the time limit ends the waiting, not the count.
CLUSTER_RETRIES = 100

_OUTAGES = (redis.ConnectionError, redis.TimeoutError, OSError)
_CLUSTER_OUTAGES = (*_OUTAGES, ClusterError, SlotNotCoveredError, RedisClusterException)

# Raised as exactly ConnectionError: the cluster clients compare classes to decide on a retry.
_OUTDATED = "The access token went out of date; logging in again."

# Connecting has a retry of its own inside a command's: without this they would multiply.
_inside: ContextVar[bool] = ContextVar("inside_a_retry", default=False)


@contextmanager
def single_attempt() -> Iterator[None]:
    """Inside this block no client of this module tries anything twice."""
    token = _inside.set(True)
    try:
        yield
    finally:
        _inside.reset(token)


class _Patience:
    """When to try again: after an outage, with growing pauses, and not for ever."""

    def __init__(self, retries: int, seconds: float, errors: tuple[type[Exception], ...]) -> None:
        backoff = ExponentialWithJitterBackoff(LONGEST_PAUSE, FIRST_PAUSE)
        super().__init__(backoff, retries, errors)  # type: ignore[call-arg]
        self._seconds = seconds

    def _pause(self, error: Exception, failures: int, started: float) -> float | None:
        """Seconds to wait before the next attempt; None when there should be none."""
        final = (
            _inside.get()
            or failures > self._retries  # type: ignore[attr-defined]
            or time.monotonic() - started > self._seconds
            or isinstance(error, AuthenticationError | AuthorizationError)
            or (type(error) is RedisClusterException and not _unreachable(error))
        )
        return None if final else self._backoff.compute(failures)  # type: ignore[attr-defined]


def _unreachable(error: RedisClusterException) -> bool:
    """Whether no node answered; the same class reports misuse, which stays misuse."""
    cause = error.__cause__
    return isinstance(cause, _OUTAGES) and not isinstance(cause, AuthenticationError)


class PatientRetry(_Patience, Retry):
    """`_Patience` as redis-py calls it."""

    def call_with_retry(
        self,
        do: Callable[[], T],
        fail: Callable[..., Any],
        is_retryable: Callable[[Exception], bool] | None = None,
        with_failure_count: bool = False,
    ) -> T:
        """Call ``do`` until it succeeds or ``_pause`` says to give up; ``fail`` cleans up."""
        started, failures = time.monotonic(), 0
        while True:
            try:
                if _inside.get():
                    return do()
                with single_attempt():
                    return do()
            except self._supported_errors as error:
                failures += 1
                pause = self._pause(error, failures, started)
                if is_retryable is not None and not is_retryable(error):
                    pause = None
                fail(error, failures) if with_failure_count else fail(error)
                if pause is None:
                    raise
                time.sleep(pause)


class PatientAsyncRetry(_Patience, AsyncRetry):
    """`_Patience` as redis-py's asynchronous half calls it."""

    async def call_with_retry(
        self,
        do: Callable[[], Awaitable[T]],
        fail: Callable[..., Any],
        is_retryable: Callable[[Exception], bool] | None = None,
        with_failure_count: bool = False,
    ) -> T:
        """Call ``do`` until it succeeds or ``_pause`` says to give up; ``fail`` cleans up."""
        started, failures = time.monotonic(), 0
        while True:
            try:
                if _inside.get():
                    return await do()
                with single_attempt():
                    return await do()
            except self._supported_errors as error:
                failures += 1
                pause = self._pause(error, failures, started)
                if is_retryable is not None and not is_retryable(error):
                    pause = None
                await (fail(error, failures) if with_failure_count else fail(error))
                if pause is None:
                    raise
                await asyncio.sleep(pause)


class _Login(redis.CredentialProvider):
    """The login of one connection: knows which token it was, and whether the server took it."""

    def __init__(self, source: IamCredentials) -> None:
        self._source = source
        self._token = ""
        self._pending = False

    def get_credentials(self) -> tuple[str, str]:
        return self._note(self._source.get_credentials())

    async def get_credentials_async(self) -> tuple[str, str]:
        return self._note(await self._source.get_credentials_async())

    def _note(self, login: tuple[str, str]) -> tuple[str, str]:
        self._token = login[1]
        self._pending = True
        return login

    def answered(self) -> None:
        """The server answered something that is no refusal."""
        if self._pending:
            self._pending = False
            self._source.accepted(self._token)

    def outdated(self) -> bool:
        """The server refused; whether a new login may do better.

        A connection that was logged in has lost its login, which says nothing about the token.
        """
        return not self._pending or self._source.refused(self._token)


class _Renewing:
    """A connection that logs in again when the server no longer takes its access token."""

    credential_provider: redis.CredentialProvider | None

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        # RedisCluster drops this option on its way here, so it is set here for all.
        kwargs.setdefault("health_check_interval", HEALTH_CHECK_SECONDS)
        super().__init__(*args, **kwargs)
        self._login: _Login | None = None
        provider = kwargs.get("credential_provider")
        if isinstance(provider, IamCredentials):
            self._login = self.credential_provider = _Login(provider)


class _RenewingSync(_Renewing):
    retry: Retry

    def connect(self) -> None:
        # Around the login too: redis-py 7.1 tries only the socket again.
        connect = super().connect  # type: ignore[misc]
        self.retry.call_with_retry(connect, lambda _error: None)

    def read_response(self, *args: Any, **kwargs: Any) -> Any:
        try:
            response = super().read_response(*args, **kwargs)  # type: ignore[misc]
        except AuthenticationError as error:
            if self._login is None or not self._login.outdated():
                raise
            raise redis.ConnectionError(_OUTDATED) from error
        if self._login is not None:
            self._login.answered()
        return response


class _RenewingAsync(_Renewing):
    async def read_response(self, *args: Any, **kwargs: Any) -> Any:
        try:
            response = await super().read_response(*args, **kwargs)  # type: ignore[misc]
        except AuthenticationError as error:
            if self._login is None or not self._login.outdated():
                raise
            raise redis.ConnectionError(_OUTDATED) from error
        if self._login is not None:
            self._login.answered()
        return response


@lru_cache(maxsize=32)
def tls_context(ca_data: str | None, host: str) -> ssl.SSLContext:
    """What a TLS connection to ``host`` trusts.

    Args:
        ca_data: PEM text of the certificate authorities to trust, and no others; None trusts what
            the system trusts.
        host: Name or address the connection goes to. The certificate must name it, except where
            it is an IP address or this machine (the near end of a tunnel) and ``ca_data`` is
            given: Memorystore's certificates do not always name the address, and no other server
            has a certificate of that authority.
    """
    context = ssl.create_default_context(cadata=ca_data)
    if ca_data is not None:
        context.check_hostname = not _is_address(host)
        # On since Python 3.13, and refuses Memorystore's authorities, which lack the Authority Key
        # Identifier. https://docs.python.org/3/library/ssl.html#ssl.VERIFY_X509_STRICT
        context.verify_flags &= ~ssl.VERIFY_X509_STRICT
    return context


def _is_address(host: str) -> bool:
    try:
        ip_address(host)
    except ValueError:
        return host == "localhost"
    return True


class PlainConnection(_RenewingSync, Connection):
    """A TCP connection."""


class TlsConnection(_RenewingSync, SSLConnection):
    """A TLS connection that trusts what `tls_context` says."""

    def _wrap_socket_with_ssl(self, sock: Any) -> ssl.SSLSocket:
        return tls_context(self.ca_data, self.host).wrap_socket(sock, server_hostname=self.host)


class UnixConnection(_RenewingSync, UnixDomainSocketConnection):
    """A connection over a unix socket."""


class AsyncPlainConnection(_RenewingAsync, AsyncConnection):
    """A TCP connection."""


class AsyncTlsConnection(_RenewingAsync, AsyncSSLConnection):
    """A TLS connection that trusts what `tls_context` says."""

    def _connection_arguments(self) -> dict[str, Any]:
        arguments = dict(super()._connection_arguments())
        arguments["ssl"] = tls_context(self.ca_data, self.host)
        return arguments


class AsyncUnixConnection(_RenewingAsync, AsyncUnixSocketConnection):
    """A connection over a unix socket."""


class ClusterClient(RedisCluster):
    """A cluster client that waits for a fail-over, and closes all that it opened."""

    def __init__(self, *, patience: PatientRetry, **options: Any) -> None:
        self._patience = patience
        super().__init__(**options)

    def execute_command(self, *args: Any, **kwargs: Any) -> Any:
        """Run a command; after an outage, run it again until it succeeds or time is up."""
        run: Callable[..., Any] = super().execute_command
        return self._patience.call_with_retry(lambda: run(*args, **kwargs), lambda _error: None)

    def close(self) -> None:
        """Close every connection to every node."""
        super().close()
        # Its nodes' pools stay open without this, as they were made apart from their clients.
        if hasattr(self, "nodes_manager"):
            self.disconnect_connection_pools()  # type: ignore[no-untyped-call]


class AsyncClusterClient(AsyncRedisCluster):
    """A cluster client that waits for a fail-over."""

    __slots__ = ("_patience",)

    def __init__(self, *, patience: PatientAsyncRetry, **options: Any) -> None:
        self._patience = patience
        super().__init__(**options)

    async def execute_command(self, *args: Any, **kwargs: Any) -> Any:
        """Run a command; after an outage, run it again until it succeeds or time is up."""
        run = super().execute_command
        return await self._patience.call_with_retry(lambda: run(*args, **kwargs), _nothing)


async def _nothing(_error: Exception) -> None:
    """The cluster client has cleaned up by itself."""


def open_server(endpoint: Endpoint, timeout: float, **options: Any) -> redis.Redis:
    """A client of one server; see `connect` for what the arguments mean."""
    pool = redis.BlockingConnectionPool(  # type: ignore[no-untyped-call]
        connection_class=_connection_class(
            endpoint, UnixConnection, TlsConnection, PlainConnection
        ),
        retry=PatientRetry(SERVER_RETRIES, 2 * timeout, _OUTAGES),
        **_server_options(endpoint, timeout) | options,
    )
    return redis.Redis.from_pool(pool)


def open_server_async(endpoint: Endpoint, timeout: float, **options: Any) -> redis.asyncio.Redis:
    """The asynchronous twin of `open_server`."""
    chosen = _connection_class(
        endpoint, AsyncUnixConnection, AsyncTlsConnection, AsyncPlainConnection
    )
    pool = redis.asyncio.BlockingConnectionPool(
        connection_class=chosen,
        retry=PatientAsyncRetry(SERVER_RETRIES, 2 * timeout, _OUTAGES),
        **_server_options(endpoint, timeout) | options,
    )
    return redis.asyncio.Redis.from_pool(pool)


def open_cluster(endpoint: Endpoint, timeout: float, **options: Any) -> ClusterClient:
    """A client of a cluster; see `connect` for what the arguments mean."""
    host = f"[{endpoint.host}]" if ":" in endpoint.host else endpoint.host
    return ClusterClient(
        # Only with a url does RedisCluster take a connection class; the class speaks TLS or not.
        url=f"redis://{host}:{endpoint.port}",
        connection_class=_connection_class(endpoint, None, TlsConnection, PlainConnection),
        connection_pool_class=redis.BlockingConnectionPool,
        timeout=timeout,
        retry=Retry(NoBackoff(), 1),
        patience=PatientRetry(CLUSTER_RETRIES, 2 * timeout, _CLUSTER_OUTAGES),
        **_options(endpoint, timeout) | options,
    )


def open_cluster_async(endpoint: Endpoint, timeout: float, **options: Any) -> AsyncClusterClient:
    """The asynchronous twin of `open_cluster`."""
    client = AsyncClusterClient(
        host=endpoint.host,
        port=endpoint.port,
        ssl=endpoint.tls,
        retry=AsyncRetry(NoBackoff(), 1),
        patience=PatientAsyncRetry(CLUSTER_RETRIES, 2 * timeout, _CLUSTER_OUTAGES),
        **_options(endpoint, timeout) | options,
    )
    # It has no option for the connection class, which every node reads from these two places.
    chosen = _connection_class(endpoint, None, AsyncTlsConnection, AsyncPlainConnection)
    client.connection_kwargs["connection_class"] = chosen
    for node in client.startup_nodes:
        node.connection_class = chosen
    return client


def _connection_class(endpoint: Endpoint, unix: Any, tls: Any, plain: Any) -> Any:
    if endpoint.unix_socket:
        return unix
    return tls if endpoint.tls else plain


def _server_options(endpoint: Endpoint, timeout: float) -> dict[str, Any]:
    place: dict[str, Any] = {"host": endpoint.host, "port": endpoint.port}
    if endpoint.unix_socket:
        place = {"path": endpoint.unix_socket}
    return place | {"db": endpoint.db, "timeout": timeout} | _options(endpoint, timeout)


def _options(endpoint: Endpoint, timeout: float) -> dict[str, Any]:
    """What all four clients are given."""
    options: dict[str, Any] = {
        # RESP3 begins with HELLO, which Redis 5 does not know and no reply here needs.
        "protocol": 2,
        "socket_timeout": timeout,
        "socket_connect_timeout": timeout,
        "max_connections": MAX_CONNECTIONS,
        "health_check_interval": HEALTH_CHECK_SECONDS,
    }
    if endpoint.credential_provider is not None:
        options["credential_provider"] = endpoint.credential_provider
    elif endpoint.password is not None:
        # As an object, since the repr of an older redis-py client shows its password.
        options["credential_provider"] = redis.UsernamePasswordCredentialProvider(
            endpoint.user, endpoint.password
        )
    if endpoint.tls and endpoint.ca_certs:
        options["ssl_ca_data"] = "\n".join(endpoint.ca_certs)
    return options
