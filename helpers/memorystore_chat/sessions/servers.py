"""Asking the servers behind a client: several commands in one round trip, and whether they stay.

SCAN is answered by whoever is at the other end of a connection. A replica, a shard that the client
does not know, a server that was replaced: each gives a list that is too short, and nothing says so.
So `settled` notes the servers before a task and compares them after it.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple, TypeAlias, TypeVar, cast

import redis
from redis.cluster import RedisCluster

from memorystore_chat.commands import (
    AS_BYTES,
    PAGE,
    Client,
    ForeignReplyError,
    Sender,
    drop_idle_connections,
)
from memorystore_chat.errors import MemorystoreChatError, explaining
from memorystore_chat.signals import postponed

Order: TypeAlias = tuple[str | bytes | int, ...]
T = TypeVar("T")

MOST = 500
"""How many sessions are asked about in one round trip."""

BUDGET = 8 * 1024 * 1024
"""About how many bytes of messages one round trip may carry."""

_SLOTS = 16384
_KINDS: dict[str, type] = {"LINDEX": bytes, "LRANGE": list}  # of replies; others are numbers
_AGAIN = "Run this again when no slots are moved and no failover is under way."


class _Server(NamedTuple):
    """A primary: its node ID in a cluster, the ID of its process, and its hash slots."""

    node: str
    run_id: str
    slots: tuple[tuple[int, int], ...]


def check_client(client: object) -> None:
    """Raise a TypeError unless a value is a synchronous client that acts at once."""
    if Sender(cast("Client", client)).client is None:
        raise TypeError(
            "client is an asyncio client; these functions take a synchronous one, such as "
            "connect() returns. In an event loop, call them with asyncio.to_thread()."
        )


def ask(client: Client, doing: str, orders: Sequence[Order]) -> list[Any]:
    """Send commands in one round trip to each server, and collect the replies as bytes.

    A client that retries may send them again, so each must be safe to repeat.

    Args:
        client: Who sends them; in a cluster, to the primaries.
        doing: What they are for, such as ``"deleting sessions"``, for an error's text.
        orders: Name, key, arguments; for EVAL script, number of keys, key, arguments.

    Returns:
        The replies in the order of the commands. None stands for a key of another type than the
        command takes, and for the size of a key if the server refuses MEMORY USAGE.
    """
    if not orders:
        return []
    with explaining(doing):
        with postponed(), cast("Any", client).pipeline(transaction=False) as pipe:
            for order in orders:
                parts = [part.encode() if isinstance(part, str) else part for part in order[1:]]
                options = dict(AS_BYTES)
                if isinstance(client, RedisCluster):
                    key = parts[2 if order[0] == "EVAL" else 0]
                    options["target_nodes"] = client.get_node_from_key(key)
                pipe.execute_command(order[0], *parts, **options)
            replies = pipe.execute(raise_on_error=False)
        try:
            return [_checked(order, reply) for order, reply in zip(orders, replies, strict=True)]
        except ForeignReplyError:
            drop_idle_connections(client)
            raise


def _checked(order: Order, reply: Any) -> Any:
    name = str(order[0])
    if isinstance(reply, redis.ResponseError) and (
        name == "MEMORY USAGE" or "WRONGTYPE" in str(reply)
    ):
        return None
    if isinstance(reply, Exception):
        raise reply
    if reply is not None and not isinstance(reply, _KINDS.get(name, int)):
        raise ForeignReplyError
    return reply


def keys(client: Client, pattern: bytes) -> Iterator[bytes]:
    """The keys of lists that match, some of them perhaps twice; on Redis 5 keys of other types too.

    One step of SCAN at a time, so that a signal has to wait for one answer only.
    """
    nodes = client.get_primaries() if isinstance(client, RedisCluster) else [None]
    options: dict[str, Any] = {"match": pattern, "count": PAGE, "_type": b"LIST", **AS_BYTES}
    for node in nodes:
        where = {"target_nodes": node} if node else {}
        cursor: Any = None
        while cursor != 0:
            try:
                with explaining("listing sessions"), postponed():
                    cursor, page = cast("Any", client).scan(cursor or 0, **options, **where)
            except MemorystoreChatError as error:
                if "syntax error" not in str(error.__cause__) or not options.pop("_type", None):
                    raise
                continue  # Redis 5 has no TYPE here; what is no list is passed over later
            yield from page
            cursor = cursor[node.name] if node else cursor


@contextmanager
def settled(client: Client, doing: str) -> Iterator[None]:
    """Note which servers there are, and raise an error if others are there in the end.

    Raises:
        ConnectError: A server cannot be reached or did not answer.
        MemorystoreChatError: A server refused, is a replica, or has only a part of the slots;
            slots are being moved; or the servers have changed.
    """
    with explaining(doing):
        before = _primaries(client, doing)
    yield
    with explaining(doing):
        if _primaries(client, doing) != before:
            raise MemorystoreChatError(
                f"The servers changed while {doing}, as in a failover or when slots are moved, so "
                f"something may be missing or undone. {_AGAIN} What is done already is left as it "
                "is."
            )


def _primaries(client: Client, doing: str) -> set[_Server]:
    if not isinstance(client, RedisCluster):
        found = {_introduced(client, doing)}
    else:
        manager = cast("Any", client).nodes_manager
        manager.initialize()  # what a client knows of a cluster may be old
        nodes = [client.get_redis_connection(node) for node in client.get_primaries()]
        found = {_introduced(node, doing) for node in nodes}
    slots = sum(last - first + 1 for server in found for first, last in server.slots)
    if any(server.node for server in found) and slots != _SLOTS:
        way_out = f"The cluster is not complete. {_AGAIN}"
        if not isinstance(client, RedisCluster):
            way_out = "Pass a redis.cluster.RedisCluster, which connect() returns."
        raise MemorystoreChatError(
            f"Cannot go on {doing}: {slots:,} of the cluster's {_SLOTS:,} hash slots were found, "
            f"so sessions would be missed. {way_out}"
        )
    return found


def _introduced(server: redis.Redis, doing: str) -> _Server:
    """What a server says of itself."""
    info: dict[str, Any] = {}
    for section in (b"server", b"replication"):  # as bytes, whatever encoding the client has
        info |= cast("dict[str, Any]", server.execute_command("INFO", section))
    if info["role"] != "master":
        # The connection may have outlived a failover: the address can lead elsewhere by now.
        server.connection_pool.disconnect(inuse_connections=False)
        raise MemorystoreChatError(
            f"Cannot go on {doing}: the server is a replica, which may lack sessions. Connect to "
            "the primary; after a failover, run this again."
        )
    if "cluster" not in (info.get("redis_mode"), info.get("server_mode")):
        return _Server("", info["run_id"], ())
    nodes = cast("dict[str, Any]", server.execute_command("CLUSTER NODES"))
    [own] = [node for node in nodes.values() if "myself" in node["flags"]]
    if own["migrations"]:
        raise MemorystoreChatError(
            f"Cannot go on {doing}: the cluster is moving hash slots, so sessions would be "
            f"missed. {_AGAIN}"
        )
    slots = tuple((int(ends[0]), int(ends[-1])) for ends in own["slots"])
    return _Server(own["node_id"], info["run_id"], slots)


def batches(items: Iterable[T], size: Callable[[T], int]) -> Iterator[list[T]]:
    """Group items, in order, so that a group fits into one round trip.

    Args:
        items: What to group.
        size: An item's bytes. A group has at most `BUDGET` of them and `MOST` items; an item that
            is larger is a group of its own.

    Example:
        >>> list(batches("abc", lambda _: BUDGET // 2))
        [['a', 'b'], ['c']]
    """
    group: list[T] = []
    total = 0
    for item in items:
        weight = size(item)
        if group and (total + weight > BUDGET or len(group) == MOST):
            yield group
            group, total = [], 0
        group.append(item)
        total += weight
    if group:
        yield group
