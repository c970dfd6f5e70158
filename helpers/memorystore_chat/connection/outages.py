"""When a command is tried again: after an outage, with growing pauses, for a bounded time.

redis-py counts attempts; an outage is measured in seconds. redis-py also tries to connect again
inside each attempt, which multiplies: here only the outermost call repeats.
"""

import asyncio
import re
import time
from collections.abc import Awaitable, Callable, Iterator
from contextvars import ContextVar
from typing import Any, Self, TypeVar

import redis
from redis.asyncio.retry import Retry as AsyncRetry
from redis.backoff import ExponentialWithJitterBackoff
from redis.exceptions import (
    AuthenticationError,
    ClusterError,
    MaxConnectionsError,
    ReadOnlyError,
    RedisClusterException,
    RedisError,
    ResponseError,
    SlotNotCoveredError,
)
from redis.retry import Retry

from memorystore_chat import signals
from memorystore_chat.commands import breaking
from memorystore_chat.connection.iam import IamCredentials, TokenError

T = TypeVar("T")

# What a command can end with, once `breaking` has made one error of what a lost connection raises.
FAILURES = (RedisError, RedisClusterException, OSError)

_OUTAGES = (redis.ConnectionError, redis.TimeoutError, ClusterError, SlotNotCoveredError, OSError)

# What a server answers in a failover, as Redis before 7 hides it in the text of a script's error.
_FAILOVER = re.compile("-(?:READONLY|MASTERDOWN|CLUSTERDOWN|LOADING) ")


class _Call:
    """One call to the server; as a context manager, an attempt, inside which nothing is repeated.

    `breaking` is in each attempt: what redis-py raises beside its own errors, such as an
    AttributeError when one task loses the connection of another, counts as a lost connection.

    Attributes:
        error: What ended the last attempt, if it is one of the errors that are kept.
        secret: What the last attempt logged in with.
    """

    def __init__(self, policy: "_Policy", kept: type[BaseException]) -> None:
        self._policy = policy
        self._kept = kept
        self._failures = 0
        self._first_failure = 0.0
        self._logins: set[bool] = set()
        self.error: Any = None
        self.secret: str | None = None

    def __enter__(self) -> None:
        self.error = self.secret = None
        self._token = _current.set(self)

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> bool:
        _current.reset(self._token)
        self.error = error
        return isinstance(error, self._kept)

    @property
    def breaks(self) -> bool:
        """Whether a reply may still be to come, or a new connection may lead to another server."""
        return not isinstance(self.error, FAILURES) or is_outage(self.error)

    def wait(self) -> float:
        """Return the seconds to wait before the next attempt; raise if there must be none."""
        policy, error = self._policy, self.error
        self._failures += 1
        self._first_failure = self._first_failure or time.monotonic()
        refusal = error.__cause__ if type(error) is RedisClusterException else error
        if isinstance(refusal, AuthenticationError) and self._can_log_in_again(refusal):
            return 0.0
        left = self._first_failure + policy.patience - time.monotonic()
        if is_outage(error) and left > 0:
            return min(left, policy.pauses.compute(self._failures))
        secret, told = self.secret or "", "\n".join(map(str, chain_of(error)))
        # Six characters of a password or token in a row are no coincidence.
        pieces = {secret[at : at + 6] for at in range(max(1, len(secret) - 5))} - {""}
        if any(piece in told for piece in pieces):
            kind = type(error) if isinstance(error, RedisError) else redis.ConnectionError
            error = kind("the answer repeats the login, so it is not shown")
        elif isinstance(error, MaxConnectionsError) and not str(error):
            error = MaxConnectionsError("all connections were in use")
        raise error

    def _can_log_in_again(self, refusal: AuthenticationError) -> bool:
        """Whether a new login may do better; each reason counts once a call."""
        login, logged_in = self._policy.login, self.secret is not None
        if login is None or isinstance(refusal, TokenError) or logged_in in self._logins:
            return False
        self._logins.add(logged_in)
        # If this attempt did not log in, an open connection has lost its login.
        return self.secret is None or login.renew(self.secret)


_current: ContextVar[_Call | None] = ContextVar("call", default=None)


class Login(redis.CredentialProvider):
    """What all connections of a client log in with; tells each call which secret it used."""

    def __init__(self, source: redis.CredentialProvider) -> None:
        self._source = source

    def get_credentials(self) -> tuple[str] | tuple[str, str]:
        """Return the user's name, if there is one, and the secret."""
        return self._noted(self._source.get_credentials())

    async def get_credentials_async(self) -> tuple[str] | tuple[str, str]:
        """Return the same; the event loop goes on meanwhile."""
        return self._noted(await self._source.get_credentials_async())

    def _noted(self, login: tuple[str] | tuple[str, str]) -> tuple[str] | tuple[str, str]:
        if (call := _current.get()) is not None:
            call.secret = login[-1]
        return login

    def renew(self, refused: str) -> bool:
        """Forget a secret that was refused; return whether there can be another one."""
        if isinstance(self._source, IamCredentials):
            self._source.forget(refused)
        return isinstance(self._source, IamCredentials)


class _Policy:
    """What is an outage, and how long one is waited for; shared by all connections of a client.

    Args:
        patience: Seconds from the first failure after which no new attempt begins.
        login: What the client logs in with. An access token that is refused is renewed once.
    """

    def __init__(self, patience: float, login: Login | None) -> None:
        self.pauses = ExponentialWithJitterBackoff(cap=1.0, base=0.05)
        # No counted attempts: redis-py's cluster clients would make them without a pause.
        super().__init__(self.pauses, 0, ())  # type: ignore[call-arg]
        self.patience = patience
        self.login = login

    def __deepcopy__(self, _memo: object) -> Self:
        return self  # redis-py makes a copy for each connection


def is_outage(error: BaseException | None) -> bool:
    """Whether waiting may help: the server can't be reached, or it is no primary just now."""
    if type(error) is RedisClusterException:  # redis-py reports misuse with it, too
        return is_outage(error.__cause__)
    if isinstance(error, AuthenticationError):
        return False
    if isinstance(error, ResponseError):
        return isinstance(error, ReadOnlyError | ClusterError) or bool(_FAILOVER.search(str(error)))
    return isinstance(error, _OUTAGES)


def chain_of(error: BaseException | None) -> Iterator[BaseException]:
    """Yield the error, its cause or context, that one's cause or context, and so on."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__


class OutageRetry(_Policy, Retry):
    """What redis-py calls to run something that an outage may hit."""

    def call_with_retry(
        self, do: Callable[[], T], fail: Callable[..., Any], *_: Any, **options: Any
    ) -> T:
        """Call ``do`` until it succeeds or it is time to give up; ``fail`` drops a connection."""
        if _current.get() is not None:
            return do()
        # All, as after a second Ctrl-C a reply may still be to come.
        call = _Call(self, BaseException)
        count = (1,) if options.get("with_failure_count") else ()
        while True:
            with call, breaking("redis."):
                return do()
            if call.breaks:
                fail(call.error, *count)
            signals.pause(call.wait())


class AsyncOutageRetry(_Policy, AsyncRetry):
    """`OutageRetry` for redis-py's asynchronous half, which drops a connection if canceled."""

    async def call_with_retry(
        self,
        do: Callable[[], Awaitable[T]],
        fail: Callable[..., Any] | None = None,
        *_: Any,
        **options: Any,
    ) -> T:
        """Call ``do`` until it succeeds or it is time to give up; ``fail`` drops a connection."""
        if _current.get() is not None:
            return await do()
        call = _Call(self, Exception)
        count = (1,) if options.get("with_failure_count") else ()
        while True:
            with call, breaking("redis."):
                return await do()
            if fail is not None and call.breaks:
                await fail(call.error, *count)
            await asyncio.sleep(call.wait())
