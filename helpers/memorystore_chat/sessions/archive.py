"""Files of sessions: JSON Lines that are sealed with counts and a checksum, one line a session."""

import base64
import gzip
import io
import json
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator
from hashlib import sha256
from typing import Any, BinaryIO, NamedTuple, NoReturn, TypeAlias

from memorystore_chat.arguments import check_text
from memorystore_chat.errors import MemorystoreChatError

# Compressed files of the standard library are no BinaryIO to a type checker.
BinaryFile: TypeAlias = BinaryIO | io.BufferedIOBase

LONGEST = 64 * 1024 * 1024
"""Bytes that a line may have. A compressed one could otherwise fill the memory."""

_FORMAT, _VERSION = "memorystore-chat sessions", 1


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
    """Write a heading, a line for each session, and a line that seals the file; count what it has.

    An element is a JSON string of its text, or ``{"base64": ...}`` if it is not UTF-8. The last
    line has the counts and the SHA-256 of everything before it.
    """
    digest, counts = sha256(), Counter(sessions=0, messages=0, bytes=0)

    def write(record: dict[str, Any]) -> None:
        line = json.dumps(record, ensure_ascii=False, separators=(",", ":")).encode() + b"\n"
        if len(line) > LONGEST:
            raise MemorystoreChatError(
                f"The session {record['session']!r} takes {len(line):,} bytes, and a line of the "
                f"file holds up to {LONGEST:,}. Shorten it (max_messages=), or export the others "
                "with ids=[...]. The file was not completed."
            )
        digest.update(line)
        file.write(line)

    write({"format": _FORMAT, "version": _VERSION, "key_prefix": key_prefix})
    for one in stored:
        elements = [_to_json(element) for element in one.elements]
        write({"session": one.id, "ttl_ms": one.ttl_ms, "elements": elements})
        counts.update(sessions=1, messages=len(elements), bytes=one.size)
    write({"end": _seal(counts, digest.hexdigest())})
    return counts


class Archive:
    """A file of sessions, from where it stands; checked while it is read.

    Args:
        file: A file opened for reading in binary mode.

    Attributes:
        key_prefix: The prefix it was exported with.

    Raises:
        MemorystoreChatError: It is not such a file, or of a newer version.
    """

    def __init__(self, file: BinaryFile) -> None:
        self._lines = _lines(file)
        self._heading = next(self._lines, b"")
        heading = _parsed(self._heading)
        if heading.get("format") != _FORMAT:
            raise MemorystoreChatError(
                "This is not a file that sessions.export() wrote: its first line is not the "
                "heading. Nothing was loaded."
            )
        if heading.get("version") != _VERSION:
            raise MemorystoreChatError(
                f"The file has version {heading.get('version')!r} of the format and this package "
                f"knows version {_VERSION}. Nothing was loaded; a newer memorystore-chat can load "
                "it."
            )
        self.key_prefix: str = heading.get("key_prefix", "")
        try:
            check_text("key_prefix", self.key_prefix)
        except (TypeError, ValueError):
            _unsound("its heading")

    def sessions(self) -> Iterator[Stored]:
        """Its sessions, in order.

        Raises:
            MemorystoreChatError: The file is not whole, or was changed after it was exported.
        """
        digest, counts = sha256(self._heading), Counter(sessions=0, messages=0)
        for number, line in enumerate(self._lines, start=2):
            record = _parsed(line)
            if "end" in record:
                if record["end"] != _seal(counts, digest.hexdigest()) or any(self._lines):
                    _unsound("its last line does not fit the others")
                return
            try:
                stored = _from_record(record)
            except (TypeError, ValueError):
                _unsound(f"line {number} is not one of a session")
            digest.update(line)
            counts.update(sessions=1, messages=len(stored.elements))
            yield stored
        _unsound("its last line is missing")


def _seal(counts: Counter[str], digest: str) -> dict[str, Any]:
    return {"sessions": counts["sessions"], "messages": counts["messages"], "sha256": digest}


def _from_record(record: dict[str, Any]) -> Stored:
    """The session of a line; a TypeError or ValueError if it is not sound."""
    if record.keys() != {"session", "ttl_ms", "elements"}:
        raise ValueError
    name, ttl, elements = record["session"], record["ttl_ms"], record["elements"]
    check_text("session", name)
    if not isinstance(elements, list) or not elements:
        raise TypeError
    if ttl is not None and (type(ttl) is not int or not 0 < ttl < 2**53):
        raise ValueError
    return Stored(name, ttl, [_from_json(element) for element in elements])


def _to_json(element: bytes) -> str | dict[str, str]:
    try:
        return element.decode()
    except UnicodeDecodeError:
        return {"base64": base64.b64encode(element).decode()}


def _from_json(value: object) -> bytes:
    match value:
        case str():
            return value.encode()
        case {"base64": str(text), **others} if not others:
            return base64.b64decode(text, validate=True)
    raise TypeError


def _lines(file: BinaryFile) -> Iterator[bytes]:
    try:
        while line := file.readline(LONGEST + 1):
            if len(line) > LONGEST:
                raise MemorystoreChatError(
                    f"A line of the file is longer than {LONGEST:,} bytes, so sessions.export() "
                    "did not write it. Nothing more was read."
                )
            yield line
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise MemorystoreChatError(
            f"The file cannot be decompressed ({error}): it was cut off or changed. Take another "
            "copy, or export again."
        ) from error


def _unsound(reason: str) -> NoReturn:
    raise MemorystoreChatError(
        f"The file was cut off or changed after it was exported: {reason}. Nothing was loaded; "
        "take another copy, or export again."
    )


def _parsed(line: bytes) -> dict[str, Any]:
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
        return {}
    return record if isinstance(record, dict) else {}
