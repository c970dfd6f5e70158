"""What MemorystoreSaver asks the server for, and what it makes of the answers; no way of asking.

Each step method is a generator of requests, of which `twins` makes a method that asks with the
saver's client, and one that asks with its asyncio client.
"""

import json
import re
from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import update_wrapper
from typing import Any, Concatenate, NamedTuple, ParamSpec, TypeVar

from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.base import (
    WRITES_IDX_MAP,
    BaseCheckpointSaver,
    ChannelVersions,
    Checkpoint,
    CheckpointMetadata,
    CheckpointTuple,
    get_checkpoint_id,
    get_checkpoint_metadata,
)

from memorystore_chat.arguments import check_count, check_ids, check_text, thread_id_of, type_name
from memorystore_chat.checkpoint.values import (
    DamagedError,
    Packing,
    Remembered,
    Unpacking,
    UnreadableError,
    digest_of,
    frame,
    typed,
    untyped,
)
from memorystore_chat.commands import Command, Scan, Sender, Steps, script
from memorystore_chat.errors import CorruptCheckpointError, MemorystoreChatError

NAMESPACE = "checkpoints:"
INTERRUPT = "__interrupt__"  # the channel to which a task writes that it waits
PAGE = 100  # checkpoints that are asked for at once
FIELDS = 1000  # and their parts

Name = tuple[bytes, str, str]
"""A thread's key, a namespace, and a checkpoint's ID."""

P = ParamSpec("P")
T = TypeVar("T")
Saver = TypeVar("Saver", bound="CheckpointSteps")


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


class Row:
    """A checkpoint as the server has it, without its values."""

    def __init__(self, ns: str, answer: Sequence[Any]) -> None:
        name, parent, parts, writes = answer
        self.ns, self.id, self.parent_id = ns, name.decode(), parent.decode()
        self.checkpoint, self.metadata = parts[4:6]
        self.channels = [
            (channel.decode(), json.loads(version), value)
            for channel, version, value in zip(parts[6::3], parts[7::3], parts[8::3], strict=True)
        ]
        # In the order of LangGraph: by path, task and place.
        self.writes = sorted(
            (path.decode(), task.decode(), int(place), channel.decode(), value)
            for task, path, place, channel, value in zip(*[iter(writes)] * 5, strict=True)
        )

    @property
    def values(self) -> list[bytes]:
        """All values it refers to."""
        return [each[2] for each in self.channels if each[2]] + [each[4] for each in self.writes]


def twins(
    steps: Callable[Concatenate[Saver, P], Steps[T]], doing: str
) -> tuple[
    Callable[Concatenate[Saver, P], T], Callable[Concatenate[Saver, P], Coroutine[Any, Any, T]]
]:
    """Make the method and its asynchronous twin of a generator of requests.

    Args:
        steps: The generator, of the method's name after a "_".
        doing: What it does, for errors; the thread's name follows.
    """

    def said(given: Sequence[Any], options: Mapping[str, Any]) -> str:
        subject = next(iter((*given, *options.values())), None)
        if isinstance(subject, Mapping):
            subject = subject.get("configurable", {}).get("thread_id")
        return f"{doing} of the thread {subject!r}" if isinstance(subject, str) else doing

    def ask(self: Saver, /, *given: P.args, **options: P.kwargs) -> T:
        request = steps(self, *given, **options)
        return self._sender.run(said(given, options), request, f"a{steps.__name__[1:]}")

    async def aask(self: Saver, /, *given: P.args, **options: P.kwargs) -> T:
        return await self._sender.arun(said(given, options), steps(self, *given, **options))

    for method, name in ((ask, steps.__name__[1:]), (aask, f"a{steps.__name__[1:]}")):
        update_wrapper(method, steps).__name__ = name
    return ask, aask


class CheckpointSteps(BaseCheckpointSaver[str]):
    """The steps of each method of a checkpointer; its attributes are set by the saver."""

    _sender: Sender
    _prefix: bytes
    _ttl: int
    _keep: int
    _refresh: int
    _remembered: Remembered

    def _get_tuple(self, config: RunnableConfig) -> Steps[CheckpointTuple | None]:
        """Read a checkpoint: the one the config names, or the newest of its thread."""
        key, ns, checkpoint_id = self._place(config)
        _, *found = yield from self._ask(key, "get", self._refresh, ns, checkpoint_id)
        if not found:
            return None
        unpacking = Unpacking(self.serde)
        unpacking.take(found[1])
        for name in unpacking.fields:
            self._remembered.put(digest_of(key + name), name)
        return self._tuple(key, Row(ns, found[0]), unpacking)

    def _listing(
        self, config: RunnableConfig | None, before: RunnableConfig | None
    ) -> Steps[list[Name]]:
        """What a listing is going to read, the newest of each namespace first."""
        configurable: Any = (config or {}).get("configurable", {})
        only, checkpoint_id = configurable.get("checkpoint_ns"), configurable.get("checkpoint_id")
        earlier = (get_checkpoint_id(before) if before else None) or ""
        names = []
        for key in [self._place(config)[0]] if config else (yield from self._keys()):
            for ns in [only] if only is not None else sorted((yield from self._spaces(key))):
                ids = yield from self._names(key, ns, earlier)
                names += [(key, ns, name) for name in ids if checkpoint_id in (None, "", name)]
        return names

    def _page(
        self,
        names: list[Name],
        wanted: Mapping[str, Any] | None,
        limit: int | None,
        unpacking: Unpacking,
    ) -> Steps[list[CheckpointTuple]]:
        """The next checkpoints of a listing, whose names are taken off it."""
        key = names[0][0]
        size = PAGE if wanted or limit is None else min(limit, PAGE)
        some = [(ns, name) for each, ns, name in names[:size] if each == key]
        rows = yield from self._rows(key, some)
        if wanted:
            rows = [row for row in rows if wanted.items() <= self._metadata(key, row).items()]
        rows = rows[:limit]
        yield from self._fetch(key, unpacking, [value for row in rows for value in row.values])
        found = []
        for row in rows:
            try:
                found.append(self._tuple(key, row, unpacking))
            except CorruptCheckpointError:
                if (yield from self._rows(key, [(row.ns, row.id)])):  # not dropped meanwhile
                    raise
        del names[: len(some)]
        if names and names[0][0] != key:
            unpacking.fields.clear()
        return found

    def _put(
        self,
        config: RunnableConfig,
        checkpoint: Checkpoint,
        metadata: CheckpointMetadata,
        new_versions: ChannelVersions,
    ) -> Steps[RunnableConfig]:
        """Store a checkpoint after the one that the config names.

        Put again, it keeps its place and its parent.

        Raises:
            TypeError: A value cannot be serialized; the message says of which channel.
        """
        key, ns, parent_id = self._place(config)
        checkpoint_id = _named("checkpoint['id']", checkpoint["id"])
        if checkpoint_id == parent_id:
            raise ValueError(f"The checkpoint {parent_id!r} names itself as its parent.")
        metadata = get_checkpoint_metadata(config, metadata)
        root = metadata.get("parents", {}).get("", "") if ":" in ns else ""
        with self._naming_value(key, "the checkpoint's metadata", metadata):
            known = typed(self.serde, dict(metadata))
        apart = ("id", "channel_values", "channel_versions")
        body = {name: value for name, value in checkpoint.items() if name not in apart}
        deltas = frame(metadata.get("counters_since_delta_snapshot") or ())
        values, versions = checkpoint["channel_values"], checkpoint["channel_versions"]

        def pack(packing: Packing) -> Iterator[str | bytes]:
            for channel, version in versions.items():
                is_new = channel in new_versions or (packing.anew and channel in values)
                packed = b"" if is_new else b"=" if channel in values else b"?"
                if is_new and channel in values:
                    with self._naming_value(key, channel, values[channel]):
                        packed = packing.pack(values[channel])
                yield from (_named("channel", channel), json.dumps(version), packed)

        what = (self._ttl, self._keep, ns, checkpoint_id, parent_id, root, deltas, known)
        yield from self._store(key, pack, "put", *what, typed(self.serde, body))
        return _config(self._thread(key), ns, checkpoint_id)

    def _put_writes(
        self,
        config: RunnableConfig,
        writes: Sequence[tuple[str, Any]],
        task_id: str,
        task_path: str = "",
    ) -> Steps[None]:
        """Store what a task wrote, beside the checkpoint that the config names.

        A write may arrive before its checkpoint. So one that arrives after ``delete_thread`` is
        stored, too: ``threads`` lists it, as a thread without checkpoints.

        Raises:
            TypeError: A value cannot be serialized; the message says of which channel.
        """
        key, ns, checkpoint_id = self._place(config)
        if not checkpoint_id:
            raise ValueError("config names no checkpoint_id, beside which to store the writes.")
        _named("task_id", task_id)

        def pack(packing: Packing) -> Iterator[str | bytes]:
            for index, (channel, value) in enumerate(writes):
                with self._naming_value(key, channel, value):
                    packed = packing.pack(value)
                place = str(WRITES_IDX_MAP.get(channel, index))
                yield from (task_id, task_path, place, channel, packed)

        yield from self._store(key, pack, "put_writes", self._ttl, ns, checkpoint_id)

    def _store(
        self,
        key: bytes,
        pack: Callable[[Packing], Iterator[str | bytes]],
        name: str,
        *what: str | bytes | int,
    ) -> Steps[None]:
        """Send what is packed; in full if the server lacks what it was thought to have."""
        for anew in (False, True):
            packing = Packing(self.serde, self._remembered, key, anew=anew)
            parts = frame(pack(packing))
            sent = (part for pair in packing.sent.items() for part in pair)
            (status,) = yield from self._ask(key, name, *what, parts, *sent)
            if status == b"OK":
                packing.remember()
            if status != b"RESEND":  # "LATE": the checkpoint was dropped
                return
        raise CorruptCheckpointError(self._thread(key), "", "", "a part that it needs is missing")

    def _delete_thread(self, thread_id: str) -> Steps[None]:
        """Delete a thread, which leaves no key. Deleting one that is not there is fine.

        End its turn first: what a turn writes after this is stored anew, and listed by
        ``threads``. Give the saver a ``ttl``, and such a rest expires.
        """
        yield from self._ask(self._key(thread_id), "delete")

    def _prune(self, thread_ids: Sequence[str], *, strategy: str = "keep_latest") -> Steps[None]:
        """Delete old checkpoints.

        Args:
            thread_ids: The threads.
            strategy: ``"keep_latest"`` keeps the newest checkpoint of each namespace, and those
                that its ``DeltaChannel`` values are computed from; finished calls of sub-graphs
                go with the checkpoint they belong to. ``"delete"`` deletes all.
        """
        if strategy not in ("keep_latest", "delete"):
            raise ValueError(f'strategy is {strategy!r}; it takes "keep_latest" or "delete".')
        for thread_id in check_ids("thread_ids", thread_ids):
            if strategy == "delete":
                yield from self._delete_thread(thread_id)
                continue
            key = self._key(thread_id)
            for ns in (yield from self._spaces(key)):
                names = yield from self._names(key, ns)
                yield from self._drop(key, ns, names, names[1:])
            yield from self._drop(key, "", [], [])  # also where there are late writes alone

    def _delete_for_runs(self, run_ids: Sequence[str]) -> Steps[None]:
        """Delete the checkpoints of some runs, in every thread under the prefix.

        Raises:
            MemorystoreChatError: All are off the lists, but some remain stored, as a
                ``DeltaChannel`` of later runs is computed from them; the message names one.
        """
        runs, needed = {*check_ids("run_ids", run_ids)}, list[tuple[str, str]]()
        for key in (yield from self._keys()) if runs else ():
            for ns in (yield from self._spaces(key)):
                names, chosen = (yield from self._names(key, ns)), list[str]()
                for at in range(0, len(names), PAGE):
                    some = [(ns, name) for name in names[at : at + PAGE]]
                    for row in (yield from self._rows(key, some)):
                        if self._metadata(key, row).get("run_id") in runs:
                            chosen.append(row.id)
                left = yield from self._drop(key, ns, names, chosen)
                needed += [(self._thread(key), name) for name in left]
        if needed:
            raise MemorystoreChatError(
                f"{len(needed)} checkpoints, such as {needed[0][1]!r} of the thread "
                f"{needed[0][0]!r}, are not listed any more, and yet stored: a DeltaChannel of "
                "later runs is computed from them. They go when these later runs are deleted."
            )

    def _drop(
        self, key: bytes, ns: str, names: Sequence[str], chosen: Sequence[str]
    ) -> Steps[list[str]]:
        """Drop checkpoints of a namespace; those that others need are returned."""
        gone, left, needed, is_done = {*chosen}, [*chosen], list[str](), 0
        following = next((name for name in names if name not in gone), "")
        while left or not is_done:
            some = frame(left[:64])
            _, looked, is_done, found = yield from self._ask(key, "drop", ns, some, following)
            needed += [name.decode() for name in found]
            del left[:looked]
        return needed

    def _copy_thread(self, source_thread_id: str, target_thread_id: str) -> Steps[None]:
        """Copy a whole thread under a new id, with this saver's time to live.

        One command reads it and one writes it, so that it is copied as it is at one moment. A
        thread of many MB keeps the server from others for as long as that takes.

        Raises:
            MemorystoreChatError: There is a thread of that id already.
        """
        source, target = self._key(source_thread_id), self._key(target_thread_id)
        if source == target:
            raise ValueError("source_thread_id and target_thread_id are the same.")
        _, *found = yield from self._ask(source, "dump")
        if found:
            (status,) = yield from self._ask(target, "restore", self._ttl, *found)
            if status == b"EXISTS":
                raise MemorystoreChatError(
                    f"There is a thread {target_thread_id!r} already, so it was not copied to. "
                    "Choose another id, or delete it first with delete_thread()."
                )

    def _threads(self, thread_ids: Sequence[str] | None = None) -> Steps[list[ThreadInfo]]:
        """Say what there is of some threads, or of all under the prefix, by their ids.

        A round trip for each thread. Those that are not there are left out.
        """
        if thread_ids is None:
            keys = yield from self._keys()
        else:
            keys = [self._key(thread_id) for thread_id in check_ids("thread_ids", thread_ids)]
        found = []
        for key in keys:
            _, *answer = yield from self._ask(key, "about")
            if not answer:
                continue
            checkpoints, ttl, size, *head = answer
            updated, is_waiting = "", False
            if head:
                row = Row("", head[0])
                with self._naming(key, row):
                    updated = untyped(self.serde, row.checkpoint).get("ts", "")
                is_waiting = any(channel == INTERRUPT for _, _, _, channel, _ in row.writes)
            expires = ttl if ttl >= 0 else None
            thread = self._thread(key)
            found.append(
                ThreadInfo(thread, checkpoints, size or None, expires, updated, is_waiting)
            )
        return found

    def _expire(self, thread_id: str, ttl: int) -> Steps[bool]:
        """Let a thread expire in so many seconds; False if there is none."""
        check_count("ttl", ttl, "seconds")
        (done,) = yield [Command("EXPIRE", (self._key(thread_id),), (ttl,), kind=int)]
        return bool(done)

    def _persist(self, thread_id: str) -> Steps[bool]:
        """Remove a thread's time to live, until its next write; False if it had none."""
        (done,) = yield [Command("PERSIST", (self._key(thread_id),), kind=int)]
        return bool(done)

    def _ask(self, key: bytes, *arguments: str | bytes | int) -> Steps[list[Any]]:
        """Run the script on a thread, and name what is damaged."""
        call = script("demand", "checkpoint/checkpoint")
        (reply,) = yield [Command("", (key,), arguments, call, list)]
        if reply[0] == b"DAMAGED":
            kind, name = chr(reply[1][0]), reply[1][1:].decode(errors="replace")
            ns, _, checkpoint_id = name.partition("\0") if kind in "cwhn" else ("", "", "")
            what = f"its record {kind!r} is altered"
            raise CorruptCheckpointError(self._thread(key), ns, checkpoint_id, what)
        return [*reply]

    def _keys(self) -> Steps[list[bytes]]:
        """All threads under the prefix."""
        pattern = re.sub(rb"([*?\[\]\\])", rb"\\\1", self._prefix) + b"*"
        return sorted({*(yield Scan(pattern))})

    def _spaces(self, key: bytes) -> Steps[set[str]]:
        """The namespaces of a thread."""
        spaces, cursor = set[str](), b""
        while cursor != b"0":
            _, cursor, *found = yield from self._ask(key, "spaces", cursor or 0)
            spaces.update(ns.decode() for ns in found)
        return spaces

    def _names(self, key: bytes, ns: str, before: str = "") -> Steps[list[str]]:
        """The checkpoints of a namespace that are older than one, the newest first."""
        ranks: dict[str, bytes] = {}
        place = 2**53
        while place:
            _, place, *found = yield from self._ask(key, "names", ns, place)
            ranks.update((name.decode(), rank) for name, rank in found)
        last = ranks.get(before, before.encode())
        names = [name for name, rank in ranks.items() if not last or rank < last]
        return sorted(names, key=ranks.__getitem__, reverse=True)

    def _rows(self, key: bytes, names: Sequence[tuple[str, str]]) -> Steps[list[Row]]:
        """Checkpoints by namespace and ID; without those that have gone."""
        asked = frame("\0".join(name) for name in names)
        _, *answers = yield from self._ask(key, "rows", asked)
        return [Row(ns, each) for (ns, _), each in zip(names, answers, strict=True) if each]

    def _fetch(self, key: bytes, unpacking: Unpacking, values: Sequence[bytes]) -> Steps[None]:
        """Fetch what values refer to and is not there yet."""
        tried: set[bytes] = set()
        while lacking := [name for name in unpacking.lacks(values) if name not in tried]:
            _, reply = yield from self._ask(key, "fields", frame(lacking[:FIELDS]))
            tried.update(lacking[:FIELDS])
            unpacking.take(reply)

    def _metadata(self, key: bytes, row: Row) -> dict[str, Any]:
        with self._naming(key, row):
            return dict(untyped(self.serde, row.metadata))

    def _tuple(self, key: bytes, row: Row, unpacking: Unpacking) -> CheckpointTuple:
        thread_id = self._thread(key)
        with self._naming(key, row):
            checkpoint: Any = {
                **untyped(self.serde, row.checkpoint),
                "id": row.id,
                "channel_values": {
                    channel: unpacking.value(value) for channel, _, value in row.channels if value
                },
                "channel_versions": {channel: version for channel, version, _ in row.channels},
            }
            writes = [
                (task, channel, unpacking.value(value)) for _, task, _, channel, value in row.writes
            ]
        config, parent = (_config(thread_id, row.ns, name) for name in (row.id, row.parent_id))
        metadata: Any = self._metadata(key, row)
        return CheckpointTuple(
            config, checkpoint, metadata, parent if row.parent_id else None, writes
        )

    @contextmanager
    def _naming(self, key: bytes, row: Row) -> Iterator[None]:
        """Say which checkpoint is damaged, or which key or serializer to look at."""
        thread_id = self._thread(key)
        try:
            yield
        except DamagedError as error:
            raise CorruptCheckpointError(thread_id, row.ns, row.id, str(error)) from error
        except UnreadableError as error:
            raise MemorystoreChatError(
                f"The checkpoint {row.id!r} of the thread {thread_id!r}, namespace {row.ns!r}, "
                f"is stored as it was written, but the serializer cannot read it ({error}). It is "
                "not damaged: give MemorystoreSaver the serde= that it was written with, and an "
                "EncryptedSerializer the same key."
            ) from error

    @contextmanager
    def _naming_value(self, key: bytes, channel: str, value: object) -> Iterator[None]:
        """Say which part of a value cannot be stored."""
        try:
            yield
        except (TypeError, ValueError) as error:
            raise TypeError(
                f"The thread {self._thread(key)!r} cannot be stored: "
                f"{self._refused(channel, value)}, which the serializer refuses ({error}). Make it "
                "plain data before it gets into the state (a number of numpy's with .item()), or "
                "give MemorystoreSaver a serde= that takes it."
            ) from error

    def _refused(self, place: str, value: object) -> str:
        """Find the innermost part that the serializer refuses: its place and its type."""
        if isinstance(value, Mapping):
            parts = [(f"{place}[{name!r}]", part) for name, part in value.items()]
        elif isinstance(value, list | tuple | set | frozenset):
            parts = [(f"{place}[{index}]", part) for index, part in enumerate(value)]
        else:
            fields = getattr(value, "__dict__", {})
            parts = [(f"{place}.{name}", part) for name, part in fields.items()]
        for inner, part in parts:
            try:
                self.serde.dumps_typed(part)
            except (TypeError, ValueError):
                return self._refused(inner, part)
        return f"{place} is a {type_name(value)}"

    def _place(self, config: RunnableConfig) -> tuple[bytes, str, str]:
        """The key, namespace and checkpoint that a config names."""
        ns = config.get("configurable", {}).get("checkpoint_ns") or ""
        key = self._key(thread_id_of(config, type(self).__name__))
        checkpoint_id = get_checkpoint_id(config) or ""
        return key, _named("checkpoint_ns", ns), _named("checkpoint_id", checkpoint_id)

    def _key(self, thread_id: str) -> bytes:
        check_text("thread_id", thread_id)
        if not thread_id:
            raise ValueError("thread_id is empty; it takes text that names one thread.")
        return self._prefix + thread_id.encode()

    def _thread(self, key: bytes) -> str:
        return key.removeprefix(self._prefix).decode(errors="replace")


def _named(name: str, value: str) -> str:
    """A part of a field's name, checked."""
    check_text(name, value)
    if "\0" in value:
        raise ValueError(f"{name} is {value!r}; it takes text without a NUL.")
    return value


def _config(thread_id: str, ns: str, checkpoint_id: str) -> RunnableConfig:
    place = {"thread_id": thread_id, "checkpoint_ns": ns, "checkpoint_id": checkpoint_id}
    return {"configurable": place}
