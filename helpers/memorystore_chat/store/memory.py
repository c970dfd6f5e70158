"""MemorystoreStore, LangGraph's long-term memory on Memorystore."""

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from langgraph.store.base import (
    BaseStore,
    GetOp,
    IndexConfig,
    InvalidNamespaceError,
    ListNamespacesOp,
    Op,
    PutOp,
    Result,
    SearchOp,
    TTLConfig,
    ensure_embeddings,
)
from redis.asyncio.cluster import RedisCluster as AsyncRedisCluster
from redis.cluster import RedisCluster
from typing_extensions import override

from memorystore_chat.arguments import check_seconds, check_text, type_name
from memorystore_chat.commands import AsyncClient, Client, Sender, Steps
from memorystore_chat.store.steps import Namespace, StoreSteps, together
from memorystore_chat.store.values import Vectors, check_filter, to_json


class MemorystoreStore(BaseStore):
    """Keeps what agents know across conversations in Memorystore, on one server or a cluster.

    A namespace is one Redis hash with a field for each item, and beside it is an index of the
    namespaces below each prefix. ``get``, ``put``, ``delete`` and the ``search`` of a namespace
    with nothing below it are one round trip, and so is a batch of them, to each node of a cluster.
    A search of a prefix takes three. On a cluster the first ``put`` into a namespace takes three
    as well: its index is written before it, so that no search can miss an item.

    - **A put is whole**: of two writers of a key, the last one wins. One that is sent again because
      its reply was lost changes nothing. A batch is not one transaction; as in LangGraph's stores,
      what it reads is what was stored before its writes.
    - **Values are JSON**, and read back equal: a dict of text, finite numbers, booleans, None,
      lists and dicts. Anything else is refused before anything is written. Reading makes no
      objects.
    - **Order**: a search without a query finds the oldest item of a namespace first, and
      namespaces by name. No item is fetched that the limit doesn't need, unless a filter has to
      see it; but a search of a prefix reads the names of all namespaces below it.
    - **Time to live** is in minutes. An item that has expired is never returned, and the next
      write to its namespace removes it. A namespace where all items expire goes by itself. The
      name of one that was emptied stays in the index until a search meets it an hour later.
    - **Search by meaning** (``index``) compares vectors in this process: all those under the prefix
      are fetched, 4 bytes a number. That is right for the memories of a user, some thousands.
      Beyond that use a vector index, such as Memorystore for Valkey's own.

    Args:
        client: A connected ``redis.Redis`` or ``redis.cluster.RedisCluster``, with or without
            ``decode_responses=True``, or one of ``redis.asyncio``: then only the methods that
            begin with ``a`` can be used. Whoever opened it closes it.
        ttl: LangGraph's ``TTLConfig``, such as ``{"default_ttl": 60, "refresh_on_read": False}``:
            the minutes that an item lives unless its ``put`` says otherwise, and whether reading
            begins them anew, as it does by default.
        key_prefix: What the Redis keys begin with; ``store:`` follows.
        async_client: A ``redis.asyncio`` client beside a synchronous one, for the methods that
            begin with ``a``. Without it they run in a thread.
        index: LangGraph's ``IndexConfig``, such as ``{"dims": 768, "embed": embeddings, "fields":
            ["text"]}``. Needs numpy.

    Raises:
        TypeError: An argument is of the wrong type; the message says what is accepted.
        ValueError: An argument is not acceptable; the message says what is.

    Example:
        >>> from memorystore_chat import connect
        >>> store = MemorystoreStore(connect("embedded"), key_prefix="docs:")
        >>> store.put(("guests", "ada"), "drink", {"text": "Drinks green tea."})
        >>> store.get(("guests", "ada"), "drink").value
        {'text': 'Drinks green tea.'}
        >>> [item.key for item in store.search(("guests",))]
        ['drink']
        >>> store.delete(("guests", "ada"), "drink")
    """

    supports_ttl = True

    def __init__(
        self,
        client: Client | AsyncClient,
        *,
        ttl: TTLConfig | None = None,
        key_prefix: str = "",
        async_client: AsyncClient | None = None,
        index: IndexConfig | None = None,
    ) -> None:
        check_text("key_prefix", key_prefix)
        for name, given in (("ttl", ttl), ("index", index)):
            if given is not None and not isinstance(given, Mapping):
                raise TypeError(f"{name} is a {type_name(given)}; it takes a dict, or None.")
        _check_minutes((ttl or {}).get("default_ttl"))
        self.ttl_config = ttl
        self.index_config = index
        self.embeddings = ensure_embeddings(index.get("embed")) if index else None
        self._vectors = Vectors(index.get("dims"), index.get("fields") or ["$"]) if index else None
        self._sender = Sender(client, async_client)
        self._prefix = key_prefix
        one_server = not isinstance(client, RedisCluster | AsyncRedisCluster)
        self._steps = StoreSteps(key_prefix, self._vectors, one_server=one_server)

    def __repr__(self) -> str:
        return f"{type(self).__name__}(key_prefix={self._prefix!r}, ttl={self.ttl_config})"

    @override
    def batch(self, ops: Iterable[Op]) -> list[Result]:
        """Do several operations at once: first those that read, then those that write.

        Raises:
            TypeError: An operation is not acceptable; nothing was done. Likewise a ValueError.
            MemorystoreChatError: The server cannot be reached, or refused.
        """
        asked = _Asked(ops, self._vectors)
        if self.embeddings and self._sender.client is not None:
            embedded = self.embeddings.embed_documents(asked.texts) if asked.texts else []
            asked.add(embedded, [self.embeddings.embed_query(text) for text in asked.queries])
        return self._sender.run("using the store", self._batch(asked), "abatch")

    @override
    async def abatch(self, ops: Iterable[Op]) -> list[Result]:
        """``batch``, without blocking the event loop."""
        asked = _Asked(ops, self._vectors)
        if self.embeddings:
            embedded = await self.embeddings.aembed_documents(asked.texts) if asked.texts else []
            queries = (self.embeddings.aembed_query(text) for text in asked.queries)
            asked.add(embedded, await asyncio.gather(*queries))
        return await self._sender.arun("using the store", self._batch(asked))

    def _batch(self, asked: "_Asked") -> Steps[list[Result]]:
        reads: dict[int, Steps[Any]] = {}
        for place, op in asked.reads.items():
            if isinstance(op, GetOp):
                reads[place] = self._steps.get(op)
            elif isinstance(op, SearchOp):
                reads[place] = self._steps.search(op, asked.queries.get(op.query or ""))
            else:
                reads[place] = self._steps.namespaces(op)
        writes = [self._steps.write(*each) for each in asked.writes.values()]
        if all(isinstance(op, GetOp) for op in asked.reads.values()):
            found = yield from together([*reads.values(), *writes])  # in this order on each node
        else:
            found = yield from together([*reads.values()])
            yield from together(writes)
        results = dict(zip(reads, found, strict=False))
        return [results.get(place) for place in range(asked.count)]


class _Asked:
    """The operations of a batch, checked; of several writes to an item, the last."""

    def __init__(self, ops: Iterable[Op], vectors: Vectors | None) -> None:
        self.reads: dict[int, GetOp | SearchOp | ListNamespacesOp] = {}
        self.writes: dict[tuple[Namespace, str], tuple[PutOp, bytes, bytes]] = {}
        self.texts: list[str] = []
        self.queries: dict[str, Any] = {}
        self.count = 0
        self._vectors = vectors
        for op in map(_checked, ops):
            if isinstance(op, PutOp):
                json = b"" if op.value is None else to_json(op.value)
                self.writes[op.namespace, op.key] = (op, json, b"")
            else:
                self.reads[self.count] = op
                if isinstance(op, SearchOp) and op.query and vectors:
                    self.queries[op.query] = None
            self.count += 1
        if vectors:
            texts = [text for op, *_ in self.writes.values() for text in vectors.texts(op)]
            self.texts = list(dict.fromkeys(texts))

    def add(self, embedded: Sequence[Sequence[float]], queries: Sequence[Sequence[float]]) -> None:
        """Add the vectors of the texts, and those of the queries."""
        if self._vectors is None or len(embedded) != len(self.texts):
            raise ValueError(f"index['embed'] made {len(embedded)} vectors, not {len(self.texts)}.")
        self.queries = dict(zip(self.queries, queries, strict=True))
        found = dict(zip(self.texts, embedded, strict=True))
        for name, (op, json, _) in self.writes.items():
            packed = self._vectors.pack([found[text] for text in self._vectors.texts(op)])
            self.writes[name] = (op, json, packed)


def _checked(op: Any) -> Any:
    if isinstance(op, ListNamespacesOp):
        conditions = [one._replace(path=_parts(one.path)) for one in op.match_conditions or ()]
        op = op._replace(match_conditions=tuple(conditions))
    elif isinstance(op, SearchOp):
        check_filter(op.filter)
        op = op._replace(namespace_prefix=_parts(op.namespace_prefix))
    elif isinstance(op, GetOp | PutOp):
        check_text("key", op.key)
        op = op._replace(namespace=_parts(op.namespace))
    else:
        raise TypeError(f"An operation is a {type_name(op)}; a store takes LangGraph's.")
    if isinstance(op, PutOp):
        if not op.namespace:
            raise InvalidNamespaceError("The namespace is empty; a put takes at least one part.")
        _check_minutes(op.ttl)
    elif not isinstance(op, GetOp):
        for name, value in (("limit", op.limit), ("offset", op.offset)):
            if type(value) is not int or value < 0:
                raise ValueError(f"{name} is {value!r}; it takes a whole number from 0 up (int).")
    return op


def _parts(namespace: Any) -> Namespace:
    if isinstance(namespace, str) or not isinstance(namespace, Sequence):
        raise TypeError(f"A namespace is a {type_name(namespace)}; it takes a tuple of texts.")
    for part in namespace:
        if not isinstance(part, str) or not part or "." in part or "\0" in part:
            raise InvalidNamespaceError(
                f"The namespace {namespace!r} has the part {part!r}; a part is text, not empty, "
                "without periods and zero bytes."
            )
        check_text("A part of a namespace", part)
    return tuple(namespace)


def _check_minutes(ttl: object) -> None:
    if ttl is not None:
        check_seconds("ttl (in minutes)", ttl)
