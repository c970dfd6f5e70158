"""Files of sessions: JSON Lines that are sealed with a checksum, one line a session.

The seal tells a file that was damaged, and not one that somebody else wrote and sealed.
"""

import gzip
import io
import json
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator
from hashlib import sha256
from itertools import islice
from typing import Any, BinaryIO, NamedTuple, TypeAlias

from memorystore_chat.errors import MemorystoreChatError

# Compressed files of the standard library are no BinaryIO to a type checker.
BinaryFile: TypeAlias = BinaryIO | io.BufferedIOBase

LONGEST = 64 * 1024 * 1024
"""Bytes that a line may have. A compressed one could otherwise fill the memory."""

_HEADING = {"format": "memorystore-chat sessions", "version": 1}
_DAMAGED = "it was cut off or changed afterwards"


class Stored(NamedTuple):
    """A session on the move: its id without a key prefix, and its elements, oldest first."""

    id: str
    ttl_ms: int | None
    elements: list[bytes]


def write(file: BinaryFile, stored: Iterable[Stored], key_prefix: str) -> Counter[str]:
    """Write a heading, a line a session, and a line with a SHA-256 of all before it.

    Bytes that are not UTF-8 become lone surrogates, as with Python's "surrogateescape".
    """
    digest, counts = sha256(), Counter(sessions=0, messages=0, bytes=0)

    def add(record: dict[str, Any]) -> None:
        line = _line(record)
        if len(line) > LONGEST:
            raise MemorystoreChatError(
                f"The session {record['session']!r} takes {len(line):,} bytes, and a file holds up "
                f"to {LONGEST:,} of each. Shorten it, or export the others with ids=[...]."
            )
        digest.update(line)
        file.write(line)

    add({**_HEADING, "key_prefix": key_prefix})
    for one in stored:
        elements = [element.decode(errors="surrogateescape") for element in one.elements]
        add({"session": one.id, "ttl_ms": one.ttl_ms, "elements": elements})
        counts.update(sessions=1, messages=len(elements), bytes=sum(map(len, one.elements)))
    add({"sha256": digest.hexdigest()})
    return counts


def check(file: BinaryFile) -> str:
    """Read a file to its end and return its key prefix, or raise an error if it is not sound."""
    lines, digest = _lines(file), sha256()
    heading = last = next(lines, b"")
    if not heading.startswith(_line(_HEADING)[:-2] + b","):
        raise _refused(f"its first line is not the heading {json.dumps(_HEADING)}")
    for line in lines:
        digest.update(last)
        last = line
    if last.strip() != _line({"sha256": digest.hexdigest()}).strip():  # an editor may cut its end
        raise _refused(_DAMAGED)
    return str(json.loads(heading)["key_prefix"])


def read(file: BinaryFile) -> Iterator[Stored]:
    """Read the sessions of a file that was checked."""
    for record in map(json.loads, islice(_lines(file), 1, None)):
        if "session" in record:
            elements = [text.encode(errors="surrogateescape") for text in record["elements"]]
            yield Stored(record["session"], record["ttl_ms"], elements)


def _lines(file: BinaryFile) -> Iterator[bytes]:
    file.seek(0)
    try:
        while line := file.readline(LONGEST + 1):
            if len(line) > LONGEST:
                raise _refused(f"a line is longer than {LONGEST:,} bytes")
            yield line
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise _refused(_DAMAGED) from error


def _line(record: dict[str, Any]) -> bytes:
    text = json.dumps(record, ensure_ascii=False, separators=(",", ":"))
    return text.encode(errors="backslashreplace") + b"\n"


def _refused(why: str) -> MemorystoreChatError:
    return MemorystoreChatError(
        f"This is not what sessions.export() of this version wrote: {why}. Nothing was loaded; "
        "take another copy, or export again."
    )
