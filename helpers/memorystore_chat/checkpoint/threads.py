"""One thread on the server: what a saver asks of it, and what it makes of the answers."""

import hashlib
import json
import struct
from collections.abc import Generator, Mapping, Sequence
from contextlib import suppress
from itertools import accumulate, pairwise
from typing import Any, NamedTuple, TypeAlias

from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.base import CheckpointTuple
from langgraph.checkpoint.serde.base import SerializerProtocol

from memorystore_chat.commands import Command, Scan, Steps, script
from memorystore_chat.errors import CorruptCheckpointError, MemorystoreChatError

INTERRUPT = b"__interrupt__"  # the channel to which a task writes that it waits
NAME = 17  # bytes of a field's name: its kind, and a digest
FIELDS = 250  # that are asked for at once, with some below them

Listing: TypeAlias = "Generator[list[Command] | Scan | Row, Any, None]"
"""Steps that yield what they find between their requests."""


class ThreadInfo(NamedTuple):
    """What there is of a thread.

    Attributes:
        thread_id: Its name.
        checkpoints: How many it has, those of sub-graphs included; 0 where only a late write is.
        size: Bytes on the server, estimated by it; None if it does not say.
        ttl: Seconds until it expires; None for never.
        updated: When its newest checkpoint was made, as ISO 8601; "" if it has none.
        is_waiting: Whether it is interrupted, and waits for a person's answer.
    """

    thread_id: str
    checkpoints: int
    size: int | None
    ttl: int | None
    updated: str
    is_waiting: bool


class Thread:
    """A thread by its id, its Redis key, and what its values are read with.

    Attributes:
        fields: The contents of fields that were fetched, by their digests.
    """

    def __init__(self, id_: str, key: bytes, serde: SerializerProtocol) -> None:
        self.id, self.key, self.serde = id_, key, serde
        self.fields: dict[bytes, bytes] = {}

    def config(self, ns: str, checkpoint_id: str) -> RunnableConfig:
        """What names a checkpoint of it."""
        place = {"thread_id": self.id, "checkpoint_ns": ns, "checkpoint_id": checkpoint_id}
        return {"configurable": place}

    def ask(self, name: str, *given: Any, sent: Mapping[bytes, bytes] | None = None) -> Steps[Any]:
        """Run the script, which may be sent fields to store, and name what is damaged."""
        fields = [part for pair in (sent or {}).items() for part in pair]
        call = script("demand", "checkpoint/checkpoint")
        (reply,) = yield [Command("", (self.key,), (name, _packed(given), *fields), call, list)]
        if reply[0] == b"DAMAGED":
            ns, _, checkpoint_id = reply[1][1:].decode(errors="replace").partition("\0")
            what = f"its record {chr(reply[1][0])!r} is altered"
            raise CorruptCheckpointError(self.id, ns, checkpoint_id, what)
        return reply

    def spaces(self, before: str = "") -> Steps[dict[str, list[str]]]:
        """Its checkpoints by namespace, the newest first; only those older than one."""
        places: dict[str, set[tuple[bytes, str]]] = {}
        cursor: int | bytes = 0
        while cursor != b"0":
            _, (cursor, found) = yield from self.ask("places", cursor)
            for field, there in zip(found[::2], found[1::2], strict=True):
                name, _, rank = there.partition(b"\0")
                ns = field[1:].decode().rpartition("\0")[0]
                places.setdefault(ns, set()).add((rank or name, name.decode()))
        spaces = {}
        for ns, ranks in sorted(places.items()):
            last = next((rank for rank, name in ranks if name == before), before.encode())
            spaces[ns] = [name for rank, name in sorted(ranks)[::-1] if not last or rank < last]
        return spaces

    def rows(
        self, places: Sequence[tuple[str, str]], fields: Sequence[bytes] = (), ttl: int = 0
    ) -> "Steps[list[Row]]":
        """Read checkpoints by namespace and ID, the newest if that is empty; without those gone.

        It fetches fields with some of what is below them, and all that a single checkpoint refers
        to; and it sets a time to live, unless that is 0.
        """
        _, answers, lengths, texts = yield from self.ask("rows", ttl, places, fields)
        ends = accumulate(struct.unpack(f">{len(lengths) // 4}I", lengths), initial=0)
        contents = [texts[start:end] for start, end in pairwise(ends)]
        self.fields |= {digest_of(content): content for content in contents}
        return [Row(self, ns, each) for (ns, _), each in zip(places, answers, strict=True) if each]

    def whole(self, rows: "list[Row]") -> "Steps[list[Row]]":
        """Fetch what checkpoints refer to and was not fetched yet; leave out those gone by then."""
        names = {name for row in rows for name in row.names()}
        while names:
            lacking = [name for name in sorted(names) if name[1:] not in self.fields]
            for at in range(0, len(lacking), FIELDS):
                places = [(row.ns, row.id) for row in rows]
                rows = yield from self.rows(places, lacking[at : at + FIELDS])
            nodes = [self.fields.get(name[1:], b"") for name in names if name[:1] == b"k"]
            names = {name for node in nodes for name in cut(node)}
        return rows

    def drop(self, ns: str, names: Sequence[str], chosen: Sequence[str]) -> Steps[None]:
        """Drop checkpoints of a namespace, of all of its names, and all that waits for it."""
        gone, left, is_done = {*chosen}, [*chosen], 0
        following = next((name for name in names if name not in gone), "")
        while left or not is_done:
            _, is_done = yield from self.ask("drop", ns, left[:64], following)
            del left[:64]

    def about(self) -> Steps[list[ThreadInfo]]:
        """What there is of it, if there is anything."""
        _, *answer = yield from self.ask("about")
        if not answer:
            return []
        checkpoints, ttl, size, *head = answer
        rows = [Row(self, "", row) for row in head]
        updated = "".join(row.load(row.body).get("ts", "") for row in rows)
        is_waiting = any(write[2] == INTERRUPT for row in rows for write in row.writes)
        expires = ttl if ttl >= 0 else None
        return [ThreadInfo(self.id, checkpoints, size or None, expires, updated, is_waiting)]


class Row:
    """A checkpoint as the server has it, without the fields that its values refer to.

    Reading it raises a ``CorruptCheckpointError`` for what is missing or altered, and a
    `MemorystoreChatError` for what the serializer refuses.

    Attributes:
        body: The checkpoint without its ID, values, and versions, as it is stored.
        metadata: Its metadata, as they are stored.
        writes: What its tasks wrote: names of fields, a rest, channel, task, path, and index.
        parts: The parts of lists that were read, by the names of their fields.
    """

    def __init__(self, thread: Thread, ns: str, answer: Sequence[Any]) -> None:
        name, parent, self.body, self.metadata, self._channels, self.writes = answer
        self.ns, self.id, self._parent_id = ns, name.decode(), parent.decode()
        self.thread, self.parts = thread, list[tuple[bytes, list[Any]]]()

    def names(self) -> list[bytes]:
        """The fields that its values refer to."""
        return [name for each in (*self._channels, *self.writes) for name in cut(each[0])]

    def tuple(self) -> CheckpointTuple:
        """All of it."""
        versions, values = {}, {}
        for *packed, channel, version in self._channels:
            versions[channel.decode()] = json.loads(version)
            if len(packed[1]) != 1:  # which stands for none
                values[channel.decode()] = self._value(*packed)
        own = {"id": self.id, "channel_values": values, "channel_versions": versions}
        # In the order of LangGraph: by path, task and place.
        ordered = sorted(self.writes, key=lambda write: (write[4], write[3], write[5]))
        return CheckpointTuple(
            self.thread.config(self.ns, self.id),
            self.load(self.body) | own,
            self.load(self.metadata),
            self.thread.config(self.ns, self._parent_id) if self._parent_id else None,
            [
                (task.decode(), channel.decode(), self._value(*packed))
                for *packed, channel, task, _, _ in ordered
            ],
        )

    def _value(self, packed: bytes, rest: bytes) -> Any:
        names = cut(packed)
        value = self.load(rest or self._content(names.pop()))
        if not names:
            return value
        value, sizes = value
        for key, count in sizes:
            parts = [(name, self._part(name)) for name in names[:count]]
            del names[:count]
            self.parts += parts
            found = [element for _, part in parts for element in part]
            if value is None:
                return found
            value[key] = found
        return value

    def _part(self, name: bytes) -> list[Any]:
        """The element that a field holds, or those below a node, whose leaves are all as deep."""
        names = [name]
        while names[0][:1] == b"k":
            names = cut(b"".join(map(self._content, names)))
        return [self.load(self._content(name)) for name in names]

    def _content(self, name: bytes) -> bytes:
        content = self.thread.fields.get(name[1:])
        if content is None:
            part = f"its part {name[:1].decode()}{name[1:].hex()} is missing or altered"
            raise CorruptCheckpointError(self.thread.id, self.ns, self.id, part)
        return content

    def load(self, stored: bytes) -> Any:
        """What the serializer makes of something that is stored."""
        short, _, data = stored.partition(b":")
        kind = "msgpack" if short == b"m" else short.decode(errors="replace")
        try:
            return self.thread.serde.loads_typed((kind, data))
        except Exception as error:
            raise MemorystoreChatError(
                f"The checkpoint {self.id!r} of the thread {self.thread.id!r}, namespace "
                f"{self.ns!r}, is not damaged, but the serializer cannot read it ({kind}: "
                f"{type(error).__name__}: {error}). Give MemorystoreSaver the serde= that it was "
                "written with, and an EncryptedSerializer the same key."
            ) from error


def next_found(listing: Listing) -> Steps[CheckpointTuple | None]:
    """Ask until the listing finds a checkpoint, and read it; None comes after the last."""
    replies: Any = None
    with suppress(StopIteration):
        while not isinstance(found := listing.send(replies), Row):
            replies = yield found
        return found.tuple()
    return None


def cut(names: bytes) -> list[bytes]:
    """The names in a text."""
    return [names[at : at + NAME] for at in range(0, len(names), NAME)]


def digest_of(content: bytes) -> bytes:
    """What names an element or a node."""
    return hashlib.blake2b(content, digest_size=NAME - 1).digest()


def _packed(value: Any) -> bytes:
    """MessagePack with one kind of text, the only one that Redis's Lua reads."""
    if isinstance(value, str | bytes):
        text = value.encode() if isinstance(value, str) else value
        return b"\xdb" + len(text).to_bytes(4, "big") + text
    if isinstance(value, int):
        return b"\xd3" + value.to_bytes(8, "big", signed=True)
    return b"\xdd" + len(value).to_bytes(4, "big") + b"".join(map(_packed, value))
