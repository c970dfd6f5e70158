"""Lists as segments: each of one or more elements, under the digest of its bytes."""

from collections.abc import Iterable, Iterator, Sequence
from hashlib import blake2b
from typing import Any, Protocol, TypeAlias

FULL = 256
"""Bytes from which a segment takes no more elements; most messages are larger."""

DIGEST = 16
"""Bytes of a segment's digest; the scripts know it, too."""

Layout: TypeAlias = tuple[tuple[bytes, int], ...]
"""A list's segments: the digest of each, and how many elements it has."""


class Serializer(Protocol):
    """What LangGraph calls a serializer."""

    def dumps_typed(self, obj: Any) -> tuple[str, bytes]:
        """A value as bytes, and the name of their format."""
        ...

    def loads_typed(self, data: tuple[str, bytes]) -> Any:
        """The value again."""
        ...


_SHORT = {"msgpack": "m", "null": "n"}
_LONG = {short: name for name, short in _SHORT.items()}


def typed(serde: Serializer, value: Any) -> bytes:
    """A value's bytes, after the name of their format."""
    kind, data = serde.dumps_typed(value)
    return b"%b:%b" % (_SHORT.get(kind, kind).encode(), data)


def untyped(serde: Serializer, stored: bytes) -> Any:
    """A value from its bytes.

    Raises:
        ValueError: The serializer refuses them.
    """
    kind, _, data = stored.partition(b":")
    try:
        return serde.loads_typed((_LONG.get(kind.decode(), kind.decode()), data))
    except Exception as error:
        raise ValueError(f"{type(error).__name__}: {error}") from error


def encoded_elements(serde: Serializer, elements: Iterable[Any]) -> list[bytes]:
    """The elements of a list, each as a part of a segment."""
    return [_framed(typed(serde, element)) for element in elements]


def _framed(element: bytes) -> bytes:
    return len(element).to_bytes(4, "big") + element


def parts_of(segment: bytes) -> list[bytes]:
    """The bytes of each element of a segment."""
    parts, start = [], 0
    while start < len(segment):
        length = int.from_bytes(segment[start : start + 4], "big")
        parts.append(segment[start + 4 : start + 4 + length])
        start += 4 + length
    return parts


def _digest(segment: bytes) -> bytes:
    return blake2b(segment, digest_size=DIGEST).digest()


def operations_of(
    encoded: Sequence[bytes], before: Layout, segments: dict[bytes, bytes]
) -> tuple[list[tuple[str | bytes | int, ...]], Layout]:
    """How a list is made of its earlier version and of new segments, which are added."""
    operations: list[tuple[str | bytes | int, ...]] = []
    layout: list[tuple[bytes, int]] = []
    for place, count, segment in _pieces(encoded, before):
        if place is None:
            digest = _digest(segment)
            segments[digest] = segment
            operations.append(("new", digest))
            layout.append((digest, count))
            continue
        last = operations[-1] if operations else ("",)
        if last[0] == "copy" and last[1] + last[2] == place:  # type: ignore[operator]
            operations[-1] = ("copy", last[1], last[2] + 1)  # type: ignore[operator]
        else:
            operations.append(("copy", place, 1))
        layout.append(before[place])
    return operations, tuple(layout)


def _pieces(encoded: Sequence[bytes], before: Layout) -> Iterator[tuple[int | None, int, bytes]]:
    """The list's segments: place in the earlier version if it is there, elements, bytes."""
    places = {segment: place for place, segment in reversed([*enumerate(before)])}
    counts = sorted({count for _, count in before}, reverse=True)
    start, expected = 0, 0
    pending: list[bytes] = []

    def found_at(index: int) -> tuple[int, int] | None:
        likely = before[expected] if expected < len(before) else (b"", 0)
        for count in dict.fromkeys((likely[1], *counts)):
            segment = (_digest(b"".join(encoded[index : index + count])), count)
            if segment == likely:
                return expected, count
            if segment in places:
                return places[segment], count
        return None

    while start < len(encoded):
        if before and (found := found_at(start)):
            if pending:
                yield None, len(pending), b"".join(pending)
                pending = []
            yield found[0], found[1], b""
            expected = found[0] + 1
            start += found[1]
            continue
        pending.append(encoded[start])
        start += 1
        if sum(map(len, pending)) >= FULL:
            yield None, len(pending), b"".join(pending)
            pending = []
    if pending:
        yield None, len(pending), b"".join(pending)
