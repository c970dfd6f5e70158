"""Asking the servers behind a client, and whether they stay the same meanwhile.

SCAN is answered by whoever is at the other end of a connection. A replica, a shard that the client
does not know, a server that was replaced: each gives a list that is too short, and nothing says so.
So `settled` notes the servers before a task and compares them after it.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast

from redis.cluster import RedisCluster

from memorystore_chat.commands import Client, Command, Scan, Sender, Steps, breaking
from memorystore_chat.errors import MemorystoreChatError, explaining

_AGAIN = "Run this again when no slots are moved and no failover is under way."
_SLOTS = 16384


def check_client(client: object) -> None:
    """Raise a TypeError unless a value is a synchronous client that acts at once."""
    if Sender(cast("Client", client)).client is None:
        raise TypeError(
            "client is an asyncio client; these functions take a synchronous one, such as "
            "connect() returns. In an event loop, call them with asyncio.to_thread()."
        )


def ask(client: Client, doing: str, request: list[Command] | Scan) -> list[Any]:
    """Send commands in one round trip to each primary, or scan; replies are bytes."""

    def steps() -> Steps[list[Any]]:
        return (yield request)

    return Sender(client).run(doing, steps(), "asyncio.to_thread")


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
    """The primaries, each with the ID of its process, and its hash slots in a cluster."""
    found: set[tuple[Any, ...]] = set()
    with explaining(doing), breaking():
        servers: list[Any] = [client]
        if isinstance(client, RedisCluster):
            cast("Any", client).nodes_manager.initialize()  # what a client knows may be old
            servers = [client.get_redis_connection(node) for node in client.get_primaries()]
        for server in servers:
            info = server.execute_command("INFO", b"server")
            info |= server.execute_command("INFO", b"replication")
            if info["role"] != "master":
                # Perhaps an old connection: the address can lead to another server by now.
                server.connection_pool.disconnect(inuse_connections=False)
                raise _incomplete(doing, "this is a replica. Connect to the primary")
            slots: tuple[tuple[int, int], ...] = ((1, _SLOTS),)  # of a server that is no cluster
            if "cluster" in (info.get("redis_mode"), info.get("server_mode")):
                nodes = server.execute_command("CLUSTER NODES").values()
                node = next(node for node in nodes if "myself" in node["flags"])
                if node["migrations"]:
                    raise _incomplete(doing, "the cluster is moving hash slots")
                slots = tuple((int(ends[0]), int(ends[-1])) for ends in node["slots"])
            found.add((info["run_id"], slots))
    held = [last - first + 1 for _, slots in found for first, last in slots]
    if sum(held) != _SLOTS:
        why = "only a part of the cluster is here. Pass a redis.cluster.RedisCluster of all of it"
        raise _incomplete(doing, why)
    return found


def _incomplete(doing: str, why: str) -> MemorystoreChatError:
    return MemorystoreChatError(f"Sessions would be missed by {doing}: {why}. {_AGAIN}")
