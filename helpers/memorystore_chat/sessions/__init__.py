"""Many sessions at once: list, expire, delete, export, load, and copy them from another library.

Every function takes a ``redis.Redis`` or ``redis.cluster.RedisCluster``, with or without
``decode_responses=True``, and works on servers that refuse KEYS, OBJECT, CONFIG and CLIENT. They
need memory for some hundred sessions at a time, however many there are; only to recognize keys
that SCAN answers twice they keep 12 to 24 bytes a session.

Example:
    >>> from memorystore_chat import MemorystoreChatMessageHistory, connect, sessions
    >>> client = connect("embedded")
    >>> for name in ("ada", "bob"):
    ...     history = MemorystoreChatMessageHistory(client, name, key_prefix="docs:")
    ...     history.add_user_message("Hello!")
    >>> sorted(session.id for session in sessions.scan(client, key_prefix="docs:"))
    ['ada', 'bob']
    >>> sessions.delete(client, key_prefix="docs:", dry_run=False).sessions
    2
"""

import heapq
import os
import re
import sys
from array import array
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from hashlib import blake2b, sha1
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO, Literal, TypeAlias, TypeVar, cast

from redis.client import NEVER_DECODE
from redis.cluster import RedisCluster
from redis.exceptions import ResponseError

from memorystore_chat._checks import check_client, check_count, check_text
from memorystore_chat._extras import require
from memorystore_chat.errors import explaining
from memorystore_chat.sessions import moving as migrate
from memorystore_chat.sessions._asking import run
from memorystore_chat.storage import Client, codec
from memorystore_chat.storage.pipeline import BUDGET, MOST, Command, batches
from memorystore_chat.tutorial import display
from memorystore_chat.tutorial.display import Table

Progress: TypeAlias = bool | Literal["always"]
File: TypeAlias = str | os.PathLike[str] | BinaryIO
T = TypeVar("T")


@dataclass(frozen=True)
class Session:
    """One stored conversation.

    Attributes:
        id: The session id: the key without the prefix.
        key: The Redis key.
        messages: How many messages it has.
        ttl: Seconds until it expires, or None where it does not.
        bytes: Memory it takes on the server, as MEMORY USAGE estimates it. Where the server
            refuses that command: the number of messages times the mean size of the oldest and
            the newest.
        first: When its oldest message was appended (UTC), or None where the message does not
            say, as those of langchain-google-memorystore-redis and langchain-community.
        last: The same of its newest message.
    """

    id: str
    key: str
    messages: int
    ttl: int | None
    bytes: int
    first: datetime | None
    last: datetime | None


@dataclass(frozen=True, repr=False)
class Report:
    """What one of these functions did, or would do; its repr is a sentence.

    Attributes:
        action: What was done with the sessions.
        dry_run: Whether it was only tried out and nothing was changed.
        sessions: How many sessions it was done with.
        messages: How many messages they have; of a session that was extended, the new ones.
        bytes: For "delete" and "expire" the memory they take on the server; else the size of the
            messages.
        missing: Ids that were asked for and have no session.
        undated: Sessions left as they are because it is not known when they were last used.
        changed: Sessions left as they are because they were appended to in the meantime.
        existing: Sessions that were at their destination already, and are unchanged.
        conflicting: Sessions that were left out because their destination holds something else.
        unreadable: Copied messages that cannot be read; ``history.repair()`` moves them aside.
    """

    action: Literal["delete", "expire", "export", "load", "copy"]
    dry_run: bool
    sessions: int = 0
    messages: int = 0
    bytes: int = 0
    missing: int = 0
    undated: int = 0
    changed: int = 0
    existing: int = 0
    conflicting: int = 0
    unreadable: int = 0

    def __repr__(self) -> str:
        would, done = {
            "delete": ("delete", "Deleted"),
            "expire": ("set the time to live of", "Set the time to live of"),
            "export": ("export", "Exported"),
            "load": ("load", "Loaded"),
            "copy": ("copy", "Copied"),
        }[self.action]
        start = f"Would {would}" if self.dry_run else done
        size = f"{self.bytes / 1e6:,.1f} MB" if self.bytes >= 100_000 else "less than 0.1 MB"
        parts = [
            f"{start} {_number(self.sessions, 'session')} "
            f"({_number(self.messages, 'message')}, {size})"
        ]
        remarks = {
            f"{self.missing:,} not found": self.missing,
            f"{self.undated:,} left because their age is not known": self.undated,
            f"{self.changed:,} left because they were appended to meanwhile": self.changed,
            f"{self.existing:,} there already": self.existing,
            f"{self.conflicting:,} left out because something else is there": self.conflicting,
            f"{_number(self.unreadable, 'message')} cannot be read": self.unreadable,
        }
        parts += [remark for remark, number in remarks.items() if number]
        if self.dry_run:
            parts.append("nothing was changed, dry_run=False does it")
        return "; ".join(parts) + "."


def scan(client: Client, *, key_prefix: str = "", count: int = MOST) -> Iterator[Session]:
    """List the sessions whose key begins with a prefix.

    A session is a list whose newest or oldest element is a stored message, under a key that is
    UTF-8 text; everything else on the server is passed over. Each is listed once. One that comes
    or goes during the scan may or may not be listed, and so may one that a cluster moves to
    another node meanwhile.

    Args:
        client: A connected client; all primaries of a cluster are asked.
        key_prefix: What the keys begin with, literally. An empty one lists all sessions of the
            server, those of other libraries that store messages in the same form included.
        count: About how many keys the server looks at in one step.

    Yields:
        The sessions, in no particular order.

    Raises:
        ConnectError: The server cannot be reached or did not answer.
        MemorystoreChatError: The server refused.

    Example:
        >>> from memorystore_chat import connect, sessions
        >>> client = connect("embedded")
        >>> [session.messages for session in sessions.scan(client, key_prefix="nothing-here:")]
        []
    """
    check_client(client)
    check_text("key_prefix", key_prefix)
    check_count("count", count, "keys")
    return (found.session for found in _scanned(client, key_prefix, count))


def table(
    client: Client, *, key_prefix: str = "", limit: int = 50, progress: Progress = False
) -> Table[Session]:
    """Show the sessions that were used last, newest first: a table in a notebook, text elsewhere.

    Everything under the prefix is looked at to find them, a step at a time as `scan` does it, and
    only ``limit`` of them are kept in memory.

    Args:
        client: A connected client.
        key_prefix: What the keys begin with, literally.
        limit: How many sessions to show; those without a known time come last.
        progress: As for `delete`.

    Returns:
        A sequence of `Session` that shows itself, with times as of now; `print` and `str` give the
        plain text.

    Raises:
        ValueError: An argument is not acceptable.
        ConnectError: The server cannot be reached or did not answer.
        MemorystoreChatError: The server refused.

    Example:
        >>> from memorystore_chat import connect, sessions
        >>> sessions.table(connect("embedded"), key_prefix="nothing-here:")
        No sessions.
    """
    check_client(client)
    check_text("key_prefix", key_prefix)
    check_count("limit", limit, "sessions")
    _check_progress(progress)
    number = 0

    def counted() -> Iterator[Session]:
        nonlocal number
        for entry in _progressing(_scanned(client, key_prefix, MOST), progress, "Listing", None):
            number += 1
            yield entry.session

    newest = heapq.nsmallest(limit, counted(), key=_by_last_use)
    now = datetime.now(UTC)
    title = None
    if number:
        title = _number(number, "session")
        if number > limit:
            title = f"The {limit:,} used last of {title}"
    return display.table(
        newest,
        {
            "id": "session",
            "messages": "messages",
            "last": "last activity",
            "ttl": "expires in",
            "bytes": "size",
        },
        title=title,
        formats={
            "messages": "{:,}".format,
            "last": lambda last: "unknown" if last is None else _ago(now - last),
            "ttl": lambda ttl: "never" if ttl is None else _span(ttl),
            "bytes": _size,
        },
        empty="No sessions.",
    )


def delete(
    client: Client,
    ids: Iterable[str] | None = None,
    *,
    key_prefix: str = "",
    idle_for: timedelta | float | None = None,
    all_sessions: bool = False,
    dry_run: bool = True,
    progress: Progress = False,
) -> Report:
    """Delete sessions for good, by id, by prefix or by age; by default only count them.

    Only lists that `scan` takes for sessions are deleted, whatever else has such a key. The
    memory is freed in the background (UNLINK).

    Args:
        client: A connected client.
        ids: Session ids; None stands for all under the prefix.
        key_prefix: What the keys begin with, literally.
        idle_for: Only sessions whose newest message is at least so old: a timedelta or seconds,
            by the clocks of this program and of the one that appended. Sessions without a known
            time are kept. One that is appended to before its turn comes is kept too: the server
            compares and deletes in one step.
        all_sessions: Must be True where neither ``ids`` nor ``key_prefix`` says which, so that
            nobody deletes all sessions of a server by leaving something out.
        dry_run: Only say what would be deleted.
        progress: Show a progress bar, if this runs in a notebook or a terminal; "always" shows
            it elsewhere too. Needs tqdm.

    Returns:
        How many were, or would be, deleted, and how many were kept for which reason.

    Raises:
        ValueError: An argument is not acceptable, or nothing says which sessions to delete.
        ConnectError: The server cannot be reached or did not answer; some may be deleted.
        MemorystoreChatError: The server refused.

    Example:
        >>> from datetime import timedelta
        >>> from memorystore_chat import connect, sessions
        >>> client = connect("embedded")
        >>> report = sessions.delete(client, key_prefix="docs:", idle_for=timedelta(days=30))
        >>> report.dry_run, report.sessions
        (True, 0)
    """
    return _change(
        client,
        "delete",
        "Deleting",
        ("UNLINK",),
        ids,
        key_prefix=key_prefix,
        idle_for=idle_for,
        all_sessions=all_sessions,
        dry_run=dry_run,
        progress=progress,
    )


def expire(
    client: Client,
    ids: Iterable[str] | None = None,
    *,
    ttl: int | None,
    key_prefix: str = "",
    idle_for: timedelta | float | None = None,
    all_sessions: bool = False,
    dry_run: bool = True,
    progress: Progress = False,
) -> Report:
    """Set how long stored sessions have to live from now; by default only count them.

    For sessions that were stored without a TTL, or with another than you want today. It holds
    until the next append of a history that has a ``ttl`` of its own.

    Args:
        client: A connected client.
        ids: Session ids; None stands for all under the prefix.
        ttl: Seconds from now until they are gone, whole and more than 0; None lets them stay
            until they are deleted.
        key_prefix: What the keys begin with, literally.
        idle_for: As for `delete`: only sessions whose newest message is at least so old.
        all_sessions: As for `delete`.
        dry_run: Only say which sessions it would concern.
        progress: As for `delete`.

    Returns:
        How many sessions got, or would get, this time to live, and how many were left as they
        are for which reason.

    Raises:
        ValueError: An argument is not acceptable, or nothing says which sessions are meant.
        ConnectError: The server cannot be reached or did not answer; some may be set.
        MemorystoreChatError: The server refused.

    Example:
        >>> from memorystore_chat import connect, sessions
        >>> client = connect("embedded")
        >>> report = sessions.expire(client, key_prefix="docs:", ttl=30 * 24 * 60 * 60)
        >>> report.dry_run, report.sessions
        (True, 0)
    """
    check_count("ttl", ttl, "seconds", optional=True)
    return _change(
        client,
        "expire",
        "Expiring",
        ("PERSIST",) if ttl is None else ("EXPIRE", ttl),
        ids,
        key_prefix=key_prefix,
        idle_for=idle_for,
        all_sessions=all_sessions,
        dry_run=dry_run,
        progress=progress,
    )


def export(
    client: Client,
    file: File,
    *,
    key_prefix: str = "",
    ids: Iterable[str] | None = None,
    progress: Progress = False,
) -> Report:
    """Write sessions to a file, from which `load` brings them back.

    The file is JSON Lines in UTF-8: a heading, one line for each session (for one of more than
    1,000 messages, several), and a last line with the counts and a SHA-256 of the rest. Messages
    are kept byte for byte, broken ones too; so is the time each session has to live, counted
    from now.

    Args:
        client: A connected client.
        file: A path, or a file opened for writing in binary mode (``gzip.open(path, "wb")``
            too). At a path the file appears when it is complete; until then an earlier one stays.
        key_prefix: What the keys begin with, literally.
        ids: Session ids; None stands for all under the prefix.
        progress: As for `delete`.

    Returns:
        How many sessions and messages were written, and how many ids have no session.

    Raises:
        TypeError: The file is opened in text mode.
        ValueError: An argument is not acceptable.
        ConnectError: The server cannot be reached or did not answer.
        MemorystoreChatError: The server refused.

    Example:
        >>> import io
        >>> from memorystore_chat import connect, sessions
        >>> sessions.export(connect("embedded"), io.BytesIO(), key_prefix="nothing-here:")
        Exported 0 sessions (0 messages, less than 0.1 MB).
    """
    check_client(client)
    names = _checked(ids, key_prefix, progress)
    counts: Counter[str] = Counter()
    found = _progressing(_found(client, names, key_prefix, counts), progress, "Exporting", names)
    with _opened_for_writing(file) as archive:
        pieces = migrate.read(client, (entry.session for entry in found))
        counts.update(migrate.write_archive(archive, pieces, key_prefix))
    return Report("export", False, **counts)


def load(
    client: Client,
    file: File,
    *,
    key_prefix: str | None = None,
    overwrite: bool = False,
    progress: Progress = False,
) -> Report:
    """Bring back the sessions of a file that `export` wrote.

    The file is checked first: where it was cut off or changed, nothing is loaded. Every session
    appears at once with all its messages, which are read back and compared. Sessions that are
    there already are left as they are, so loading a file twice changes nothing, and after an
    interruption it is simply loaded again.

    Args:
        client: A connected client.
        file: A path, or a file opened for reading in binary mode that can be rewound.
        key_prefix: What to put in front of the ids; None stands for the prefix that the sessions
            were exported with.
        overwrite: Replace sessions that are there already. A key that is not a list is left
            alone all the same.
        progress: As for `delete`.

    Returns:
        How many sessions and messages were loaded; ``existing`` counts those that were there
        with these messages (and perhaps newer ones), ``conflicting`` those with others.

    Raises:
        TypeError: The file is opened in text mode, or cannot be rewound.
        ValueError: An argument is not acceptable.
        MemorystoreChatError: The file is not complete, or the server refused, as when its memory
            is full; the sessions loaded by then stay.
        ConnectError: The server cannot be reached or did not answer.

    Example:
        >>> import io
        >>> from memorystore_chat import connect, sessions
        >>> client, file = connect("embedded"), io.BytesIO()
        >>> report = sessions.export(client, file, key_prefix="nothing-here:")
        >>> _ = file.seek(0)
        >>> sessions.load(client, file)
        Loaded 0 sessions (0 messages, less than 0.1 MB).
    """
    check_client(client)
    if key_prefix is not None:
        check_text("key_prefix", key_prefix)
    _check_progress(progress)
    with _opened_for_reading(file) as archive:
        start = archive.tell()
        contents = migrate.check_archive(archive)
        archive.seek(start)
        prefix = contents.key_prefix if key_prefix is None else key_prefix
        pieces = migrate.read_archive(archive)
        counts = migrate.put(
            client,
            _progressing(pieces, progress, "Loading", range(contents.pieces), unit=" lines"),
            key_prefix=prefix,
            existing="replace" if overwrite else "keep",
        )
    return Report("load", False, **counts)


def from_langchain_community(
    client: Client,
    *,
    key_prefix_from: str = "message_store:",
    key_prefix: str = "",
    dry_run: bool = True,
    progress: Progress = False,
) -> Report:
    """Copy the sessions of langchain-community's RedisChatMessageHistory.

    It stores them newest first; the copies are what MemorystoreChatMessageHistory reads. The
    originals stay as they are. A copy holds the same bytes, so its messages carry no time, and it
    gets the time to live that the original has left. Copying again changes nothing, except that
    a session that has grown since gets the new messages; where the copy has gone its own way,
    it is left alone and counted as conflicting.

    Args:
        client: A connected client.
        key_prefix_from: The prefix that the other library was given.
        key_prefix: The prefix for the copies.
        dry_run: Only say what would be copied.
        progress: As for `delete`.

    Returns:
        How many sessions and messages were, or would be, copied; ``existing`` counts sessions
        that were copied before, ``unreadable`` the messages in the originals that cannot be read.

    Raises:
        ValueError: A prefix is not acceptable: the copies must not look like originals.
        ConnectError: The server cannot be reached or did not answer.
        MemorystoreChatError: The server refused.

    Example:
        >>> from memorystore_chat import connect, sessions
        >>> sessions.from_langchain_community(connect("embedded")).dry_run
        True
    """
    check_client(client)
    check_text("key_prefix_from", key_prefix_from)
    check_text("key_prefix", key_prefix)
    _check_progress(progress)
    if key_prefix.startswith(key_prefix_from):
        raise ValueError(
            f"key_prefix is {key_prefix!r} and key_prefix_from is {key_prefix_from!r}, so the "
            "copies would be taken for originals the next time. Choose a key_prefix that does not "
            "begin with key_prefix_from."
        )
    unreadable = 0

    def checked(pieces: Iterable[migrate.Piece]) -> Iterator[migrate.Piece]:
        nonlocal unreadable
        for piece in pieces:
            unreadable += sum(not _is_message(element) for element in piece.elements)
            yield piece

    found = _progressing(_scanned(client, key_prefix_from, MOST), progress, "Copying", None)
    pieces = migrate.read(client, (entry.session for entry in found), newest_first=True)
    counts = migrate.put(
        client, checked(pieces), key_prefix=key_prefix, existing="extend", dry_run=dry_run
    )
    return Report("copy", dry_run, unreadable=unreadable, **counts)


@dataclass(frozen=True)
class _Found:
    """A session, and the SHA-1 of its newest element."""

    session: Session
    newest: str


# Does it with a session whose newest element is still the same; says yes again when repeated.
_IF_UNCHANGED = """
local newest = redis.call('LINDEX', KEYS[1], -1)
if newest and redis.sha1hex(newest) ~= ARGV[1] then
  return 0
end
redis.call(ARGV[2], KEYS[1], unpack(ARGV, 3))
return 1
"""


def _change(
    client: Client,
    action: Literal["delete", "expire"],
    title: str,
    command: Command,
    ids: Iterable[str] | None,
    *,
    key_prefix: str,
    idle_for: timedelta | float | None,
    all_sessions: bool,
    dry_run: bool,
    progress: Progress,
) -> Report:
    """Do something with sessions: a command (its name, then what follows the key) for each."""
    check_client(client)
    names = _checked(ids, key_prefix, progress)
    if names is None and not key_prefix and not all_sessions:
        raise ValueError(
            f"This would {action} every session on the server. Say which: ids=[...], "
            "key_prefix='...', or all_sessions=True if you mean all of them."
        )
    before = None if idle_for is None else datetime.now(UTC) - _duration(idle_for)
    name, *rest = command

    def order(found: _Found) -> Command:
        if before is None:
            return name, found.session.key, *rest
        return "EVAL", _IF_UNCHANGED, 1, found.session.key, found.newest, name, *rest

    counts: Counter[str] = Counter()
    found = _progressing(_found(client, names, key_prefix, counts), progress, title, names)
    while batch := list(islice(found, MOST)):
        meant = []
        for entry in batch:
            last = entry.session.last
            if before is None or (last and last <= before):
                meant.append(entry)
            elif not last:
                counts["undated"] += 1
        if not dry_run:
            replies = run(client, [order(entry) for entry in meant], f"{title.lower()} sessions")
            if before is not None:
                changed = [entry for entry, reply in zip(meant, replies, strict=True) if reply]
                counts["changed"] += len(meant) - len(changed)
                meant = changed
        for entry in meant:
            session = entry.session
            counts.update(sessions=1, messages=session.messages, bytes=session.bytes)
    return Report(action, dry_run, **counts)


def _found(
    client: Client, ids: Sequence[str] | None, key_prefix: str, counts: Counter[str]
) -> Iterator[_Found]:
    """The sessions under the prefix, or those of the ids; ids without one are counted."""
    if ids is None:
        yield from _scanned(client, key_prefix, MOST)
        return
    for start in range(0, len(ids), MOST):
        keys = [(key_prefix + id_).encode() for id_ in ids[start : start + MOST]]
        found = 0
        for entry in _inspected(client, keys, key_prefix):
            found += 1
            yield entry
        counts["missing"] += len(keys) - found


def _scanned(client: Client, key_prefix: str, count: int) -> Iterator[_Found]:
    seen = _Seen()
    for page in _pages(client, key_prefix, count):
        keys = [key for key in page if _is_text(key) and seen.add(key)]
        for start in range(0, len(keys), MOST):
            yield from _inspected(client, keys[start : start + MOST], key_prefix)


def _pages(client: Client, key_prefix: str, count: int) -> Iterator[list[bytes]]:
    """The keys of lists that begin with the prefix, a step of SCAN at a time."""
    pattern = re.sub(rb"([\\*?\[\]])", rb"\\\1", key_prefix.encode()) + b"*"
    options: dict[str, Any] = {NEVER_DECODE: True}
    server = cast("Any", client)
    nodes = server.get_primaries() if isinstance(client, RedisCluster) else [None]
    of_type: tuple[str, ...] = ("TYPE", "list")
    for node in nodes:
        if node is not None:
            options["target_nodes"] = node
        cursor: Any = 0
        while True:
            command = ("SCAN", cursor, "MATCH", pattern, "COUNT", count, *of_type)
            with explaining("listing sessions"):
                try:
                    cursor, keys = server.execute_command(*command, **options)
                except ResponseError as error:
                    if not of_type or "syntax error" not in str(error):
                        raise
                    of_type = ()  # Redis 5; keys that are no lists are sorted out later
                    continue
            if isinstance(cursor, dict):
                (cursor,) = cursor.values()
            yield keys
            if cursor == 0:
                break


def _inspected(client: Client, keys: Sequence[bytes], key_prefix: str) -> Iterator[_Found]:
    """Those of the keys that are sessions."""
    doing = "listing sessions"
    questions: list[Command] = [
        question
        for key in keys
        for question in (("LLEN", key), ("TTL", key), ("MEMORY USAGE", key))
    ]
    replies = run(client, questions, doing)
    lists = [
        # An unknown size is taken for a large one, so that a reply stays within the budget.
        (key, length, ttl, size, size or BUDGET // 8)
        for key, length, ttl, size in zip(
            keys, replies[::3], replies[1::3], replies[2::3], strict=True
        )
        if length
    ]
    for batch in batches(lists, lambda entry: cast("int", entry[-1])):
        questions = [c for key, *_ in batch for c in (("LINDEX", key, 0), ("LINDEX", key, -1))]
        ends = run(client, questions, doing)
        for (raw, length, ttl, size, _), oldest, newest in zip(
            batch, ends[::2], ends[1::2], strict=True
        ):
            if not (oldest and newest and (_is_message(newest) or _is_message(oldest))):
                continue
            key = raw.decode()
            session = Session(
                id=key[len(key_prefix) :],
                key=key,
                messages=length,
                ttl=ttl if ttl >= 0 else None,
                bytes=size or length * (len(oldest) + len(newest)) // 2,
                first=codec.appended_at(oldest),
                last=codec.appended_at(newest),
            )
            yield _Found(session, sha1(newest, usedforsecurity=False).hexdigest())


class _Seen:
    """The keys met so far: a hash table of 64-bit digests, 12 to 24 bytes each."""

    def __init__(self) -> None:
        self._slots = array("q", bytes(8 * 1024))
        self._used = 0

    def add(self, key: bytes) -> bool:
        """Remember the key; False if it was there already."""
        digest = int.from_bytes(blake2b(key, digest_size=8).digest(), signed=True) or 1
        if not self._place(digest):
            return False
        self._used += 1
        if 3 * self._used > 2 * len(self._slots):
            digests, self._slots = self._slots, array("q", bytes(16 * len(self._slots)))
            for digest in digests:
                if digest:
                    self._place(digest)
        return True

    def _place(self, digest: int) -> bool:
        slots = self._slots
        mask = len(slots) - 1
        index = digest & mask
        while slots[index]:
            if slots[index] == digest:
                return False
            index = (index + 1) & mask
        slots[index] = digest
        return True


def _is_text(key: bytes) -> bool:
    try:
        return not key.decode().startswith(migrate.STAGING)
    except UnicodeDecodeError:
        return False


def _is_message(element: bytes) -> bool:
    try:
        codec.decode(element)
    except ValueError:
        return False
    return True


@contextmanager
def _opened_for_writing(file: File) -> Iterator[BinaryIO]:
    if not isinstance(file, str | os.PathLike):
        if not hasattr(file, "write") or hasattr(file, "encoding"):
            raise TypeError("file takes a path, or a file opened for writing with mode 'wb'.")
        yield file
        return
    partial = Path(f"{os.fspath(file)}.part")
    try:
        with partial.open("wb") as opened:
            yield opened
        partial.replace(file)
    finally:
        partial.unlink(missing_ok=True)


@contextmanager
def _opened_for_reading(file: File) -> Iterator[BinaryIO]:
    if isinstance(file, str | os.PathLike):
        with Path(file).open("rb") as opened:
            yield opened
        return
    if not hasattr(file, "seekable") or hasattr(file, "encoding") or not file.seekable():
        raise TypeError(
            "file takes a path, or a file opened for reading with mode 'rb' that can be rewound: "
            "it is read twice, to check it before anything is loaded."
        )
    yield file


def _progressing(
    items: Iterable[T],
    progress: Progress,
    doing: str,
    total: Sequence[object] | None,
    *,
    unit: str = " sessions",
) -> Iterator[T]:
    """The items, with a bar on the way where it was asked for and somebody can see it."""
    seen = progress == "always" or sys.stderr.isatty() or "ipykernel" in sys.modules
    if not progress or not seen:
        return iter(items)
    bar = require("tqdm.auto", install="'memorystore-chat[tutorial]'").tqdm
    length = None if total is None else len(total)
    return iter(bar(items, desc=doing, total=length, unit=unit))


def _checked(
    ids: Iterable[str] | None, key_prefix: object, progress: object
) -> Sequence[str] | None:
    """The ids as a list without repetitions."""
    check_text("key_prefix", key_prefix)
    _check_progress(progress)
    if ids is None:
        return None
    if isinstance(ids, str | bytes):
        raise ValueError(f"ids is {ids!r}; it takes a list of session ids, also for one of them.")
    names = list(dict.fromkeys(ids))
    for name in names:
        check_text("a session id", name)
    return names


def _check_progress(progress: object) -> None:
    if progress not in (True, False, "always"):
        raise ValueError(f"progress is {progress!r}; it takes True, False or 'always'.")


def _duration(value: timedelta | float) -> timedelta:
    accepted = "it takes a timedelta or seconds, more than 0, such as timedelta(days=30)."
    if isinstance(value, bool) or not isinstance(value, timedelta | int | float):
        raise ValueError(f"idle_for is {value!r}; {accepted}")
    try:
        duration = value if isinstance(value, timedelta) else timedelta(seconds=value)
        datetime.now(UTC) - duration
    except (ValueError, OverflowError) as error:
        raise ValueError(f"idle_for is {value!r}; {accepted}") from error
    if duration <= timedelta():
        raise ValueError(f"idle_for is {value!r}; {accepted}")
    return duration


def _by_last_use(session: Session) -> tuple[bool, float, str]:
    """Newest first, unknown times last; the id decides between equals."""
    last = session.last
    return last is None, -last.timestamp() if last else 0.0, session.id


def _span(seconds: float) -> str:
    """A duration in the largest unit that says it well: "30 days", "25 hours", "90 minutes"."""
    for unit, length in (("day", 86_400), ("hour", 3_600), ("minute", 60)):
        count = seconds / length
        if count >= 1.95 or 0.98 < count < 1.02:
            return _number(round(count), unit)
    return _number(round(seconds), "second")


def _ago(passed: timedelta) -> str:
    # Clocks differ: what another machine did just now may lie ahead.
    seconds = passed.total_seconds()
    return "just now" if seconds < 60 else f"{_span(seconds)} ago"


def _size(size: int) -> str:
    """Bytes with two digits: "1.2 kB", "56 MB". Below, MEMORY USAGE itself varies by some bytes."""
    if size < 1000:
        return "under 1 kB"
    value = float(size)
    for unit in ("B", "kB", "MB"):  # noqa: B007 - it is used after the loop
        if value < 999.5:
            break
        value /= 1000
    else:
        unit = "GB"
    return f"{value:.1f} {unit}" if value < 9.95 else f"{value:,.0f} {unit}"


def _number(count: int, thing: str) -> str:
    return f"{count:,} {thing}{'' if count == 1 else 's'}"
