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
from hashlib import sha256
from itertools import islice
from typing import Annotated, Any, BinaryIO, NamedTuple, TypeAlias

from pydantic import Base64Bytes, BaseModel, ConfigDict, Field, ValidationError
from typing_extensions import TypedDict

from memorystore_chat._checks import check_text
from memorystore_chat.errors import MemorystoreChatError

_FORMAT = "memorystore-chat sessions"
_VERSION = 1

# Compressed files of the standard library are no BinaryIO to a type checker.
BinaryFile: TypeAlias = BinaryIO | io.BufferedIOBase

_Count = Annotated[int, Field(ge=0, lt=2**53)]


class Piece(NamedTuple):
    """Consecutive messages of one session.

    Attributes:
        id: The session's id, without a key prefix.
        ttl_ms: Milliseconds the session had to live when it was read, or None.
        offset: Position of the first element in the session. A piece with offset 0 begins the
            session, even if an earlier piece of it did: then it was trimmed while being read.
        elements: Stored messages, oldest first, byte for byte.
        last: Whether the session ends with this piece.
    """

    id: str
    ttl_ms: int | None
    offset: int
    elements: list[bytes]
    last: bool

    @property
    def size(self) -> int:
        """The bytes of its elements."""
        return sum(map(len, self.elements))


class _Encoded(TypedDict):
    """An element that is not UTF-8."""

    base64: Base64Bytes


class _Line(BaseModel):
    """A piece of a session."""

    model_config = ConfigDict(strict=True)

    session: str
    ttl_ms: Annotated[int, Field(gt=0, lt=2**53)] | None
    offset: _Count
    last: bool
    elements: list[str | _Encoded]

    def piece(self) -> Piece:
        elements = [
            element.encode() if isinstance(element, str) else element["base64"]
            for element in self.elements
        ]
        return Piece(self.session, self.ttl_ms, self.offset, elements, self.last)


class _Sum:
    """Counts pieces, and checks that they follow each other."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter(sessions=0, messages=0, bytes=0)
        self.pieces = 0
        self._messages = self._bytes = 0
        self._open: str | None = None  # the session that the next piece must go on with

    def add(self, piece: Piece) -> bool:
        """Count a piece; whether it may come after those before it."""
        follows = self._open in (None, piece.id)
        if piece.offset:
            follows = self._open == piece.id and piece.offset == self._messages
        else:
            self._messages = self._bytes = 0
        self.pieces += 1
        self._messages += len(piece.elements)
        self._bytes += piece.size
        self._open = None if piece.last else piece.id
        if piece.last and self._messages:
            self.counts.update(sessions=1, messages=self._messages, bytes=self._bytes)
        return follows

    def seal(self) -> dict[str, int]:
        """The numbers that the last line has."""
        numbers = {name: self.counts[name] for name in ("sessions", "messages")}
        return numbers | {"pieces": self.pieces}

    def matches(self, end: dict[str, Any]) -> bool:
        """Whether all sessions are complete, and as many as the last line says."""
        return self._open is None and self.seal().items() <= end.items()


class Archive(NamedTuple):
    """What a file of sessions says about itself.

    Attributes:
        key_prefix: The prefix the sessions were exported with.
        pieces: How many lines the sessions take.
    """

    key_prefix: str
    pieces: int


def write_archive(file: BinaryFile, pieces: Iterable[Piece], key_prefix: str) -> Counter[str]:
    """Write a heading, a line for each piece, and a line that seals the file.

    An element is a JSON string of its text, or ``{"base64": ...}`` if it is not UTF-8. The last
    line has the counts and the SHA-256 of everything before it.

    Returns:
        ``sessions``, ``messages`` and ``bytes`` (of their elements) written.
    """
    digest = sha256()

    def write(record: dict[str, Any]) -> None:
        text = json.dumps(record, ensure_ascii=False, separators=(",", ":"))
        line = text.encode() + b"\n"
        digest.update(line)
        file.write(line)

    write({"format": _FORMAT, "version": _VERSION, "key_prefix": key_prefix})
    total = _Sum()
    for piece in pieces:
        write(
            {
                "session": piece.id,
                "ttl_ms": piece.ttl_ms,
                "offset": piece.offset,
                "last": piece.last,
                "elements": [_to_json(element) for element in piece.elements],
            }
        )
        total.add(piece)
    write({"end": total.seal() | {"sha256": digest.hexdigest()}})
    return total.counts


def check_archive(file: BinaryFile) -> Archive:
    """Read a file of sessions to its end and make sure that it is whole, unchanged and sound.

    Raises:
        MemorystoreChatError: It is not such a file, was cut off or changed, or holds something
            that no export writes.
    """
    lines = _lines(file)
    last = heading = next(lines, b"")
    key_prefix = _key_prefix(_parsed(heading))
    digest, total, odd = sha256(), _Sum(), None
    for number, line in enumerate(lines, start=1):
        digest.update(last)
        if number > 1 and odd is None and not _fits(last, total):
            odd = number
        last = line
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
    if odd is not None:
        raise _unsound(f"line {odd}")
    if not total.matches(end):
        raise _unsound("its last line, beside those before it,")
    return Archive(key_prefix, total.pieces)


def read_archive(file: BinaryFile, archive: Archive) -> Iterator[Piece]:
    """The pieces of a file that `check_archive` has approved, which must begin again."""
    lines = _lines(file)
    next(lines)
    for number, line in enumerate(islice(lines, archive.pieces), start=2):
        try:
            yield _Line.model_validate_json(line).piece()
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


def _fits(line: bytes, total: _Sum) -> bool:
    """Count a line; whether it is a piece that may come after those before it."""
    try:
        return total.add(_Line.model_validate_json(line).piece())
    except ValidationError:
        return False


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


def _to_json(element: bytes) -> str | dict[str, str]:
    try:
        return element.decode()
    except UnicodeDecodeError:
        return {"base64": base64.b64encode(element).decode()}
