"""Asking the servers behind a client: several commands in one round trip, and whether they stay.

SCAN is answered by whoever is at the other end of a connection. A replica, a shard that the client
does not know, a server that was replaced: each gives a list that is too short, and nothing says so.
So `settled` notes the servers before a task and compares them after it.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeAlias, TypeVar, cast

import redis
from redis.cluster import RedisCluster

from memorystore_chat import commands
from memorystore_chat.commands import AS_BYTES, Client, ForeignReplyError
from memorystore_chat.errors import MemorystoreChatError, explaining
from memorystore_chat.signals import postponed

Order: TypeAlias = tuple[str | bytes | int, ...]
"""A command: name, key, arguments; for EVAL script, number of keys, key, arguments."""

MOST, BUDGET = 500, 8 * 1024 * 1024
"""How many sessions one round trip may concern, and about how many bytes it may carry."""

T = TypeVar("T")
_KINDS: dict[str, type] = {"LINDEX": bytes, "LRANGE": list}  # of replies; others are numbers
_AGAIN = "Run this again when no slots are moved and no failover is under way."


def check_client(client: object) -> None:
    """Raise a TypeError unless a value is a synchronous client that acts at once."""
    if commands.Sender(cast("Client", client)).client is None:
        raise TypeError(
            "client is an asyncio client; these functions take a synchronous one, such as "
            "connect() returns. In an event loop, call them with asyncio.to_thread()."
        )


def ask(client: Client, doing: str, orders: Sequence[Order]) -> list[Any]:
    """Send commands, each safe to repeat, in one round trip to each primary.

    Args:
        client: Who sends them.
        doing: What they are for, such as ``"deleting sessions"``, for an error's text.
        orders: The commands.

    Returns:
        Their replies, as bytes. None stands for a key of another type than the command takes, and
        for the size of a key if the server refuses MEMORY USAGE.
    """
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
            pairs = zip(orders, replies, strict=True)
            return [_checked(str(order[0]), reply) for order, reply in pairs]
        except ForeignReplyError:
            commands.drop_idle_connections(client)
            raise


def _checked(name: str, reply: Any) -> Any:
    refused = isinstance(reply, redis.ResponseError)
    if refused and (name == "MEMORY USAGE" or "WRONGTYPE" in str(reply)):
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
    options: dict[str, Any] = {"match": pattern, "count": commands.PAGE, "_type": b"LIST"}
    for node in client.get_primaries() if isinstance(client, RedisCluster) else [None]:
        where = {"target_nodes": node} if node else {}
        cursor: Any = None
        while cursor != 0:
            try:
                with explaining("listing sessions"), postponed():
                    found = cast("Any", client).scan(cursor or 0, **options, **where, **AS_BYTES)
            except MemorystoreChatError as error:
                if "syntax error" not in str(error.__cause__) or not options.pop("_type", None):
                    raise
                continue  # Redis 5 has no TYPE here; what is no list is passed over later
            yield from found[1]
            cursor = found[0][node.name] if node else found[0]


@contextmanager
def settled(client: Client, doing: str) -> Iterator[None]:
    """Raise an error if there are replicas, slots on the move, or other servers in the end."""
    before = _primaries(client, doing)
    yield
    if _primaries(client, doing) != before:
        raise MemorystoreChatError(
            f"The servers changed while {doing}, as in a failover or when slots are moved, so "
            f"something may be missing or undone. {_AGAIN} What is done already is left as it is."
        )


def _primaries(client: Client, doing: str) -> set[tuple[Any, ...]]:
    """The primaries, each with the ID of its process, its node ID, and its hash slots."""
    found: set[tuple[Any, ...]] = set()
    with explaining(doing):
        servers: list[Any] = [client]
        if isinstance(client, RedisCluster):
            manager = cast("Any", client).nodes_manager
            manager.initialize()  # what a client knows of a cluster may be old
            servers = [client.get_redis_connection(node) for node in client.get_primaries()]
        for server in servers:
            info: dict[str, Any] = {}
            for section in (b"server", b"replication"):  # bytes, whatever the client encodes
                info |= server.execute_command("INFO", section)
            if info["role"] != "master":
                # Perhaps an old connection: the address can lead to another server by now.
                server.connection_pool.disconnect(inuse_connections=False)
                raise _incomplete(doing, "this is a replica. Connect to the primary")
            node: dict[str, Any] = {}
            if "cluster" in (info.get("redis_mode"), info.get("server_mode")):
                nodes = server.execute_command("CLUSTER NODES").values()
                node = next(node for node in nodes if "myself" in node["flags"])
            if node.get("migrations"):
                raise _incomplete(doing, "the cluster is moving hash slots")
            slots = tuple((int(ends[0]), int(ends[-1])) for ends in node.get("slots", ()))
            found.add((info["run_id"], node.get("node_id"), slots))
    number = sum(last - first + 1 for *_, slots in found for first, last in slots)
    if any(name for _, name, _ in found) and number != 16384:
        raise _incomplete(
            doing,
            f"{number:,} of a cluster's 16,384 hash slots are here. Pass a "
            "redis.cluster.RedisCluster of the whole cluster, as connect() returns it",
        )
    return found


def _incomplete(doing: str, why: str) -> MemorystoreChatError:
    return MemorystoreChatError(f"Sessions would be missed by {doing}: {why}. {_AGAIN}")


def batches(items: Iterable[T], size: Callable[[T], int]) -> Iterator[list[T]]:
    """Group items, in order: at most `MOST` of them and `BUDGET` bytes, or one that is larger.

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
