"""Files of sessions: JSON Lines that are sealed with counts and a checksum, one line a session."""

import base64
import gzip
import io
import json
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator
from hashlib import sha256
from typing import Any, BinaryIO, NamedTuple, TypeAlias

from memorystore_chat.arguments import check_text
from memorystore_chat.errors import MemorystoreChatError

# Compressed files of the standard library are no BinaryIO to a type checker.
BinaryFile: TypeAlias = BinaryIO | io.BufferedIOBase

LONGEST = 64 * 1024 * 1024
"""Bytes that a line may have. A compressed one could otherwise fill the memory."""

_HEADING = {"format": "memorystore-chat sessions", "version": 1}


class Stored(NamedTuple):
    """A session on the move.

    Attributes:
        id: The session's id, without a key prefix.
        ttl_ms: Milliseconds the session had to live when it was read, or None.
        elements: Its stored messages, oldest first, byte for byte.
    """

    id: str
    ttl_ms: int | None
    elements: list[bytes]

    @property
    def size(self) -> int:
        """The bytes of its elements."""
        return sum(map(len, self.elements))


def write_archive(file: BinaryFile, stored: Iterable[Stored], key_prefix: str) -> Counter[str]:
    """Write a heading, a line a session, and a line with the counts and a SHA-256 of all before.

    An element is a JSON string of its text, or ``{"base64": ...}`` if it is not UTF-8.
    """
    digest, counts = sha256(), Counter(sessions=0, messages=0, bytes=0)

    def write(record: dict[str, Any]) -> None:
        line = json.dumps(record, ensure_ascii=False, separators=(",", ":")).encode() + b"\n"
        if len(line) > LONGEST:
            raise MemorystoreChatError(
                f"The session {record['session']!r} takes {len(line):,} bytes, and a line of the "
                f"file holds up to {LONGEST:,}. The file was not completed. Shorten that session, "
                "or export the others with ids=[...]."
            )
        digest.update(line)
        file.write(line)

    write({**_HEADING, "key_prefix": key_prefix})
    for one in stored:
        elements = [_to_json(element) for element in one.elements]
        write({"session": one.id, "ttl_ms": one.ttl_ms, "elements": elements})
        counts.update(sessions=1, messages=len(elements), bytes=one.size)
    write({"end": _seal(counts, digest.hexdigest())})
    return counts


def read_archive(file: BinaryFile) -> tuple[str, Iterator[Stored]]:
    """Read a file of sessions from where it stands, and check it on the way.

    Returns:
        The key prefix it was exported with, and its sessions.

    Raises:
        MemorystoreChatError: It is not such a file, or of another version; the iterator raises it
            when the file is not whole or was changed.
    """
    lines = _lines(file)
    first = next(lines, b"")
    heading = _parsed(first)
    key_prefix = heading.pop("key_prefix", None)
    try:
        check_text("key_prefix", key_prefix)
    except (TypeError, ValueError):
        heading = {}
    if heading != _HEADING:
        raise MemorystoreChatError(
            "This is not a file that sessions.export() of this version wrote: its first line is "
            f"not the heading {json.dumps(_HEADING)}. Nothing was loaded."
        )
    return str(key_prefix), _sessions(first, lines)


def _sessions(first: bytes, lines: Iterator[bytes]) -> Iterator[Stored]:
    digest, counts = sha256(first), Counter(sessions=0, messages=0)
    for line in lines:
        record = _parsed(line)
        if record == {"end": _seal(counts, digest.hexdigest())} and not any(lines):
            return
        try:
            stored = _stored(**record)
        except (TypeError, LookupError, ValueError) as error:
            raise _unsound() from error
        digest.update(line)
        counts.update(sessions=1, messages=len(stored.elements))
        yield stored
    raise _unsound()


def _stored(session: str, ttl_ms: int | None, elements: list[Any]) -> Stored:
    """The session of a line; an error if it is not sound."""
    check_text("session", session)
    if not (ttl_ms is None or (type(ttl_ms) is int and 0 < ttl_ms < 2**53)):
        raise ValueError
    if not isinstance(elements, list) or not elements:
        raise TypeError
    return Stored(session, ttl_ms, [_from_json(element) for element in elements])


def _seal(counts: Counter[str], digest: str) -> dict[str, Any]:
    return {"sessions": counts["sessions"], "messages": counts["messages"], "sha256": digest}


def _to_json(element: bytes) -> str | dict[str, str]:
    try:
        return element.decode()
    except UnicodeDecodeError:
        return {"base64": base64.b64encode(element).decode()}


def _from_json(value: Any) -> bytes:
    if isinstance(value, str):
        return value.encode()
    return base64.b64decode(value["base64"], validate=True)


def _unsound() -> MemorystoreChatError:
    return MemorystoreChatError(
        "The file was cut off or changed after it was exported. Nothing was loaded; take another "
        "copy, or export again."
    )


def _lines(file: BinaryFile) -> Iterator[bytes]:
    try:
        while line := file.readline(LONGEST + 1):
            if len(line) > LONGEST:
                raise MemorystoreChatError(
                    f"A line of the file is longer than {LONGEST:,} bytes, so sessions.export() "
                    "did not write it. Nothing was loaded."
                )
            yield line
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise _unsound() from error


def _parsed(line: bytes) -> dict[str, Any]:
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
        return {}
    return record if isinstance(record, dict) else {}
