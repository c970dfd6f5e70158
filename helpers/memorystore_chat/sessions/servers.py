"""Asking the servers behind a client: several commands in one round trip, and whether they stay.

SCAN is answered by whoever is at the other end of a connection. A replica, a shard that the client
does not know, a server that was replaced: each gives a list that is too short, and nothing says so.
So `settled` notes the servers before a task and compares them after it.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple, TypeAlias, TypeVar, cast

import redis
from redis.client import NEVER_DECODE
from redis.cluster import RedisCluster

from memorystore_chat.commands import Client
from memorystore_chat.errors import MemorystoreChatError, explaining

Order: TypeAlias = tuple[str | bytes | int, ...]
T = TypeVar("T")

MOST = 500
"""How many sessions are asked about in one round trip."""

BUDGET = 8 * 1024 * 1024
"""About how many bytes of messages one round trip may carry."""

_AS_BYTES: dict[str, Any] = {NEVER_DECODE: True}
_SLOTS = 16384
_AGAIN = "Run this again when no slots are moved and no failover is under way."


class _Server(NamedTuple):
    """A primary: its node ID in a cluster, the ID of its process, and its hash slots."""

    node: str
    run_id: str
    slots: tuple[tuple[int, int], ...]


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
        with cast("Any", client).pipeline(transaction=False) as pipe:
            for order in orders:
                parts = [part.encode() if isinstance(part, str) else part for part in order[1:]]
                options = dict(_AS_BYTES)
                if isinstance(client, RedisCluster):
                    key = parts[2 if order[0] == "EVAL" else 0]
                    options["target_nodes"] = client.get_node_from_key(key)
                pipe.execute_command(order[0], *parts, **options)
            replies = pipe.execute(raise_on_error=False)
        return [_checked(order, reply) for order, reply in zip(orders, replies, strict=True)]


def _checked(order: Order, reply: Any) -> Any:
    if not isinstance(reply, Exception):
        return reply
    if isinstance(reply, redis.ResponseError) and (
        order[0] == "MEMORY USAGE" or "WRONGTYPE" in str(reply)
    ):
        return None
    raise reply


def keys(client: Client, pattern: bytes) -> Iterator[bytes]:
    """The keys of lists that match, some of them perhaps twice; on Redis 5 keys of other types too.

    A plain redis-py client is not safe from a signal while it scans; those of ``connect()`` are.
    """
    scan = cast("Any", client).scan_iter
    with explaining("listing sessions"):
        try:
            yield from scan(match=pattern, count=1000, _type="LIST", **_AS_BYTES)
        except redis.ResponseError as error:
            if "syntax error" not in str(error):
                raise
            yield from scan(match=pattern, count=1000, **_AS_BYTES)


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
        found = {_introduced(cast("redis.Redis", node), doing) for node in nodes}
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
    info: dict[str, Any] = {**server.info("server"), **server.info("replication")}
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
