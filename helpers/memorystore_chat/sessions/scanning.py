"""Finding the sessions on a server: what `scan`, and everything that looks for sessions, shares."""

import heapq
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from hashlib import sha1
from typing import NamedTuple

from memorystore_chat import codec
from memorystore_chat.arguments import check_client, check_count, check_text
from memorystore_chat.commands import Client
from memorystore_chat.sessions._batches import BUDGET, MOST, batches
from memorystore_chat.sessions._primaries import Command, Primaries
from memorystore_chat.sessions.arguments import Progress, check, with_progress

STAGING = b"memorystore-chat:loading:"
"""Begins the keys under which sessions wait until they are whole; no session has such a key."""

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


def scan(client: Client, *, key_prefix: str = "", count: int = MOST) -> Iterator[Session]:
    """List the sessions whose key begins with a prefix.

    A session is a list whose newest or oldest element is a stored message, under a key that is
    UTF-8 text; everything else on the server is passed over. Each is listed once, and all of them
    are: if a cluster moves slots meanwhile, or a server is replaced by another one, the rest is
    looked for again. One that is created or deleted during the scan may or may not be listed.

    Args:
        client: A connected client; all primaries of a cluster are asked.
        key_prefix: What the keys begin with, literally. An empty one lists all sessions of the
            server, those of other libraries that store messages in the same form included.
        count: About how many keys the server looks at in one step.

    Yields:
        The sessions, in no particular order.

    Raises:
        TypeError, ValueError: An argument is not acceptable.
        ConnectError: The server cannot be reached or did not answer.
        MemorystoreChatError: The server refused, is a replica or a single node of a cluster, or
            the servers changed too often to find everything.

    Example:
        >>> from memorystore_chat import connect, sessions
        >>> client = connect("embedded")
        >>> [session.messages for session in sessions.scan(client, key_prefix="nothing-here:")]
        []
    """
    check_client(client)
    check_text("key_prefix", key_prefix)
    check_count("count", count, "keys")
    return _scan(client, key_prefix, count)


def _scan(client: Client, key_prefix: str, count: int) -> Iterator[Session]:
    for entry in scanned(Primaries(client, _LISTING), key_prefix, count):
        yield entry.session


def newest(
    client: Client, *, key_prefix: str, limit: int, progress: Progress
) -> tuple[list[Session], int]:
    """The sessions that were used last, newest first, and how many there are in all.

    Sessions without a known time come last. Two that one program wrote within a millisecond are in
    the order in which it did: the ids of its appends grow.
    """
    check(client, progress, key_prefix=key_prefix)
    check_count("limit", limit, "sessions")
    number = 0

    def counted() -> Iterator[Found]:
        nonlocal number
        found = scanned(Primaries(client, _LISTING), key_prefix)
        for entry in with_progress(found, progress, "Listing", None):
            number += 1
            yield entry

    first = heapq.nsmallest(limit, counted(), key=lambda entry: (-entry.append, entry.session.id))
    return [entry.session for entry in first], number


def find(
    primaries: Primaries, ids: Sequence[str] | None, key_prefix: str, counts: Counter[str]
) -> Iterator[Found]:
    """The sessions under the prefix, or those of the ids; ids without one count as missing."""
    if ids is None:
        yield from scanned(primaries, key_prefix)
        return
    for start in range(0, len(ids), MOST):
        keys = [(key_prefix + id_).encode() for id_ in ids[start : start + MOST]]
        found = 0
        for _, entry in _inspected(primaries, keys, key_prefix):
            found += 1
            yield entry
        counts["missing"] += len(keys) - found


def scanned(primaries: Primaries, key_prefix: str, count: int = MOST) -> Iterator[Found]:
    """The sessions under the prefix, each once."""
    pattern = re.sub(rb"([\\*?\[\]])", rb"\\\1", key_prefix.encode()) + b"*"
    # SCAN may answer a key twice. A set of the keys takes about 100 bytes and the key for each.
    seen = set[bytes]()
    for page in primaries.keys(pattern, count):
        keys = [key for key in dict.fromkeys(page) if key not in seen and _may_be_session(key)]
        for start in range(0, len(keys), MOST):
            for key, entry in _inspected(primaries, keys[start : start + MOST], key_prefix):
                seen.add(key)
                yield entry


def is_message(element: bytes) -> bool:
    """Whether an element can be read."""
    try:
        codec.decode(element)
    except ValueError:
        return False
    return True


def _may_be_session(key: bytes) -> bool:
    try:
        key.decode()
    except UnicodeDecodeError:
        return False
    return not key.startswith(STAGING)


def _inspected(
    primaries: Primaries, keys: Sequence[bytes], key_prefix: str
) -> Iterator[tuple[bytes, Found]]:
    """Those of the keys that are sessions."""
    questions: list[Command] = [
        question
        for key in keys
        for question in (("LLEN", key), ("TTL", key), ("MEMORY USAGE", key))
    ]
    replies = primaries.run(questions, _LISTING)
    lists = [
        entry
        for entry in zip(keys, replies[::3], replies[1::3], replies[2::3], strict=True)
        if entry[1]
    ]
    # An unknown size is taken for a large one, so that a reply stays within the budget.
    for batch in batches(lists, lambda entry: entry[3] or BUDGET // 8):
        questions = [c for key, *_ in batch for c in (("LINDEX", key, 0), ("LINDEX", key, -1))]
        ends = primaries.run(questions, _LISTING)
        for (key, length, ttl, size), oldest, newest in zip(
            batch, ends[::2], ends[1::2], strict=True
        ):
            if not (oldest and newest and (is_message(newest) or is_message(oldest))):
                continue
            session = Session(
                id=key.decode()[len(key_prefix) :],
                key=key.decode(),
                messages=length,
                ttl=ttl if ttl >= 0 else None,
                bytes=size or length * (len(oldest) + len(newest)) // 2,
                first=codec.appended_at(oldest),
                last=codec.appended_at(newest),
            )
            append = codec.id_of_append(newest)
            sha = sha1(newest, usedforsecurity=False).hexdigest()
            yield key, Found(session, sha, append.int if append else 0)
