"""What MemorystoreSaver asks the server for, and what it makes of the answers; no way of asking.

Each method is a generator of requests, which the saver sends with its client or asyncio client.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, NamedTuple
from uuid import uuid4

from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.base import (
    WRITES_IDX_MAP,
    BaseCheckpointSaver,
    ChannelVersions,
    Checkpoint,
    CheckpointMetadata,
    CheckpointTuple,
    DeltaChannelHistory,
    get_checkpoint_id,
    get_checkpoint_metadata,
)
from langgraph.checkpoint.serde.base import SerializerProtocol

from memorystore_chat.arguments import check_count, check_ids, check_text, thread_id_of
from memorystore_chat.checkpoint.values import (
    DamagedError,
    Packing,
    Remembered,
    Unpacking,
    UnreadableError,
    culprit,
    frame,
    typed,
    unseal,
    untyped,
    version_of,
    version_text,
)
from memorystore_chat.commands import Command, Scan, Steps, script
from memorystore_chat.errors import CorruptCheckpointError, MemorystoreChatError

NAMESPACE = "checkpoints:"
INTERRUPT = "__interrupt__"  # the channel to which a task writes that it waits
PAGE = 2000  # fields
ATTEMPTS = 10  # at a copy of a thread that changes meanwhile
AT_ONCE = 5000  # fields that are copied by one atomic command


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
    """A checkpoint as the server has it."""

    def __init__(self, answer: Sequence[bytes]) -> None:
        name, text, parent, writes = answer
        self.id, self.parent_id = name.decode(), parent.decode()
        parts = unseal(text.partition(b":")[2])
        self.checkpoint, self.metadata = parts[3:5]
        self.channels = [
            (channel.decode(), version.decode(), value)
            for channel, version, value in zip(parts[5::3], parts[6::3], parts[7::3], strict=True)
        ]
        parts = unseal(writes) if writes else []
        # In the order of LangGraph: by path, task and place.
        self.writes = sorted(
            (path.decode(), task.decode(), int(place), channel.decode(), value)
            for task, path, place, channel, value in zip(*[iter(parts)] * 5, strict=True)
        )

    @property
    def values(self) -> list[bytes]:
        """All values it refers to."""
        return [each[2] for each in self.channels if each[2]] + [each[4] for each in self.writes]


@dataclass
class Listing:
    """How far a listing has come.

    Attributes:
        keys: Threads that are to be listed; None before they are looked for.
        rows: Namespaces and IDs of the thread that is being listed, the newest last.
        limit: How many checkpoints are still wanted; None for all.
        size: How many are asked for at a time.
    """

    config: RunnableConfig | None
    wanted: Mapping[str, Any]
    before: str
    limit: int | None
    keys: list[bytes] | None = None
    rows: list[tuple[str, str]] = field(default_factory=list)
    unpacking: Unpacking | None = None
    size: int = 8


class CheckpointSteps(BaseCheckpointSaver[str]):
    """The steps of each method of a checkpointer."""

    def __init__(
        self,
        serde: SerializerProtocol,
        *,
        prefix: bytes,
        ttl: int | None,
        keep: int | None,
        refresh_on_read: bool,
    ) -> None:
        super().__init__(serde=serde)
        self._prefix = prefix
        self._ttl = ttl or 0
        self._keep = keep or 0
        self._refresh = self._ttl if refresh_on_read else 0
        self._remembered = Remembered()

    def _ask(self, key: bytes, *arguments: str | bytes | int) -> Steps[list[Any]]:
        """Run the script on a thread, and name what is damaged."""
        call = script("demand", "checkpoint/checkpoint")
        (reply,) = yield [Command("", (key,), arguments, call, list)]
        if reply[0] == b"DAMAGED":
            kind, name = chr(reply[1][0]), reply[1][1:].decode(errors="replace")
            ns, _, rest = name.partition("\0")
            if kind not in "cwh":
                ns, rest = name if kind == "n" else "", ""
            what = f"its record {kind!r} is altered"
            raise CorruptCheckpointError(self._thread(key), ns, rest, what)
        return [*reply]

    def _get_tuple(self, config: RunnableConfig) -> Steps[CheckpointTuple | None]:
        key, ns, checkpoint_id = self._place(config)
        answer = yield from self._ask(key, "get", self._refresh, ns, checkpoint_id)
        if len(answer) == 1:
            return None
        unpacking = Unpacking(self.serde)
        with self._naming(key, ns, answer[1][0].decode()):
            row = Row(answer[1])
            unpacking.take(answer[2])
            found = self._tuple(key, ns, row, unpacking)
        for name in unpacking.fields:
            self._remembered[key + name] = name
        return found

    def _tuple(self, key: bytes, ns: str, row: Row, unpacking: Unpacking) -> CheckpointTuple:
        thread_id = self._thread(key)
        body = untyped(self.serde, row.checkpoint)
        seen = {
            node: {channel: version_of(version) for channel, version in versions.items()}
            for node, versions in body["versions_seen"].items()
        }
        checkpoint: Any = {
            **body,
            "id": row.id,
            "channel_values": {
                channel: unpacking.value(value) for channel, _, value in row.channels if value
            },
            "channel_versions": {channel: version_of(text) for channel, text, _ in row.channels},
            "versions_seen": seen,
        }
        return CheckpointTuple(
            _config(thread_id, ns, row.id),
            checkpoint,
            untyped(self.serde, row.metadata),
            _config(thread_id, ns, row.parent_id) if row.parent_id else None,
            [(task, channel, unpacking.value(value)) for _, task, _, channel, value in row.writes],
        )

    def _listing(
        self,
        config: RunnableConfig | None,
        wanted: Mapping[str, Any] | None,
        before: RunnableConfig | None,
        limit: int | None,
    ) -> Listing:
        earlier = (get_checkpoint_id(before) if before else None) or ""
        listing = Listing(config, wanted or {}, earlier, limit)
        if config:
            listing.keys = [self._place(config)[0]]
        return listing

    def _page(self, listing: Listing) -> Steps[list[CheckpointTuple] | None]:
        """The next checkpoints of a listing; None at its end."""
        if listing.keys is None:
            listing.keys = (yield from self._keys())[::-1]
        while listing.keys and not listing.rows:
            if listing.unpacking is not None:
                listing.keys.pop()
                listing.unpacking = None
            if listing.keys:
                listing.unpacking = Unpacking(self.serde)
                listing.rows = yield from self._names(listing.keys[-1], listing)
        if not listing.rows or (listing.limit is not None and listing.limit <= 0):
            return None
        key, ns = listing.keys[-1], listing.rows[-1][0]
        most = listing.size if listing.limit is None or listing.wanted else listing.limit
        size = min(listing.size, most)
        ids = [name for each, name in listing.rows[: -size - 1 : -1] if each == ns]
        rows = yield from self._rows(key, ns, ids)
        del listing.rows[-len(rows) :]
        listing.size = min(2 * listing.size, 256)
        return (yield from self._matching(key, ns, [row for row in rows if row], listing))

    def _rows(self, key: bytes, ns: str, ids: Sequence[str]) -> Steps[list[Row | None]]:
        """As many of these checkpoints as fit into one answer; None for one that has gone."""
        _, *answers = yield from self._ask(key, "rows", ns, frame(ids))
        rows: list[Row | None] = []
        for name, answer in zip(ids, answers, strict=False):
            with self._naming(key, ns, name):
                rows.append(Row(answer) if answer else None)
        return rows

    def _matching(
        self, key: bytes, ns: str, rows: Iterable[Row], listing: Listing
    ) -> Steps[list[CheckpointTuple]]:
        unpacking, chosen = listing.unpacking or Unpacking(self.serde), []
        for row in rows:
            with self._naming(key, ns, row.id):
                metadata = untyped(self.serde, row.metadata)
            if all(metadata.get(name) == value for name, value in listing.wanted.items()):
                chosen.append(row)
        chosen = chosen[: listing.limit]
        yield from self._fetch(key, unpacking, [value for row in chosen for value in row.values])
        found = []
        for row in chosen:
            try:
                with self._naming(key, ns, row.id):
                    found.append(self._tuple(key, ns, row, unpacking))
            except CorruptCheckpointError:
                (there,) = yield from self._rows(key, ns, [row.id])
                if there is not None:  # else it was dropped meanwhile
                    raise
        if listing.limit is not None:
            listing.limit -= len(found)
        return found

    def _fetch(self, key: bytes, unpacking: Unpacking, values: Sequence[bytes]) -> Steps[None]:
        """Fetch what values refer to and is not there yet."""
        tried: set[bytes] = set()
        while lacking := [name for name in unpacking.lacks(values) if name not in tried]:
            asked = frame(lacking[:PAGE])
            _, looked, reply = yield from self._ask(key, "fields", asked)
            tried.update(lacking[: int(looked)])
            unpacking.take(reply)

    def _names(self, key: bytes, listing: Listing) -> Steps[list[tuple[str, str]]]:
        """Namespaces and IDs of what is to be listed of a thread, the newest last."""
        configurable: dict[str, Any] = (listing.config or {}).get("configurable", {})
        only, checkpoint_id = configurable.get("checkpoint_ns"), configurable.get("checkpoint_id")
        spaces = [only] if only is not None else sorted((yield from self._spaces(key)))
        names = []
        for ns in reversed(spaces):
            ranks = yield from self._ranks(key, ns)
            last = ranks.get(listing.before, listing.before).encode()
            names += [
                (ns, name)
                for name, rank in sorted(ranks.items(), key=lambda each: each[1].encode())
                if (not last or rank.encode() < last) and checkpoint_id in (None, "", name)
            ]
        return names

    def _ranks(self, key: bytes, ns: str) -> Steps[dict[str, str]]:
        """The rank of each checkpoint of a namespace."""
        ranks, place = {}, b"9007199254740992"
        while place != b"0":
            _, place, *found = yield from self._ask(key, "names", ns, place)
            for each in found:
                name, _, rank = each.decode().partition("\0")
                ranks[name] = rank or name
        return ranks

    def _spaces(self, key: bytes) -> Steps[dict[str, int]]:
        """The namespaces of a thread, and the last place of each."""
        spaces: dict[str, int] = {}
        cursor = b""
        while cursor != b"0":
            _, cursor, *found = yield from self._ask(key, "scan", cursor or 0, "n*")
            for name, sealed in zip(found[::2], found[1::2], strict=True):
                ns = name[1:].decode()
                with self._naming(key, ns, ""):
                    spaces[ns] = int(unseal(sealed)[1])
        return spaces

    def _put(
        self,
        config: RunnableConfig,
        checkpoint: Checkpoint,
        metadata: CheckpointMetadata,
        new_versions: ChannelVersions,
    ) -> Steps[RunnableConfig]:
        key, ns, parent_id = self._place(config)
        checkpoint_id = _named("checkpoint['id']", checkpoint["id"])
        if checkpoint_id == parent_id:
            raise ValueError(f"The checkpoint {parent_id!r} names itself as its parent.")
        metadata = get_checkpoint_metadata(config, metadata)
        root = metadata.get("parents", {}).get("", "") if ":" in ns else ""
        with self._naming_value(key, "the checkpoint's metadata", dict(metadata)):
            known = typed(self.serde, dict(metadata))
        body = typed(self.serde, _slim(checkpoint))
        deltas = frame(metadata.get("counters_since_delta_snapshot") or ())
        values, versions = checkpoint["channel_values"], checkpoint["channel_versions"]
        for anew in (False, True):
            packing = Packing(self.serde, self._remembered, key, anew=anew)
            channels: list[str | bytes] = []
            for channel, version in versions.items():
                packed = b"?"
                if channel in values and (anew or channel in new_versions):
                    with self._naming_value(key, channel, values[channel]):
                        packed = packing.pack(values[channel])
                elif channel in values:
                    packed = b"="
                elif channel in new_versions:
                    packed = b""
                channels += (_named("channel", channel), version_text(version), packed)
            where = (self._ttl, self._keep, ns, checkpoint_id, parent_id, root)
            what = (deltas, body, known, frame(channels))
            sent = (part for pair in packing.sent.items() for part in pair)
            (status, *_) = yield from self._ask(key, "put", *where, *what, *sent)
            if status == b"OK":
                packing.remember()
                return _config(self._thread(key), ns, checkpoint_id)
        raise CorruptCheckpointError(self._thread(key), ns, parent_id, "a part is missing")

    def _put_writes(
        self,
        config: RunnableConfig,
        writes: Sequence[tuple[str, Any]],
        task_id: str,
        task_path: str,
    ) -> Steps[None]:
        key, ns, checkpoint_id = self._place(config)
        if not checkpoint_id:
            raise ValueError("config names no checkpoint_id, beside which to store the writes.")
        _named("task_id", task_id)
        for anew in (False, True):
            packing = Packing(self.serde, self._remembered, key, anew=anew)
            parts: list[str | bytes] = []
            for index, (channel, value) in enumerate(writes):
                with self._naming_value(key, channel, value):
                    packed = packing.pack(value)
                place = str(WRITES_IDX_MAP.get(channel, index))
                parts += (task_id, task_path, place, channel, packed)
            sent = (part for pair in packing.sent.items() for part in pair)
            where = (self._ttl, ns, checkpoint_id, frame(parts))
            (status, *_) = yield from self._ask(key, "put_writes", *where, *sent)
            if status == b"OK":
                packing.remember()
            if status != b"RESEND":
                return
        raise CorruptCheckpointError(self._thread(key), ns, checkpoint_id, "a part is missing")

    def _delete(self, thread_ids: Sequence[str]) -> Steps[None]:
        for key in map(self._key, thread_ids):
            yield from self._ask(key, "delete")

    def _prune(self, thread_ids: Sequence[str], strategy: str) -> Steps[None]:
        if strategy not in ("keep_latest", "delete"):
            raise ValueError(f'strategy is {strategy!r}; it takes "keep_latest" or "delete".')
        thread_ids = check_ids("thread_ids", thread_ids)
        if strategy == "delete":
            yield from self._delete(thread_ids)
            return
        for key in map(self._key, thread_ids):
            for ns, last in (yield from self._spaces(key)).items():
                done = b""
                while not done:
                    _, done = yield from self._ask(key, "prune", ns, last)

    def _delete_for_runs(self, run_ids: Sequence[str]) -> Steps[None]:
        runs, needed = {*check_ids("run_ids", run_ids)}, []
        for key in (yield from self._keys()) if runs else ():
            for ns in (yield from self._spaces(key)):
                ids = yield from self._ids_of_runs(key, ns, runs)
                done = b""
                while ids or not done:
                    answer = yield from self._ask(key, "drop", ns, frame(ids[:64]))
                    _, looked, done, *left = answer
                    del ids[: int(looked)]
                    needed += [(self._thread(key), name.decode()) for name in left]
        if needed:
            raise MemorystoreChatError(
                f"{len(needed)} checkpoints, such as {needed[0][1]!r} of the thread "
                f"{needed[0][0]!r}, are not listed any more, and yet stored: a DeltaChannel of "
                "later runs is computed from them. They go when these later runs are deleted."
            )

    def _ids_of_runs(self, key: bytes, ns: str, runs: set[str]) -> Steps[list[str]]:
        """The checkpoints of some runs, the newest first: those that need others."""
        ranks = yield from self._ranks(key, ns)
        names = sorted(ranks, key=lambda name: ranks[name].encode(), reverse=True)
        found, at = [], 0
        while at < len(names):
            rows = yield from self._rows(key, ns, names[at : at + 256])
            at += len(rows)
            for row in filter(None, rows):
                with self._naming(key, ns, row.id):
                    if untyped(self.serde, row.metadata).get("run_id") in runs:
                        found.append(row.id)
        return found

    def _copy_thread(self, source_thread_id: str, target_thread_id: str) -> Steps[None]:
        source, target = self._key(source_thread_id), self._key(target_thread_id)
        if source == target:
            raise ValueError("source_thread_id and target_thread_id are the same.")
        fields = yield from self._all_fields(source)
        if not fields:
            return
        header = unseal(fields.pop(b"#"))
        # The namespaces' numbers come last: before them nothing of the copy is listed.
        names = sorted(fields, key=lambda name: name[:1] == b"n")
        pages = [names[at : at + PAGE // 2] for at in range(0, len(names), PAGE // 2)]
        token = uuid4().hex
        for number, page in enumerate(pages):
            what = frame(part for name in page for part in (name, fields[name]))
            ends = (int(number == 0), int(number == len(pages) - 1))
            (status,) = yield from self._ask(
                target, "paste", self._ttl, token, *ends, what, header[1]
            )
            if status == b"EXISTS":
                raise MemorystoreChatError(
                    f"There is a thread {target_thread_id!r} already, so it was not copied to. "
                    "Choose another id, or delete it first with delete_thread()."
                )

    def _all_fields(self, key: bytes) -> Steps[dict[bytes, bytes]]:
        """A thread as it is at one moment."""
        for _ in range(ATTEMPTS):
            answer = yield from self._ask(key, "about")
            if len(answer) == 1 or answer[3] == b"0":
                return {}
            if int(answer[3]) <= AT_ONCE:
                (fields,) = yield [Command("HGETALL", (key,), kind=dict)]
                return dict(fields)
            fields, cursor = {}, b""
            while cursor != b"0":
                _, cursor, *found = yield from self._ask(key, "scan", cursor or 0, "*")
                fields |= dict(zip(found[::2], found[1::2], strict=True))
            after = yield from self._ask(key, "about")
            if after[1] == answer[1]:
                return fields
        raise MemorystoreChatError(
            f"Nothing was copied: the thread {self._thread(key)!r} changed while it was read, "
            f"{ATTEMPTS} times. Copy it between two turns."
        )

    def _history(
        self, config: RunnableConfig, channels: Sequence[str]
    ) -> Steps[Mapping[str, DeltaChannelHistory]]:
        history: dict[str, DeltaChannelHistory] = {channel: {"writes": []} for channel in channels}
        key, ns, checkpoint_id = self._place(config)
        left, seen, skips = {*channels}, set[str](), 1
        while left:
            where = (ns, checkpoint_id, skips, frame(left))
            _, following, reply, rows = yield from self._ask(key, "walk", *where)
            unpacking = Unpacking(self.serde)
            unpacking.take(reply)
            for answer in rows:
                with self._naming(key, ns, answer[0].decode()):
                    row = Row(answer)
                    if row.id in seen:
                        raise DamagedError("it is its own ancestor")
                    seen.add(row.id)
                    for _, task, _, channel, value in reversed(row.writes):
                        if channel in left:
                            write = (task, channel, unpacking.value(value))
                            history[channel]["writes"].append(write)
                    for channel, _, value in row.channels:
                        if channel in left and value:
                            history[channel]["seed"] = unpacking.value(value)
                            left.remove(channel)
            checkpoint_id, skips = following.decode(), 0
            if not checkpoint_id:
                break
        for each in history.values():
            each["writes"].reverse()
        return history

    def _about(self, thread_ids: Sequence[str] | None) -> Steps[list[ThreadInfo]]:
        if thread_ids is None:
            keys = yield from self._keys()
        else:
            keys = [self._key(thread_id) for thread_id in check_ids("thread_ids", thread_ids)]
        found = []
        for key in keys:
            answer = yield from self._ask(key, "about")
            if len(answer) == 1 or answer[3] == b"0":
                continue
            _, _, checkpoints, _, ttl, size, head = answer
            updated, waits = "", False
            if head:
                with self._naming(key, "", head[0].decode()):
                    row = Row(head)
                    updated = untyped(self.serde, row.checkpoint).get("ts", "")
                waits = any(channel == INTERRUPT for _, _, _, channel, _ in row.writes)
            seconds = int(ttl) if int(ttl) >= 0 else None
            bytes_ = int(size) if size else None
            found.append(
                ThreadInfo(self._thread(key), int(checkpoints), bytes_, seconds, updated, waits)
            )
        return found

    def _expire(self, thread_id: str, ttl: int | None) -> Steps[bool]:
        check_count("ttl", ttl, "seconds", optional=True)
        name, given = ("PERSIST", ()) if ttl is None else ("EXPIRE", (ttl,))
        (done,) = yield [Command(name, (self._key(thread_id),), given, kind=int)]
        return bool(done)

    @contextmanager
    def _naming(self, key: bytes, ns: str, checkpoint_id: str) -> Iterator[None]:
        """Say which checkpoint is damaged, or which key or serializer to look at."""
        thread_id = self._thread(key)
        try:
            yield
        except (DamagedError, UnicodeDecodeError) as error:
            raise CorruptCheckpointError(thread_id, ns, checkpoint_id, str(error)) from error
        except UnreadableError as error:
            raise MemorystoreChatError(
                f"The checkpoint {checkpoint_id!r} of the thread {thread_id!r}, namespace {ns!r}, "
                f"is stored as it was written, but the serializer cannot read it ({error}). It is "
                "not damaged: give MemorystoreSaver the serde= that it was written with, and an "
                "EncryptedSerializer the same key."
            ) from error

    @contextmanager
    def _naming_value(self, key: bytes, channel: str, value: Any) -> Iterator[None]:
        """Say which part of a value cannot be stored."""
        try:
            yield
        except (TypeError, ValueError) as error:
            where = culprit(self.serde, value, channel)
            raise TypeError(
                f"The thread {self._thread(key)!r} cannot be stored: {where}, which the serializer "
                f"refuses ({error}). Make it plain data before it gets into the state (a number "
                "of numpy's with .item()), or give MemorystoreSaver a serde= that takes it."
            ) from error

    def _keys(self) -> Steps[list[bytes]]:
        """All threads under the prefix."""
        pattern = re.sub(rb"([*?\[\]\\])", rb"\\\1", self._prefix) + b"*"
        return sorted({*(yield Scan(pattern))})

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
    return {
        "configurable": {
            "thread_id": thread_id,
            "checkpoint_ns": ns,
            "checkpoint_id": checkpoint_id,
        }
    }


def _slim(checkpoint: Checkpoint) -> dict[str, Any]:
    """What is left of a checkpoint when all that is stored apart is taken out."""
    apart = ("id", "channel_values", "channel_versions", "versions_seen")
    rest = {name: value for name, value in checkpoint.items() if name not in apart}
    rest["versions_seen"] = {
        node: {channel: version_text(version) for channel, version in versions.items()}
        for node, versions in checkpoint["versions_seen"].items()
    }
    return rest
