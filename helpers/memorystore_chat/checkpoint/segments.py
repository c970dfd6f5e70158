"""Lists as segments: each of one or more elements, under the digest of its bytes."""

from collections.abc import Iterable, Sequence
from hashlib import blake2b
from typing import Any, TypeAlias

from langgraph.checkpoint.serde.base import SerializerProtocol

FULL = 256
"""Bytes from which a segment takes no more elements; most messages are larger."""

DIGEST = 16
"""Bytes of a segment's digest; the scripts know it, too."""

Layout: TypeAlias = tuple[tuple[bytes, int], ...]
"""A list's segments: the digest of each, and how many elements it has."""

_SHORT = {"msgpack": "m", "null": "n"}
_LONG = {short: name for name, short in _SHORT.items()}


def typed(serde: SerializerProtocol, value: Any) -> bytes:
    """A value's bytes, after the name of their format."""
    kind, data = serde.dumps_typed(value)
    return b"%b:%b" % (_SHORT.get(kind, kind).encode(), data)


def untyped(serde: SerializerProtocol, stored: bytes) -> Any:
    """A value from its bytes.

    Raises:
        ValueError: The serializer refuses them.
    """
    kind, _, data = stored.partition(b":")
    try:
        return serde.loads_typed((_LONG.get(kind.decode(), kind.decode()), data))
    except Exception as error:
        raise ValueError(f"{type(error).__name__}: {error}") from error


def parts_of(segment: bytes) -> list[bytes]:
    """The bytes of each element of a segment."""
    parts, start = [], 0
    while start < len(segment):
        length = int.from_bytes(segment[start : start + 4], "big")
        parts.append(segment[start + 4 : start + 4 + length])
        start += 4 + length
    return parts


def operations_of(
    elements: Iterable[bytes], before: Layout, segments: dict[bytes, bytes]
) -> tuple[list[bytes | range], Layout]:
    """How a list is made of places in its earlier version and of new segments, which are added."""
    framed = [len(element).to_bytes(4, "big") + element for element in elements]
    places = {digest: place for place, (digest, _) in reversed([*enumerate(before)])}
    counts = sorted({count for _, count in before}, reverse=True)
    operations: list[bytes | range] = []
    layout: list[tuple[bytes, int]] = []
    new: list[bytes] = []
    start = following = 0

    def end_new() -> None:
        if new:
            digest = _digest(new)
            segments[digest] = b"".join(new)
            operations.append(digest)
            layout.append((digest, len(new)))
            new.clear()

    def place_of_next() -> int | None:
        # Where an element stands several times, the place after the last one found comes first.
        likely, count = before[following] if following < len(before) else (b"", 0)
        for tried in dict.fromkeys((count, *counts)):
            digest = _digest(framed[start : start + tried])
            if digest == likely:
                return following
            if digest in places:
                return places[digest]
        return None

    while start < len(framed):
        place = place_of_next()
        if place is None:
            new.append(framed[start])
            start += 1
            if sum(map(len, new)) >= FULL:
                end_new()
            continue
        end_new()
        last = operations[-1] if operations else b""
        if isinstance(last, range) and last.stop == place:
            operations[-1] = range(last.start, place + 1)
        else:
            operations.append(range(place, place + 1))
        layout.append(before[place])
        start += before[place][1]
        following = place + 1
    end_new()
    return operations, tuple(layout)


def _digest(elements: Sequence[bytes]) -> bytes:
    return blake2b(b"".join(elements), digest_size=DIGEST).digest()
