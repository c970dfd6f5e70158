"""LangGraph's persistence: a checkpointer for Memorystore. Needs the extra ``agents``."""

import json
import re
import secrets
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from functools import update_wrapper
from typing import Any, Concatenate, ParamSpec, Self, TypeVar

from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint import base
from langgraph.checkpoint.serde.base import SerializerProtocol
from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer
from typing_extensions import override

from memorystore_chat.arguments import check_count, check_ids, check_text, thread_id_of
from memorystore_chat.checkpoint.threads import Listing, Thread, ThreadInfo, next_found
from memorystore_chat.checkpoint.values import Packing, Remembered
from memorystore_chat.commands import AsyncClient, Client, Command, Scan, Sender, Steps
from memorystore_chat.connection import Endpoint, connect, connect_async
from memorystore_chat.errors import CorruptCheckpointError, MemorystoreChatError

NAMESPACE = "checkpoints:"
PAGE = 100  # checkpoints that are asked for at once

P = ParamSpec("P")
T = TypeVar("T")
Saver = TypeVar("Saver", bound="MemorystoreSaver")
Pack = Callable[[Packing], Sequence[Any]]


def twins(
    steps: Callable[Concatenate[Saver, P], Steps[T]], doing: str
) -> tuple[
    Callable[Concatenate[Saver, P], T], Callable[Concatenate[Saver, P], Coroutine[Any, Any, T]]
]:
    """Make a method and its asynchronous twin of steps; `doing` tells errors what they do."""
    name = steps.__name__.removeprefix("_")

    def said(subject: Any = None, *_: Any) -> str:
        if isinstance(subject, Mapping):
            subject = subject.get("configurable", {}).get("thread_id")
        return f"{doing} of the thread {subject!r}" if isinstance(subject, str) else doing

    def ask(self: Saver, /, *given: P.args, **options: P.kwargs) -> T:
        what = said(*given, *options.values())
        return self._sender.run(what, steps(self, *given, **options), f"a{name}")

    async def aask(self: Saver, /, *given: P.args, **options: P.kwargs) -> T:
        what = said(*given, *options.values())
        return await self._sender.arun(what, steps(self, *given, **options))

    update_wrapper(ask, steps).__name__ = name
    update_wrapper(aask, steps).__name__ = f"a{name}"
    return ask, aask


class MemorystoreSaver(base.BaseCheckpointSaver[str]):
    """Keeps the checkpoints of LangGraph graphs in Memorystore, on one server or a cluster.

    A thread is one Redis hash: all of it expires together, and deleting it is one command.
    ``put``, ``put_writes`` and ``get_tuple`` are one round trip and one atomic step each; sent
    again, as after a lost reply, they change nothing. What may concern thousands of checkpoints
    goes in pages, so that no call keeps the server from others for long.

    - **Each message is stored once**, whatever the number of checkpoints that show it, and a turn
      sends only what is new in it. That holds for the elements of a list, and of the lists in a
      dict; what is nested deeper is stored whole.
    - **Only known types are made of what is stored**: plain data, LangChain's messages and
      documents, and LangGraph's own types. Anything else is read as plain data, with a warning in
      the log. For a type of your own, use ``saver.with_allowlist([("my_module", "MyType")])``.
      Pickle is neither written nor read.
    - **The newest checkpoint** is the one with the highest ID, as with LangGraph's savers; but
      what follows the newest is newer, even if it comes from a machine whose clock is behind.
      A parent is one that was put before its child.
    - **Two turns at once** on a thread: every single write is whole, but LangGraph does not lock
      a thread. The turn that ends last becomes the newest; the other remains as a branch.
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
        super().__init__(serde=serde or JsonPlusSerializer(allowed_msgpack_modules=None))
        self._sender = Sender(client, async_client)
        self._prefix = f"{key_prefix}{NAMESPACE}".encode()
        self._ttl, self._keep = ttl or 0, keep or 0
        self._refresh = self._ttl if refresh_on_read else 0
        self._remembered = Remembered()

    @classmethod
    @contextmanager
    def from_conn_string(
        cls, endpoint: str | Endpoint | None = None, **options: Any
    ) -> Iterator[Self]:
        """Connect as `memorystore_chat.connect` does, with this class's options, for a while.

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
        """Do nothing: a server needs no preparation."""

    async def asetup(self) -> None:
        """Do nothing, as ``setup``."""

    def _get_tuple(self, config: RunnableConfig) -> Steps[base.CheckpointTuple | None]:
        """Read a checkpoint: the one the config names, or the newest of its thread."""
        thread, ns, checkpoint_id = self._place(config)
        rows = yield from thread.rows([(ns, checkpoint_id)], ttl=self._refresh)
        found = [row.tuple() for row in rows]
        self._remembered.note_read(thread, rows)
        return found[0] if found else None

    @override
    def list(
        self,
        config: RunnableConfig | None,
        *,
        filter: dict[str, Any] | None = None,
        before: RunnableConfig | None = None,
        limit: int | None = None,
    ) -> Iterator[base.CheckpointTuple]:
        """Read checkpoints, the newest of each namespace first, some at a time.

        Args:
            config: Names a thread, perhaps a namespace and checkpoint; None reads all threads.
            filter: Only those whose metadata has these values.
            before: Only those older than the checkpoint it names.
            limit: At most so many.
        """
        listing = self._listing(config, filter, before, limit)
        while found := self._sender.run("listing checkpoints", next_found(listing), "alist"):
            yield found

    @override
    async def alist(
        self,
        config: RunnableConfig | None,
        *,
        filter: dict[str, Any] | None = None,
        before: RunnableConfig | None = None,
        limit: int | None = None,
    ) -> AsyncIterator[base.CheckpointTuple]:
        """``list``, without blocking the event loop."""
        listing = self._listing(config, filter, before, limit)
        while found := await self._sender.arun("listing checkpoints", next_found(listing)):
            yield found

    def _listing(
        self, config: RunnableConfig | None, wanted: Any, before: Any, limit: int | None
    ) -> Listing:
        place = (config or {}).get("configurable", {})
        only, one = place.get("checkpoint_ns"), place.get("checkpoint_id")
        limit = limit and max(limit, 0)
        earlier = _named("checkpoint_id", (before and base.get_checkpoint_id(before)) or "")
        threads = [*(yield from self._all())] if config is None else [self._place(config)[0]]
        while threads and limit != 0:
            thread = threads.pop(0)  # what it has read goes with it
            spaces = yield from thread.spaces(earlier)
            names = [(ns, name) for ns in spaces if only in (None, ns) for name in spaces[ns]]
            names = [each for each in names if one in (None, "", each[1])]
            while names and limit != 0:
                size = PAGE if wanted or limit is None else min(limit, PAGE)
                rows = yield from thread.rows(names[:size])
                del names[:size]
                for name, value in (wanted or {}).items():
                    rows = [row for row in rows if row.load(row.metadata).get(name) == value]
                rows = yield from thread.whole(rows[:limit])
                yield from rows
                limit = limit and limit - len(rows)

    def _put(
        self,
        config: RunnableConfig,
        checkpoint: base.Checkpoint,
        metadata: base.CheckpointMetadata,
        new_versions: base.ChannelVersions,
    ) -> Steps[RunnableConfig]:
        """Store a checkpoint after the one that the config names.

        Put again, it keeps its place and its parent.

        Raises:
            TypeError: A value cannot be serialized; the message says of which channel.
        """
        thread, ns, parent_id = self._place(config)
        body: Any = {**checkpoint}
        given_id, values, versions = map(body.pop, ("id", "channel_values", "channel_versions"))
        checkpoint_id = _named("checkpoint['id']", given_id)
        if checkpoint_id == parent_id:
            raise ValueError(f"The checkpoint {parent_id!r} names itself as its parent.")
        known: Any = dict(base.get_checkpoint_metadata(config, metadata))
        root = known.get("parents", {}).get("", "") if ":" in ns else ""
        deltas = known.get("counters_since_delta_snapshot") or ()

        def pack(packing: Packing) -> Sequence[Any]:
            channels = []
            for channel, version in versions.items():
                mark = "=" if channel in values else "d" if channel in deltas else "?"
                is_sent = mark == "=" and (channel in new_versions or not packing.remembered)
                packed = packing.pack(values[channel]) if is_sent else ("", mark)
                channels.append((*packed, channel, json.dumps(version)))
            what = (self._ttl, self._keep, ns, checkpoint_id, parent_id, root)
            return (*what, packing.typed(known), packing.typed(body), channels)

        places = [*values.items(), ("the checkpoint's metadata", known), ("the checkpoint", body)]
        yield from self._store(thread, "put", pack, places)
        return thread.config(ns, checkpoint_id)

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
        thread, ns, checkpoint_id = self._place(config)
        if not checkpoint_id:
            raise ValueError("config names no checkpoint_id, beside which to store the writes.")

        def pack(packing: Packing) -> Sequence[Any]:
            packed = []
            for at, (channel, value) in enumerate(writes):
                place = base.WRITES_IDX_MAP.get(channel, at)
                packed.append((*packing.pack(value), channel, task_id, task_path, place))
            return (self._ttl, ns, checkpoint_id, packed)

        yield from self._store(thread, "put_writes", pack, writes)

    def _store(
        self, thread: Thread, name: str, pack: Pack, places: Sequence[tuple[str, Any]]
    ) -> Steps[None]:
        """Send the packed places; in full if the server lacks what it was thought to have."""
        for remembered in (self._remembered, Remembered()):
            packing = Packing(thread, remembered)
            try:
                given = pack(packing)
            except (TypeError, ValueError) as error:
                refused = next(filter(None, (packing.refused(*place) for place in places)), "it")
                raise TypeError(
                    f"The thread {thread.id!r} cannot be stored: {refused}, which the serializer "
                    f"refuses ({error}). Make it plain data before it gets into the state (numpy's "
                    "numbers with .item()), or give MemorystoreSaver a serde= that takes it."
                ) from error
            (status,) = yield from thread.ask(name, *given, sent=packing.sent)
            if status == b"OK":
                self._remembered.note(thread.key, packing.known.items())
                return
        raise CorruptCheckpointError(thread.id, "", "", "a part that it needs is missing")

    def _delete_thread(self, thread_id: str) -> Steps[None]:
        """Delete a thread, which leaves no key. Deleting one that is not there is fine.

        End its turn first: what a turn writes after this is stored anew, and listed by
        ``threads``. Give the saver a ``ttl``, and such a rest expires.
        """
        yield from self._thread(thread_id).ask("delete")

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
        for thread in (yield from self._all(thread_ids)):
            if strategy == "delete":
                yield from self._delete_thread(thread.id)
            else:
                for ns, names in (yield from thread.spaces()).items():
                    yield from thread.drop(ns, names, names[1:])
                yield from thread.drop("", [], [])  # also where there are late writes alone

    def _delete_for_runs(self, run_ids: Sequence[str]) -> Steps[None]:
        """Delete the checkpoints of some runs, in every thread under the prefix.

        One from which a ``DeltaChannel`` of a later run is computed is listed no more, but stays
        stored until that run is deleted, too.
        """
        runs = {*check_ids("run_ids", run_ids)}
        for thread in (yield from self._all()) if runs else ():
            for ns, names in (yield from thread.spaces()).items():
                chosen = []
                for at in range(0, len(names), PAGE):
                    page = [(ns, name) for name in names[at : at + PAGE]]
                    for row in (yield from thread.rows(page)):
                        chosen += [row.id] if row.load(row.metadata).get("run_id") in runs else []
                yield from thread.drop(ns, names, chosen)

    def _copy_thread(self, source_thread_id: str, target_thread_id: str) -> Steps[None]:
        """Copy a whole thread under a new id, with this saver's time to live.

        One command reads it and one writes it, so that it is copied as it is at one moment. A
        thread of many MB keeps the server from others for as long as that takes. Let nothing
        else begin the new thread meanwhile: it would be overwritten.

        Raises:
            MemorystoreChatError: There is a thread of that id already.
        """
        source, target = self._thread(source_thread_id).key, self._thread(target_thread_id).key
        (is_there,) = yield [Command("EXISTS", (target,), kind=int)]
        (payload,) = yield [Command("DUMP", (source,), kind=object)]
        if payload and is_there:
            raise MemorystoreChatError(
                f"There is a thread {target_thread_id!r} already, so it was not copied to. "
                "Choose an id that no thread has."
            )
        if payload:  # as it may be sent again
            yield [Command("RESTORE", (target,), (1000 * self._ttl, payload, "REPLACE"))]

    def _threads(self, thread_ids: Sequence[str] | None = None) -> Steps[Sequence[ThreadInfo]]:
        """Say what there is of some threads, or of all under the prefix, by their ids.

        A round trip for each thread. Those that are not there are left out.
        """
        found = []
        for thread in (yield from self._all(thread_ids)):
            found += yield from thread.about()
        return found

    def _expire(self, thread_id: str, ttl: int) -> Steps[bool]:
        """Let a thread expire in so many seconds; False if there is none."""
        check_count("ttl", ttl, "seconds")
        (done,) = yield [Command("EXPIRE", (self._thread(thread_id).key,), (ttl,), kind=int)]
        return bool(done)

    def _persist(self, thread_id: str) -> Steps[bool]:
        """Remove a thread's time to live, until its next write; False if it had none."""
        (done,) = yield [Command("PERSIST", (self._thread(thread_id).key,), kind=int)]
        return bool(done)

    get_tuple, aget_tuple = twins(_get_tuple, "reading a checkpoint")
    put, aput = twins(_put, "storing a checkpoint")
    put_writes, aput_writes = twins(_put_writes, "storing writes")
    delete_thread, adelete_thread = twins(_delete_thread, "deleting all")
    delete_for_runs, adelete_for_runs = twins(_delete_for_runs, "deleting runs")
    copy_thread, acopy_thread = twins(_copy_thread, "making a copy")
    prune, aprune = twins(_prune, "pruning threads")
    threads, athreads = twins(_threads, "looking at threads")
    expire, aexpire = twins(_expire, "setting the expiry")
    persist, apersist = twins(_persist, "removing the expiry")

    @override
    def get_next_version(self, current: str | None, channel: None) -> str:
        """A version above the current one, and unlike that of any other branch."""
        number, _, _ = str(current or 0).partition(".")
        # As many digits as the current one has, which may be another saver's.
        return f"{int(number) + 1:0{max(len(number), 8)}}.{secrets.token_urlsafe(4)}"

    def _all(self, thread_ids: Sequence[str] | None = None) -> Steps[Sequence[Thread]]:
        """Threads by their ids, or all under the prefix."""
        if thread_ids is None:
            pattern = re.sub(rb"([*?\[\]\\])", rb"\\\1", self._prefix) + b"?*"
            start, keys = len(self._prefix), {*(yield Scan(pattern))}
            thread_ids = sorted(key[start:].decode(errors="replace") for key in keys)
        return [self._thread(each) for each in check_ids("thread_ids", thread_ids)]

    def _thread(self, thread_id: str) -> Thread:
        check_text("thread_id", thread_id)
        if not thread_id:
            raise ValueError("thread_id is empty; it takes text that names one thread.")
        return Thread(thread_id, self._prefix + thread_id.encode(), self.serde)

    def _place(self, config: RunnableConfig) -> tuple[Thread, str, str]:
        """The thread, namespace and checkpoint that a config names."""
        ns = config.get("configurable", {}).get("checkpoint_ns") or ""
        thread = self._thread(thread_id_of(config, type(self).__name__))
        checkpoint_id = base.get_checkpoint_id(config) or ""
        return thread, _named("checkpoint_ns", ns), _named("checkpoint_id", checkpoint_id)


def _named(name: str, value: str) -> str:
    """A part of a field's name, checked."""
    check_text(name, value)
    if "\0" in value:
        raise ValueError(f"{name} is {value!r}; it takes text without a NUL.")
    return value
