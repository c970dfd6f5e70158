"""Finding the sessions on a server: what `scan`, and everything that looks for sessions, shares."""

import heapq
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from hashlib import sha1
from itertools import islice
from typing import NamedTuple

from memorystore_chat import codec
from memorystore_chat.arguments import check_count, check_text
from memorystore_chat.commands import Client
from memorystore_chat.sessions.servers import (
    BUDGET,
    MOST,
    Order,
    ask,
    batches,
    check_client,
    keys,
    settled,
)

_LISTING = "listing sessions"


@dataclass(frozen=True)
class Session:
    """One stored conversation.

    Attributes:
        id: The session id: the key without the prefix.
        key: The Redis key.
        messages: How many messages it has.
        ttl: Seconds until it expires, or None if it does not.
        bytes: Memory it takes on the server, as MEMORY USAGE estimates it. If the server refuses
            that command: the number of messages times the mean size of the oldest and the newest.
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


class Found(NamedTuple):
    """A session, and its newest element: its SHA-1, and the id of its append as a number."""

    session: Session
    sha: str
    append: int


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
    check_client(client)
    check_text("key_prefix", key_prefix)
    return (found.session for found in _scanned(client, key_prefix))


def newest(client: Client, *, key_prefix: str, limit: int) -> tuple[list[Session], int]:
    """The sessions that were used last, newest first, and how many there are in all.

    Those without a known time come last. The ids of a program's appends grow, also within a
    millisecond.
    """
    check_client(client)
    check_text("key_prefix", key_prefix)
    check_count("limit", limit, "sessions")
    number = 0

    def counted() -> Iterator[Found]:
        nonlocal number
        for found in _scanned(client, key_prefix):
            number += 1
            yield found

    first = heapq.nsmallest(limit, counted(), key=lambda found: (-found.append, found.session.id))
    return [found.session for found in first], number


def _scanned(client: Client, key_prefix: str) -> Iterator[Found]:
    with settled(client, _LISTING):
        yield from find(client, None, key_prefix, Counter())


def find(
    client: Client, ids: Sequence[str] | None, key_prefix: str, counts: Counter[str]
) -> Iterator[Found]:
    """The sessions under the prefix, or those of the ids; ids without one count as missing."""
    if ids is None:
        pattern = re.sub(rb"([\\*?\[\]])", rb"\\\1", key_prefix.encode()) + b"*"
        names = _once(keys(client, pattern))
    else:
        names = ((key_prefix + id_).encode() for id_ in dict.fromkeys(ids))
    while batch := list(islice(names, MOST)):
        number = 0
        for found in _inspected(client, batch, key_prefix):
            number += 1
            yield found
        if ids is not None:
            counts["missing"] += len(batch) - number


def is_message(element: bytes) -> bool:
    """Whether an element can be read."""
    try:
        codec.decode(element)
    except ValueError:
        return False
    return True


def _once(names: Iterable[bytes]) -> Iterator[bytes]:
    """The keys that are text, each once."""
    seen = set[bytes]()
    for name in names:
        if name not in seen and name.decode(errors="ignore").encode() == name:
            seen.add(name)
            yield name


def _inspected(client: Client, names: Sequence[bytes], key_prefix: str) -> Iterator[Found]:
    """Those of the keys that are sessions."""
    orders: list[Order] = [
        order for name in names for order in (("LLEN", name), ("TTL", name), ("MEMORY USAGE", name))
    ]
    replies = iter(ask(client, _LISTING, orders))
    lists = [entry for entry in zip(names, replies, replies, replies, strict=True) if entry[1]]
    # An unknown size is taken for a large one, so that a reply stays within the budget.
    for batch in batches(lists, lambda entry: entry[3] or BUDGET // 8):
        orders = [o for name, *_ in batch for o in (("LINDEX", name, 0), ("LINDEX", name, -1))]
        ends = iter(ask(client, _LISTING, orders))
        for (name, length, ttl, size), oldest, last in zip(batch, ends, ends, strict=True):
            if not (oldest and last and (is_message(last) or is_message(oldest))):
                continue
            session = Session(
                id=name.decode()[len(key_prefix) :],
                key=name.decode(),
                messages=length,
                ttl=ttl if ttl >= 0 else None,
                bytes=size or length * (len(oldest) + len(last)) // 2,
                first=codec.appended_at(oldest),
                last=codec.appended_at(last),
            )
            append = codec.id_of_append(last)
            sha = sha1(last, usedforsecurity=False).hexdigest()
            yield Found(session, sha, append.int if append else 0)
