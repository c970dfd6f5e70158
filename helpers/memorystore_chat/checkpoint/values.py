"""A channel's value as it is stored: a list by its elements, each once, under their digests."""

import hashlib
import marshal
import struct
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import fields, is_dataclass
from threading import Lock
from typing import Any

from langchain_core.messages import BaseMessage
from langgraph.checkpoint.serde.base import SerializerProtocol
from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer
from pydantic import BaseModel

from memorystore_chat.arguments import type_name

FAN = 8  # elements or nodes that make a node
GROUP = FAN * FAN  # elements that are looked at together, to see whether they are new
SMALL = (
    64  # bytes: a list of smaller elements is stored whole, a smaller value inside its checkpoint
)
MEMORY = 8 * 2**20  # bytes that a saver remembers


class DamagedError(ValueError):
    """What is stored is not what was written."""


class UnreadableError(ValueError):
    """What is stored is what was written, and the serializer cannot read it."""


class Remembered:
    """What was used last, up to a number of bytes."""

    def __init__(self, limit: int = MEMORY) -> None:
        self._kept: dict[Any, bytes] = {}
        self._lock = Lock()
        self._limit = limit
        self.size = 0

    def __getitem__(self, key: Any) -> bytes:
        """What is remembered under a key, which counts as used; empty if nothing is."""
        with self._lock:
            value = self._kept.pop(key, None)
            if value is None:
                return b""
            self._kept[key] = value
            return value

    def __setitem__(self, key: Any, value: bytes) -> None:
        with self._lock:
            if self._kept.pop(key, None) is None:
                self.size += _cost(key)
            self._kept[key] = value
            while self.size > self._limit:
                oldest = next(iter(self._kept))
                del self._kept[oldest]
                self.size -= _cost(oldest)


def _cost(key: Any) -> int:
    # Measured: the entry, its key of some 50 bytes, and a value of 17.
    return 300 + (8 * len(key[0]) if isinstance(key, tuple) else len(key))


class Packing:
    """Values of one thread on their way to the server.

    Attributes:
        sent: Fields and their bytes that the server is not known to have.
        used: All fields that the values refer to, to be remembered once they are stored.
    """

    def __init__(
        self, serde: SerializerProtocol, remembered: Remembered, key: bytes, *, anew: bool
    ) -> None:
        self.sent: dict[bytes, bytes] = {}
        self.used: list[bytes] = []
        self._serde = serde
        self._remembered = remembered
        self._key = key
        self._anew = self._sends_all = anew
        self._joins = joins(serde)

    def pack(self, value: Any) -> bytes:
        """A value as checkpoint.lua takes it."""
        packed = self._split(value) or b"b" + typed(self._serde, value)
        return packed if len(packed) <= SMALL else b"v" + self._field(b"v", packed)

    def remember(self) -> None:
        """Note that the server has all of it."""
        for field in self.used:
            self._remembered[self._key + field] = field

    def _split(self, value: Any) -> bytes:
        """A list, or a dict with lists, by elements; empty for what is stored whole."""
        if type(value) is list:
            whole = self._elements(value)
            return self._parts(b"l", [whole]) if whole else b""
        if type(value) is not dict:
            return b""
        lists = {
            name: found
            for name, part in value.items()
            if type(name) is str and type(part) is list and (found := self._elements(part))
        }
        if not lists:
            return b""
        rest = {name: None if name in lists else part for name, part in value.items()}
        layout = [[name, len(nodes), len(left)] for name, (nodes, left) in lists.items()]
        return self._parts(b"d", lists.values()) + typed(self._serde, [rest, layout])

    def _parts(self, kind: bytes, lists: Iterable[tuple[list[bytes], list[bytes]]]) -> bytes:
        nodes = [digest for each, _ in lists for digest in each]
        left = [digest for _, each in lists for digest in each]
        counts = struct.pack(">HH", len(nodes), len(left))
        return b"".join([kind if self._joins else kind.upper(), counts, *nodes, *left])

    def _elements(self, values: list[Any]) -> tuple[list[bytes], list[bytes]] | None:
        """The digests of the nodes that a list is made of, and of the elements behind them.

        Eight elements make a node, and eight nodes of a kind one above them. None stands for a
        list of small elements.
        """
        if not values or type(values[0]) in (int, float, bool):
            return None
        if not isinstance(values[0], BaseMessage) and self._is_small(values):
            return None
        self._sends_all = self._anew or len(values) == 1  # a new message, as a rule
        whole = len(values) // GROUP * GROUP
        level = [self._group(values[at : at + GROUP]) for at in range(0, whole, GROUP)]
        nodes, left = self._climb(b"s", [self._element(value) for value in values[whole:]])
        while level:
            level, behind = self._climb(b"k", level)
            nodes = behind + nodes
        return nodes, left

    def _climb(self, kind: bytes, level: list[bytes]) -> tuple[list[bytes], list[bytes]]:
        """The nodes above whole eights, and those that are left."""
        whole = len(level) // FAN * FAN
        above = [
            self._field(b"k", kind + b"".join(level[at : at + FAN])) for at in range(0, whole, FAN)
        ]
        return above, level[whole:]

    def _is_small(self, values: list[Any]) -> bool:
        return len(typed(self._serde, values)) < SMALL * len(values)

    def _element(self, value: Any) -> bytes:
        encode = joined if self._joins else typed
        return self._new([value], lambda: self._field(b"s", encode(self._serde, value)), b"s")

    def _group(self, values: list[Any]) -> bytes:
        def make() -> bytes:
            below, _ = self._climb(b"s", [self._element(value) for value in values])
            return self._climb(b"k", below)[0][0]

        return self._new(values, make, b"k")

    def _new(self, values: list[Any], make: Callable[[], bytes], kind: bytes) -> bytes:
        """What `make` returns, which is not called for what was stored before and has not changed.

        Messages are compared by all they hold, since a node of a graph may change them in place.
        """
        content = _content(values)
        if content and not self._sends_all:
            field = self._remembered[content]
            if field and self._remembered[self._key + field]:
                self.used.append(field)
                return field[1:]
        digest = make()
        if content:
            self._remembered[content] = kind + digest
        return digest

    def _field(self, kind: bytes, content: bytes) -> bytes:
        digest = digest_of(content)
        field = kind + digest
        self.used.append(field)
        if kind == b"v" or self._sends_all or not self._remembered[self._key + field]:
            self.sent[field] = content
        return digest


class Unpacking:
    """Values from the fields that the server has."""

    def __init__(self, serde: SerializerProtocol) -> None:
        self.fields: dict[bytes, bytes] = {}
        self._serde = serde
        self._whole = set[bytes]()  # what lacks nothing
        self._known: dict[bytes, list[bytes]] = {}

    def take(self, reply: bytes) -> None:
        """Take in fields: each 17 bytes of name, 4 of length, and so many."""
        at = 0
        while at < len(reply):
            start = at + 21
            end = start + int.from_bytes(reply[at + 17 : start], "big")
            if end > start:
                self.fields[reply[at : at + 17]] = reply[start:end]
            at = end

    def lacks(self, packed: Iterable[bytes]) -> list[bytes]:
        """What has to be fetched next before values can be read."""
        lacking: dict[bytes, None] = {}
        for value in packed:
            self._look(references(value), lacking)
        return [*lacking]

    def _look(self, names: Iterable[bytes], lacking: dict[bytes, None]) -> bool:
        is_whole = True
        for name in names:
            if name in self._whole:
                continue
            if name not in self.fields:
                lacking[name] = None
                is_whole = False
            elif name[:1] == b"s" or self._look(_below(name, self.fields[name]), lacking):
                self._whole.add(name)
            else:
                is_whole = False
        return is_whole

    def value(self, packed: bytes) -> Any:
        """A value.

        Raises:
            DamagedError: A part of it is missing or altered.
            UnreadableError: The serializer refuses it.
        """
        if packed[:1] == b"v":
            packed = self._field(packed[:17])
        if packed[:1] == b"b":
            return untyped(self._serde, packed[1:])
        if len(packed) < 5:
            raise DamagedError("a value is too short")
        joins, names = packed[:1].islower(), references(packed)
        if packed[:1] in b"lL":
            return self._list(joins, names)
        value, layout = untyped(self._serde, packed[5 + 16 * len(names) :])
        at, left = 0, sum(count for _, count, _ in layout)
        for name, nodes, elements in layout:
            some = names[at : at + nodes] + names[left : left + elements]
            value[name] = self._list(joins, some)
            at, left = at + nodes, left + elements
        return value

    def _list(self, joins: bool, names: Iterable[bytes]) -> Any:
        elements = [element for name in names for element in self._elements(name)]
        if not joins:
            return [untyped(self._serde, element) for element in elements]
        head = b"\xdd" + len(elements).to_bytes(4, "big")  # of a msgpack array
        return _load(self._serde, "msgpack", head + b"".join(elements))

    def _elements(self, name: bytes) -> list[bytes]:
        found = self._known.get(name)
        if found is None:
            content = self._field(name)
            found = [content]
            if name[:1] == b"k":
                found = [each for below in _below(name, content) for each in self._elements(below)]
            self._known[name] = found
        return found

    def _field(self, name: bytes) -> bytes:
        content = self.fields.get(name)
        if content is None or digest_of(content) != name[1:]:
            what = "missing" if content is None else "altered"
            raise DamagedError(f"its part {name[:1].decode()}{name[1:].hex()} is {what}")
        return content


def digest_of(content: bytes) -> bytes:
    """What names an element, a chunk or a value."""
    return hashlib.blake2b(content, digest_size=16).digest()


def _cut(kind: bytes, digests: bytes) -> list[bytes]:
    return [kind + digests[at : at + 16] for at in range(0, len(digests), 16)]


def references(packed: bytes) -> list[bytes]:
    """The fields that a value refers to, as checkpoint.lua finds them."""
    if packed[:1] == b"v":
        return [packed[:17]]
    if packed[:1] == b"b" or len(packed) < 5:
        return []
    nodes, left = struct.unpack_from(">HH", packed, 1)
    end = 5 + 16 * nodes
    return _cut(b"k", packed[5:end]) + _cut(b"s", packed[end : end + 16 * left])


def _below(name: bytes, content: bytes) -> list[bytes]:
    if name[:1] == b"k":
        return _cut(b"s" if content[:1] == b"s" else b"k", content[1:])
    return references(content) if content[:1] != b"v" else []


def _content(values: Sequence[Any]) -> Any:
    """What tells LangChain's messages apart by all they hold; None for anything else."""
    kinds = tuple(map(type, values))
    if not all(kind.__module__.startswith("langchain_core.messages.") for kind in kinds):
        return None
    try:
        held = [(value.__dict__, value.__pydantic_extra__) for value in values]
        return kinds, digest_of(marshal.dumps(held, 2))
    except (AttributeError, ValueError):  # something that is no plain data
        return None


def joins(serde: SerializerProtocol) -> bool:
    """Whether the bytes of elements one after the other are those of their list."""
    return type(serde) is JsonPlusSerializer and not serde.pickle_fallback


def joined(serde: SerializerProtocol, value: Any) -> bytes:
    """An element's bytes as they are in a list."""
    return serde.dumps_typed([value])[1][1:]


_SHORT = {"msgpack": "m", "null": "n"}
_LONG = {short: name for name, short in _SHORT.items()}


def typed(serde: SerializerProtocol, value: Any) -> bytes:
    """A value's bytes, after the name of their format."""
    kind, data = serde.dumps_typed(value)
    return b"%b:%b" % (_SHORT.get(kind, kind).encode(), data)


def untyped(serde: SerializerProtocol, stored: bytes) -> Any:
    """A value from its bytes.

    Raises:
        UnreadableError: The serializer refuses them.
    """
    kind, _, data = stored.partition(b":")
    name = kind.decode(errors="replace")
    return _load(serde, _LONG.get(name, name), data)


def _load(serde: SerializerProtocol, kind: str, data: bytes) -> Any:
    try:
        return serde.loads_typed((kind, data))
    except Exception as error:
        raise UnreadableError(f"{kind}: {type(error).__name__}: {error}") from error


def culprit(serde: SerializerProtocol, value: Any, path: str) -> str:
    """Where in a value is what the serializer refuses, and of which type it is."""
    for step, part in _inside(value) if path.count(".") + path.count("[") < 30 else ():
        try:
            serde.dumps_typed(part)
        except (TypeError, ValueError):
            return culprit(serde, part, path + step)
    return f"{path} is {type_name(value)}"


def _inside(value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict):
        yield from ((f"[{name!r}]", part) for name, part in value.items())
    elif isinstance(value, list | tuple | set | frozenset):
        yield from ((f"[{index}]", part) for index, part in enumerate(value))
    elif isinstance(value, BaseModel):
        yield from ((f".{name}", part) for name, part in value)
    elif is_dataclass(value):
        yield from ((f".{each.name}", getattr(value, each.name)) for each in fields(value))


def frame(parts: Iterable[str | bytes]) -> bytes:
    """Texts in one, each after its length, as checkpoint.lua does it."""
    out = []
    for part in parts:
        text = part.encode() if isinstance(part, str) else part
        size = len(text)
        out += [bytes([size]) if size < 255 else b"\xff" + size.to_bytes(4, "big"), text]
    return b"".join(out)


def unframe(text: bytes) -> list[bytes]:
    """The texts again."""
    parts, at = [], 0
    while at < len(text):
        size, at = text[at], at + 1
        if size == 255:
            size, at = int.from_bytes(text[at : at + 4], "big"), at + 4
        parts.append(text[at : at + size])
        at += size
    return parts


def unseal(sealed: bytes) -> list[bytes]:
    """The texts behind their checksum.

    Raises:
        DamagedError: It is not theirs.
    """
    text = sealed[8:]
    if hashlib.sha1(text, usedforsecurity=False).hexdigest()[:8].encode() != sealed[:8]:
        raise DamagedError("its record is altered")
    return unframe(text)


def version_text(version: str | int | float) -> str:
    """A channel's version as text; one of LangGraph's savers without its zeros."""
    if isinstance(version, str):
        number, dot, rest = version.partition(".")
        if dot and len(number) == _DIGITS and number.isdecimal() and number.isascii():
            return f"~{int(number)}.{rest}"
        return f"'{version}"
    return f"f{version!r}" if isinstance(version, float) else str(version)


def version_of(text: str) -> str | int | float:
    """The version again.

    Example:
        >>> version_of(version_text(7)), version_of(version_text("a")), version_of("~3.f")
        (7, 'a', '00000000000000000000000000000003.f')
    """
    if text.startswith("~"):
        number, _, rest = text[1:].partition(".")
        return f"{int(number):0{_DIGITS}}.{rest}"
    if text.startswith("'"):
        return text[1:]
    return float(text[1:]) if text.startswith("f") else int(text)


_DIGITS = 32
