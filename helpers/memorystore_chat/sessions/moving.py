"""Sessions on the move: to a file and back, and copied from langchain-community."""

import os
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal, TypeAlias

from memorystore_chat.arguments import check_ids, check_text
from memorystore_chat.commands import Client, script
from memorystore_chat.sessions.archive import BinaryFile, Stored, read_archive, write_archive
from memorystore_chat.sessions.changing import check_flag
from memorystore_chat.sessions.report import Report
from memorystore_chat.sessions.scanning import Found, find, is_message
from memorystore_chat.sessions.servers import Order, ask, batches, check_client, settled

File: TypeAlias = str | os.PathLike[str] | BinaryFile


def export(
    client: Client, file: File, *, key_prefix: str = "", ids: Iterable[str] | None = None
) -> Report:
    """Write sessions to a file, from which `load` brings them back.

    The file is JSON Lines in UTF-8: a heading, one line for each session, and a last line with the
    counts and a SHA-256 of the rest. Messages are kept byte for byte, broken ones too, and so is
    the time left to live. A session is held in memory as a whole, and refused above 64 MB.

    Args:
        client: A connected client.
        file: A file opened for writing in binary mode (``gzip.open(path, "wb")`` too), or a path,
            where it appears when it is complete, readable for its owner only.
        key_prefix: What the keys begin with, literally.
        ids: Session ids; None stands for all under the prefix.

    Returns:
        How many sessions and messages were written, and how many ids have no session.

    Raises:
        TypeError, ValueError: An argument is not acceptable, such as a file opened in text mode.
        MemorystoreChatError: A session is too large; a server cannot be reached (ConnectError) or
            refused; or the servers changed meanwhile.

    Example:
        >>> import io
        >>> from memorystore_chat import connect, sessions
        >>> sessions.export(connect("embedded"), io.BytesIO(), key_prefix="nothing-here:")
        Exported 0 sessions (0 messages, less than 0.1 MB).
    """
    check_client(client)
    check_text("key_prefix", key_prefix)
    names = None if ids is None else check_ids("ids", ids)
    counts: Counter[str] = Counter()
    with opened_for_writing(file) as archive, settled(client, "exporting sessions"):
        found = find(client, names, key_prefix, counts)
        counts += write_archive(archive, _read(client, found), key_prefix)
    return Report("export", False, **counts)


def load(client: Client, file: File, *, key_prefix: str | None = None) -> Report:
    """Bring back the sessions of a file that `export` wrote.

    The file is checked first: if it was cut off or changed, or has a line of more than 64 MB,
    nothing is loaded. Every session appears at once with all its messages. Those that are there
    already are left as they are, so after an interruption the file is simply loaded again.

    Args:
        client: A connected client.
        file: A path, or a file opened for reading in binary mode that can be rewound.
        key_prefix: What to put in front of the ids; None stands for the prefix that the sessions
            were exported with.

    Returns:
        How many sessions and messages were loaded; ``existing`` counts those that were there
        with these messages (and perhaps newer ones), ``conflicting`` those with others.

    Raises:
        TypeError, ValueError: An argument is not acceptable, such as a file opened in text mode.
        MemorystoreChatError: The file is not complete or not sound; or a server cannot be reached
            (ConnectError), refused, as when its memory is full, or was replaced meanwhile: then
            what is loaded by then stays.

    Example:
        >>> import io
        >>> from memorystore_chat import connect, sessions
        >>> client, file = connect("embedded"), io.BytesIO()
        >>> _ = sessions.export(client, file, key_prefix="docs:"), file.seek(0)
        >>> sessions.load(client, file)
        Loaded 0 sessions (0 messages, less than 0.1 MB).
    """
    check_client(client)
    if key_prefix is not None:
        check_text("key_prefix", key_prefix)
    with _opened_for_reading(file) as opened:
        start = opened.tell()
        for _ in read_archive(opened)[1]:
            pass
        opened.seek(start)
        prefix, stored = read_archive(opened)
        prefix = prefix if key_prefix is None else key_prefix
        with settled(client, "loading sessions"):
            counts = _put(client, stored, prefix, "new", dry_run=False)
    return Report("load", False, **counts)


def from_langchain_community(
    client: Client,
    *,
    key_prefix_from: str = "message_store:",
    key_prefix: str = "",
    dry_run: bool = True,
) -> Report:
    """Copy the sessions of langchain-community's RedisChatMessageHistory.

    It stores them newest first; the copies are what MemorystoreChatMessageHistory reads. The
    originals stay as they are. A copy holds the same bytes, so its messages carry no time, and it
    gets the time left to live. Copied again, a session that has grown since gets the new messages;
    a copy that has gone its own way is left alone and counted as conflicting.

    Args:
        client: A connected client.
        key_prefix_from: The prefix that the other library was given.
        key_prefix: The prefix for the copies.
        dry_run: Only say what would be copied.

    Returns:
        How many sessions and messages were, or would be, copied; ``existing`` counts sessions
        that were copied before, ``unreadable`` the messages in the originals that cannot be read.

    Raises:
        TypeError, ValueError: An argument is not acceptable; the copies must not look like
            originals.
        MemorystoreChatError: As for `export`.

    Example:
        >>> from memorystore_chat import connect, sessions
        >>> sessions.from_langchain_community(connect("embedded")).dry_run
        True
    """
    check_client(client)
    check_text("key_prefix_from", key_prefix_from)
    check_text("key_prefix", key_prefix)
    check_flag("dry_run", dry_run)
    if key_prefix.startswith(key_prefix_from):
        raise ValueError(
            f"key_prefix is {key_prefix!r} and key_prefix_from is {key_prefix_from!r}, so the "
            "copies would be taken for originals the next time. Choose a key_prefix that does not "
            "begin with key_prefix_from."
        )
    unreadable = 0

    def turned(originals: Iterable[Stored]) -> Iterator[Stored]:
        nonlocal unreadable
        for original in originals:
            unreadable += sum(not is_message(element) for element in original.elements)
            yield original._replace(elements=original.elements[::-1])

    with settled(client, "copying sessions"):
        originals = _read(client, find(client, None, key_prefix_from, Counter()))
        counts = _put(client, turned(originals), key_prefix, "extend", dry_run=dry_run)
    return Report("copy", dry_run, unreadable=unreadable, **counts)


def _read(client: Client, found: Iterable[Found]) -> Iterator[Stored]:
    """Read sessions, each as it is at one moment; one that is gone by now is left out."""
    for batch in batches((one.session for one in found), lambda session: session.bytes):
        orders: list[Order] = [
            o for one in batch for o in (("PTTL", one.key), ("LRANGE", one.key, 0, -1))
        ]
        replies = iter(ask(client, "reading sessions", orders))
        for session, ttl, elements in zip(batch, replies, replies, strict=True):
            if elements:
                yield Stored(session.id, ttl if ttl > 0 else None, elements)


def _put(
    client: Client,
    stored: Iterable[Stored],
    key_prefix: str,
    existing: Literal["new", "extend"],
    *,
    dry_run: bool,
) -> Counter[str]:
    """Write sessions, each all at once, and return the numbers that a `Report` has, by name."""
    counts: Counter[str] = Counter()
    text = script("sessions/load").text
    for batch in batches(stored, lambda one: one.size):
        keys = [key_prefix + one.id for one in batch]
        # Asked before, so that a write that is sent again counts as one.
        lengths = ask(client, "writing sessions", [("LLEN", key) for key in keys])
        orders: list[Order] = [
            ("EVAL", text, 1, key, existing, one.ttl_ms or 0, int(dry_run), *one.elements)
            for key, one in zip(keys, batch, strict=True)
        ]
        replies = ask(client, "writing sessions", orders)
        for one, length, fits in zip(batch, lengths, replies, strict=True):
            new = one.elements[length:]
            if not fits:
                counts["conflicting"] += 1
            elif new:
                counts.update(sessions=1, messages=len(new), bytes=sum(map(len, new)))
            else:
                counts["existing"] += 1
    return counts


@contextmanager
def opened_for_writing(file: File) -> Iterator[BinaryFile]:
    """A file to write to: as given, or one that appears at its path when it is complete."""
    if not isinstance(file, str | os.PathLike):
        if not hasattr(file, "write") or hasattr(file, "encoding"):
            raise TypeError("file takes a path, or a file opened for writing with mode 'wb'.")
        yield file
        return
    path = Path(file)
    # Under a name of its own, so that two exports to one path do not meet; mode 0600.
    descriptor, name = tempfile.mkstemp(".part", f".{path.name}.", path.parent)
    partial = Path(name)
    try:
        with os.fdopen(descriptor, "wb") as opened:
            yield opened
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


@contextmanager
def _opened_for_reading(file: File) -> Iterator[BinaryFile]:
    if isinstance(file, str | os.PathLike):
        with Path(file).open("rb") as opened:
            yield opened
    elif hasattr(file, "seekable") and not hasattr(file, "encoding") and file.seekable():
        yield file
    else:
        raise TypeError(
            "file takes a path, or a file opened for reading with mode 'rb' that can be rewound: "
            "it is read twice, to check it before anything is loaded."
        )
