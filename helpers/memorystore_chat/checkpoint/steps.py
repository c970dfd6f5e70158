"""What MemorystoreSaver asks the server for, and what it makes of the answers; no way of asking.

Each method is a generator of requests, which the saver runs with its client or its asyncio client.
"""

import itertools
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, TypeAlias
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
from redis.exceptions import ResponseError

from memorystore_chat.arguments import check_text, thread_id_of
from memorystore_chat.checkpoint.segments import operations_of, typed
from memorystore_chat.checkpoint.stored import Answer, Lists, Stored, call, version_text
from memorystore_chat.commands import Command, Scan, Steps
from memorystore_chat.errors import CorruptCheckpointError, MemorystoreChatError

THREADS = 100
"""How many threads are asked for in one round trip where a method concerns many."""

_Arguments: TypeAlias = list[str | bytes | int]  # of a script; the saver has a method "list"


@dataclass
class _Known:
    """What a client knows to be stored with a checkpoint, and need not send again."""

    lists: Lists = field(default_factory=dict)
    digests: set[bytes] = field(default_factory=set)


class CheckpointSteps(BaseCheckpointSaver[str]):
    """The steps of each method of a checkpointer."""

    _ttl: int | None
    _keep: int | None
    _prefix: bytes
    _one_node: bool

    def __init__(self, serde: SerializerProtocol) -> None:
        super().__init__(serde=serde)
        # What is known of the checkpoints used last, by key, namespace and ID.
        self._known = lru_cache(256)(lambda *_checkpoint: _Known())

    def _get_tuple(self, config: RunnableConfig) -> Steps[CheckpointTuple | None]:
        key, ns = self._key(thread_of(config)), _namespace(config)
        replies = yield [call("read", [key], "get", ns, get_checkpoint_id(config) or "")]
        return next(self._tuples([key], replies, {}), None)

    def _list(
        self,
        config: RunnableConfig | None,
        wanted: Mapping[str, Any] | None,
        before: RunnableConfig | None,
        limit: int | None,
    ) -> Steps[Iterator[CheckpointTuple]]:
        configurable: dict[str, Any] = (config or {}).get("configurable", {})
        ns = configurable.get("checkpoint_ns")
        arguments: tuple[str | int, ...] = (
            0 if ns is None else 1,
            ns or "",
            configurable.get("checkpoint_id") or "",
            (get_checkpoint_id(before) if before else None) or "",
            -1 if limit is None or wanted else limit,
        )
        keys = [self._key(thread_of(config))] if config else (yield from self._all_keys())
        replies = yield from _of_each(keys, lambda key: call("read", [key], "list", *arguments))
        return itertools.islice(self._tuples(keys, replies, wanted or {}), limit)

    def _tuples(
        self, keys: Sequence[bytes], replies: Sequence[Any], wanted: Mapping[str, Any]
    ) -> Iterator[CheckpointTuple]:
        for key, reply in zip(keys, replies, strict=True):
            answer, thread_id = Answer(self.serde, reply), self._thread(key)
            for found in answer.found:
                with _reading(thread_id, found):
                    metadata = answer.loads(found.metadata)
                    if any(metadata.get(name) != value for name, value in wanted.items()):
                        continue
                    values, lists = answer.values(found)
                    checkpoint = answer.checkpoint(found, values)
                    writes = answer.writes(found)
                self._known(key, found.ns, found.checkpoint_id).lists = lists
                parent = _config(thread_id, found.ns, found.parent_id) if found.parent_id else None
                config = _config(thread_id, found.ns, found.checkpoint_id)
                yield CheckpointTuple(config, checkpoint, metadata, parent, writes)

    def _put(
        self,
        config: RunnableConfig,
        checkpoint: Checkpoint,
        metadata: CheckpointMetadata,
        new_versions: ChannelVersions,
    ) -> Steps[RunnableConfig]:
        thread_id, ns = thread_of(config), _namespace(config)
        key, parent_id = self._key(thread_id), get_checkpoint_id(config) or ""
        versions = checkpoint["channel_versions"]
        metadata = get_checkpoint_metadata(config, metadata)
        deltas = list(metadata.get("counters_since_delta_snapshot") or ())
        arguments: _Arguments = [
            self._ttl or 0,
            self._keep or 0,
            ns,
            checkpoint["id"],
            parent_id,
            str(metadata.get("run_id") or ""),
            typed(self.serde, _slim(checkpoint)),
            typed(self.serde, dict(metadata)),
            2 * len(versions),
            *(part for name, version in versions.items() for part in (name, version_text(version))),
            len(deltas),
            *deltas,
        ]
        values = checkpoint["channel_values"]
        new = {name: version for name, version in new_versions.items() if name in values}
        whole = {name: version for name, version in versions.items() if name in values}
        first = (new, self._known(key, ns, parent_id))
        for sent, known in (first, (new | whole, _Known())):
            added, lists = self._values(values, sent, known)
            inherits = int(not whole.keys() <= sent.keys())
            (reply,) = yield [call("put", [key], *arguments, inherits, *added)]
            if reply != b"RESEND":  # what is known, or the parent, has gone since it was read
                break
        unchanged = versions.keys() - new_versions.keys()
        lists |= {name: kept for name, kept in known.lists.items() if name in unchanged}
        self._known(key, ns, checkpoint["id"]).lists = lists
        return _config(thread_id, ns, checkpoint["id"])

    def _values(
        self, values: Mapping[str, Any], new: ChannelVersions, known: _Known
    ) -> tuple[_Arguments, Lists]:
        """The arguments that store the values of new versions, and the layouts of lists."""
        segments: dict[bytes, bytes] = {}
        lists: Lists = {}
        arguments: _Arguments = []
        for channel, version in new.items():
            value, text = values[channel], version_text(version)
            arguments += (channel, text)
            if type(value) is not list or not value:
                arguments += ("value", b"b" + typed(self.serde, value))
                continue
            base, before = known.lists.get(channel, ("", ()))
            operations, layout = operations_of(self._elements(value), before, segments)
            arguments += ("list", base, len(operations))
            for each in operations:
                arguments += (
                    ("copy", each.start, len(each)) if isinstance(each, range) else ("new", each)
                )
            lists[channel] = (text, layout)
        return [*_segment_arguments(segments, known.digests), len(new), *arguments], lists

    def _put_writes(
        self,
        config: RunnableConfig,
        writes: Sequence[tuple[str, Any]],
        task_id: str,
        task_path: str,
    ) -> Steps[None]:
        key, ns = self._key(thread_of(config)), _namespace(config)
        checkpoint_id = get_checkpoint_id(config)
        if not checkpoint_id:
            raise ValueError("config names no checkpoint_id, beside which to store the writes.")
        segments: dict[bytes, bytes] = {}
        arguments: _Arguments = []
        for place, (channel, value) in enumerate(writes):
            arguments += (WRITES_IDX_MAP.get(channel, place), channel)
            if type(value) is list and value:
                _, layout = operations_of(self._elements(value), (), segments)
                arguments += ("l", b"".join(digest for digest, _ in layout))
            else:
                arguments += ("b", typed(self.serde, value))
        sent = [*_segment_arguments(segments, set()), len(writes), *arguments]
        where = (self._ttl or 0, ns, checkpoint_id, task_id, task_path)
        yield [call("put_writes", [key], *where, *sent)]
        self._known(key, ns, checkpoint_id).digests |= segments.keys()

    def _elements(self, value: Iterable[Any]) -> Iterator[bytes]:
        return (typed(self.serde, element) for element in value)

    def _delete(self, thread_ids: Sequence[str]) -> Steps[None]:
        keys = [self._key(thread_id) for thread_id in thread_ids]
        yield from _of_each(keys, lambda key: Command("UNLINK", (key,), kind=int))

    def _delete_for_runs(self, run_ids: Sequence[str]) -> Steps[None]:
        if not run_ids:
            return
        arguments: _Arguments = ["delete_runs", len(run_ids), *run_ids]
        keys = yield from self._all_keys()
        replies = yield from _of_each(keys, lambda key: call("delete", [key], *arguments))
        left = [key for key, reply in zip(keys, replies, strict=True) if reply == b"NEEDED"]
        if left:
            raise MemorystoreChatError(
                f"Nothing was deleted from {len(left)} of the threads, such as "
                f"{self._thread(left[0])!r}: a DeltaChannel of their later checkpoints is computed "
                "from what these runs wrote. Delete the later runs as well, or the thread with "
                "delete_thread()."
            )

    def _copy_thread(self, source_thread_id: str, target_thread_id: str) -> Steps[None]:
        source, target = self._key(source_thread_id), self._key(target_thread_id)
        how = (self._ttl or 0, uuid4().hex)
        if self._one_node:
            (reply,) = yield [call("copying", [source, target], "copy", *how)]
        else:
            (fields,) = yield [Command("HGETALL", (source,), kind=dict)]
            flat = [*itertools.chain.from_iterable(fields.items())]
            (reply,) = yield [call("copying", [target], "write", *how, len(flat), *flat)]
        if reply == b"EXISTS":
            raise MemorystoreChatError(
                f"There is a thread {target_thread_id!r} already, so nothing was copied. Choose "
                "another id, or delete it first with delete_thread()."
            )

    def _prune(self, thread_ids: Sequence[str], strategy: str) -> Steps[None]:
        if strategy not in ("keep_latest", "delete"):
            raise ValueError(f'strategy is {strategy!r}; it takes "keep_latest" or "delete".')
        if strategy == "delete":
            yield from self._delete(thread_ids)
            return
        keys = [self._key(thread_id) for thread_id in thread_ids]
        yield from _of_each(keys, lambda key: call("delete", [key], "prune"))

    def _history(
        self, config: RunnableConfig, channels: Sequence[str]
    ) -> Steps[Mapping[str, DeltaChannelHistory]]:
        history: dict[str, DeltaChannelHistory] = {channel: {"writes": []} for channel in channels}
        thread_id = thread_of(config)
        ns, checkpoint_id = _namespace(config), get_checkpoint_id(config) or ""
        arguments: _Arguments = ["history", ns, checkpoint_id, len(channels), *channels]
        (reply,) = yield [call("read", [self._key(thread_id)], *arguments)]
        answer = Answer(self.serde, reply)
        for found in reversed(answer.found):
            with _reading(thread_id, found):
                for channel, value in answer.values(found)[0].items():
                    history[channel]["seed"] = value
                for write in answer.writes(found):
                    history[write[1]]["writes"].append(write)
        return history

    @contextmanager
    def _naming_damage(self) -> Iterator[None]:
        """Say of which thread a script cannot read a record."""
        try:
            yield
        except ResponseError as error:
            found = _DAMAGED.search(str(error))
            if found is None:
                raise
            thread_id = self._thread(found["key"].encode())
            reason = f"its record {found['field']!r} is damaged"
            checkpoint_id = found["id"] or ""
            raise CorruptCheckpointError(thread_id, found["ns"], checkpoint_id, reason) from error

    def _all_keys(self) -> Steps[Sequence[bytes]]:
        pattern = re.sub(rb"([*?\[\]\\])", rb"\\\1", self._prefix) + b"*"
        return sorted(set((yield Scan(pattern))))

    def _key(self, thread_id: str) -> bytes:
        check_text("thread_id", thread_id)
        if not thread_id:
            raise ValueError("thread_id is empty; it takes text that names one thread.")
        return self._prefix + thread_id.encode()

    def _thread(self, key: bytes) -> str:
        return key.removeprefix(self._prefix).decode()


def thread_of(config: RunnableConfig) -> str:
    """The thread that a config names."""
    return thread_id_of(config, "MemorystoreSaver")


def _namespace(config: RunnableConfig) -> str:
    return str(config["configurable"].get("checkpoint_ns", ""))


def _config(thread_id: str, ns: str, checkpoint_id: str) -> RunnableConfig:
    return {
        "configurable": {
            "thread_id": thread_id,
            "checkpoint_ns": ns,
            "checkpoint_id": checkpoint_id,
        }
    }


def _of_each(keys: Sequence[bytes], command: Callable[[bytes], Command]) -> Steps[list[Any]]:
    """Ask the same of many threads."""
    replies: list[Any] = []
    for start in range(0, len(keys), THREADS):
        replies += yield [command(key) for key in keys[start : start + THREADS]]
    return replies


def _slim(checkpoint: Checkpoint) -> dict[str, Any]:
    """What is left of a checkpoint when all that is stored elsewhere is taken out."""
    elsewhere = ("id", "channel_values", "channel_versions", "versions_seen")
    rest = {name: value for name, value in checkpoint.items() if name not in elsewhere}
    rest["versions_seen"] = {
        node: {channel: version_text(version) for channel, version in versions.items()}
        for node, versions in checkpoint["versions_seen"].items()
    }
    return rest


def _segment_arguments(segments: Mapping[bytes, bytes], known: set[bytes]) -> _Arguments:
    sent = ((digest, b"" if digest in known else each) for digest, each in segments.items())
    return [len(segments), *itertools.chain.from_iterable(sent)]


@contextmanager
def _reading(thread_id: str, found: Stored) -> Iterator[None]:
    try:
        yield
    except ValueError as error:
        raise CorruptCheckpointError(
            thread_id, found.ns, found.checkpoint_id, str(error)
        ) from error


# As base.lua says it; the field of a checkpoint or of a task's writes has the checkpoint's ID.
_DAMAGED = re.compile(
    r"DAMAGED \[(?P<field>(?:[cw]\d+:(?P<id>[^:\]]*))?.*?)\] \[(?P<ns>.*?)\] \[(?P<key>.*)\]"
)
