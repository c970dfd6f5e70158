"""LangGraph's persistence: a checkpointer for Memorystore. Needs the extra ``agents``."""

import secrets
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any, Self

from langchain_core.runnables import RunnableConfig
from typing_extensions import override

from memorystore_chat.arguments import check_count, check_text
from memorystore_chat.commands import AsyncClient, Client, Sender
from memorystore_chat.connection import Endpoint, connect, connect_async
from memorystore_chat.extras import require

require("langgraph.checkpoint", extra="agents")

from langgraph.checkpoint.base import CheckpointTuple  # noqa: E402
from langgraph.checkpoint.serde.base import SerializerProtocol  # noqa: E402
from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer  # noqa: E402

from memorystore_chat.checkpoint.steps import NAMESPACE, CheckpointSteps, twins  # noqa: E402
from memorystore_chat.checkpoint.values import Remembered, Unpacking  # noqa: E402

LISTING = "listing checkpoints"


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
      A parent is one that was put before its child.
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
            computed from stays as well, off the lists. None keeps all.
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
        known = JsonPlusSerializer(allowed_msgpack_modules=allowed_msgpack_modules)
        super().__init__(serde=serde or known)
        self._sender = Sender(client, async_client)
        self._prefix = f"{key_prefix}{NAMESPACE}".encode()
        self._ttl, self._keep = ttl or 0, keep or 0
        self._refresh = self._ttl if refresh_on_read else 0
        self._remembered = Remembered()

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

    get_tuple, aget_tuple = twins(CheckpointSteps._get_tuple, "reading a checkpoint")
    put, aput = twins(CheckpointSteps._put, "storing a checkpoint")
    put_writes, aput_writes = twins(CheckpointSteps._put_writes, "storing writes")
    delete_thread, adelete_thread = twins(CheckpointSteps._delete_thread, "deleting all")
    delete_for_runs, adelete_for_runs = twins(CheckpointSteps._delete_for_runs, "deleting runs")
    copy_thread, acopy_thread = twins(CheckpointSteps._copy_thread, "making a copy")
    prune, aprune = twins(CheckpointSteps._prune, "pruning threads")
    threads, athreads = twins(CheckpointSteps._threads, "looking at threads")
    expire, aexpire = twins(CheckpointSteps._expire, "setting the expiry")
    persist, apersist = twins(CheckpointSteps._persist, "removing the expiry")

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
        names = self._sender.run(LISTING, self._listing(config, before), "alist")
        unpacking = Unpacking(self.serde)
        while names and limit != 0:
            steps = self._page(names, filter, limit, unpacking)
            page = self._sender.run(LISTING, steps, "alist")
            limit = None if limit is None else limit - len(page)
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
        names = await self._sender.arun(LISTING, self._listing(config, before))
        unpacking = Unpacking(self.serde)
        while names and limit != 0:
            page = await self._sender.arun(LISTING, self._page(names, filter, limit, unpacking))
            limit = None if limit is None else limit - len(page)
            for found in page:
                yield found

    @override
    def get_next_version(self, current: str | None, channel: None) -> str:
        """A version above the current one, and unlike that of any other branch."""
        number, _, _ = str(current or 0).partition(".")
        # As many digits as the current one has, which may be another saver's.
        return f"{int(number) + 1:0{max(len(number), 8)}}.{secrets.token_urlsafe(4)}"
