"""Sessions on the move: read from servers in pieces, and written, each at once and exactly once."""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache
from itertools import chain, islice
from typing import Literal, NamedTuple

from redis.crc import key_slot

from memorystore_chat.errors import MemorystoreChatError
from memorystore_chat.sessions._archive import Piece
from memorystore_chat.sessions._batches import BUDGET, batches
from memorystore_chat.sessions._primaries import Command, Primaries
from memorystore_chat.sessions.scanning import STAGING, Session
from memorystore_chat.storage.scripts import script

PAGE = 1000
"""Longer sessions are moved in pieces of at most so many messages."""

_STAGED_FOR = 600_000  # ms that the pieces of an interrupted move are kept


def read(
    primaries: Primaries, sessions: Iterable[Session], *, newest_first: bool = False
) -> Iterator[Piece]:
    """Read sessions in pieces.

    A session is read as it is at one moment. One of several pieces is read without what is
    appended meanwhile; if it is trimmed or cleared meanwhile, it is read again in one piece.

    Args:
        primaries: Where the sessions are.
        sessions: What to read; a session that is gone by now is left out.
        newest_first: Whether the lists are stored that way; pieces are oldest first always.
    """
    for batch in batches(sessions, lambda session: session.bytes, alone=_is_long):
        if _is_long(batch[0]):
            yield from _read_long(primaries, batch[0], newest_first)
            continue
        commands: list[Command] = [
            c for session in batch for c in (("PTTL", session.key), ("LRANGE", session.key, 0, -1))
        ]
        replies = primaries.run(commands, "reading sessions")
        for session, ttl, elements in zip(batch, replies[::2], replies[1::2], strict=True):
            if elements:
                ordered = elements[::-1] if newest_first else elements
                yield Piece(session.id, _ttl(ttl), 0, ordered, last=True)


def _read_long(primaries: Primaries, session: Session, newest_first: bool) -> Iterator[Piece]:
    doing = f"reading the session {session.key!r}"

    def elements(start: int, stop: int) -> list[bytes]:
        (found,) = primaries.run([("LRANGE", session.key, start, stop)], doing)
        return (found or [])[:: -1 if newest_first else 1]

    pttl, length = primaries.run([("PTTL", session.key), ("LLEN", session.key)], doing)
    step = max(1, min(PAGE, BUDGET * session.messages // max(1, session.bytes)))
    offset, newest_read = 0, b""
    while offset < (length or 0):
        # Each page begins with the last element of the one before, to see whether it moved.
        first, stop = max(0, offset - 1), min(offset + step, length)
        # Counted from the end, a list that grows at its head keeps its positions.
        page = elements(-stop, -first - 1) if newest_first else elements(first, stop - 1)
        moved = len(page) < stop - first
        if offset and not moved:
            moved = page.pop(0) != newest_read
        if moved:
            yield Piece(session.id, _ttl(pttl), 0, elements(0, -1), last=True)
            return
        yield Piece(session.id, _ttl(pttl), offset, page, last=stop == length)
        offset, newest_read = stop, page[-1]


def put(
    primaries: Primaries,
    pieces: Iterable[Piece],
    *,
    key_prefix: str,
    existing: Literal["keep", "extend", "replace"],
    dry_run: bool = False,
) -> Counter[str]:
    """Write sessions, each all at once, and read back what was written.

    A new session of one piece is written by one script. One of several, or one that replaces
    another, is assembled under a key beside it and renamed when it is whole; if that is
    interrupted, the parts expire.

    Args:
        primaries: Where to write.
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
    writer = _Writer(primaries, key_prefix, existing, dry_run)
    for batch in batches(pieces, lambda piece: piece.size, alone=_is_part):
        if _is_part(batch[0]):
            writer.put_part(batch[0])
        else:
            writer.put_whole(batch)
    return writer.counts


class _Place(NamedTuple):
    """Elements, and the list and position where they belong."""

    key: bytes
    offset: int
    elements: list[bytes]
    ttl_ms: int

    def after(self, present: int) -> "_Place":
        """What is left when the first elements are there already."""
        return self._replace(offset=self.offset + present, elements=self.elements[present:])

    @property
    def range(self) -> Command:
        """The command that reads it back."""
        return "LRANGE", self.key, self.offset, self.offset + len(self.elements) - 1


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
    primaries: Primaries
    key_prefix: str
    existing: Literal["keep", "extend", "replace"]
    dry_run: bool
    counts: Counter[str] = field(default_factory=Counter)
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
                places.append(place.after(present))
        for place, written in zip(places, self._written(places), strict=True):
            if written:
                self._count(len(place.elements), sum(map(len, place.elements)))
            else:
                self.counts["conflicting"] += 1

    def put_part(self, piece: Piece) -> None:
        """Write one piece of a session that has more."""
        if piece.offset == 0:
            self._abandon({piece.id})
            self.assembly = _Assembly(piece.id, "key")
        assembly = self.assembly
        if assembly is None or assembly.target == "nowhere":
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
                rest = place.after(present)
                self._add(rest, _load(rest), assembly)
        if assembly.target == "staging":
            key = staging_key(self._key(piece))
            part = _Place(key, piece.offset, piece.elements, _STAGED_FOR)
            self._add(part, _load(part, staged=True), assembly)
        if piece.last:
            self._finish(piece, assembly)

    def _add(self, place: _Place, order: Command, assembly: _Assembly) -> None:
        if not self.dry_run:
            replies = self.primaries.run([order, place.range], "writing sessions")
            if replies[1] != place.elements:
                raise MemorystoreChatError(
                    f"The session {assembly.id!r} reads back differently from what was written, so "
                    "it was not completed: someone else writes to it. Try again when they are done."
                )
        assembly.messages += len(place.elements)
        assembly.bytes += sum(map(len, place.elements))

    def _finish(self, piece: Piece, assembly: _Assembly) -> None:
        self.assembly = None
        if not assembly.messages:
            self.counts["existing"] += 1
            return
        if assembly.target == "staging" and not self.dry_run:
            key = self._key(piece)
            length = piece.offset + len(piece.elements)
            rename = self._rename(key, length, piece.ttl_ms or 0)
            (renamed,) = self.primaries.run([rename], f"writing the session {key.decode()!r}")
            if not renamed:
                self.counts["conflicting"] += 1
                return
        self._count(assembly.messages, assembly.bytes)

    def _abandon(self, ids: set[str]) -> None:
        """Forget a session that was begun, if it begins anew."""
        if self.assembly and self.assembly.id in ids:
            if self.assembly.target == "staging" and not self.dry_run:
                staged = staging_key((self.key_prefix + self.assembly.id).encode())
                self.primaries.run([("UNLINK", staged)], "writing sessions")
            self.assembly = None

    def _compared(self, pieces: Sequence[Piece]) -> list[tuple[_Place, int | None]]:
        """Where the pieces belong, and how many of their elements are there already.

        None stands for something else that is there and is to be kept.
        """
        places = [
            _Place(self._key(piece), piece.offset, piece.elements, piece.ttl_ms or 0)
            for piece in pieces
        ]
        if self.existing == "replace":
            return [(place, 0) for place in places]
        found = self.primaries.run([place.range for place in places], "reading sessions")
        return [
            (place, self._present(place, there)) for place, there in zip(places, found, strict=True)
        ]

    def _present(self, place: _Place, there: list[bytes] | None) -> int | None:
        if there is None or there != place.elements[: len(there)]:
            return None
        started = bool(there or place.offset)
        if self.existing == "keep" and started and len(there) < len(place.elements):
            return None
        return len(there)

    def _written(self, places: Sequence[_Place]) -> list[bool]:
        """Write, and say of each place whether it holds what was written."""
        if self.dry_run:
            return [True] * len(places)
        orders = [self._orders(place) for place in places]
        replies = iter(self.primaries.run(list(chain(*orders)), "writing sessions"))
        read_back = [list(islice(replies, len(order)))[-1] for order in orders]
        return [there == place.elements for there, place in zip(read_back, places, strict=True)]

    def _orders(self, place: _Place) -> list[Command]:
        """Write all of a session, or what it lacks, and read it back."""
        if self.existing != "replace":
            return [_load(place), place.range]
        staged = place._replace(key=staging_key(place.key), ttl_ms=_STAGED_FOR)
        rename = self._rename(place.key, len(place.elements), place.ttl_ms)
        return [_load(staged, staged=True), rename, place.range]

    def _rename(self, key: bytes, length: int, ttl_ms: int) -> Command:
        """Give the staged list its name."""
        options = (length, ttl_ms, int(self.existing == "replace"))
        return "EVAL", script("rename_loaded").text, 2, staging_key(key), key, *options

    def _key(self, piece: Piece) -> bytes:
        return (self.key_prefix + piece.id).encode()

    def _count(self, messages: int, size: int) -> None:
        self.counts.update(sessions=1, messages=messages, bytes=size)


def _load(place: _Place, *, staged: bool = False) -> Command:
    """Write elements at the end of a list; a staged one is begun anew by its first element."""
    keys = [place.key]
    if place.offset and not staged:
        keys.append(staging_key(place.key))
    options = (place.offset, place.ttl_ms, int(staged and place.offset == 0))
    return "EVAL", script("load_elements").text, len(keys), *keys, *options, *place.elements


def staging_key(key: bytes) -> bytes:
    """A key for the parts of a session, in the cluster slot of the session's own key.

    Example:
        >>> staging_key(b"session1")
        b'memorystore-chat:loading:{...}session1'
    """
    # Of a key with braces, a cluster hashes what stands in the first ones.
    return b"%b{%d}%b" % (STAGING, _texts()[key_slot(key)], key)


@cache
def _texts() -> dict[int, int]:
    """For each hash slot a number whose digits have it; so many are enough for all 16,384."""
    return {key_slot(b"%d" % number): number for number in range(110_000)}


def _is_long(session: Session) -> bool:
    return session.messages > PAGE or session.bytes > BUDGET


def _is_part(piece: Piece) -> bool:
    return piece.offset > 0 or not piece.last


def _ttl(reply: int) -> int | None:
    return reply if reply > 0 else None
