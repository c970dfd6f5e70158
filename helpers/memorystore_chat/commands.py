"""Commands as data, and sending them: one, or several in one round trip; replies in bytes.

What needs several steps is written as a generator, which yields what it asks for and is sent the
replies; so the synchronous and the asyncio way of asking are written once each, here.
"""

from collections.abc import Callable, Generator, Sequence
from typing import Any, NamedTuple, TypeAlias, TypeVar, cast

import redis
import redis.asyncio
from redis.asyncio.cluster import RedisCluster as AsyncRedisCluster
from redis.cluster import RedisCluster
from redis.exceptions import ClusterError, NoScriptError, RedisClusterException

from memorystore_chat._seams import AS_BYTES, opened_in_another_loop
from memorystore_chat.interrupts import drop_idle_connections, dropping_interrupted
from memorystore_chat.scripts import Script

T = TypeVar("T")

Client: TypeAlias = redis.Redis | RedisCluster
AsyncClient: TypeAlias = redis.asyncio.Redis | AsyncRedisCluster


class ForeignReplyError(redis.ConnectionError):
    """A reply that cannot be that of the command."""

    hint = "Do it again; clients of connect() are safe from this."

    def __init__(self) -> None:
        super().__init__(
            "the client was given an answer to something else, as happens after an interrupt in "
            "the middle of a command"
        )


class Command(NamedTuple):
    """A command, safe to repeat; all its keys are in one hash slot of a cluster.

    Attributes:
        name: Its name; ignored where there is a script.
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
    except ForeignReplyError:
        drop_idle_connections(client)
        raise


async def arun(client: AsyncClient, steps: Steps[T]) -> T:
    """``run``, without blocking the event loop.

    Raises:
        RuntimeError: It is not the loop that the client's connections belong to.
    """
    try:
        request = next(steps)
        if opened_in_another_loop(client):
            raise RuntimeError("nothing was sent out of this event loop")
        while True:
            request = steps.send(await _asend(client, request))
    except StopIteration as finished:
        return cast("T", finished.value)


def _send(client: Client, request: Request) -> list[Any]:
    with dropping_interrupted(client):
        if isinstance(request, Scan):
            return list(client.scan_iter(match=request.pattern, count=1000, **AS_BYTES))
        try:
            replies = _send_once(client, request, with_text=False)
        except NoScriptError:
            replies = _send_once(client, request, with_text=True)
    return _checked(request, replies)


def _send_once(client: Any, commands: Sequence[Command], *, with_text: bool) -> list[Any]:
    if len(commands) == 1:
        parts = commands[0].parts(with_text=with_text)
        return [client.execute_command(*parts, **AS_BYTES)]
    if not commands:
        return []
    where = client.get_node_from_key if isinstance(client, RedisCluster) else None
    with client.pipeline(transaction=False) as pipe:
        for command in commands:
            pipe.execute_command(*command.parts(with_text=with_text), **_options(command, where))
        return cast("list[Any]", pipe.execute())


async def _asend(client: AsyncClient, request: Request) -> list[Any]:
    if isinstance(request, Scan):
        found = cast("Any", client).scan_iter(match=request.pattern, count=1000, **AS_BYTES)
        return [key async for key in found]
    try:
        replies = await _asend_once(client, request, with_text=False)
    except NoScriptError:
        replies = await _asend_once(client, request, with_text=True)
    return _checked(request, replies)


async def _asend_once(client: Any, commands: Sequence[Command], *, with_text: bool) -> list[Any]:
    if len(commands) == 1:
        parts = commands[0].parts(with_text=with_text)
        return [await client.execute_command(*parts, **AS_BYTES)]
    if not commands:
        return []
    where = None
    if isinstance(client, AsyncRedisCluster):
        await client.initialize()  # before that it knows nothing of the nodes
        where = client.get_node_from_key
    try:
        async with client.pipeline(transaction=False) as pipe:
            for command in commands:
                parts = command.parts(with_text=with_text)
                pipe.execute_command(*parts, **_options(command, where))
            return cast("list[Any]", await pipe.execute())
    except (redis.ConnectionError, redis.TimeoutError, ClusterError, RedisClusterException):
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
