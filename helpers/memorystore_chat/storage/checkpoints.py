"""Checkpoints as commands for the scripts in ``checkpoint/``, and the answers back as values.

A list is stored as segments, each of one or more elements, under the digest of its bytes. A
checkpoint names the segments that the list of its parent has, and brings only the others.
"""

import threading
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from memorystore_chat.storage.commands import Command
from memorystore_chat.storage.scripts import Script, script
from memorystore_chat.storage.segments import (
    DIGEST,
    Layout,
    Serializer,
    encoded_elements,
    operations_of,
    parts_of,
    typed,
    untyped,
)

_SCRIPTS = {
    "put": ("base", "drop", "put"),
    "put_writes": ("base", "put_writes"),
    "get": ("base", "read"),
    "list": ("base", "read"),
    "history": ("base", "read"),
    "prune": ("base", "drop", "delete"),
    "delete_runs": ("base", "drop", "delete"),
    "copy": ("base", "copying"),
    "write": ("base", "copying"),
}


@dataclass
class Known:
    """What a client knows to be stored with a checkpoint."""

    lists: dict[str, tuple[str, Layout]] = field(default_factory=dict)
    digests: set[bytes] = field(default_factory=set)


class Memory:
    """What is known of the checkpoints used last, for several threads at once."""

    def __init__(self, most: int = 256) -> None:
        self._most = most
        self._known: OrderedDict[tuple[bytes, str, str], Known] = OrderedDict()
        self._lock = threading.Lock()

    def of(self, key: bytes, ns: str, checkpoint_id: str) -> Known:
        """What is known of a checkpoint; empty where it is nothing."""
        with self._lock:
            known = self._known.setdefault((key, ns, checkpoint_id), Known())
            self._known.move_to_end((key, ns, checkpoint_id))
            while len(self._known) > self._most:
                self._known.popitem(last=False)
        return known


class Stored(NamedTuple):
    """A checkpoint as the server has it."""

    ns: str
    checkpoint_id: str
    parent_id: str
    checkpoint: bytes
    metadata: bytes
    versions: dict[str, str]
    writes: list[tuple[str, str, int, str, bytes, bytes]]
    number: str


def call(name: str, keys: Sequence[bytes], *arguments: str | bytes | int) -> Command:
    """The command that runs a script.

    Args:
        name: What is asked for, such as ``"put"``.
        keys: The threads' keys.
        *arguments: As the script takes them.
    """
    *shared, own = _SCRIPTS[name]
    text = _script(*shared, own)
    asked = () if own == name else (name,)
    kind = list if own == "read" else bytes
    return Command("", tuple(keys), (*asked, *arguments), text, kind)


def load_scripts() -> None:
    """Read all scripts, which `call` would otherwise do one by one."""
    for parts in _SCRIPTS.values():
        _script(*parts)


def _script(*parts: str) -> Script:
    return script("demand", *(f"checkpoint/{part}" for part in parts))


def put(
    key: bytes,
    serde: Serializer,
    known: Known,
    *,
    ttl: int,
    keep: int,
    ns: str,
    parent_id: str,
    checkpoint: Mapping[str, Any],
    metadata: Mapping[str, Any],
    new_versions: Mapping[str, Any],
) -> tuple[Command, Known]:
    """The command that stores a checkpoint, and what is known once it has.

    Args:
        key: The thread's key.
        serde: Makes bytes of values.
        known: What is known of the parent; an empty one sends everything.
        ttl: Seconds to live, or 0.
        keep: How many checkpoints of the namespace to keep, or 0 for all.
        ns: The namespace.
        parent_id: The parent's ID, or empty.
        checkpoint: The checkpoint, with its values.
        metadata: Its metadata.
        new_versions: The versions of the channels whose values are new.
    """
    values = checkpoint["channel_values"]
    now = Known(dict(known.lists))
    segments: dict[bytes, bytes] = {}
    arguments: list[str | bytes | int] = []
    count = 0
    for channel, version in new_versions.items():
        now.lists.pop(channel, None)
        if channel not in values:
            continue
        count += 1
        text = version_text(version)
        arguments += (channel, text)
        if type(values[channel]) is not list or not values[channel]:
            arguments += ("value", b"b" + typed(serde, values[channel]))
            continue
        base, before = known.lists.get(channel, ("", ()))
        operations, layout = operations_of(
            encoded_elements(serde, values[channel]), before, segments
        )
        arguments += ("list", base, len(operations))
        for operation in operations:
            arguments += operation
        now.lists[channel] = (text, layout)
    versions = checkpoint["channel_versions"]
    deltas = list(metadata.get("counters_since_delta_snapshot") or ())
    command = call(
        "put",
        [key],
        ttl,
        keep,
        ns,
        checkpoint["id"],
        parent_id,
        str(metadata.get("run_id") or ""),
        typed(serde, _slim(checkpoint)),
        typed(serde, dict(metadata)),
        2 * len(versions),
        *(part for name, version in versions.items() for part in (name, version_text(version))),
        len(deltas),
        *deltas,
        *_segment_arguments(segments, known.digests),
        count,
        *arguments,
    )
    now.lists = {channel: kept for channel, kept in now.lists.items() if channel in versions}
    return command, now


def put_writes(
    key: bytes,
    serde: Serializer,
    *,
    ttl: int,
    ns: str,
    checkpoint_id: str,
    task_id: str,
    task_path: str,
    writes: Iterable[tuple[int, str, Any]],
) -> tuple[Command, set[bytes]]:
    """The command that stores a task's writes, and the digests of the segments it stores.

    Args:
        key: The thread's key.
        serde: Makes bytes of values.
        ttl: Seconds to live, or 0.
        ns: The namespace.
        checkpoint_id: The checkpoint the task started from.
        task_id: The task.
        task_path: Where it stands in the order of tasks.
        writes: Place, channel and value of each.
    """
    segments: dict[bytes, bytes] = {}
    arguments: list[str | bytes | int] = []
    count = 0
    for place, channel, value in writes:
        count += 1
        if type(value) is list and value:
            _, layout = operations_of(encoded_elements(serde, value), (), segments)
            digests = b"".join(digest for digest, _ in layout)
            arguments += (place, channel, "l", digests)
        else:
            arguments += (place, channel, "b", typed(serde, value))
    command = call(
        "put_writes",
        [key],
        ttl,
        ns,
        checkpoint_id,
        task_id,
        task_path,
        *_segment_arguments(segments, set()),
        count,
        *arguments,
    )
    return command, set(segments)


class Answer:
    """What the scripts read: checkpoints, and the fields that their values are made of.

    Args:
        serde: Makes values of bytes.
        reply: As the script gave it.
    """

    def __init__(self, serde: Serializer, reply: Sequence[Any]) -> None:
        self._serde = serde
        self.rows: list[Any] = reply[0]
        flat = reply[1]
        self._fields: dict[bytes, bytes] = dict(zip(flat[::2], flat[1::2], strict=True))

    def checkpoints(self) -> Iterator[Stored]:
        """The checkpoints, in the script's order."""
        for (
            ns,
            number,
            checkpoint_id,
            parent_id,
            checkpoint,
            metadata,
            versions,
            writes,
        ) in self.rows:
            names = [part.decode() for part in versions]
            yield Stored(
                ns.decode(),
                checkpoint_id.decode(),
                parent_id.decode(),
                checkpoint,
                metadata,
                dict(zip(names[::2], names[1::2], strict=True)),
                _ordered(writes),
                number.decode(),
            )

    def checkpoint(self, stored: Stored) -> tuple[dict[str, Any], dict[str, tuple[str, Layout]]]:
        """A checkpoint with its values, and the layout of its lists.

        Raises:
            ValueError: It cannot be read.
        """
        values: dict[str, Any] = {}
        lists: dict[str, tuple[str, Layout]] = {}
        for channel, version in stored.versions.items():
            name = f"v{stored.number}:{channel}:{version}".encode()
            if name not in self._fields:
                continue
            values[channel], layout = self.value(name)
            if layout:
                lists[channel] = (version, layout)
        checkpoint = self.loads(stored.checkpoint)
        seen = checkpoint["versions_seen"]
        return {
            **checkpoint,
            "id": stored.checkpoint_id,
            "channel_values": values,
            "channel_versions": {c: version_of(v) for c, v in stored.versions.items()},
            "versions_seen": {
                node: {channel: version_of(v) for channel, v in versions.items()}
                for node, versions in seen.items()
            },
        }, lists

    def value(self, name: bytes) -> tuple[Any, Layout]:
        """A channel's value, and its layout where it is a list."""
        stored = self._fields[name]
        if stored[:1] == b"b":
            return self.loads(stored[1:]), ()
        number, _, rest = name[1:].partition(b":")
        channel = rest.rpartition(b":")[0]
        ranges = (part.partition(b"-") for part in stored[1:].split(b","))
        digests = [
            self._field(b"e%b:%b:%d" % (number, channel, index))
            for first, _, last in ranges
            for index in range(int(first), int(last) + 1)
        ]
        return self._elements(digests)

    def writes(
        self, writes: Iterable[tuple[str, str, int, str, bytes, bytes]]
    ) -> list[tuple[str, str, Any]]:
        """Task, channel and value of each write."""
        made = []
        for _, task_id, _, channel, kind, value in writes:
            if kind == b"l":
                digests = [value[i : i + DIGEST] for i in range(0, len(value), DIGEST)]
                made.append((task_id, channel, self._elements(digests)[0]))
            else:
                made.append((task_id, channel, self.loads(value)))
        return made

    def history(
        self, channels: Sequence[str]
    ) -> dict[str, tuple[list[tuple[str, str, Any]], list[Any]]]:
        """For each channel the writes since its value was stored, and that value if it was."""
        found: dict[str, tuple[list[tuple[str, str, Any]], list[Any]]] = {
            channel: ([], []) for channel in channels
        }
        open_channels = set(channels)
        for writes, values in self.rows:
            for write in reversed(_ordered(writes)):
                if write[3] in open_channels:
                    found[write[3]][0].extend(self.writes([write]))
            for channel, name in zip(values[::2], values[1::2], strict=True):
                found[channel.decode()][1].append(self.value(name)[0])
                open_channels.discard(channel.decode())
        for collected, _ in found.values():
            collected.reverse()
        return found

    def loads(self, stored: bytes) -> Any:
        """A value from its bytes.

        Raises:
            ValueError: The serializer refuses them.
        """
        return untyped(self._serde, stored)

    def _elements(self, digests: Iterable[bytes]) -> tuple[list[Any], Layout]:
        elements: list[Any] = []
        layout = []
        for digest in digests:
            parts = parts_of(self._field(b"s" + digest))
            elements += map(self.loads, parts)
            layout.append((digest, len(parts)))
        return elements, tuple(layout)

    def _field(self, name: bytes) -> bytes:
        try:
            return self._fields[name]
        except KeyError:
            raise ValueError(f"its part {name!r} is missing") from None


def version_text(version: str | int | float) -> str:
    """A channel's version as the scripts take it; that of LangGraph's savers without its zeros."""
    if isinstance(version, str):
        number, dot, rest = version.partition(".")
        if dot and len(number) == _DIGITS and number.isdecimal():
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


def _slim(checkpoint: Mapping[str, Any]) -> dict[str, Any]:
    """What is left of a checkpoint when all that is stored elsewhere is taken out."""
    elsewhere = ("id", "channel_values", "channel_versions", "versions_seen")
    rest = {name: value for name, value in checkpoint.items() if name not in elsewhere}
    rest["versions_seen"] = {
        node: {channel: version_text(version) for channel, version in versions.items()}
        for node, versions in checkpoint["versions_seen"].items()
    }
    return rest


def _segment_arguments(
    segments: Mapping[bytes, bytes], known: set[bytes]
) -> Iterator[str | bytes | int]:
    yield len(segments)
    for digest, segment in segments.items():
        yield digest
        yield b"" if digest in known else segment


def _ordered(writes: Iterable[Sequence[bytes]]) -> list[tuple[str, str, int, str, bytes, bytes]]:
    """A checkpoint's writes in LangGraph's order, which is that of its ``writes_sort_key``."""
    return sorted(
        (path.decode(), task.decode(), int(place), channel.decode(), kind, value)
        for path, task, place, channel, kind, value in writes
    )
