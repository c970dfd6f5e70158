"""Sending commands and scripts, exactly one way: synchronous or asyncio, one server or a cluster.

What needs several steps is written as a generator, which yields what it asks for and is sent the
replies, always as bytes. What is sent again (a script's text, what an outage left unanswered) is a
generator too, so that the two ways differ in awaiting only. A pipeline is no client here.
"""

import asyncio
import hashlib
import traceback
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from functools import cache, cached_property
from importlib.resources import files
from typing import Any, NamedTuple, TypeAlias, TypeVar, cast

import redis
import redis.asyncio
from redis.asyncio.cluster import RedisCluster as AsyncRedisCluster

# In redis-py, but not in its documentation: replies stay bytes whatever the client decodes.
from redis.client import NEVER_DECODE
from redis.cluster import RedisCluster
from redis.exceptions import NoScriptError, RedisError

from memorystore_chat.arguments import type_name
from memorystore_chat.errors import OUTAGES, MemorystoreChatError, explaining
from memorystore_chat.signals import postponed

T = TypeVar("T")

Client: TypeAlias = redis.Redis | RedisCluster
AsyncClient: TypeAlias = redis.asyncio.Redis | AsyncRedisCluster

_AS_BYTES: dict[str, Any] = {NEVER_DECODE: True}
_PAGE = 1000  # keys that a scan asks for at a time

# What redis-py raises, beside its own errors, when a connection breaks while it is used.
_BROKEN = (AttributeError, EOFError, LookupError, ConnectionError)
_ERRORS = (RedisError, *OUTAGES)


class ForeignReplyError(redis.ConnectionError):
    """A reply that cannot be that of the command, as after an interrupt of one sent by hand."""

    def __init__(self) -> None:
        super().__init__("the client was given an answer to something else; do it again")


class Script:
    """The Lua script in ``NAME.lua``, or in several such files one after the other.

    It is read when it is first used, as bytes, since clients encode text.
    """

    def __init__(self, *names: str) -> None:
        self.names = names

    @cached_property
    def text(self) -> bytes:
        """What EVAL takes."""
        folder = files("memorystore_chat")
        return b"\n".join(folder.joinpath(f"{name}.lua").read_bytes() for name in self.names)

    @cached_property
    def sha(self) -> bytes:
        """What EVALSHA takes: servers name scripts by their SHA-1."""
        return hashlib.sha1(self.text, usedforsecurity=False).hexdigest().encode()


script = cache(Script)  # each is read once


class Command(NamedTuple):
    """A command or a script that is safe to repeat, with keys in one hash slot of a cluster."""

    name: str
    keys: tuple[bytes, ...]
    arguments: tuple[str | bytes | int, ...] = ()
    script: Script | None = None
    kind: type = bytes  # of its reply

    def parts(self, *, with_text: bool) -> tuple[str | bytes | int, ...]:
        """As redis-py's ``execute_command`` takes it; text as UTF-8, whatever the client's is."""
        arguments = [part.encode() if isinstance(part, str) else part for part in self.arguments]
        if self.script is None:
            return (self.name, *self.keys, *arguments)
        name, text = ("EVAL", self.script.text) if with_text else ("EVALSHA", self.script.sha)
        return (name, text, len(self.keys), *self.keys, *arguments)


class Scan(NamedTuple):
    """All keys that match a pattern."""

    pattern: bytes


Steps: TypeAlias = Generator[list[Command] | Scan, list[Any], T]
"""Asks by yielding requests, is sent the replies, and returns the outcome."""


class _Batch(NamedTuple):
    """What is sent in one round trip: scripts by their names, or with their text."""

    commands: list[Command]
    with_text: bool


_Trips: TypeAlias = Generator[_Batch | Scan, Any, T]
"""Is sent the replies, or the error that came in their place."""

_CLUSTERS = RedisCluster | AsyncRedisCluster


class Sender:
    """Sends steps, and explains what goes wrong in doing so.

    Args:
        client: A synchronous client, or an asyncio one, if `run` is never called.
        async_client: An asyncio client for `arun`, which otherwise asks a synchronous ``client``
            in a thread.

    Raises:
        TypeError: One of them is no such client, or both are asyncio clients.
    """

    def __init__(self, client: Client | AsyncClient, async_client: AsyncClient | None = None):
        takes = "it takes a client of {} for a server or a cluster, such as {}() returns."
        if not isinstance(client, Client | AsyncClient):
            takes = takes.format("redis-py", "connect")
            raise TypeError(f"client is a {type_name(client)}; {takes}")
        if not isinstance(async_client, AsyncClient | None):
            takes = takes.format("redis.asyncio", "connect_async")
            raise TypeError(f"async_client is a {type_name(async_client)}; {takes}")
        if async_client is not None and isinstance(client, AsyncClient):
            raise TypeError("async_client goes beside a synchronous client; this one is asyncio.")
        self.client = client if isinstance(client, Client) else None
        self.async_client = client if isinstance(client, AsyncClient) else async_client

    def run(self, doing: str, steps: Steps[T], awaiting: str) -> T:
        """Ask through the synchronous client; without one, a TypeError names what to await."""
        if self.client is None:
            raise TypeError(
                f"The client is an asyncio one, so this waits for nothing: use await {awaiting}()."
            )
        with explaining(doing):
            return run(self.client, steps)

    async def arun(self, doing: str, steps: Steps[T]) -> T:
        """Ask without blocking the event loop: `run`, for the methods that begin with ``a``."""
        try:
            asyncio.get_running_loop()
        except RuntimeError as error:
            raise MemorystoreChatError(
                f"Nothing was sent while {doing}: the async methods need an event loop of asyncio. "
                "Under trio, call the synchronous ones with trio.to_thread.run_sync()."
            ) from error
        if self.async_client is None:
            return await asyncio.to_thread(self.run, doing, steps, "")
        with explaining(doing):
            return await arun(self.async_client, steps)


def run(client: Client, steps: Steps[T]) -> T:
    """Ask for what the steps ask for, one request after the other; raises redis-py's errors."""
    trips, replies = _trips(client, steps), None
    try:
        while True:
            replies = _ask(client, trips.send(replies))
    except StopIteration as finished:
        return cast("T", finished.value)
    except ForeignReplyError:
        drop_idle_connections(client)
        raise


async def arun(client: AsyncClient, steps: Steps[T]) -> T:
    """Do as ``run``, without blocking the event loop."""
    trips, replies = _trips(client, steps), None
    try:
        while True:
            replies = await _aask(client, trips.send(replies))
    except StopIteration as finished:
        return cast("T", finished.value)


def _trips(client: Client | AsyncClient, steps: Steps[T]) -> _Trips[T]:
    """The round trips that steps take."""
    replies: Any = None
    while True:
        try:
            request = steps.send(replies)
        except StopIteration as finished:
            return cast("T", finished.value)
        if isinstance(request, Scan):
            replies = yield request
            if isinstance(replies, Exception):
                raise replies
        else:
            replies = yield from _answers(client, request)


def _answers(client: Client | AsyncClient, commands: list[Command]) -> _Trips[list[Any]]:
    replies = yield _Batch(commands, with_text=False)
    if isinstance(replies, NoScriptError):
        replies = yield _Batch(commands, with_text=True)
    if isinstance(replies, OUTAGES) and isinstance(client, _CLUSTERS) and len(commands) > 1:
        # redis-py sends single commands again after an outage, and not always a cluster's pipeline.
        replies = []
        for command in commands:
            replies += yield from _answers(client, [command])
    if isinstance(replies, Exception):
        raise replies
    for command, reply in zip(commands, replies, strict=True):
        if not isinstance(reply, command.kind):
            raise ForeignReplyError
    return cast("list[Any]", replies)


def _ask(client: Any, request: _Batch | Scan) -> list[Any] | Exception:
    try:
        if isinstance(request, Scan):  # a signal may end it at any time, and its connections go
            with breaking():
                return [*client.scan_iter(match=request.pattern, count=_PAGE, **_AS_BYTES)]
        with postponed(), breaking():
            if len(request.commands) == 1:
                parts = request.commands[0].parts(with_text=request.with_text)
                return [client.execute_command(*parts, **_AS_BYTES)]
            with client.pipeline(transaction=False) as pipe:
                _fill(pipe, request, client)
                return cast("list[Any]", pipe.execute())
    except _ERRORS as error:
        return error
    except BaseException:  # a second Ctrl-C comes in the middle of a command
        drop_idle_connections(client)
        raise


async def _aask(client: Any, request: _Batch | Scan) -> list[Any] | Exception:
    try:
        with breaking():
            if isinstance(request, Scan):
                found = client.scan_iter(match=request.pattern, count=_PAGE, **_AS_BYTES)
                return [key async for key in found]
            for used in (command.script for command in request.commands):
                if used is not None and "sha" not in vars(used):
                    await asyncio.to_thread(getattr, used, "sha")  # reads files
            if len(request.commands) == 1:
                parts = request.commands[0].parts(with_text=request.with_text)
                return [await client.execute_command(*parts, **_AS_BYTES)]
            await client.initialize()  # before that a cluster's knows nothing of the nodes
            async with client.pipeline(transaction=False) as pipe:
                _fill(pipe, request, client)
                return cast("list[Any]", await pipe.execute())
    except _ERRORS as error:
        return error


def _fill(pipe: Any, batch: _Batch, client: Any) -> None:
    # A cluster's pipeline would otherwise ask the server for the key of every script.
    many = isinstance(client, _CLUSTERS)
    for command in batch.commands:
        where = {"target_nodes": client.get_node_from_key(command.keys[0])} if many else {}
        pipe.execute_command(*command.parts(with_text=batch.with_text), **where, **_AS_BYTES)


@contextmanager
def breaking(within: str = "") -> Iterator[None]:
    """Make one error of all that redis-py raises when a connection breaks while it is used.

    Whoever sends commands past `run` does so in this, inside ``postponed()``. An error counts only
    if a module whose name begins with `within` raised it.
    """
    try:
        yield
    except _BROKEN as error:
        *_, (frame, _) = traceback.walk_tb(error.__traceback__)
        if not frame.f_globals.get("__name__", "").startswith(within):
            raise
        what = f"{type(error).__name__}: {error}"
        raise redis.ConnectionError(f"redis-py lost the connection, with {what}") from error


def drop_idle_connections(client: Client) -> None:
    """Disconnect what is in the client's pools and in no other thread's use."""
    clients: list[Any] = [client]
    if isinstance(client, RedisCluster):
        nodes = cast("Any", client).get_nodes()
        clients = [node.redis_connection for node in nodes if node.redis_connection is not None]
    for one in clients:
        if one.connection is not None:  # single_connection_client=True
            one.connection.disconnect()
        one.connection_pool.disconnect(inuse_connections=False)
