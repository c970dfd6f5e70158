"""LangGraph's persistence: a checkpointer for Memorystore. Needs the extra ``agents``."""

import secrets
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from typing import Any, Self

from langchain_core.runnables import RunnableConfig
from typing_extensions import override

from memorystore_chat.arguments import check_count, check_text
from memorystore_chat.commands import AsyncClient, Client, Sender
from memorystore_chat.connection import Endpoint, connect, connect_async
from memorystore_chat.extras import require

require("langgraph.checkpoint", extra="agents")

from langgraph.checkpoint.base import (  # noqa: E402
    ChannelVersions,
    Checkpoint,
    CheckpointMetadata,
    CheckpointTuple,
    DeltaChannelHistory,
)
from langgraph.checkpoint.serde.base import SerializerProtocol  # noqa: E402
from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer  # noqa: E402

from memorystore_chat.checkpoint.steps import (  # noqa: E402
    NAMESPACE,
    CheckpointSteps,
    ThreadInfo,
)


class MemorystoreSaver(CheckpointSteps):
    """Keeps the checkpoints of LangGraph graphs in Memorystore, on one server or a cluster.

    A thread is one Redis hash: all of it expires together, and deleting it is one command.
    ``put``, ``put_writes`` and ``get_tuple`` are one round trip and one atomic step each, and one
    that is sent again because its reply was lost changes nothing. What may concern thousands of
    checkpoints goes in pages, so that no call keeps the server from others for long.

    - **Each message is stored once**, whatever the number of checkpoints that show it, and a turn
      sends only what is new in it. That holds for the elements of a list, and of the lists in a
      dict; what is nested deeper is stored whole. A list that is cut at its front sends the
      digests of its other elements anew, 16 bytes each.
    - **Only known types are made of what is stored**: what is plain data, LangChain's messages
      and documents, and LangGraph's own types. Anything else is read as plain data, with a
      warning in the log. Name the types of your own state in ``allowed_msgpack_modules``. Pickle
      is neither written nor read.
    - **The newest checkpoint** is the one with the highest ID, as with LangGraph's savers; but
      what follows the newest is newer, even if it comes from a machine whose clock is behind.
    - **Two turns at once** on a thread: every single write is whole, and a checkpoint never
      changes. But LangGraph does not lock a thread. Both turns begin at the same checkpoint, the
      one that ends last becomes the newest, and the other remains a branch that only
      ``get_state_history`` shows. Let a thread have one turn at a time where that matters.
    - **An outage raises** `memorystore_chat.ConnectError`; it is never an empty thread. What the
      server refuses, as when its memory is full, is a `MemorystoreChatError`, and a checkpoint
      that cannot be read a ``CorruptCheckpointError``, which names it.

    Args:
        client: A connected ``redis.Redis`` or ``redis.cluster.RedisCluster``, or one of
            ``redis.asyncio`` for a program that only awaits. Whoever opened it closes it.
        ttl: Seconds until a thread expires, counted from the newest write to it. None leaves the
            expiry of a thread as it is.
        key_prefix: The Redis key of a thread is ``key_prefix + "checkpoints:" + thread_id``.
        async_client: A ``redis.asyncio`` client for the methods that begin with ``a``, beside a
            synchronous one. Without it they run the synchronous ones in a thread.
        keep: Keep this many of the checkpoints of each namespace that were put last (the graph
            itself is one, each of its sub-graphs another), and drop older ones in the write that
            exceeds it, a bounded number at a time. ``keep=1`` stores little more than the
            conversation, and leaves nothing to go back to. What a ``DeltaChannel`` is still
            computed from stays as well. None keeps all.
        serde: Another serializer, such as an ``EncryptedSerializer``.
        allowed_msgpack_modules: Types of your own that may be made of what is stored, as
            ``(module, name)`` or the types themselves. LangGraph's list of safe types stays
            allowed (CVE-2026-28277).
        refresh_on_read: Let ``get_tuple``, with which each turn begins, renew the ``ttl``, too.

    Raises:
        TypeError: An argument is of a wrong type.
        ValueError: An argument is not acceptable; the message says what is.

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
        client: Client | AsyncClient,
        *,
        ttl: int | None = None,
        key_prefix: str = "",
        async_client: AsyncClient | None = None,
        keep: int | None = None,
        serde: SerializerProtocol | None = None,
        allowed_msgpack_modules: Iterable[tuple[str, str] | type] | None = None,
        refresh_on_read: bool = False,
    ) -> None:
        self._sender = Sender(client, async_client)
        check_text("key_prefix", key_prefix)
        check_count("ttl", ttl, "seconds", optional=True)
        check_count("keep", keep, "checkpoints", optional=True)
        if NAMESPACE in key_prefix:
            raise ValueError(
                f"key_prefix is {key_prefix!r}; it takes text without {NAMESPACE!r}, so that no "
                "two threads have one key."
            )
        if refresh_on_read and ttl is None:
            raise ValueError("refresh_on_read=True renews a ttl; give the seconds with ttl=.")
        if serde is not None and allowed_msgpack_modules is not None:
            raise ValueError(
                "allowed_msgpack_modules is for the saver's own serializer; with "
                "serde=, give it to that one."
            )
        if isinstance(allowed_msgpack_modules, str | bool):
            raise TypeError("allowed_msgpack_modules takes several (module, name), or types.")
        super().__init__(
            serde or JsonPlusSerializer(allowed_msgpack_modules=allowed_msgpack_modules),
            prefix=f"{key_prefix}{NAMESPACE}".encode(),
            ttl=ttl,
            keep=keep,
            refresh_on_read=refresh_on_read,
        )

    def __repr__(self) -> str:
        key_prefix = self._prefix.decode().removesuffix(NAMESPACE)
        return (
            f"{type(self).__name__}(key_prefix={key_prefix!r}, ttl={self._ttl or None}, "
            f"keep={self._keep or None})"
        )

    @classmethod
    @contextmanager
    def from_conn_string(
        cls, endpoint: str | Endpoint | None = None, **options: Any
    ) -> Iterator[Self]:
        """Connect to a server for as long as the context lasts.

        Args:
            endpoint: What `memorystore_chat.connect` takes.
            **options: Those of this class; for the connection's own, use ``connect()``.

        Example:
            >>> with MemorystoreSaver.from_conn_string("embedded", ttl=60) as saver:
            ...     saver.get_tuple({"configurable": {"thread_id": "nobody"}})
        """
        with connect(endpoint) as client:
            yield cls(client, **options)

    @classmethod
    @asynccontextmanager
    async def afrom_conn_string(
        cls, endpoint: str | Endpoint | None = None, **options: Any
    ) -> AsyncIterator[Self]:
        """``from_conn_string`` with an asyncio client: its saver is only awaited."""
        async with await connect_async(endpoint) as client:
            yield cls(client, **options)

    def setup(self) -> None:
        """Do nothing: a server needs no preparation. Other savers have to be set up."""

    async def asetup(self) -> None:
        """Do nothing, as ``setup``."""

    @override
    def get_tuple(self, config: RunnableConfig) -> CheckpointTuple | None:
        """Read a checkpoint: the one the config names, or the newest of its thread."""
        return self._sender.run(_reading(config), self._get_tuple(config), "aget_tuple")

    @override
    async def aget_tuple(self, config: RunnableConfig) -> CheckpointTuple | None:
        """``get_tuple``, without blocking the event loop."""
        return await self._sender.arun(_reading(config), self._get_tuple(config))

    @override
    def list(
        self,
        config: RunnableConfig | None,
        *,
        filter: dict[str, Any] | None = None,
        before: RunnableConfig | None = None,
        limit: int | None = None,
    ) -> Iterator[CheckpointTuple]:
        """Read checkpoints, the newest of each namespace first, some at a time.

        Args:
            config: Names the thread, and a namespace and checkpoint if it names them; None reads
                all threads.
            filter: Only those whose metadata has these values.
            before: Only those older than the checkpoint it names.
            limit: At most so many.
        """
        listing = self._listing(config, filter, before, limit)
        while (
            page := self._sender.run(_reading(config), self._page(listing), "alist")
        ) is not None:
            yield from page

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
        listing = self._listing(config, filter, before, limit)
        while (page := await self._sender.arun(_reading(config), self._page(listing))) is not None:
            for found in page:
                yield found

    @override
    def put(
        self,
        config: RunnableConfig,
        checkpoint: Checkpoint,
        metadata: CheckpointMetadata,
        new_versions: ChannelVersions,
    ) -> RunnableConfig:
        """Store a checkpoint after the one that the config names.

        Put again, it keeps its place and its parent.

        Raises:
            TypeError: A value cannot be serialized; the message says which, and where it is.
        """
        steps = self._put(config, checkpoint, metadata, new_versions)
        return self._sender.run(_storing(config), steps, "aput")

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
        return await self._sender.arun(_storing(config), steps)

    @override
    def put_writes(
        self,
        config: RunnableConfig,
        writes: Sequence[tuple[str, Any]],
        task_id: str,
        task_path: str = "",
    ) -> None:
        """Store what a task wrote, beside the checkpoint that the config names.

        A write may arrive before its checkpoint. So one that arrives after ``delete_thread`` is
        stored, too: ``threads`` lists it, as a thread without checkpoints.

        Raises:
            TypeError: A value cannot be serialized; the message says which, and where it is.
        """
        steps = self._put_writes(config, writes, task_id, task_path)
        self._sender.run(_storing(config), steps, "aput_writes")

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
        await self._sender.arun(_storing(config), steps)

    @override
    def delete_thread(self, thread_id: str) -> None:
        """Delete a thread, which leaves no key. Deleting one that is not there is fine.

        End its turn first: what a turn writes after this is stored anew, and listed by
        ``threads``. Give the saver a ``ttl``, and such a rest expires.
        """
        steps = self._delete([thread_id])
        self._sender.run(f"deleting the thread {thread_id!r}", steps, "adelete_thread")

    @override
    async def adelete_thread(self, thread_id: str) -> None:
        """``delete_thread``, without blocking the event loop."""
        await self._sender.arun(f"deleting the thread {thread_id!r}", self._delete([thread_id]))

    @override
    def delete_for_runs(self, run_ids: Sequence[str]) -> None:
        """Delete the checkpoints of some runs, in every thread under the prefix.

        Raises:
            MemorystoreChatError: All are off the lists, but some remain stored, as a
                ``DeltaChannel`` of later runs is computed from them; the message names one.
        """
        self._sender.run(
            "deleting the checkpoints of runs", self._delete_for_runs(run_ids), "adelete_for_runs"
        )

    @override
    async def adelete_for_runs(self, run_ids: Sequence[str]) -> None:
        """``delete_for_runs``, without blocking the event loop."""
        steps = self._delete_for_runs(run_ids)
        await self._sender.arun("deleting the checkpoints of runs", steps)

    @override
    def copy_thread(self, source_thread_id: str, target_thread_id: str) -> None:
        """Copy a whole thread under a new id, with this saver's time to live.

        Raises:
            MemorystoreChatError: There is a thread of that id already, or the source changed all
                the time.
        """
        steps = self._copy_thread(source_thread_id, target_thread_id)
        self._sender.run(f"copying the thread {source_thread_id!r}", steps, "acopy_thread")

    @override
    async def acopy_thread(self, source_thread_id: str, target_thread_id: str) -> None:
        """``copy_thread``, without blocking the event loop."""
        steps = self._copy_thread(source_thread_id, target_thread_id)
        await self._sender.arun(f"copying the thread {source_thread_id!r}", steps)

    @override
    def prune(self, thread_ids: Sequence[str], *, strategy: str = "keep_latest") -> None:
        """Delete old checkpoints.

        Args:
            thread_ids: The threads.
            strategy: ``"keep_latest"`` keeps the newest checkpoint of each namespace, and those
                that its ``DeltaChannel`` values are computed from; finished calls of sub-graphs
                go with the checkpoint they belong to. ``"delete"`` deletes all.
        """
        self._sender.run("pruning threads", self._prune(thread_ids, strategy), "aprune")

    @override
    async def aprune(self, thread_ids: Sequence[str], *, strategy: str = "keep_latest") -> None:
        """``prune``, without blocking the event loop."""
        await self._sender.arun("pruning threads", self._prune(thread_ids, strategy))

    @override
    def get_delta_channel_history(
        self, *, config: RunnableConfig, channels: Sequence[str]
    ) -> Mapping[str, DeltaChannelHistory]:
        """The writes that each ``DeltaChannel`` is computed from, and the value they start at."""
        steps = self._history(config, channels)
        return self._sender.run(_reading(config), steps, "aget_delta_channel_history")

    @override
    async def aget_delta_channel_history(
        self, *, config: RunnableConfig, channels: Sequence[str]
    ) -> Mapping[str, DeltaChannelHistory]:
        """``get_delta_channel_history``, without blocking the event loop."""
        return await self._sender.arun(_reading(config), self._history(config, channels))

    def threads(self, thread_ids: Sequence[str] | None = None) -> Sequence[ThreadInfo]:
        """Say what there is of some threads, or of all under the prefix, by their ids.

        A round trip for each thread. Those that are not there are left out.

        Example:
            >>> from memorystore_chat import connect
            >>> MemorystoreSaver(connect("embedded"), key_prefix="docs:").threads()
            []
        """
        return self._sender.run("looking at threads", self._about(thread_ids), "athreads")

    async def athreads(self, thread_ids: Sequence[str] | None = None) -> Sequence[ThreadInfo]:
        """``threads``, without blocking the event loop."""
        return await self._sender.arun("looking at threads", self._about(thread_ids))

    def expire(self, thread_id: str, ttl: int) -> bool:
        """Let a thread expire in so many seconds; False if there is none."""
        steps = self._expire(thread_id, ttl)
        return self._sender.run(f"expiring the thread {thread_id!r}", steps, "aexpire")

    async def aexpire(self, thread_id: str, ttl: int) -> bool:
        """``expire``, without blocking the event loop."""
        steps = self._expire(thread_id, ttl)
        return await self._sender.arun(f"expiring the thread {thread_id!r}", steps)

    def persist(self, thread_id: str) -> bool:
        """Remove a thread's time to live, until its next write; False if it had none."""
        steps = self._expire(thread_id, None)
        return self._sender.run(f"keeping the thread {thread_id!r}", steps, "apersist")

    async def apersist(self, thread_id: str) -> bool:
        """``persist``, without blocking the event loop."""
        steps = self._expire(thread_id, None)
        return await self._sender.arun(f"keeping the thread {thread_id!r}", steps)

    @override
    def get_next_version(self, current: str | None, channel: None) -> str:
        """A version above the current one, and unlike that of any other branch."""
        number = int(str(current).partition(".")[0]) if current is not None else 0
        # As many digits as those of LangGraph's own savers, so that threads can be taken over.
        return f"{number + 1:032}.{secrets.token_hex(4)}"


def _reading(config: RunnableConfig | None) -> str:
    thread_id = config.get("configurable", {}).get("thread_id") if config else None
    return f"reading the thread {thread_id!r}" if config else "reading all threads"


def _storing(config: RunnableConfig) -> str:
    thread_id = config.get("configurable", {}).get("thread_id")
    return f"storing a checkpoint of the thread {thread_id!r}"
