"""What MemorystoreSaver asks the server for, and what it makes of the answers; no way of asking.

Each method is a generator of requests, which the saver runs with its client or its asyncio client.
"""

import itertools
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, TypeAlias, cast
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

from memorystore_chat._checks import check_text
from memorystore_chat.errors import CorruptCheckpointError, MemorystoreChatError
from memorystore_chat.storage import checkpoints
from memorystore_chat.storage.checkpoints import Answer, Known, Memory, Stored, call
from memorystore_chat.storage.commands import Command, Scan, Steps

THREADS = 100
"""How many threads are asked for in one round trip where a method concerns many."""

_Replies: TypeAlias = list[Any]  # the saver has a method of the name "list"


class CheckpointSteps(BaseCheckpointSaver[str]):
    """The steps of each method of a checkpointer.

    Args:
        serde: Makes bytes of values.
        ttl: Seconds until a thread expires, or 0.
        key_prefix: What the keys begin with.
        keep: How many checkpoints of a namespace to keep, or 0 for all.
        one_node: Whether all keys are on one server.
    """

    def __init__(
        self, serde: SerializerProtocol, *, ttl: int, key_prefix: str, keep: int, one_node: bool
    ) -> None:
        super().__init__(serde=serde)
        self._ttl = ttl
        self._keep = keep
        self._one_node = one_node
        self._prefix = f"{key_prefix}checkpoints:".encode()
        self._memory = Memory()

    def _get_tuple(self, config: RunnableConfig) -> Steps[CheckpointTuple | None]:
        thread_id, ns = thread_of(config), _namespace(config)
        key = self._key(thread_id)
        (reply,) = yield [call("get", [key], ns, get_checkpoint_id(config) or "")]
        answer = Answer(self.serde, reply)
        return next((self._tuple(thread_id, answer, found) for found in answer.checkpoints()), None)

    def _list(
        self,
        config: RunnableConfig | None,
        wanted: dict[str, Any] | None,
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
        replies: _Replies = []
        for some in _batches(keys):
            replies += yield [call("list", [key], *arguments) for key in some]
        return itertools.islice(self._tuples(keys, replies, wanted or {}), limit)

    def _tuples(
        self, keys: Sequence[bytes], replies: Sequence[Any], wanted: Mapping[str, Any]
    ) -> Iterator[CheckpointTuple]:
        for key, reply in zip(keys, replies, strict=True):
            answer = Answer(self.serde, reply)
            thread_id = key.removeprefix(self._prefix).decode()
            for found in answer.checkpoints():
                with _reading(thread_id, found):
                    metadata = answer.loads(found.metadata)
                if all(metadata.get(name) == value for name, value in wanted.items()):
                    yield self._tuple(thread_id, answer, found)

    def _tuple(self, thread_id: str, answer: Answer, found: Stored) -> CheckpointTuple:
        with _reading(thread_id, found):
            checkpoint, lists = answer.checkpoint(found)
            metadata = answer.loads(found.metadata)
            writes = answer.writes(found.writes)
        known = self._memory.of(self._key(thread_id), found.ns, found.checkpoint_id)
        known.lists = lists
        return CheckpointTuple(
            config=_config(thread_id, found.ns, found.checkpoint_id),
            checkpoint=cast("Checkpoint", checkpoint),
            metadata=cast("CheckpointMetadata", metadata),
            parent_config=(
                _config(thread_id, found.ns, found.parent_id) if found.parent_id else None
            ),
            pending_writes=writes,
        )

    def _put(
        self,
        config: RunnableConfig,
        checkpoint: Checkpoint,
        metadata: CheckpointMetadata,
        new_versions: ChannelVersions,
    ) -> Steps[RunnableConfig]:
        thread_id, ns = thread_of(config), _namespace(config)
        key, parent_id = self._key(thread_id), get_checkpoint_id(config) or ""
        for known in (self._memory.of(key, ns, parent_id), Known()):
            command, now = checkpoints.put(
                key,
                self.serde,
                known,
                ttl=self._ttl,
                keep=self._keep,
                ns=ns,
                parent_id=parent_id,
                checkpoint=cast("Mapping[str, Any]", checkpoint),
                metadata=cast("Mapping[str, Any]", get_checkpoint_metadata(config, metadata)),
                new_versions=new_versions,
            )
            (reply,) = yield [command]
            if reply != b"RESEND":  # the thread was deleted or has expired since it was read
                break
        self._memory.of(key, ns, checkpoint["id"]).lists = now.lists
        return _config(thread_id, ns, checkpoint["id"])

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
        command, digests = checkpoints.put_writes(
            key,
            self.serde,
            ttl=self._ttl,
            ns=ns,
            checkpoint_id=checkpoint_id,
            task_id=task_id,
            task_path=task_path,
            writes=[
                (WRITES_IDX_MAP.get(channel, place), channel, value)
                for place, (channel, value) in enumerate(writes)
            ],
        )
        yield [command]
        self._memory.of(key, ns, checkpoint_id).digests |= digests

    def _delete(self, thread_ids: Sequence[str]) -> Steps[None]:
        for some in _batches([self._key(thread_id) for thread_id in thread_ids]):
            yield [Command("UNLINK", (key,), kind=int) for key in some]

    def _delete_for_runs(self, run_ids: Sequence[str]) -> Steps[None]:
        if not run_ids:
            return
        left = []
        for some in _batches((yield from self._all_keys())):
            replies = yield [call("delete_runs", [key], len(run_ids), *run_ids) for key in some]
            left += [
                key.removeprefix(self._prefix).decode()
                for key, reply in zip(some, replies, strict=True)
                if reply == b"NEEDED"
            ]
        if left:
            raise MemorystoreChatError(
                f"Nothing was deleted from {len(left)} of the threads, such as {left[0]!r}: a "
                "DeltaChannel of their later checkpoints is computed from what these runs wrote. "
                "Delete the later runs as well, or the thread with delete_thread()."
            )

    def _copy_thread(self, source_thread_id: str, target_thread_id: str) -> Steps[None]:
        source, target = self._key(source_thread_id), self._key(target_thread_id)
        token, ttl = uuid4().hex, self._ttl
        if not self._one_node:
            (fields,) = yield [Command("HGETALL", (source,), kind=dict)]
            flat = [part for pair in fields.items() for part in pair] if fields else []
            (reply,) = yield [call("write", [target], ttl, token, len(flat), *flat)]
        else:
            (reply,) = yield [call("copy", [source, target], ttl, token)]
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
        for some in _batches([self._key(thread_id) for thread_id in thread_ids]):
            yield [call("prune", [key]) for key in some]

    def _history(
        self, config: RunnableConfig, channels: Sequence[str]
    ) -> Steps[Mapping[str, DeltaChannelHistory]]:
        if not channels:
            return {}
        thread_id, ns = thread_of(config), _namespace(config)
        checkpoint_id = get_checkpoint_id(config) or ""
        arguments: tuple[str | int, ...] = (ns, checkpoint_id, len(channels), *channels)
        (reply,) = yield [call("history", [self._key(thread_id)], *arguments)]
        try:
            found = Answer(self.serde, reply).history(channels)
        except ValueError as error:
            raise CorruptCheckpointError(thread_id, ns, checkpoint_id, str(error)) from error
        return {
            channel: {"writes": writes, **({"seed": seed[0]} if seed else {})}  # type: ignore[typeddict-item]
            for channel, (writes, seed) in found.items()
        }

    @contextmanager
    def _naming_damage(self) -> Iterator[None]:
        """Say of which thread a script cannot read a record."""
        try:
            yield
        except ResponseError as error:
            found = _DAMAGED.search(str(error))
            if found is None:
                raise
            thread_id = found["key"].removeprefix(self._prefix.decode())
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


def thread_of(config: RunnableConfig) -> str:
    """The thread that a config names."""
    thread_id = config.get("configurable", {}).get("thread_id")
    if not isinstance(thread_id, str) or not thread_id:
        given = "no thread_id" if thread_id is None else f"thread_id={thread_id!r}"
        raise ValueError(
            f"The config has {given}, so MemorystoreSaver cannot tell which conversation this is. "
            'Name it in each call, as text: graph.invoke({...}, {"configurable": {"thread_id": '
            '"ada/1"}}).'
        )
    return thread_id


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


def _batches(keys: Sequence[bytes]) -> Iterator[Sequence[bytes]]:
    for start in range(0, len(keys), THREADS):
        yield keys[start : start + THREADS]


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
