"""Finding the sessions on a server: what `scan`, and everything that looks for sessions, shares."""

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, TypeAlias

from memorystore_chat import codec
from memorystore_chat.arguments import check_ids, check_text
from memorystore_chat.commands import Client, Command, Scan, script
from memorystore_chat.sessions.servers import ask, check_client, settled

MOST = 100
"""How many sessions one round trip may concern."""


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


Found: TypeAlias = tuple[Session, Any]
"""A session and its newest element, or a thread as one, and what the saver says of it."""


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
        with settled(client, doing := "listing sessions"):
            keys = ask(client, doing, Scan(pattern)) if wanted is None else map(str.encode, wanted)
            names = list(dict.fromkeys(keys))  # SCAN may answer a key twice
            for start in range(0, len(names), MOST):
                batch = names[start : start + MOST]
                replies = zip(batch, look(client, doing, batch), strict=True)
                found = [one for each in replies if (one := _found(*each, key_prefix))]
                counts["missing"] += 0 if wanted is None else len(batch) - len(found)
                yield found

    return batches()


def look(client: Client, doing: str, names: Sequence[bytes]) -> list[Any]:
    """What ``look.lua`` says of each key."""
    how = script("sessions/look")
    return ask(client, doing, [Command("", (name,), script=how, kind=list) for name in names])


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
    length, ttl, size, oldest, last = reply
    if not (is_message(last) or is_message(oldest)):
        return None
    times = codec.appended_at(oldest), codec.appended_at(last)
    id_ = key[len(key_prefix) :]
    return Session(id_, key, length, ttl if ttl >= 0 else None, size, *times), last
