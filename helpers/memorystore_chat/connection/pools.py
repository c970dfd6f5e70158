"""The pools of the clients that `connect` hands out.

What is taken from a pool comes back in a ``finally``; but a signal can raise inside that too, and
before the ``try``. So a pool must lose nothing when what it lent is simply dropped, and its own
state must be right between any two steps.
"""

import asyncio
import gc
import os
import threading
import time
import weakref
from collections import deque
from contextlib import suppress
from queue import Empty, SimpleQueue
from typing import Any

import redis
import redis.asyncio
from redis.exceptions import MaxConnectionsError

from memorystore_chat._seams import OwnListsPool
from memorystore_chat.errors import ANOTHER_LOOP, ConnectError

# How often somebody who waits for a connection looks whether one was dropped.
_LOOK_EVERY = 0.1


class _Permit:
    """The right to use one connection; there are as many as the pool may have connections."""

    __slots__ = ("__weakref__",)


class _Loan:
    """A connection as long as somebody has it; afterwards, nothing that could be used."""

    __slots__ = ("__weakref__", "_connection", "_permit", "_pool")

    def __init__(self, pool: "Pool", connection: Any, permit: _Permit) -> None:
        self._pool = pool
        self._connection = connection
        self._permit: Any = permit

    def __getattr__(self, name: str) -> Any:
        if self._connection is not None:
            return getattr(self._connection, name)
        # redis-py disconnects and names a connection that it has given back already.
        if name == "disconnect":
            return _nothing
        if name in self._pool.connection_kwargs:
            return self._pool.connection_kwargs[name]
        raise AttributeError(f"{name}: this connection went back to its pool")

    def __setattr__(self, name: str, value: object) -> None:
        own = name in _Loan.__slots__
        object.__setattr__(self if own else self._connection, name, value)


def _nothing(*_: object, **__: object) -> None:
    """What is left to do for a connection that was given back."""


class Pool(OwnListsPool):
    """A bounded pool that waits for a free connection, and that no interrupt puts out of order.

    Args:
        timeout: Seconds to wait for a connection while all are in use.
        **options: What ``redis.ConnectionPool`` takes.

    Raises:
        MaxConnectionsError: None became free in time; nothing was sent.
    """

    def __init__(self, *, timeout: float, **options: Any) -> None:
        self.timeout = timeout
        super().__init__(**options)

    def reset(self) -> None:
        """Begin anew, without any connection."""
        self._free: deque[Any] = deque()
        self._made: list[weakref.ref[Any]] = []
        self._permits: SimpleQueue[_Permit] = SimpleQueue()
        self._known: list[weakref.ref[_Permit]] = []
        self._counting = threading.RLock()
        self._replace_lost_permits()
        self.pid = os.getpid()

    def idle(self) -> list[Any]:
        """The connections that nobody has."""
        return list(self._free)

    def in_use(self) -> set[Any]:
        """The connections that somebody has now."""
        return {made() for made in self._made} - {None, *self._free}

    def make_connection(self) -> Any:
        """A new connection, not connected yet."""
        connection = self.connection_class(**self.connection_kwargs)
        for made in [made for made in self._made if made() is None]:
            with suppress(ValueError):  # another thread was faster
                self._made.remove(made)
        self._made.append(weakref.ref(connection))
        return connection

    def get_connection(self, *_: Any, **__: Any) -> Any:
        """Lend a connection that is logged in and has nothing left to read."""
        if self.pid != os.getpid():
            self.reset()
        permit = self._permit()
        try:
            connection = self._free.pop()
        except IndexError:
            connection = self.make_connection()
        loan = _Loan(self, connection, permit)
        try:
            connection.connect()
            if _is_stale(connection):
                connection.disconnect()
                connection.connect()
        except BaseException:
            self.release(loan)
            raise
        return loan

    def release(self, connection: Any) -> None:
        """Take a connection back; one in the middle of something is disconnected first."""
        if not isinstance(connection, _Loan) or connection._pool is not self:
            return
        if connection._connection is None or self.pid != os.getpid():
            return
        if not connection.in_step or connection.should_reconnect():
            connection.disconnect()
        own, permit = connection._connection, connection._permit
        connection._connection = connection._permit = None
        self._free.append(own)
        self._permits.put(permit)

    def disconnect(self, inuse_connections: bool = True) -> None:
        """Disconnect what is idle, and what is in use as well unless told otherwise."""
        for connection in [*self.idle(), *(self.in_use() if inuse_connections else ())]:
            connection.disconnect()

    def _permit(self) -> _Permit:
        deadline, pause = time.monotonic() + self.timeout, 0.0
        while True:
            with suppress(Empty):
                return self._permits.get(timeout=pause)
            left = max(0.0, deadline - time.monotonic())
            if not left:
                # What an interrupt dropped may hang on a traceback that refers to itself.
                gc.collect()
            self._replace_lost_permits()
            if not left and self._permits.empty():
                raise MaxConnectionsError(exhausted(self.max_connections, self.timeout))
            pause = min(left, _LOOK_EVERY)

    def _replace_lost_permits(self) -> None:
        """Make a permit for each that was dropped instead of being given back."""
        # An interrupt may have left it locked; in order, nobody has it for so long.
        locked = self._counting.acquire(timeout=_LOOK_EVERY)
        try:
            self._known = [known for known in self._known if known() is not None]
            while len(self._known) < self.max_connections:
                permit = _Permit()
                self._known.append(weakref.ref(permit))
                self._permits.put(permit)
        finally:
            if locked:
                self._counting.release()


def _is_stale(connection: Any) -> bool:
    """Whether it was closed meanwhile, or has something to read that nobody asked for."""
    try:
        return bool(connection.can_read())
    except (redis.ConnectionError, redis.TimeoutError, OSError):
        return True


def exhausted(number: int, seconds: float) -> str:
    """What to say if no connection is free."""
    return f"all {number} connections were in use for {seconds:g} s"


class OneLoop:
    """Notices that an asynchronous client is used in another event loop than it was used in first.

    Its connections belong to the first loop: some writes would arrive and then seem to fail.
    """

    def __init__(self) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None

    def check(self) -> None:
        """Raise a ConnectError in another loop than the first."""
        loop = asyncio.get_running_loop()
        if self._loop is None:
            self._loop = loop
        elif self._loop is not loop:
            raise ConnectError(f"Nothing was sent. {ANOTHER_LOOP}")


class AsyncPool(redis.asyncio.BlockingConnectionPool):
    """redis-py's pool, which says why there is no connection and keeps to one event loop."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._one_loop = OneLoop()

    async def get_connection(self, *_: Any, **__: Any) -> Any:
        """Lend a connection that is logged in and has nothing left to read."""
        self._one_loop.check()
        try:
            return await super().get_connection()  # type: ignore[no-untyped-call]
        except redis.ConnectionError as error:
            if not isinstance(error.__cause__, TimeoutError):
                raise
            text = exhausted(self.max_connections, self.timeout or 0)
            raise MaxConnectionsError(text) from error.__cause__

    async def disconnect(self, inuse_connections: bool = True) -> None:
        """Disconnect; afterwards another event loop may use the pool."""
        await super().disconnect(inuse_connections)
        if inuse_connections:
            self._one_loop = OneLoop()
