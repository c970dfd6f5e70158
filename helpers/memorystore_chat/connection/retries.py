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
    AuthorizationError,
    ClusterError,
    MaxConnectionsError,
    RedisClusterException,
)
from redis.retry import Retry

T = TypeVar("T")

FIRST_PAUSE, LONGEST_PAUSE = 0.05, 1.0

OUTAGES = (redis.ConnectionError, redis.TimeoutError, OSError)
CLUSTER_OUTAGES = (*OUTAGES, ClusterError, RedisClusterException)

# Waiting mends neither a refused login nor, after the pool has waited already, a lack of
# connections.
_FINAL = (AuthenticationError, AuthorizationError, MaxConnectionsError)

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

    def __init__(
        self,
        patience: float,
        outages: tuple[type[Exception], ...] = OUTAGES,
        final: tuple[type[Exception], ...] = _FINAL,
    ) -> None:
        self.pauses = ExponentialWithJitterBackoff(LONGEST_PAUSE, FIRST_PAUSE)
        super().__init__(self.pauses, -1, outages)  # type: ignore[call-arg]
        self.patience = patience
        self.outages = outages
        self.final = final

    def update_supported_errors(self, specified_errors: Iterable[type[Exception]]) -> None:
        """Count more errors as outages, as redis-py does for ``retry_on_error=``."""
        self.outages = (*self.outages, *specified_errors)

    def _pause(self, error: Exception, failures: int, started: float) -> float | None:
        """Seconds to wait before the next attempt; None when there should be none."""
        final = (
            _inside.get()
            or time.monotonic() - started >= self.patience
            or isinstance(error, self.final)
            or (type(error) is RedisClusterException and not _unreachable(error))
        )
        return None if final else float(self.pauses.compute(failures))


def _unreachable(error: RedisClusterException) -> bool:
    """Whether no node answered; the same class reports misuse, which stays misuse."""
    cause = error.__cause__
    return isinstance(cause, OUTAGES) and not isinstance(cause, AuthenticationError)


class OutageRetry(_Outages, Retry):
    """What redis-py calls to run something that an outage may hit.

    Args:
        patience: Seconds from the first failure after which no new attempt begins.
        outages: The errors after which to try again.
        final: Those among them after which not to.
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
            try:
                if _inside.get():
                    return do()
                with single_attempt():
                    return do()
            except self.outages as error:
                failures += 1
                started = started or time.monotonic()
                pause = self._pause(error, failures, started)
                if is_retryable is not None and not is_retryable(error):
                    pause = None
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
                if _inside.get():
                    return await do()
                with single_attempt():
                    return await do()
            except self.outages as error:
                failures += 1
                started = started or time.monotonic()
                pause = self._pause(error, failures, started)
                if is_retryable is not None and not is_retryable(error):
                    pause = None
                await (fail(error, failures) if with_failure_count else fail(error))
                if pause is None:
                    raise
                await asyncio.sleep(pause)
