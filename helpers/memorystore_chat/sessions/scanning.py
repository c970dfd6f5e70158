"""Finding the sessions on the servers behind a client: all of them, or an error.

SCAN is answered by whoever is at the other end of a connection. A replica, a shard that the client
does not know, a server that was replaced: each gives a list that is too short, and nothing says so.
So `settled` notes the servers before a task and compares them after it.
"""

import re
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Any, TypeAlias, cast

from redis.cluster import RedisCluster

from memorystore_chat import codec
from memorystore_chat.arguments import check_ids, check_text
from memorystore_chat.commands import Client, Command, Scan, Sender, Steps, breaking, script
from memorystore_chat.errors import MemorystoreChatError, explaining

_AGAIN = "Run this again when no slots are moved and no failover is under way."
_SLOTS = 16384
_MOST = 100  # sessions that one round trip may concern


@dataclass(frozen=True)
class Session:
    """One stored conversation.

    Attributes:
        id: The session id: the key without the prefix.
        key: The Redis key.
        messages: How many messages it has.
        ttl: Seconds until it expires, or None if it does not.
        bytes: Memory it takes on the server, about.
        first: When its oldest message was appended (UTC), or None if the message does not say,
            as those of langchain-google-memorystore-redis and langchain-community.
        last: The same of its newest message.
    """

    id: str
    key: str
    messages: int
    ttl: int | None
    bytes: int
    first: datetime | None
    last: datetime | None


Found: TypeAlias = tuple[Session, bytes]
"""A session, or a thread as one, and what tells its newest element from others."""


def scan(client: Client, *, key_prefix: str = "") -> Iterator[Session]:
    """List the sessions whose key begins with a prefix, each once, in no particular order.

    A session is a list whose newest or oldest element is a stored message, under a key that is
    text. One that is created or deleted during the scan may or may not be listed. If a server is
    replaced meanwhile, or a cluster moves slots, the scan ends with an error.

    Args:
        client: A connected client; all primaries of a cluster are asked.
        key_prefix: What the keys begin with, literally. An empty one lists all sessions of the
            server, those of other libraries that store messages in the same form included.

    Raises:
        TypeError, ValueError: An argument is not acceptable.
        MemorystoreChatError: A server cannot be reached (ConnectError), refused, is a replica or a
            single node of a cluster, or was replaced meanwhile.

    Example:
        >>> from memorystore_chat import connect, sessions
        >>> list(sessions.scan(connect("embedded"), key_prefix="nothing-here:"))
        []
    """
    found = find(client, None, key_prefix, Counter())
    return (session for batch in found for session, _ in batch)


def find(
    client: Client, ids: Iterable[str] | None, key_prefix: str, counts: Counter[str]
) -> Iterator[list[Found]]:
    """The sessions under the prefix, or those of the ids; ids without one count as missing.

    They come in batches, and the servers are compared when the last one was worked off.
    """
    check_client(client)
    check_text("key_prefix", key_prefix)
    pattern = re.sub(rb"([\\*?\[\]])", rb"\\\1", key_prefix.encode()) + b"*"
    wanted = None if ids is None else [key_prefix + each for each in check_ids("ids", ids)]

    def batches() -> Iterator[list[Found]]:
        how = script("sessions/look")
        with settled(client, doing := "listing sessions"):
            keys = ask(client, doing, Scan(pattern)) if wanted is None else map(str.encode, wanted)
            names = list(dict.fromkeys(keys))  # SCAN may answer a key twice
            for start in range(0, len(names), _MOST):
                batch = names[start : start + _MOST]
                looks = [Command("", (name,), script=how, kind=list) for name in batch]
                replies = zip(batch, ask(client, doing, looks), strict=True)
                found = [one for each in replies if (one := _found(*each, key_prefix))]
                counts["missing"] += 0 if wanted is None else len(batch) - len(found)
                yield found

    return batches()


def is_message(element: bytes) -> bool:
    """Whether an element can be read."""
    try:
        codec.decode(element)
    except ValueError:
        return False
    return True


def _found(name: bytes, reply: list[Any], key_prefix: str) -> Found | None:
    """What is under a key, if it is a session."""
    key = name.decode(errors="ignore")
    if not reply or key.encode() != name:
        return None
    length, ttl, size, oldest, last, sha = reply
    if not (is_message(last) or is_message(oldest)):
        return None
    times = codec.appended_at(oldest), codec.appended_at(last)
    id_ = key[len(key_prefix) :]
    return Session(id_, key, length, ttl if ttl >= 0 else None, size, *times), sha


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
            info = server.execute_command("INFO")
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
