"""Files of sessions: JSON Lines that are sealed with counts and a checksum.

A session travels as pieces of limited size, one on a line, so that a huge one needs no more memory
than a small one.
"""

import base64
import gzip
import io
import json
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from hashlib import sha256
from itertools import islice
from typing import Annotated, Any, BinaryIO, TypeAlias

from pydantic import BeforeValidator, Field, PlainSerializer, TypeAdapter, ValidationError

from memorystore_chat.arguments import check_text
from memorystore_chat.errors import MemorystoreChatError

_FORMAT = "memorystore-chat sessions"
_VERSION = 1

# Compressed files of the standard library are no BinaryIO to a type checker.
BinaryFile: TypeAlias = BinaryIO | io.BufferedIOBase


def _to_json(element: bytes) -> str | dict[str, str]:
    try:
        return element.decode()
    except UnicodeDecodeError:
        return {"base64": base64.b64encode(element).decode()}


def _from_json(value: object) -> object:
    match value:
        case str():
            return value.encode()
        case {"base64": str(text)}:
            return base64.b64decode(text)
    return value


_Element = Annotated[bytes, BeforeValidator(_from_json), PlainSerializer(_to_json)]


@dataclass
class Piece:
    """Consecutive messages of one session; its fields are those of a line of the file.

    Attributes:
        session: The session's id, without a key prefix.
        ttl_ms: Milliseconds the session had to live when it was read, or None.
        offset: Position of the first element in the session. A piece with offset 0 begins the
            session, even if an earlier piece of it did: then it was trimmed while being read.
        last: Whether the session ends with this piece.
        elements: Stored messages, oldest first, byte for byte.
    """

    session: str
    ttl_ms: Annotated[int, Field(gt=0, lt=2**53)] | None
    offset: Annotated[int, Field(ge=0, lt=2**53)]
    last: bool
    elements: list[_Element]

    @property
    def size(self) -> int:
        """The bytes of its elements."""
        return sum(map(len, self.elements))

    def after(self, present: int) -> "Piece":
        """What is left when the first elements are there already."""
        return replace(self, offset=self.offset + present, elements=self.elements[present:])


_LINE = TypeAdapter(Piece)


class _Sum:
    """Counts pieces, and checks that they follow each other."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter(sessions=0, messages=0, bytes=0)
        self.pieces = 0
        self._messages = self._bytes = 0
        self.open: str | None = None  # the session that the next piece must go on with

    def add(self, piece: Piece) -> bool:
        """Count a piece; whether it may come after those before it."""
        follows = self.open in (None, piece.session)
        if piece.offset:
            follows = self.open == piece.session and piece.offset == self._messages
        else:
            self._messages = self._bytes = 0
        self.pieces += 1
        self._messages += len(piece.elements)
        self._bytes += piece.size
        self.open = None if piece.last else piece.session
        if piece.last and self._messages:
            self.counts.update(sessions=1, messages=self._messages, bytes=self._bytes)
        return follows

    def seal(self) -> dict[str, int]:
        """The numbers that the last line has."""
        numbers = {name: self.counts[name] for name in ("sessions", "messages")}
        return numbers | {"pieces": self.pieces}


def write_archive(file: BinaryFile, pieces: Iterable[Piece], key_prefix: str) -> Counter[str]:
    """Write a heading, a line for each piece, and a line that seals the file; count what it has.

    An element is a JSON string of its text, or ``{"base64": ...}`` if it is not UTF-8. The last
    line has the counts and the SHA-256 of everything before it.
    """
    digest, total = sha256(), _Sum()

    def write(line: bytes) -> None:
        digest.update(line + b"\n")
        file.write(line + b"\n")

    write(_json({"format": _FORMAT, "version": _VERSION, "key_prefix": key_prefix}))
    for piece in pieces:
        write(_LINE.dump_json(piece))
        total.add(piece)
    write(_json({"end": total.seal() | {"sha256": digest.hexdigest()}}))
    return total.counts


def check_archive(file: BinaryFile) -> tuple[str, int]:
    """Make sure that a file of sessions is whole, unchanged and sound, and rewind it.

    Returns:
        The key prefix it was exported with, and how many lines the sessions take.
    """
    start = file.tell()
    lines = _lines(file)
    last = next(lines, b"")
    key_prefix = _key_prefix(_parsed(last))
    digest, pieces = sha256(), -1
    for line in lines:
        digest.update(last)
        last = line
        pieces += 1
    end = _parsed(last).get("end")
    if not isinstance(end, dict):
        raise MemorystoreChatError(
            "The file was cut off: its last line does not have the counts that seal it. Nothing "
            "was loaded; take another copy, or export again."
        )
    if end.get("sha256") != digest.hexdigest():
        raise MemorystoreChatError(
            "The file was changed after it was exported: its contents do not have the checksum in "
            "its last line. Nothing was loaded; take another copy, or export again."
        )
    file.seek(start)
    total = _Sum()
    for number, piece in enumerate(read_archive(file, pieces), start=2):
        if not total.add(piece):
            raise _unsound(f"line {number}")
    if total.open is not None or not total.seal().items() <= end.items():
        raise _unsound("its last line, beside those before it,")
    file.seek(start)
    return key_prefix, pieces


def read_archive(file: BinaryFile, pieces: int) -> Iterator[Piece]:
    """The pieces of a file, from where its heading begins."""
    for number, line in enumerate(islice(_lines(file), 1, pieces + 1), start=2):
        try:
            yield _LINE.validate_json(line, strict=True)
        except ValidationError:
            raise _unsound(f"line {number}") from None


def _lines(file: BinaryFile) -> Iterator[bytes]:
    try:
        # "yield from" would close the file with the generator.
        for line in file:  # noqa: UP028
            yield line
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise MemorystoreChatError(
            f"The file cannot be decompressed ({error}): it was cut off or changed. Take another "
            "copy, or export again."
        ) from error


def _key_prefix(heading: dict[str, Any]) -> str:
    """The prefix in a heading of the right kind."""
    if heading.get("format") != _FORMAT:
        raise MemorystoreChatError(
            "This is not a file that sessions.export() wrote: its first line is not the heading. "
            "Nothing was loaded."
        )
    if heading.get("version") != _VERSION:
        raise MemorystoreChatError(
            f"The file has version {heading.get('version')!r} of the format and this package knows "
            f"version {_VERSION}. Nothing was loaded; a newer memorystore-chat can load it."
        )
    key_prefix = heading.get("key_prefix")
    try:
        check_text("key_prefix", key_prefix)
    except (TypeError, ValueError):
        raise _unsound("line 1") from None
    return str(key_prefix)


def _unsound(place: str) -> MemorystoreChatError:
    return MemorystoreChatError(
        f"The file has the right checksum, but {place} is not what sessions.export() writes: "
        "something else made it. Nothing more was loaded; export again."
    )


def _parsed(line: bytes) -> dict[str, Any]:
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
        return {}
    return record if isinstance(record, dict) else {}


def _json(record: dict[str, Any]) -> bytes:
    return json.dumps(record, ensure_ascii=False, separators=(",", ":")).encode()
