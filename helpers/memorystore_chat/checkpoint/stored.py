"""What the scripts in ``checkpoint/`` are asked, and what they answer."""

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple, TypeAlias

from langgraph.checkpoint.serde.base import SerializerProtocol

from memorystore_chat.checkpoint.segments import DIGEST, Layout, parts_of, untyped
from memorystore_chat.commands import Command
from memorystore_chat.scripts import Script, script

Lists: TypeAlias = dict[str, tuple[str, Layout]]
"""The version of each channel that is a list, and its layout."""

_FILES = {
    "put": ("base", "refer", "drop", "put"),
    "put_writes": ("base", "put_writes"),
    "read": ("base", "refer", "read"),
    "delete": ("base", "refer", "drop", "delete"),
    "copying": ("base", "copying"),
}


def call(name: str, keys: Sequence[bytes], *arguments: str | bytes | int) -> Command:
    """The command that runs a script on some threads."""
    return Command("", tuple(keys), arguments, _script(name), list if name == "read" else bytes)


def load_scripts() -> None:
    """Read all scripts, which `call` would otherwise do one by one."""
    for name in _FILES:
        _script(name)


def _script(name: str) -> Script:
    return script("demand", *(f"checkpoint/{part}" for part in _FILES[name]))


class Stored(NamedTuple):
    """A checkpoint as the server has it; its writes in the order of LangGraph."""

    ns: str
    number: str
    checkpoint_id: str
    parent_id: str
    checkpoint: bytes
    metadata: bytes
    versions: dict[str, str]
    writes: list[tuple[str, str, int, str, bytes, bytes]]


class Answer:
    """What the script read: checkpoints, and the fields that their values are made of."""

    def __init__(self, serde: SerializerProtocol, reply: Sequence[Any]) -> None:
        rows, flat = reply
        self._serde = serde
        self._fields: dict[bytes, bytes] = dict(zip(flat[::2], flat[1::2], strict=True))
        self.found = [_stored(row) for row in rows]

    def checkpoint(self, found: Stored, values: dict[str, Any]) -> Any:
        """A checkpoint with its values.

        Raises:
            ValueError: It cannot be read.
        """
        checkpoint = self.loads(found.checkpoint)
        return {
            **checkpoint,
            "id": found.checkpoint_id,
            "channel_values": values,
            "channel_versions": {c: version_of(v) for c, v in found.versions.items()},
            "versions_seen": {
                node: {channel: version_of(v) for channel, v in versions.items()}
                for node, versions in checkpoint["versions_seen"].items()
            },
        }

    def values(self, found: Stored) -> tuple[dict[str, Any], Lists]:
        """A checkpoint's values, and the layouts of those that are lists.

        Raises:
            ValueError: One cannot be read.
        """
        values: dict[str, Any] = {}
        lists: Lists = {}
        for channel, version in found.versions.items():
            stored = self._fields.get(f"v{found.number}:{channel}:{version}".encode())
            if stored is None:
                continue
            if stored.startswith(b"b"):
                values[channel] = self.loads(stored[1:])
                continue
            ranges = (part.split(b"-") for part in stored[1:].split(b","))
            values[channel], layout = self._list(
                self._field(f"e{found.number}:{channel}:{index}".encode())
                for first, last in ranges
                for index in range(int(first), int(last) + 1)
            )
            lists[channel] = (version, layout)
        return values, lists

    def writes(self, found: Stored) -> list[tuple[str, str, Any]]:
        """Task, channel and value of each write.

        Raises:
            ValueError: One cannot be read.
        """
        made = []
        for _, task_id, _, channel, kind, value in found.writes:
            if kind == b"l":
                digests = (value[i : i + DIGEST] for i in range(0, len(value), DIGEST))
                made.append((task_id, channel, self._list(digests)[0]))
            else:
                made.append((task_id, channel, self.loads(value)))
        return made

    def loads(self, stored: bytes) -> Any:
        """A value from its bytes.

        Raises:
            ValueError: The serializer refuses them.
        """
        return untyped(self._serde, stored)

    def _list(self, digests: Iterable[bytes]) -> tuple[list[Any], Layout]:
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


def _stored(row: Sequence[Any]) -> Stored:
    *names, checkpoint, metadata, versions, writes = row
    parts = [part.decode() for part in versions]
    ordered = sorted(
        (path.decode(), task.decode(), int(place), channel.decode(), kind, value)
        for path, task, place, channel, kind, value in writes
    )
    found = dict(zip(parts[::2], parts[1::2], strict=True))
    return Stored._make((*map(bytes.decode, names), checkpoint, metadata, found, ordered))


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
