"""A channel's value as it is stored: a list by its elements, each once, under their digests."""

import hashlib
import marshal
import struct
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from typing import Any

from langchain_core.messages import BaseMessage
from langgraph.checkpoint.serde.base import SerializerProtocol
from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer

FAN = 8  # elements or nodes that make a node
GROUP = FAN * FAN  # elements that are looked at together, to see whether they are new
SMALL = 64  # bytes: lists of smaller elements are stored whole, smaller values in their checkpoint
ENTRIES = 8 * 2**20 // 300  # that a saver remembers, of at most 300 bytes each

Tree = tuple[list[bytes], list[bytes]]
"""What a list is made of: the digests of its nodes, and those of the elements behind them."""


class DamagedError(ValueError):
    """What is stored is not what was written."""


class UnreadableError(ValueError):
    """What is stored is what was written, and the serializer cannot read it."""


class Remembered:
    """Fields by digests of what they stand for; those that were used last."""

    def __init__(self) -> None:
        self._kept: OrderedDict[bytes, bytes] = OrderedDict()

    def get(self, digest: bytes) -> bytes:
        """The field, which counts as used; empty if it is not remembered."""
        field = self._kept.pop(digest, b"")
        if field:
            self._kept[digest] = field
        return field

    def put(self, digest: bytes, field: bytes) -> None:
        """Remember a field, and forget what was not used for longest."""
        self._kept.pop(digest, None)
        self._kept[digest] = field
        if len(self._kept) > ENTRIES:
            self._kept.popitem(last=False)


class Packing:
    """Values of one thread on their way to the server.

    Attributes:
        anew: Whether to send all, whatever the server is thought to have.
        sent: Fields and their bytes that the server is not known to have.
        used: All fields that the values refer to, to be remembered once they are stored.
    """

    def __init__(
        self, serde: SerializerProtocol, remembered: Remembered, key: bytes, *, anew: bool
    ) -> None:
        self.sent: dict[bytes, bytes] = {}
        self.used: set[bytes] = set()
        self._serde = serde
        self._remembered = remembered
        self._key = key
        self.anew = self._sends_all = anew
        # Whether the bytes of elements one after the other are those of their list.
        self._joins = type(serde) is JsonPlusSerializer and not serde.pickle_fallback

    def pack(self, value: Any) -> bytes:
        """A value as checkpoint.lua takes it."""
        lists = value if type(value) is dict else {"": value}
        trees = {
            name: tree
            for name, part in lists.items()
            if type(name) is str and type(part) is list and (tree := self._tree(part))
        }
        packed = b"b" + typed(self._serde, value) if not trees else self._layout(value, trees)
        return packed if len(packed) <= SMALL else b"v" + self._field(b"v", packed)

    def remember(self) -> None:
        """Note that the server has all of it."""
        for field in self.used:
            self._remembered.put(digest_of(self._key + field), field)

    def _layout(self, value: Any, trees: dict[str, Tree]) -> bytes:
        """Digests, and how lists are made of them; of a dict also what else is in it."""
        rest = None
        if type(value) is dict:
            rest = {name: None if name in trees else part for name, part in value.items()}
        nodes = [digest for tree, _ in trees.values() for digest in tree]
        left = [digest for _, tree in trees.values() for digest in tree]
        sizes = [[name, *map(len, tree)] for name, tree in trees.items()]
        digests = _joined(b"l" if self._joins else b"L", nodes, left)
        return digests + typed(self._serde, [rest, sizes])

    def _tree(self, values: list[Any]) -> Tree | None:
        """Store a list by its elements; None for one of small elements.

        Eight elements make a node, and eight nodes of a kind one above them.
        """
        is_small = values and not isinstance(values[0], BaseMessage)
        if not values or (is_small and len(typed(self._serde, values)) < SMALL * len(values)):
            return None
        self._sends_all = self.anew or len(values) == 1  # a new message, as a rule
        whole = len(values) // GROUP * GROUP
        level = [self._stored(values[at : at + GROUP]) for at in range(0, whole, GROUP)]
        nodes, left = self._climb(b"s", [self._stored([value]) for value in values[whole:]])
        while level:
            level, behind = self._climb(b"k", level)
            nodes = behind + nodes
        return nodes, left

    def _climb(self, kind: bytes, level: list[bytes]) -> Tree:
        """The nodes above whole eights, and those that are left."""
        whole = len(level) // FAN * FAN
        above = [
            self._field(b"k", _joined(b"l", *((some, []) if kind == b"k" else ([], some))))
            for some in (level[at : at + FAN] for at in range(0, whole, FAN))
        ]
        return above, level[whole:]

    def _stored(self, values: list[Any]) -> bytes:
        """The digest of an element, or of the node above a group.

        Messages that have been stored are not serialized again. They are compared by all they
        hold, since a node of a graph may change them in place.
        """
        content = _content(values)
        field = self._remembered.get(content) if content and not self._sends_all else b""
        if field and self._is_known(field):
            self.used.add(field)
            return field[1:]
        if len(values) == 1:
            kind, digest = b"s", self._field(b"s", self._element(values[0]))
        else:
            below, _ = self._climb(b"s", [self._stored([value]) for value in values])
            kind, digest = b"k", self._climb(b"k", below)[0][0]
        if content:
            self._remembered.put(content, kind + digest)
        return digest

    def _element(self, value: Any) -> bytes:
        if self._joins:
            return self._serde.dumps_typed([value])[1][1:]
        return typed(self._serde, value)

    def _is_known(self, field: bytes) -> bool:
        return bool(self._remembered.get(digest_of(self._key + field)))

    def _field(self, kind: bytes, content: bytes) -> bytes:
        digest = digest_of(content)
        field = kind + digest
        self.used.add(field)
        if self._sends_all or kind == b"v" or not self._is_known(field):
            self.sent[field] = content
        return digest


class Unpacking:
    """Values from the fields that the server has.

    Attributes:
        fields: Those that were fetched; None stands for one that was altered.
    """

    def __init__(self, serde: SerializerProtocol) -> None:
        self.fields: dict[bytes, bytes | None] = {}
        self._serde = serde

    def take(self, reply: bytes) -> None:
        """Take in fields: each 17 bytes of name, 4 of length, and so many."""
        at = 0
        while at < len(reply):
            name, start = reply[at : at + 17], at + 21
            at = start + int.from_bytes(reply[start - 4 : start], "big")
            self.fields[name] = reply[start:at] if digest_of(reply[start:at]) == name[1:] else None

    def lacks(self, packed: Iterable[bytes]) -> list[bytes]:
        """What has to be fetched next before values can be read."""
        names = [name for value in packed for name in references(value)]
        looked, lacking = set[bytes](), list[bytes]()
        while names:
            name = names.pop()
            if name not in looked:
                looked.add(name)
                if name not in self.fields:
                    lacking.append(name)
                elif name[:1] != b"s":
                    names += references(self.fields[name] or b"")
        return lacking

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
        names = references(packed)
        rest, sizes = untyped(self._serde, packed[5 + 16 * len(names) :])
        at, left = 0, sum(nodes for _, nodes, _ in sizes)
        for name, nodes, elements in sizes:
            some = names[at : at + nodes] + names[left : left + elements]
            found = self._list(some, joins=packed[:1] == b"l")
            if rest is None:
                return found
            rest[name] = found
            at, left = at + nodes, left + elements
        return rest

    def _list(self, names: list[bytes], *, joins: bool) -> Any:
        elements = [element for name in names for element in self._elements(name)]
        if not joins:
            return [untyped(self._serde, element) for element in elements]
        head = b"\xdd" + len(elements).to_bytes(4, "big")  # of a msgpack array
        return untyped(self._serde, b"m:" + head + b"".join(elements))

    def _elements(self, name: bytes) -> list[bytes]:
        content = self._field(name)
        if name[:1] == b"s":
            return [content]
        return [each for below in references(content) for each in self._elements(below)]

    def _field(self, name: bytes) -> bytes:
        content = self.fields.get(name)
        if content is None:
            what = "altered" if name in self.fields else "missing"
            raise DamagedError(f"its part {name[:1].decode()}{name[1:].hex()} is {what}")
        return content


def digest_of(content: bytes) -> bytes:
    """What names an element, a node or a value."""
    return hashlib.blake2b(content, digest_size=16).digest()


def references(packed: bytes) -> list[bytes]:
    """The fields that a value refers to, as checkpoint.lua finds them."""
    if packed[:1] == b"v":
        return [packed[:17]]
    if packed[:1] == b"b" or len(packed) < 5:
        return []
    nodes, left = struct.unpack_from(">HH", packed, 1)
    cut = [packed[at : at + 16] for at in range(5, 5 + 16 * (nodes + left), 16)]
    return [b"k" + digest for digest in cut[:nodes]] + [b"s" + digest for digest in cut[nodes:]]


def _joined(kind: bytes, nodes: Sequence[bytes], elements: Sequence[bytes]) -> bytes:
    counts = struct.pack(">HH", len(nodes), len(elements))
    return b"".join([kind, counts, *nodes, *elements])


def _content(values: Sequence[Any]) -> bytes:
    """What tells LangChain's messages apart by all they hold; empty for anything else."""
    kinds = [type(value) for value in values]
    if not all(kind.__module__.startswith("langchain_core.messages.") for kind in kinds):
        return b""
    try:
        held = [(type(one).__name__, one.__dict__, one.__pydantic_extra__) for one in values]
        return digest_of(marshal.dumps(held, 2))
    except (AttributeError, ValueError):  # something that is no plain data
        return b""


def typed(serde: SerializerProtocol, value: Any) -> bytes:
    """A value's bytes, after the name of their format; "m" is short for msgpack."""
    kind, data = serde.dumps_typed(value)
    return b"%b:%b" % (b"m" if kind == "msgpack" else kind.encode(), data)


def untyped(serde: SerializerProtocol, stored: bytes) -> Any:
    """A value from its bytes.

    Raises:
        UnreadableError: The serializer refuses them.
    """
    short, _, data = stored.partition(b":")
    kind = "msgpack" if short == b"m" else short.decode(errors="replace")
    try:
        return serde.loads_typed((kind, data))
    except Exception as error:
        raise UnreadableError(f"{kind}: {type(error).__name__}: {error}") from error


def frame(parts: Iterable[str | bytes]) -> bytes:
    """Texts in one, each after its length, as checkpoint.lua does it."""
    out = []
    for part in parts:
        text = part.encode() if isinstance(part, str) else part
        size = len(text)
        out += [bytes([size]) if size < 255 else b"\xff" + size.to_bytes(4, "big"), text]
    return b"".join(out)
