"""Sending commands and scripts, exactly one way: synchronous or asyncio, one server or a cluster.

What needs several steps is written as a generator, which yields what it asks for and is sent the
replies, always as bytes. So both ways of asking are written once each, here.
"""

import asyncio
import hashlib
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from functools import cache, cached_property
from importlib.resources import files
from itertools import islice
from typing import Any, NamedTuple, TypeAlias, TypeVar, cast

import redis
import redis.asyncio
from redis.asyncio.client import Pipeline as AsyncPipeline
from redis.asyncio.cluster import ClusterPipeline as AsyncClusterPipeline
from redis.asyncio.cluster import RedisCluster as AsyncRedisCluster

# In redis-py, but not in its documentation: replies stay bytes whatever the client decodes.
from redis.client import NEVER_DECODE, Pipeline
from redis.cluster import ClusterPipeline, RedisCluster
from redis.exceptions import ClusterError, NoScriptError, RedisClusterException, RedisError

from memorystore_chat.arguments import type_name
from memorystore_chat.errors import MemorystoreChatError, explaining
from memorystore_chat.signals import postponed

T = TypeVar("T")

Client: TypeAlias = redis.Redis | RedisCluster
AsyncClient: TypeAlias = redis.asyncio.Redis | AsyncRedisCluster

AS_BYTES: dict[str, Any] = {NEVER_DECODE: True}
"""Options of ``execute_command`` that make its reply bytes."""

PAGE = 1000
"""How many keys a scan asks for at a time."""

# What redis-py raises, beside its own errors, when a connection breaks while it is used.
_BROKEN = (AttributeError, EOFError, LookupError, ConnectionError)
_OUTAGES = (redis.ConnectionError, redis.TimeoutError, ClusterError, RedisClusterException)


class ForeignReplyError(redis.ConnectionError):
    """A reply that cannot be that of the command, as after an interrupt of one sent by hand."""

    def __init__(self) -> None:
        super().__init__("the client was given an answer to something else; do it again")


class Script:
    """A Lua script as bytes, read from its files when it is first used.

    Attributes:
        names: Its files, by their paths in this package without the ending.
    """

    def __init__(self, names: Sequence[str]) -> None:
        self.names = tuple(names)

    @cached_property
    def text(self) -> bytes:
        """What EVAL takes; bytes, as a client with ``encoding="utf-16"`` would send text so."""
        folder = files("memorystore_chat")
        return b"\n".join(folder.joinpath(f"{name}.lua").read_bytes() for name in self.names)

    @cached_property
    def sha(self) -> bytes:
        """What EVALSHA takes: servers name scripts by their SHA-1."""
        return hashlib.sha1(self.text, usedforsecurity=False).hexdigest().encode()


@cache
def script(*names: str) -> Script:
    """The script in ``NAME.lua``, or in several such files one after the other.

    Example:
        >>> len(script("demand", "append").sha)
        40
    """
    return Script(names)


class Command(NamedTuple):
    """A command, safe to repeat; all its keys are in one hash slot of a cluster.

    Attributes:
        name: Its name; ignored if there is a script.
        keys: Its keys.
        arguments: What follows the keys.
        script: The script to run instead of a command.
        kind: What its reply is.
    """

    name: str
    keys: tuple[bytes, ...]
    arguments: tuple[str | bytes | int, ...] = ()
    script: Script | None = None
    kind: type = bytes

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


Request: TypeAlias = list[Command] | Scan
Steps: TypeAlias = Generator[Request, list[Any], T]
"""Asks by yielding requests, is sent the replies, and returns the outcome."""


class Sender:
    """Sends steps through a synchronous client, an asyncio client, or one of each.

    Args:
        client: A synchronous client. An asyncio one will do, for whoever never calls `run`.
        async_client: An asyncio client for `arun`; without it and with a synchronous ``client``,
            `arun` asks that one in a thread.

    Raises:
        TypeError: One of them is no such client, or ``async_client`` is given beside an asyncio
            ``client``.
    """

    def __init__(self, client: Client | AsyncClient, async_client: AsyncClient | None = None):
        self.client: Client | None = None
        self.async_client = async_client
        if _is_async(client):
            if async_client is not None:
                raise TypeError(
                    "client is an asyncio client already; async_client takes one beside a "
                    "synchronous client only."
                )
            self.async_client = cast("AsyncClient", client)
        elif _is_sync(client):
            self.client = cast("Client", client)
        else:
            raise TypeError(
                f"client is a {type_name(client)}; it takes a redis.Redis or "
                "redis.cluster.RedisCluster, such as connect() returns, or one of redis.asyncio, "
                "such as connect_async() returns."
            )
        if async_client is not None and not _is_async(async_client):
            raise TypeError(
                f"async_client is a {type_name(async_client)}; it takes a redis.asyncio.Redis or "
                "redis.asyncio.RedisCluster, such as connect_async() returns."
            )

    def run(self, doing: str, steps: Steps[T], awaiting: str) -> T:
        """Ask through the synchronous client.

        Args:
            doing: What for, as `errors.explaining` takes it.
            steps: What to ask.
            awaiting: The method to call when there is only an asyncio client.

        Raises:
            TypeError: There is only an asyncio client.
            MemorystoreChatError: The server could not be reached, or refused.
        """
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
        except RuntimeError as error:  # trio's loop, say
            raise MemorystoreChatError(
                f"Nothing was sent while {doing}: the async methods run in an event loop of "
                "asyncio only. Under trio, call the synchronous ones in a thread, as with "
                "trio.to_thread.run_sync()."
            ) from error
        if self.async_client is None:
            return await asyncio.to_thread(self.run, doing, steps, "")
        with explaining(doing):
            return await arun(self.async_client, steps)


def _is_sync(client: object) -> bool:
    # A pipeline is a client by inheritance, but only collects what it is asked to do.
    return isinstance(client, redis.Redis | RedisCluster) and not isinstance(
        client, Pipeline | ClusterPipeline
    )


def _is_async(client: object) -> bool:
    return isinstance(client, redis.asyncio.Redis | AsyncRedisCluster) and not isinstance(
        client, AsyncPipeline | AsyncClusterPipeline
    )


def run(client: Client, steps: Steps[T]) -> T:
    """Ask for what the steps ask for, one request after the other.

    Raises:
        redis.RedisError: The server could not be reached, or refused a command.
    """
    try:
        request = next(steps)
        while True:
            request = steps.send(_send(client, request))
    except StopIteration as finished:
        return cast("T", finished.value)


async def arun(client: AsyncClient, steps: Steps[T]) -> T:
    """``run``, without blocking the event loop.

    Raises:
        redis.RedisError: The server could not be reached, or refused a command.
    """
    try:
        request = next(steps)
        while True:
            request = steps.send(await _asend(client, request))
    except StopIteration as finished:
        return cast("T", finished.value)


def _send(client: Client, request: Request) -> list[Any]:
    try:
        if isinstance(request, Scan):
            return _scan(client, request)
        try:
            replies = _send_once(client, request, with_text=False)
        except NoScriptError:
            replies = _send_once(client, request, with_text=True)
        return _checked(request, replies)
    except BaseException as error:
        # A second Ctrl-C comes in the middle of a command.
        if isinstance(error, ForeignReplyError) or not isinstance(error, RedisError):
            drop_idle_connections(client)
        raise


def _scan(client: Any, request: Scan) -> list[Any]:
    found: list[Any] = []
    keys = client.scan_iter(match=request.pattern, count=PAGE, **AS_BYTES)
    while True:
        with postponed(), _breaking():
            page = list(islice(keys, PAGE))
        if not page:
            return found
        found += page


def _send_once(client: Any, commands: Sequence[Command], *, with_text: bool) -> list[Any]:
    if len(commands) == 1:
        parts = commands[0].parts(with_text=with_text)
        with postponed(), _breaking():
            return [client.execute_command(*parts, **AS_BYTES)]
    if not commands:
        return []
    where = client.get_node_from_key if isinstance(client, RedisCluster) else None
    try:
        with postponed(), _breaking(), client.pipeline(transaction=False) as pipe:
            for command in commands:
                parts = command.parts(with_text=with_text)
                pipe.execute_command(*parts, **_options(command, where))
            return cast("list[Any]", pipe.execute())
    except _OUTAGES:
        if where is None:
            raise
        # redis-py sends single commands again after an outage, and not always a cluster's pipeline.
        sent = [_send_once(client, [one], with_text=with_text) for one in commands]
        return [reply for replies in sent for reply in replies]


async def _asend(client: AsyncClient, request: Request) -> list[Any]:
    if isinstance(request, Scan):
        with _breaking():
            found = cast("Any", client).scan_iter(match=request.pattern, count=PAGE, **AS_BYTES)
            return [key async for key in found]
    for used in (command.script for command in request):
        if used is not None and "sha" not in vars(used):
            await asyncio.to_thread(getattr, used, "sha")  # reads files
    try:
        replies = await _asend_once(client, request, with_text=False)
    except NoScriptError:
        replies = await _asend_once(client, request, with_text=True)
    return _checked(request, replies)


async def _asend_once(client: Any, commands: Sequence[Command], *, with_text: bool) -> list[Any]:
    if len(commands) == 1:
        parts = commands[0].parts(with_text=with_text)
        with _breaking():
            return [await client.execute_command(*parts, **AS_BYTES)]
    if not commands:
        return []
    where = None
    if isinstance(client, AsyncRedisCluster):
        await client.initialize()  # before that it knows nothing of the nodes
        where = client.get_node_from_key
    try:
        with _breaking():
            async with client.pipeline(transaction=False) as pipe:
                for command in commands:
                    parts = command.parts(with_text=with_text)
                    pipe.execute_command(*parts, **_options(command, where))
                return cast("list[Any]", await pipe.execute())
    except _OUTAGES:
        if where is None:
            raise
        # redis-py sends single commands again after an outage, and no asynchronous pipeline.
        sent = [await _asend_once(client, [one], with_text=with_text) for one in commands]
        return [reply for replies in sent for reply in replies]


def _options(command: Command, where: Callable[..., Any] | None) -> dict[str, Any]:
    # A cluster's pipeline would otherwise ask the server for the key of every script.
    return AS_BYTES | ({"target_nodes": where(command.keys[0])} if where else {})


def _checked(commands: Sequence[Command], replies: list[Any]) -> list[Any]:
    for command, reply in zip(commands, replies, strict=True):
        if not isinstance(reply, command.kind):
            raise ForeignReplyError
    return replies


@contextmanager
def _breaking() -> Iterator[None]:
    """Make one error of all that redis-py raises when a connection breaks while it is used."""
    try:
        yield
    except _BROKEN as error:
        what = f"{type(error).__name__}: {error}"
        raise redis.ConnectionError(f"redis-py lost the connection, with {what}") from error


def drop_idle_connections(client: Client) -> None:
    """Disconnect what is in the client's pools and in no other thread's use."""
    if isinstance(client, RedisCluster):
        nodes = cast("Any", client).get_nodes()
        clients = [node.redis_connection for node in nodes if node.redis_connection is not None]
    else:
        clients = [client]
    for one in clients:
        if one.connection is not None:  # single_connection_client=True
            one.connection.disconnect()
        one.connection_pool.disconnect(inuse_connections=False)
