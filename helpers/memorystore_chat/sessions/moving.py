"""Sessions on the move: read in pieces, written exactly once, and kept in files meanwhile.

`memorystore_chat.sessions` has the functions for readers; here is what they share. A session
travels as pieces of limited size, so a huge one needs no more memory than a small one.
"""

import base64
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from hashlib import sha256
from itertools import chain, count
from typing import TYPE_CHECKING, Any, BinaryIO, Literal, NamedTuple

from redis.crc import key_slot

from memorystore_chat.errors import MemorystoreChatError
from memorystore_chat.sessions._asking import run
from memorystore_chat.storage import Client
from memorystore_chat.storage.pipeline import BUDGET, Command, batches

if TYPE_CHECKING:
    from memorystore_chat.sessions import Session

PAGE = 1000
"""Longer sessions are moved in pieces of at most so many messages."""

STAGING = "memorystore-chat:loading:"
"""Begins the keys under which sessions of several pieces wait until they are whole."""

_STAGED_FOR = 600_000  # ms that the pieces of an interrupted move are kept

_FORMAT = "memorystore-chat sessions"


class Piece(NamedTuple):
    """Consecutive messages of one session.

    Attributes:
        id: The session's id, without a key prefix.
        ttl_ms: Milliseconds the session had to live when it was read, or None.
        offset: Position of the first element in the session. A piece with offset 0 begins the
            session, also if an earlier piece of it did: then it was trimmed while being read.
        elements: Stored messages, oldest first, byte for byte.
        last: Whether the session ends with this piece.
    """

    id: str
    ttl_ms: int | None
    offset: int
    elements: list[bytes]
    last: bool


def read(
    client: Client, sessions: Iterable["Session"], *, newest_first: bool = False
) -> Iterator[Piece]:
    """Read sessions in pieces.

    A session is read as it is at one moment. One of several pieces is read without what is
    appended meanwhile; where it is trimmed or cleared meanwhile, it is read again in one piece.

    Args:
        client: The client.
        sessions: What to read; a session that is gone by now is left out.
        newest_first: Whether the lists are stored that way; pieces are oldest first always.
    """
    for batch in batches(sessions, _bytes, alone=_is_long):
        if _is_long(batch[0]):
            yield from _read_long(client, batch[0], newest_first)
            continue
        commands = [
            c for session in batch for c in (("PTTL", session.key), ("LRANGE", session.key, 0, -1))
        ]
        replies = run(client, commands, "reading sessions")
        for session, ttl, elements in zip(batch, replies[::2], replies[1::2], strict=True):
            if elements:
                ordered = elements[::-1] if newest_first else elements
                yield Piece(session.id, _ttl(ttl), 0, ordered, last=True)


def _read_long(client: Client, session: "Session", newest_first: bool) -> Iterator[Piece]:
    doing = f"reading the session {session.key!r}"
    pttl, length = run(client, [("PTTL", session.key), ("LLEN", session.key)], doing)
    step = max(1, min(PAGE, BUDGET * session.messages // max(1, session.bytes)))
    offset, newest_read = 0, b""
    while offset < (length or 0):
        # Each page begins with the last element of the one before, to see whether it moved.
        first, stop = max(0, offset - 1), min(offset + step, length)
        # Counted from the end a list that grows at its head keeps its positions.
        bounds = (-stop, -first - 1) if newest_first else (first, stop - 1)
        (elements,) = run(client, [("LRANGE", session.key, *bounds)], doing)
        elements = (elements or [])[:: -1 if newest_first else 1]
        moved = len(elements) < stop - first
        if offset and not moved:
            moved = elements.pop(0) != newest_read
        if moved:
            (elements,) = run(client, [("LRANGE", session.key, 0, -1)], doing)
            elements = (elements or [])[:: -1 if newest_first else 1]
            yield Piece(session.id, _ttl(pttl), 0, elements, last=True)
            return
        yield Piece(session.id, _ttl(pttl), offset, elements, last=stop == length)
        offset, newest_read = stop, elements[-1]


def put(
    client: Client,
    pieces: Iterable[Piece],
    *,
    key_prefix: str,
    existing: Literal["keep", "extend", "replace"],
    dry_run: bool = False,
) -> Counter[str]:
    """Write sessions, each all at once, and read back what was written.

    A session of one piece is written by one script. One of several is assembled under a key
    beside it and renamed when it is whole; where that is interrupted the parts expire.

    Args:
        client: The client.
        pieces: What to write, as from `read`.
        key_prefix: What to put in front of the ids.
        existing: What to do with a session that is there already but differs: keep it, extend it
            if its messages are the first ones of what is to be written, or replace it.
        dry_run: Only count.

    Returns:
        ``sessions``, ``messages`` and ``bytes`` written; ``existing`` sessions that were there
        already and begin with the same messages; ``conflicting`` ones that were left alone.

    Raises:
        ConnectError: The server cannot be reached or did not answer.
        MemorystoreChatError: The server refused, or answered something else than was written.
    """
    writer = _Writer(client, key_prefix, existing, dry_run, Counter())
    for batch in batches(pieces, _payload, alone=_is_part):
        if _is_part(batch[0]):
            writer.put_part(batch[0])
        else:
            writer.put_whole(batch)
    return writer.counts


class _Place(NamedTuple):
    """Elements, and the list and position where they belong."""

    key: str
    offset: int
    elements: list[bytes]
    ttl_ms: int
    replace: bool


@dataclass
class _Assembly:
    """A session of several pieces that is being written."""

    id: str
    # Where its pieces go: to the staging key, to the key itself, or nowhere.
    target: Literal["staging", "key", "nowhere"]
    messages: int = 0
    bytes: int = 0


@dataclass
class _Writer:
    client: Client
    key_prefix: str
    existing: Literal["keep", "extend", "replace"]
    dry_run: bool
    counts: Counter[str]
    assembly: _Assembly | None = None

    def put_whole(self, pieces: Sequence[Piece]) -> None:
        """Write sessions of one piece each."""
        self._abandon({piece.id for piece in pieces})
        places = []
        for place, present in self._compared([piece for piece in pieces if piece.elements]):
            if present is None:
                self.counts["conflicting"] += 1
            elif present == len(place.elements):
                self.counts["existing"] += 1
            else:
                rest = place.elements[present:]
                places.append(place._replace(offset=place.offset + present, elements=rest))
        for place, written in zip(places, self._written(places), strict=True):
            if written:
                self._count(len(place.elements), sum(map(len, place.elements)))
            else:
                self.counts["conflicting"] += 1

    def put_part(self, piece: Piece) -> None:
        """Write one piece of a session that has more."""
        key = self.key_prefix + piece.id
        if piece.offset == 0:
            self._abandon({piece.id})
            self.assembly = _Assembly(piece.id, "key")
        assembly = self.assembly
        if assembly is None or assembly.id != piece.id or assembly.target == "nowhere":
            return
        if assembly.target == "key":
            ((place, present),) = self._compared([piece])
            if present == 0 and piece.offset == 0:
                assembly.target = "staging"
            elif present is None:
                self.counts["conflicting"] += 1
                assembly.target = "nowhere"
                return
            elif present < len(piece.elements):
                rest = place.elements[present:]
                self._add(place._replace(offset=place.offset + present, elements=rest), assembly)
        if assembly.target == "staging":
            # What an interrupted move left there goes with the first piece.
            staged = _Place(
                _staging_key(key), piece.offset, piece.elements, _STAGED_FOR, piece.offset == 0
            )
            self._add(staged, assembly)
        if piece.last:
            self._finish(piece, assembly)

    def _add(self, place: _Place, assembly: _Assembly) -> None:
        if not all(self._written([place])):
            raise MemorystoreChatError(
                f"The session {assembly.id!r} reads back differently from what was written, so it "
                "was not completed: someone else writes to it. Try again when they are done."
            )
        assembly.messages += len(place.elements)
        assembly.bytes += sum(map(len, place.elements))

    def _finish(self, piece: Piece, assembly: _Assembly) -> None:
        self.assembly = None
        if not assembly.messages:
            self.counts["existing"] += 1
            return
        if assembly.target == "staging" and not self.dry_run:
            key = self.key_prefix + piece.id
            length = piece.offset + len(piece.elements)
            replace = int(self.existing == "replace")
            keys = (_staging_key(key), key)
            finish = ("EVAL", _FINISH, 2, *keys, length, piece.ttl_ms or 0, replace)
            (renamed,) = run(self.client, [finish], f"writing the session {key!r}")
            if not renamed:
                self.counts["conflicting"] += 1
                return
        self._count(assembly.messages, assembly.bytes)

    def _abandon(self, ids: set[str]) -> None:
        """Forget a session that was begun, where it begins anew."""
        if self.assembly and self.assembly.id in ids:
            if self.assembly.target == "staging" and not self.dry_run:
                staged = _staging_key(self.key_prefix + self.assembly.id)
                run(self.client, [("UNLINK", staged)], "writing sessions")
            self.assembly = None

    def _compared(self, pieces: Sequence[Piece]) -> list[tuple[_Place, int | None]]:
        """Where the pieces belong, and how many of their elements are there already.

        None stands for something else that is there and is to be kept.
        """
        places = [
            _Place(
                self.key_prefix + piece.id,
                piece.offset,
                piece.elements,
                piece.ttl_ms or 0,
                self.existing == "replace",
            )
            for piece in pieces
        ]
        if self.existing == "replace":
            return [(place, 0) for place in places]
        return [
            (place, self._present(place, there))
            for place, there in zip(places, self._there(places), strict=True)
        ]

    def _present(self, place: _Place, there: list[bytes] | None) -> int | None:
        if there is None or there != place.elements[: len(there)]:
            return None
        started = bool(there or place.offset)
        if self.existing == "keep" and started and len(there) < len(place.elements):
            return None
        return len(there)

    def _there(self, places: Sequence[_Place]) -> list[list[bytes] | None]:
        return run(self.client, [_range(place) for place in places], "reading sessions")

    def _written(self, places: Sequence[_Place]) -> list[bool]:
        """Write, and say of each place whether it holds what was written."""
        if self.dry_run:
            return [True] * len(places)
        commands: list[Command] = []
        for place in places:
            options = (place.offset, place.ttl_ms, int(place.replace))
            commands += [("EVAL", _PUSH, 1, place.key, *options, *place.elements), _range(place)]
        replies = run(self.client, commands, "writing sessions")
        return [there == place.elements for there, place in zip(replies[1::2], places, strict=True)]

    def _count(self, messages: int, size: int) -> None:
        self.counts.update(sessions=1, messages=messages, bytes=size)


# Appends where the list ends at the offset, so that repeating it changes nothing.
_PUSH = """
local key, offset, ttl = KEYS[1], tonumber(ARGV[1]), tonumber(ARGV[2])
if ARGV[3] == '1' and redis.call('TYPE', key).ok == 'list' then
  redis.call('UNLINK', key)
end
if redis.call('LLEN', key) == offset then
  for first = 4, #ARGV, 5000 do
    redis.call('RPUSH', key, unpack(ARGV, first, math.min(first + 4999, #ARGV)))
  end
  if ttl > 0 then
    redis.call('PEXPIRE', key, ttl)
  end
end
return redis.call('LLEN', key)
"""

# Gives the staged list its name, unless that is taken; says yes again when it is repeated.
_FINISH = """
local staged, key = KEYS[1], KEYS[2]
local length, ttl = tonumber(ARGV[1]), tonumber(ARGV[2])
local found = redis.call('TYPE', key).ok
if redis.call('LLEN', staged) ~= length then
  return found == 'list' and redis.call('LLEN', key) >= length
end
if found ~= 'none' and not (found == 'list' and ARGV[3] == '1') then
  redis.call('UNLINK', staged)
  return false
end
redis.call('RENAME', staged, key)
if ttl > 0 then
  redis.call('PEXPIRE', key, ttl)
else
  redis.call('PERSIST', key)
end
return true
"""


def _range(place: _Place) -> tuple[str, str, int, int]:
    return "LRANGE", place.key, place.offset, place.offset + len(place.elements) - 1


def _staging_key(key: str) -> str:
    """A key for the parts of a session, in the cluster slot of its own key.

    Example:
        >>> _staging_key("session1")
        'memorystore-chat:loading:{session1}'
    """
    slot = key_slot(key.encode())
    # A key that has a hash tag keeps it; one with stray braces takes some thousand guesses.
    names = chain(
        (f"{STAGING}{key}", f"{STAGING}{{{key}}}"), (f"{STAGING}{{{n}}}{key}" for n in count())
    )
    return next(name for name in names if key_slot(name.encode()) == slot)


def _bytes(session: "Session") -> int:
    return session.bytes


def _is_long(session: "Session") -> bool:
    return session.messages > PAGE or session.bytes > BUDGET


def _payload(piece: Piece) -> int:
    return sum(map(len, piece.elements))


def _is_part(piece: Piece) -> bool:
    return piece.offset > 0 or not piece.last


def _ttl(reply: int) -> int | None:
    return reply if reply > 0 else None


class Archive(NamedTuple):
    """What a file of sessions says about itself.

    Attributes:
        key_prefix: The prefix the sessions were exported with.
        sessions: How many it holds.
        messages: How many messages they have.
        pieces: How many lines these take.
    """

    key_prefix: str
    sessions: int
    messages: int
    pieces: int


def write_archive(file: BinaryIO, pieces: Iterable[Piece], key_prefix: str) -> Counter[str]:
    """Write sessions as JSON Lines: a heading, a line a piece, and a line that seals the file.

    An element is a JSON string of its text, or ``{"base64": ...}`` where it is not UTF-8. The
    last line has the counts and the SHA-256 of everything before it.

    Returns:
        ``sessions``, ``messages`` and ``bytes`` (of their elements) written.
    """
    digest = sha256()

    def write(record: dict[str, Any]) -> None:
        text = json.dumps(record, ensure_ascii=False, separators=(",", ":"))
        line = text.encode() + b"\n"
        digest.update(line)
        file.write(line)

    write({"format": _FORMAT, "version": 1, "key_prefix": key_prefix})
    counts: Counter[str] = Counter()
    lines = messages = size = 0
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
        lines += 1
        if piece.offset == 0:
            messages = size = 0
        messages += len(piece.elements)
        size += _payload(piece)
        if piece.last and messages:
            counts.update(sessions=1, messages=messages, bytes=size)
    seal = {"sessions": counts["sessions"], "messages": counts["messages"], "pieces": lines}
    write({"end": seal | {"sha256": digest.hexdigest()}})
    return counts


def check_archive(file: BinaryIO) -> Archive:
    """Read a file of sessions to its end and make sure that it is whole and unchanged.

    Raises:
        MemorystoreChatError: It is not such a file, was cut off, or was changed.
    """
    heading = file.readline()
    record = _parsed(heading)
    if record.get("format") != _FORMAT:
        raise MemorystoreChatError(
            "This is not a file that sessions.export() wrote: its first line is not the heading. "
            "Nothing was loaded."
        )
    if record.get("version") != 1:
        raise MemorystoreChatError(
            f"The file has version {record.get('version')!r} of the format and this package knows "
            "version 1. Nothing was loaded; a newer memorystore-chat can load it."
        )
    digest, line = sha256(), heading
    for following in file:
        digest.update(line)
        line = following
    end = _parsed(line).get("end")
    if not isinstance(end, dict):
        raise MemorystoreChatError(
            "The file was cut off: its last line does not have the counts that seal it. Nothing "
            "was loaded; take another copy, or export again."
        )
    if end.pop("sha256", None) != digest.hexdigest():
        raise MemorystoreChatError(
            "The file was changed after it was exported: its contents do not have the checksum in "
            "its last line. Nothing was loaded; take another copy, or export again."
        )
    return Archive(record["key_prefix"], **end)


def read_archive(file: BinaryIO) -> Iterator[Piece]:
    """The pieces of a file that `check_archive` has approved, which it must begin again."""
    for line in file:
        record = _parsed(line)
        if "session" in record:
            elements = [_from_json(element) for element in record["elements"]]
            yield Piece(
                record["session"], record["ttl_ms"], record["offset"], elements, record["last"]
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


def _from_json(element: str | dict[str, str]) -> bytes:
    if isinstance(element, str):
        return element.encode()
    return base64.b64decode(element["base64"])
