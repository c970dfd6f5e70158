"""Sessions on the move: read from servers in pieces, and written, each at once and exactly once."""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Literal

from redis.crc import key_slot

from memorystore_chat.errors import MemorystoreChatError
from memorystore_chat.scripts import script
from memorystore_chat.sessions._archive import Piece
from memorystore_chat.sessions._batches import BUDGET, batches
from memorystore_chat.sessions._primaries import Command, Primaries
from memorystore_chat.sessions.scanning import STAGING, Session

PAGE = 1000
"""Longer sessions are moved in pieces of at most so many messages."""

_STAGED_FOR = 600_000  # ms that the pieces of an interrupted move are kept


def read(
    primaries: Primaries, sessions: Iterable[Session], *, newest_first: bool = False
) -> Iterator[Piece]:
    """Read sessions, stored oldest or newest first, in pieces that are oldest first.

    A session is read as it is at one moment, and left out if it is gone by now. One of several
    pieces is read without what is appended meanwhile; if it is trimmed or cleared meanwhile, it
    is read again in one piece.
    """
    for batch in batches(sessions, lambda one: BUDGET + 1 if _is_long(one) else one.bytes):
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
                yield Piece(session.id, _ttl(ttl), 0, True, ordered)


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
            yield Piece(session.id, _ttl(pttl), 0, True, elements(0, -1))
            return
        yield Piece(session.id, _ttl(pttl), offset, stop == length, page)
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
        The numbers that a `Report` has, by name.
    """
    writer = _Writer(primaries, key_prefix, existing, dry_run)
    for batch in batches(pieces, lambda one: BUDGET + 1 if _is_part(one) else one.size):
        if _is_part(batch[0]):
            writer.put_part(batch[0])
        else:
            writer.put_whole(batch)
    return writer.counts


@dataclass
class _Assembly:
    """A session of several pieces that is being written."""

    session: str
    staged: bool = False  # to the staging key; otherwise to the key itself
    conflicting: bool = False  # with what is there, so that nothing is written
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
        self._abandon({piece.session for piece in pieces})
        pieces = [piece for piece in pieces if piece.elements]
        lacking = []
        for piece, present in zip(pieces, self._present(pieces), strict=True):
            if present is None:
                self.counts["conflicting"] += 1
            elif present == len(piece.elements):
                self.counts["existing"] += 1
            else:
                lacking.append(piece.after(present))
        for piece, written in zip(lacking, self._written(lacking), strict=True):
            if written:
                self.counts.update(sessions=1, messages=len(piece.elements), bytes=piece.size)
            else:
                self.counts["conflicting"] += 1

    def put_part(self, piece: Piece) -> None:
        """Write one piece of a session that has more."""
        if piece.offset == 0:
            self._abandon({piece.session})
            self.assembly = _Assembly(piece.session)
        if self.assembly is None:
            return
        if not self.assembly.staged and not self.assembly.conflicting:
            (present,) = self._present([piece])
            if present is None:
                self.assembly.conflicting = True
            elif present == piece.offset == 0:
                self.assembly.staged = True
            elif present < len(piece.elements):
                rest = piece.after(present)
                self._add(self.assembly, rest, self._append(rest), self._key(piece))
        if self.assembly.staged:
            self._add(self.assembly, piece, self._stage(piece), staging_key(self._key(piece)))
        if piece.last:
            self._finish(self.assembly, piece)

    def _add(self, assembly: _Assembly, piece: Piece, order: Command, key: bytes) -> None:
        if not self.dry_run:
            _, there = self.primaries.run([order, _range(key, piece)], "writing sessions")
            if there != piece.elements:
                raise MemorystoreChatError(
                    f"The session {piece.session!r} reads back differently from what was written, "
                    "so it was not completed: someone else writes to it. Try again when they are "
                    "done."
                )
        assembly.messages += len(piece.elements)
        assembly.bytes += piece.size

    def _finish(self, assembly: _Assembly, piece: Piece) -> None:
        self.assembly = None
        if assembly.conflicting or not assembly.messages:
            self.counts["conflicting" if assembly.conflicting else "existing"] += 1
            return
        if assembly.staged and not self.dry_run:
            doing = f"writing the session {self._key(piece).decode()!r}"
            if self.primaries.run([self._rename(piece)], doing) == [None]:
                self.counts["conflicting"] += 1
                return
        self.counts.update(sessions=1, messages=assembly.messages, bytes=assembly.bytes)

    def _abandon(self, sessions: set[str]) -> None:
        """Forget a session that was begun, if it begins anew."""
        if self.assembly and self.assembly.session in sessions:
            if self.assembly.staged and not self.dry_run:
                staged = staging_key((self.key_prefix + self.assembly.session).encode())
                self.primaries.run([("UNLINK", staged)], "writing sessions")
            self.assembly = None

    def _present(self, pieces: Sequence[Piece]) -> list[int | None]:
        """How many elements of each piece are there already.

        None stands for something else that is there and is to be kept.
        """
        if self.existing == "replace":
            return [0] * len(pieces)
        ranges = [_range(self._key(piece), piece) for piece in pieces]
        found = self.primaries.run(ranges, "reading sessions")
        return [self._agreeing(*pair) for pair in zip(pieces, found, strict=True)]

    def _agreeing(self, piece: Piece, there: list[bytes] | None) -> int | None:
        if there is None or there != piece.elements[: len(there)]:
            return None
        started = bool(there or piece.offset)
        if self.existing == "keep" and started and len(there) < len(piece.elements):
            return None
        return len(there)

    def _written(self, pieces: Sequence[Piece]) -> list[bool]:
        """Write all of each session, or what it lacks, and say whether it holds that."""
        if self.dry_run:
            return [True] * len(pieces)
        orders: list[Command] = []
        for piece in pieces:
            if self.existing == "replace":
                orders += [self._stage(piece), self._rename(piece)]
            else:
                orders.append(self._append(piece))
            orders.append(_range(self._key(piece), piece))
        replies = zip(orders, self.primaries.run(orders, "writing sessions"), strict=True)
        read_back = [reply for order, reply in replies if order[0] == "LRANGE"]
        return [there == piece.elements for there, piece in zip(read_back, pieces, strict=True)]

    def _append(self, piece: Piece) -> Command:
        """Write elements at the end of the session."""
        keys = [self._key(piece)]
        if piece.offset:
            keys.append(staging_key(keys[0]))
        return _load(keys, piece, piece.ttl_ms or 0)

    def _stage(self, piece: Piece) -> Command:
        """Write elements at the end of the staged list, which its first element begins anew."""
        return _load([staging_key(self._key(piece))], piece, _STAGED_FOR, anew=piece.offset == 0)

    def _rename(self, last: Piece) -> Command:
        """Give the staged list its name."""
        key, length = self._key(last), last.offset + len(last.elements)
        options = (length, last.ttl_ms or 0, int(self.existing == "replace"))
        return "EVAL", script("sessions/rename_loaded").text, 2, staging_key(key), key, *options

    def _key(self, piece: Piece) -> bytes:
        return (self.key_prefix + piece.session).encode()


def _load(keys: Sequence[bytes], piece: Piece, ttl_ms: int, *, anew: bool = False) -> Command:
    text = script("sessions/load_elements").text
    return "EVAL", text, len(keys), *keys, piece.offset, ttl_ms, int(anew), *piece.elements


def _range(key: bytes, piece: Piece) -> Command:
    """The command that reads a piece back."""
    return "LRANGE", key, piece.offset, piece.offset + len(piece.elements) - 1


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
