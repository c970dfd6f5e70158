"""LangGraph's persistence: a checkpointer for Memorystore. Needs the extra ``agents``."""

import asyncio
import random
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from typing import Any, TypeVar

from langchain_core.runnables import RunnableConfig
from redis.cluster import RedisCluster

from memorystore_chat import commands
from memorystore_chat.arguments import check_async_client, check_client, check_count, check_text
from memorystore_chat.checkpoint import stored as checkpoints
from memorystore_chat.commands import AsyncClient, Client, Steps
from memorystore_chat.errors import explaining
from memorystore_chat.extras import require

require("langgraph.checkpoint", install="langgraph")

from langgraph.checkpoint.base import (  # noqa: E402
    ChannelVersions,
    Checkpoint,
    CheckpointMetadata,
    CheckpointTuple,
    DeltaChannelHistory,
)
from langgraph.checkpoint.serde.base import SerializerProtocol  # noqa: E402
from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer  # noqa: E402
from typing_extensions import override  # noqa: E402

from memorystore_chat.checkpoint.steps import CheckpointSteps, thread_of  # noqa: E402

T = TypeVar("T")


class MemorystoreSaver(CheckpointSteps):
    """Keeps the checkpoints of LangGraph graphs in Memorystore, on one server or a cluster.

    A thread is one Redis hash: all of it expires together, and deleting it is one command. Each
    method is one round trip and one atomic write, however long the conversation, and one that is
    sent again because its reply was lost changes nothing. Only ``list`` and ``delete_for_runs``
    without a thread have to look for the threads first, and on a cluster ``copy_thread`` reads
    from one node and writes to another.

    - **Each message is stored once**, whatever the number of checkpoints that show it, and a turn
      sends only what is new in it.
    - **Only known types are made of what is stored**: what is plain data, LangChain's messages
      and documents, and LangGraph's own types. Anything else is read as plain data, with a
      warning in the log. Name the types of your own state with
      ``MemorystoreSaver(client).with_allowlist([("my_app.models", "Order")])``. Pickle is neither
      written nor read.
    - **Two turns at once** on a thread: every single write is whole, and a checkpoint never
      changes. But LangGraph does not lock a thread. Both turns begin at the same checkpoint, the
      one that ends last becomes the newest, and the other remains a branch that only
      ``get_state_history`` shows. Let a thread have one turn at a time where that matters.
    - **An outage raises** `memorystore_chat.ConnectError`; it is never an empty thread. What the
      server refuses, as when its memory is full, is a `MemorystoreChatError`, and a checkpoint
      that cannot be read a ``CorruptCheckpointError``, which names it.

    Args:
        client: A connected ``redis.Redis`` or ``redis.cluster.RedisCluster``, with or without
            ``decode_responses=True``. Whoever opened it closes it.
        ttl: Seconds until a thread expires, counted from the newest write to it. None leaves the
            expiry of a thread as it is.
        key_prefix: The Redis key of a thread is ``key_prefix + "checkpoints:" + thread_id``.
        async_client: A ``redis.asyncio`` client for the methods that begin with ``a``. Without it
            they run the synchronous ones in a thread.
        keep: Keep this many of the newest checkpoints of each namespace (the graph itself is one,
            each of its sub-graphs another), and drop older ones in the write that exceeds it.
            ``keep=1`` stores little more than the conversation, and leaves nothing to go back to.
            Checkpoints that a ``DeltaChannel`` is still computed from stay as well. None keeps
            all.
        serde: Another serializer, such as an ``EncryptedSerializer``. One that makes different
            bytes of the same message each time stores it anew with each checkpoint.

    Raises:
        TypeError: ``client`` or ``async_client`` is not a client of its kind.
        ValueError: Another argument is not acceptable; the message says what is.

    Example:
        >>> from langchain.agents import create_agent
        >>> from memorystore_chat import connect
        >>> from memorystore_tutorial import DemoChatModel
        >>> saver = MemorystoreSaver(connect("embedded"), ttl=3600)
        >>> agent = create_agent(DemoChatModel(), checkpointer=saver)
        >>> ada = {"configurable": {"thread_id": "ada/docs"}}
        >>> answer = agent.invoke({"messages": [("user", "My name is Ada.")]}, ada)
        >>> answer = agent.invoke({"messages": [("user", "What is my name?")]}, ada)
        >>> "Ada" in answer["messages"][-1].text
        True
        >>> len(list(saver.list(ada)))
        6
        >>> saver.delete_thread("ada/docs")
    """

    def __init__(
        self,
        client: Client,
        *,
        ttl: int | None = None,
        key_prefix: str = "",
        async_client: AsyncClient | None = None,
        keep: int | None = None,
        serde: SerializerProtocol | None = None,
    ) -> None:
        check_client(client)
        check_async_client(async_client)
        check_text("key_prefix", key_prefix)
        check_count("ttl", ttl, "seconds", optional=True)
        check_count("keep", keep, "checkpoints", optional=True)
        # None allows LangGraph's list of safe types and nothing else: CVE-2026-28277.
        super().__init__(serde or JsonPlusSerializer(allowed_msgpack_modules=None))
        self._client = client
        self._async_client = async_client
        self._ttl = ttl
        self._keep = keep
        self._prefix = f"{key_prefix}checkpoints:".encode()
        self._one_node = not isinstance(client, RedisCluster)
        self._scripts_loaded = False

    def __repr__(self) -> str:
        key_prefix = self._prefix.decode().removesuffix("checkpoints:")
        return (
            f"{type(self).__name__}(key_prefix={key_prefix!r}, ttl={self._ttl}, keep={self._keep})"
        )

    @override
    def get_tuple(self, config: RunnableConfig) -> CheckpointTuple | None:
        """Read a checkpoint: the one the config names, or the newest of its thread."""
        return self._run(self._get_tuple(config), f"reading {_named(config)}")

    @override
    async def aget_tuple(self, config: RunnableConfig) -> CheckpointTuple | None:
        """``get_tuple``, without blocking the event loop."""
        return await self._arun(self._get_tuple(config), f"reading {_named(config)}")

    @override
    def list(
        self,
        config: RunnableConfig | None,
        *,
        filter: dict[str, Any] | None = None,
        before: RunnableConfig | None = None,
        limit: int | None = None,
    ) -> Iterator[CheckpointTuple]:
        """Read checkpoints, the newest of each namespace first.

        Args:
            config: Names the thread, and a namespace and checkpoint if it names them; None reads
                all threads.
            filter: Only those whose metadata has these values.
            before: Only those older than the checkpoint it names.
            limit: At most so many.
        """
        steps = self._list(config, filter, before, limit)
        return self._run(steps, f"listing checkpoints of {_named(config)}")

    @override
    async def alist(
        self,
        config: RunnableConfig | None,
        *,
        filter: dict[str, Any] | None = None,
        before: RunnableConfig | None = None,
        limit: int | None = None,
    ) -> AsyncIterator[CheckpointTuple]:
        """``list``, without blocking the event loop."""
        steps = self._list(config, filter, before, limit)
        for found in await self._arun(steps, f"listing checkpoints of {_named(config)}"):
            yield found

    @override
    def put(
        self,
        config: RunnableConfig,
        checkpoint: Checkpoint,
        metadata: CheckpointMetadata,
        new_versions: ChannelVersions,
    ) -> RunnableConfig:
        """Store a checkpoint after the one that the config names."""
        steps = self._put(config, checkpoint, metadata, new_versions)
        return self._run(steps, f"storing a checkpoint of {_named(config)}")

    @override
    async def aput(
        self,
        config: RunnableConfig,
        checkpoint: Checkpoint,
        metadata: CheckpointMetadata,
        new_versions: ChannelVersions,
    ) -> RunnableConfig:
        """``put``, without blocking the event loop."""
        steps = self._put(config, checkpoint, metadata, new_versions)
        return await self._arun(steps, f"storing a checkpoint of {_named(config)}")

    @override
    def put_writes(
        self,
        config: RunnableConfig,
        writes: Sequence[tuple[str, Any]],
        task_id: str,
        task_path: str = "",
    ) -> None:
        """Store what a task wrote, beside the checkpoint that the config names."""
        steps = self._put_writes(config, writes, task_id, task_path)
        self._run(steps, f"storing writes of {_named(config)}")

    @override
    async def aput_writes(
        self,
        config: RunnableConfig,
        writes: Sequence[tuple[str, Any]],
        task_id: str,
        task_path: str = "",
    ) -> None:
        """``put_writes``, without blocking the event loop."""
        steps = self._put_writes(config, writes, task_id, task_path)
        await self._arun(steps, f"storing writes of {_named(config)}")

    @override
    def delete_thread(self, thread_id: str) -> None:
        """Delete a thread, which leaves no key. Deleting one that is not there is fine."""
        self._run(self._delete([thread_id]), f"deleting the thread {thread_id!r}")

    @override
    async def adelete_thread(self, thread_id: str) -> None:
        """``delete_thread``, without blocking the event loop."""
        await self._arun(self._delete([thread_id]), f"deleting the thread {thread_id!r}")

    @override
    def delete_for_runs(self, run_ids: Sequence[str]) -> None:
        """Delete the checkpoints of some runs, in every thread under the prefix.

        A thread is left as it is if a ``DeltaChannel`` of one of its other checkpoints is computed
        from what would be deleted.

        Raises:
            MemorystoreChatError: Threads were left as they are, which the message names.
        """
        self._run(self._delete_for_runs(run_ids), "deleting the checkpoints of runs")

    @override
    async def adelete_for_runs(self, run_ids: Sequence[str]) -> None:
        """``delete_for_runs``, without blocking the event loop."""
        await self._arun(self._delete_for_runs(run_ids), "deleting the checkpoints of runs")

    @override
    def copy_thread(self, source_thread_id: str, target_thread_id: str) -> None:
        """Copy a whole thread under a new id, with this saver's time to live.

        Raises:
            MemorystoreChatError: There is a thread of that id already.
        """
        doing = f"copying the thread {source_thread_id!r}"
        self._run(self._copy_thread(source_thread_id, target_thread_id), doing)

    @override
    async def acopy_thread(self, source_thread_id: str, target_thread_id: str) -> None:
        """``copy_thread``, without blocking the event loop."""
        doing = f"copying the thread {source_thread_id!r}"
        await self._arun(self._copy_thread(source_thread_id, target_thread_id), doing)

    @override
    def prune(self, thread_ids: Sequence[str], *, strategy: str = "keep_latest") -> None:
        """Delete old checkpoints.

        Args:
            thread_ids: The threads.
            strategy: ``"keep_latest"`` keeps the newest checkpoint of each namespace, and those
                that its ``DeltaChannel`` values are computed from; ``"delete"`` deletes all.
        """
        self._run(self._prune(thread_ids, strategy), "pruning threads")

    @override
    async def aprune(self, thread_ids: Sequence[str], *, strategy: str = "keep_latest") -> None:
        """``prune``, without blocking the event loop."""
        await self._arun(self._prune(thread_ids, strategy), "pruning threads")

    @override
    def get_delta_channel_history(
        self, *, config: RunnableConfig, channels: Sequence[str]
    ) -> Mapping[str, DeltaChannelHistory]:
        """The writes that each ``DeltaChannel`` is computed from, and the value they start at."""
        return self._run(self._history(config, channels), f"reading {_named(config)}")

    @override
    async def aget_delta_channel_history(
        self, *, config: RunnableConfig, channels: Sequence[str]
    ) -> Mapping[str, DeltaChannelHistory]:
        """``get_delta_channel_history``, without blocking the event loop."""
        return await self._arun(self._history(config, channels), f"reading {_named(config)}")

    @override
    def get_next_version(self, current: str | None, channel: None) -> str:
        """A version above the current one, and unlike that of any other branch."""
        number = int(str(current).partition(".")[0]) if current is not None else 0
        # As many digits as those of LangGraph's own savers, so that threads can be taken over.
        return f"{number + 1:032}.{random.getrandbits(32):08x}"

    def _run(self, steps: Steps[T], doing: str) -> T:
        with explaining(doing), self._naming_damage():
            return commands.run(self._client, steps)

    async def _arun(self, steps: Steps[T], doing: str) -> T:
        if self._async_client is None:
            return await asyncio.to_thread(self._run, steps, doing)
        if not self._scripts_loaded:  # they are files, and not to be read on the event loop
            await asyncio.to_thread(checkpoints.load_scripts)
            self._scripts_loaded = True
        with explaining(doing), self._naming_damage():
            return await commands.arun(self._async_client, steps)


def _named(config: RunnableConfig | None) -> str:
    return f"the thread {thread_of(config)!r}" if config else "all threads"
