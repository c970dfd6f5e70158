"""A channel's value as it is stored: a list by its elements, each once, under their digests."""

import marshal
from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from langchain_core.messages import BaseMessage

from memorystore_chat.arguments import type_name
from memorystore_chat.checkpoint.threads import Row, Thread, digest_of

FAN = 8  # elements or nodes that make a node
SMALL = 64  # bytes: lists of smaller elements are stored whole, smaller values in their checkpoint
ENTRIES = 8 * 2**20 // 300  # that a saver remembers, of at most 300 bytes each


class Remembered(OrderedDict[bytes, bytes]):
    """Fields that threads have, and the names of what messages are stored as; those used last."""

    def note(self, key: bytes, names: Iterable[tuple[bytes, bytes]]) -> None:
        """Remember names of a thread by digests, and forget what was not used for longest."""
        token = digest_of(key)
        for digest, name in names:
            self[place := token + digest] = name
            self.move_to_end(place)
            if len(self) > ENTRIES:
                self.popitem(last=False)

    def note_read(self, thread: Thread, rows: Iterable[Row]) -> None:
        """Remember what was read, so that it is neither sent nor serialized again."""
        self.note(thread.key, ((digest, digest) for digest in thread.fields))
        parts = [(name, _content(values)) for row in rows for name, values in row.parts]
        self.note(thread.key, ((digest_of(content), name) for name, content in parts if content))


class Packing:
    """Values of one thread on their way to the server.

    Attributes:
        sent: Fields and their bytes that the server is not known to have.
        known: What to remember once it has them.
        remembered: What it is thought to have; all is sent if that is nothing.
    """

    def __init__(self, thread: Thread, remembered: Remembered) -> None:
        self.sent: dict[bytes, bytes] = {}
        self.known: dict[bytes, bytes] = {}
        self._thread, self.remembered, self._token = thread, remembered, digest_of(thread.key)

    def pack(self, value: Any) -> tuple[bytes, bytes]:
        """Take a value apart: a list, or the lists of a dict, into their elements.

        Returns:
            The names of the fields that hold its parts, one after the other; and the rest of it.
        """
        lists = value if type(value) is dict else {"": value}
        trees = {
            name: names
            for name, part in lists.items()
            if type(name) is str and type(part) is list and (names := self._tree(part))
        }
        names = [name for tree in trees.values() for name in tree]
        if trees:
            sizes = [(name, len(tree)) for name, tree in trees.items()]
            others = {name: None if name in trees else part for name, part in lists.items()}
            value = [others if lists is value else None, sizes]
        rest = self.typed(value)
        if len(rest) > SMALL:
            self.sent[name := b"s" + digest_of(rest)] = rest  # which may have gone meanwhile
            names.append(name)
            rest = b""
        return b"".join(names), rest

    def _tree(self, values: list[Any]) -> list[bytes]:
        """Store a list by its elements; answers no names for one of small elements.

        Eight elements make a node, and eight nodes of a kind one above them.
        """
        is_small = values and not isinstance(values[0], BaseMessage)
        if is_small and len(self.typed(values)) < SMALL * len(values):
            return []
        # A single one is new as a rule, or was written beside a checkpoint that has gone since.
        known = self.remembered if len(values) > 1 else {}
        names, at, size = list[bytes](), 0, FAN**9
        while at < len(values):
            while at + size > len(values):
                size //= FAN
            names.append(self._stored(values[at : at + size], known))
            at += size
        return names

    def _stored(self, values: list[Any], known: Mapping[bytes, bytes]) -> bytes:
        """Store an element, or the node above 8, 64, 512, ... of them; answers its name.

        Messages that have been stored are not serialized again. They are compared by all they
        hold, since a node of a graph may change them in place.
        """
        content = _content(values)
        seen = digest_of(content)
        name = known.get(self._token + seen) if content else None
        if not name:
            size = len(values) // FAN
            if size:
                parts = (values[at : at + size] for at in range(0, len(values), size))
                stored = b"".join([self._stored(part, known) for part in parts])
            else:
                stored = self.typed(values[0])
            name = (b"k" if size else b"s") + (digest := digest_of(stored))
            self.known[digest] = name
            if self._token + digest not in known:
                self.sent[name] = stored
        if content:
            self.known[seen] = name
        return name

    def typed(self, value: Any) -> bytes:
        """A value's bytes, after the name of their format; "m" is short for msgpack."""
        kind, data = self._thread.serde.dumps_typed(value)
        return b"%b:%b" % (b"m" if kind == "msgpack" else kind.encode(), data)

    def refused(self, place: str, value: object) -> str:
        """Find the innermost part that the serializer refuses, by its place and type, if any."""
        try:
            self.typed(value)
        except (TypeError, ValueError):
            if isinstance(value, list | tuple | set | frozenset):
                value = dict(enumerate(value))
            if isinstance(value, Mapping):
                parts = [(f"{place}[{name!r}]", part) for name, part in value.items()]
            else:
                fields = getattr(value, "__dict__", {})
                parts = [(f"{place}.{name}", part) for name, part in fields.items()]
            inner = (self.refused(*part) for part in parts)
            return next(filter(None, inner), f"{place} is a {type_name(value)}")
        return ""


def _content(values: Sequence[Any]) -> bytes:
    """What tells LangChain's messages apart by all they hold; empty for anything else."""
    kinds = {type(value) for value in values}
    if not all(kind.__module__.startswith("langchain_core.messages.") for kind in kinds):
        return b""
    try:
        held = [(type(one).__name__, one.__dict__, one.__pydantic_extra__) for one in values]
        return marshal.dumps(held, 2)
    except (AttributeError, ValueError):  # something that is no plain data
        return b""
