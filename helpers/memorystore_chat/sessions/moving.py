"""Sessions on the move: to a file and back, and copied from langchain-community."""

import os
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal, TypeAlias

from memorystore_chat.arguments import check_text
from memorystore_chat.commands import Client, Command, script
from memorystore_chat.sessions import archive
from memorystore_chat.sessions.archive import BinaryFile, Stored
from memorystore_chat.sessions.changing import check_flags
from memorystore_chat.sessions.report import Report
from memorystore_chat.sessions.scanning import Found, ask, check_client, find, is_message, settled

File: TypeAlias = str | os.PathLike[str] | BinaryFile


def export(
    client: Client, file: File, *, key_prefix: str = "", ids: Iterable[str] | None = None
) -> Report:
    """Write sessions to a file, from which `load` brings them back.

    The file is JSON Lines: a heading, a line for each session, and one with a SHA-256 of the rest.
    Messages are kept byte for byte, broken ones too, and so is the time left to live. Sessions are
    read one by one, each as a whole; one that takes more than 64 MB is refused.

    Args:
        client: A connected client.
        file: A file opened for writing in binary mode (``gzip.open(path, "wb")`` too), or a path,
            where it appears when it is complete, its owner's alone.
        key_prefix: What the keys begin with, literally.
        ids: Session ids; None stands for all under the prefix.

    Raises:
        TypeError, ValueError: An argument is not acceptable, such as a file opened in text mode.
        MemorystoreChatError: A session is too large; or as for `scan`.

    Example:
        >>> import io
        >>> from memorystore_chat import connect, sessions
        >>> sessions.export(connect("embedded"), io.BytesIO(), key_prefix="nothing-here:")
        Exported 0 sessions (0 messages, less than 0.1 MB).
    """
    counts: Counter[str] = Counter()
    found = find(client, ids, key_prefix, counts)
    with opened(file, "write") as made:
        counts += archive.write(made, _read(client, found), key_prefix)
    return Report("export", "session", False, **counts)


def load(client: Client, file: File, *, key_prefix: str | None = None) -> Report:
    """Bring back the sessions of a file that `export` wrote.

    The file is checked first: if it was cut off or changed, nothing is loaded. Every session
    appears at once with all its messages. One that is there keeps what it has, and gets what it
    lacks at its end; so after an interruption the file is simply loaded again. One whose write had
    to be sent twice, since a reply was lost, counts as there already.

    Args:
        client: A connected client.
        file: A path, or a file opened for reading in binary mode, which is rewound first.
        key_prefix: What to put in front of the ids; None stands for the prefix that the sessions
            were exported with.

    Returns:
        How many sessions and messages were loaded; ``existing`` counts those that were there
        with these messages (and perhaps newer ones), ``conflicting`` those with others.

    Raises:
        TypeError, ValueError: An argument is not acceptable, such as a file opened in text mode.
        MemorystoreChatError: The file is not sound; or as for `scan`, and what is loaded stays.

    Example:
        >>> import io
        >>> from memorystore_chat import connect, sessions
        >>> client, file = connect("embedded"), io.BytesIO()
        >>> _ = sessions.export(client, file, key_prefix="docs:")
        >>> sessions.load(client, file)
        Loaded 0 sessions (0 messages, less than 0.1 MB).
    """
    check_client(client)
    check_text("key_prefix", key_prefix or "")
    with opened(file, "read") as found:
        exported_with = archive.check(found)
        prefix = exported_with if key_prefix is None else key_prefix
        return Report("load", "session", False, **_put(client, archive.read(found), prefix))


def from_langchain_community(
    client: Client,
    *,
    key_prefix_from: str = "message_store:",
    key_prefix: str = "",
    dry_run: bool = True,
) -> Report:
    """Copy the sessions of langchain-community's RedisChatMessageHistory.

    It stores them newest first; the copies are what MemorystoreChatMessageHistory reads, with the
    same bytes, which carry no time, and the time left to live. The originals stay as they are.
    Copied again, a session that has grown since gets the new messages; a copy that has gone its
    own way is left alone and counted as conflicting.

    Args:
        client: A connected client.
        key_prefix_from: The prefix that the other library was given.
        key_prefix: The prefix for the copies.
        dry_run: Only say what would be copied.

    Raises:
        TypeError, ValueError: An argument is not acceptable.
        MemorystoreChatError: As for `scan`.

    Example:
        >>> from memorystore_chat import connect, sessions
        >>> sessions.from_langchain_community(connect("embedded")).dry_run
        True
    """
    check_flags(dry_run=dry_run)
    check_text("key_prefix", key_prefix)
    found = find(client, None, key_prefix_from, Counter())
    if key_prefix.startswith(key_prefix_from):
        raise ValueError(
            f"key_prefix is {key_prefix!r}, so the copies would be taken for originals the next "
            f"time. Choose one that does not begin with key_prefix_from, {key_prefix_from!r}."
        )
    seen: Counter[str] = Counter()

    def turned() -> Iterator[Stored]:
        for original in _read(client, found):
            seen["unreadable"] += sum(not is_message(each) for each in original.elements)
            yield original._replace(elements=original.elements[::-1])

    counts = _put(client, turned(), key_prefix, dry_run=dry_run)
    return Report("copy", "session", dry_run, **seen, **counts)


def _read(client: Client, found: Iterable[list[Found]]) -> Iterator[Stored]:
    """Read sessions, each as it is at one moment; one that is gone by now is left out."""
    for session, _ in (one for batch in found for one in batch):
        key = (session.key.encode(),)
        both = [Command("PTTL", key, kind=int), Command("LRANGE", key, (0, -1), kind=list)]
        ttl, elements = ask(client, "reading sessions", both)
        if elements:
            yield Stored(session.id, ttl if ttl > 0 else None, elements)


def _put(
    client: Client, stored: Iterable[Stored], key_prefix: str, *, dry_run: bool = False
) -> Counter[str]:
    """Write sessions, each all at once, and return the numbers that a `Report` has, by name."""
    counts: Counter[str] = Counter()
    with settled(client, doing := "writing sessions"):
        for one in stored:
            key = (key_prefix + one.id).encode()
            given: tuple[bytes | int, ...] = (one.ttl_ms or 0, int(dry_run), *one.elements)
            write = Command("", (key,), given, script("sessions/load"), int)
            [there] = ask(client, doing, [write])
            new = one.elements[there:]
            if there < 0:
                counts["conflicting"] += 1
            elif new:
                counts.update(sessions=1, messages=len(new), bytes=sum(map(len, new)))
            else:
                counts["existing"] += 1
    return counts


@contextmanager
def opened(file: File, method: Literal["read", "write"]) -> Iterator[BinaryFile]:
    """A file: as given, or at a path, where what is written appears when it is complete."""
    if not isinstance(file, str | os.PathLike):
        if not hasattr(file, method) or hasattr(file, "encoding"):
            raise TypeError(f"file takes a path, or a file opened with mode '{method[0]}b'.")
        yield file
        return
    path = Path(file)
    if method == "read":
        with path.open("rb") as found:
            yield found
        return
    # In a folder of its own, so that two exports to one path do not meet.
    with tempfile.TemporaryDirectory(prefix=f".{path.name}.", dir=path.parent) as folder:
        part = Path(folder, "part")
        part.touch(0o600)
        with part.open("wb") as made:
            yield made
        part.replace(path)
