"""When a command is tried again: after an outage, with growing pauses, for a bounded time.

redis-py counts tries; an outage is measured in seconds. And it tries to connect again inside each
try of a command, which multiplies: here only the outermost try is repeated.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, TypeVar

import redis
from redis.asyncio.retry import Retry as AsyncRetry
from redis.backoff import ExponentialWithJitterBackoff
from redis.exceptions import (
    AuthenticationError,
    ClusterError,
    MaxConnectionsError,
    RedisClusterException,
)
from redis.retry import Retry

T = TypeVar("T")

OUTAGES = (redis.ConnectionError, redis.TimeoutError, OSError)
CLUSTER_OUTAGES = (*OUTAGES, ClusterError, RedisClusterException)

_inside: ContextVar[bool] = ContextVar("inside_a_try", default=False)


@contextmanager
def single_attempt() -> Iterator[None]:
    """Inside this block nothing is tried twice."""
    token = _inside.set(True)
    try:
        yield
    finally:
        _inside.reset(token)


class _Outages:
    """Which errors are outages, and how long one is waited for."""

    # Waiting mends neither a refused login nor, after the pool has waited, a lack of connections.
    final: tuple[type[Exception], ...] = (AuthenticationError, MaxConnectionsError)

    def __init__(self, patience: float, *, timeout: float = 0, cluster: bool = False) -> None:
        self.outages: tuple[type[Exception], ...] = CLUSTER_OUTAGES if cluster else OUTAGES
        self.pauses = ExponentialWithJitterBackoff(cap=1.0, base=0.05)
        # No counted tries: the cluster clients would make them without a pause.
        super().__init__(self.pauses, 0, self.outages)  # type: ignore[call-arg]
        self.patience = patience
        self.timeout = timeout
        self.cluster = cluster

    def update_supported_errors(self, specified_errors: Iterable[type[Exception]]) -> None:
        """Count more errors as outages: those of ``retry_on_error=``."""
        self.outages = (*self.outages, *specified_errors)

    def _pause(
        self,
        error: Exception,
        failures: int,
        started: float,
        is_retryable: Callable[[Exception], bool] | None,
    ) -> float | None:
        """Seconds to wait before the next attempt; None when there should be none."""
        final = (
            _inside.get()
            or time.monotonic() - started >= self.patience
            or isinstance(error, self.final)
            or (type(error) is RedisClusterException and not _unreachable(error))
            or (is_retryable is not None and not is_retryable(error))
        )
        if final:
            return None
        if not self.cluster:
            return float(self.pauses.compute(failures))
        # The failure made the client look up who serves what: the next try uses it at once.
        return 0.0 if failures % 2 else float(self.pauses.compute(failures // 2))


def _unreachable(error: RedisClusterException) -> bool:
    """Whether no node answered; the same class reports misuse, which stays misuse."""
    cause = error.__cause__
    return isinstance(cause, OUTAGES) and not isinstance(cause, AuthenticationError)


def _alarm(error: Exception, seconds: float, timeout: float) -> TimeoutError | None:
    """The TimeoutError of a program's own alarm, if it is behind this error.

    Sockets raise the same class; but one that is out of time has waited for it, or knows an errno.
    """
    for link in chain_of(error):
        if isinstance(link, TimeoutError) and link.errno is None and seconds < 0.9 * timeout:
            return link
    return None


def chain_of(error: BaseException | None) -> Iterator[BaseException]:
    """The error, its cause or context, that one's cause or context, and so on."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__


class OutageRetry(_Outages, Retry):
    """What redis-py calls to run something that an outage may hit.

    Args:
        patience: Seconds from the first failure after which no new attempt begins.
        timeout: Seconds that a socket waits before it is out of time.
        cluster: Whether the client is one of a cluster.
    """

    def call_with_retry(
        self,
        do: Callable[[], T],
        fail: Callable[..., Any],
        is_retryable: Callable[[Exception], bool] | None = None,
        with_failure_count: bool = False,
    ) -> T:
        """Call ``do`` until it succeeds or it is time to give up; ``fail`` cleans up."""
        started, failures = 0.0, 0
        while True:
            began = time.monotonic()
            try:
                with single_attempt():
                    return do()
            except self.outages as error:
                if alarm := _alarm(error, time.monotonic() - began, self.timeout):
                    raise alarm from None
                failures += 1
                started = started or time.monotonic()
                pause = self._pause(error, failures, started, is_retryable)
                fail(error, failures) if with_failure_count else fail(error)
                if pause is None:
                    raise
                time.sleep(pause)


class AsyncOutageRetry(_Outages, AsyncRetry):
    """`OutageRetry` for redis-py's asynchronous half."""

    async def call_with_retry(
        self,
        do: Callable[[], Awaitable[T]],
        fail: Callable[..., Any],
        is_retryable: Callable[[Exception], bool] | None = None,
        with_failure_count: bool = False,
    ) -> T:
        """Call ``do`` until it succeeds or it is time to give up; ``fail`` cleans up."""
        started, failures = 0.0, 0
        while True:
            try:
                with single_attempt():
                    return await do()
            except self.outages as error:
                failures += 1
                started = started or time.monotonic()
                pause = self._pause(error, failures, started, is_retryable)
                await (fail(error, failures) if with_failure_count else fail(error))
                if pause is None:
                    raise
                await asyncio.sleep(pause)
