"""MemorystoreStore, LangGraph's long-term memory on Memorystore."""

from collections.abc import Iterable, Mapping
from typing import Any

from langgraph.store import base
from redis.asyncio.cluster import RedisCluster as AsyncRedisCluster
from redis.cluster import RedisCluster
from typing_extensions import override

from memorystore_chat.arguments import check_seconds, check_text, type_name
from memorystore_chat.commands import AsyncClient, Client, Sender, Steps
from memorystore_chat.store.steps import StoreSteps, Vectors, check_json, together


class MemorystoreStore(base.BaseStore):
    """Keeps what agents know across conversations in Memorystore, on one server or a cluster.

    A namespace is one Redis sorted set, its items by age; beside it is an index of the namespaces
    below each prefix. ``get``, ``put``, ``delete``, the ``search`` of a namespace with nothing
    below it, and a batch of these are one round trip (to each node of a cluster). A search of a
    prefix, and on a cluster the first ``put`` into a namespace, take three.

    - **A put is whole**: of two writers of a key, the last one wins. A batch is no transaction:
      what it reads is what was stored before its writes.
    - **Values are JSON**, and read back equal. Anything else is refused, and nothing written.
    - **Order**: without a query, the oldest item of a namespace is first; namespaces go by name.
      Only items within the limit are fetched, unless a filter or a query has to see them; but a
      search of a prefix reads the names of all namespaces below it.
    - **Time to live** is in minutes. An expired item is never returned, and removed by the next
      write. The name of an empty namespace goes when its last item is deleted; if that expired, or
      on a cluster came within the last minutes, when a search meets it later.
    - **Search by meaning** (``index``) compares vectors in this process: all those under the prefix
      are fetched, 4 bytes a number. That is right for the memories of a user, some thousands.
      Beyond that use a vector index, such as Memorystore for Valkey's own.

    Args:
        client: A connected ``redis.Redis`` or ``redis.cluster.RedisCluster``, or one of
            ``redis.asyncio``: then only the methods that begin with ``a`` can be used.
        ttl: LangGraph's ``TTLConfig``, such as ``{"default_ttl": 60, "refresh_on_read": False}``:
            the minutes that an item lives unless its ``put`` says otherwise, and whether reading
            begins them anew, as it does by default.
        key_prefix: What the Redis keys begin with; ``store:`` follows.
        async_client: A ``redis.asyncio`` client beside a synchronous one, for the methods that
            begin with ``a``. Without it they run in a thread.
        index: LangGraph's ``IndexConfig``, such as ``{"dims": 768, "embed": embeddings, "fields":
            ["text"]}``. Needs numpy.

    Raises:
        TypeError: An argument is of the wrong type; a ValueError if its value is not acceptable.

    Example:
        >>> from memorystore_chat import connect
        >>> store = MemorystoreStore(connect("embedded"), key_prefix="docs:")
        >>> store.put(("guests", "ada"), "drink", {"text": "Drinks green tea."})
        >>> [item.value for item in store.search(("guests",))]
        [{'text': 'Drinks green tea.'}]
    """

    supports_ttl = True

    def __init__(
        self,
        client: Client | AsyncClient,
        *,
        ttl: base.TTLConfig | None = None,
        key_prefix: str = "",
        async_client: AsyncClient | None = None,
        index: base.IndexConfig | None = None,
    ) -> None:
        check_text("key_prefix", key_prefix)
        for name, given in (("ttl", ttl), ("index", index)):
            if given is not None and not isinstance(given, Mapping):
                raise TypeError(f"{name} is a {type_name(given)}; it takes a dict, or None.")
        minutes = (ttl or {}).get("default_ttl")
        check_seconds("ttl (in minutes)", 1 if minutes is None else minutes)
        self.ttl_config = ttl
        self.embeddings = base.ensure_embeddings(index.get("embed")) if index else None
        self._vectors = Vectors(index.get("dims"), index.get("fields") or ["$"]) if index else None
        self._sender = Sender(client, async_client)
        one_server = not isinstance(client, RedisCluster | AsyncRedisCluster)
        self._steps = StoreSteps(key_prefix, self._vectors, one_server=one_server)

    @override
    def batch(self, ops: Iterable[base.Op]) -> list[base.Result]:
        """Do several operations at once, none if one is unacceptable: those that read first."""
        asked, texts, queries = self._ask(ops)
        model: Any = self.embeddings
        vectors = dict(zip(texts, model.embed_documents(texts) if texts else (), strict=True))
        wanted = {query: model.embed_query(query) for query in queries}
        return self._sender.run("using the store", self._batch(asked, vectors, wanted), "abatch")

    @override
    async def abatch(self, ops: Iterable[base.Op]) -> list[base.Result]:
        """``batch``, without blocking the event loop."""
        asked, texts, queries = self._ask(ops)
        model: Any = self.embeddings
        found = await model.aembed_documents(texts) if texts else ()
        vectors = dict(zip(texts, found, strict=True))
        wanted = {query: await model.aembed_query(query) for query in queries}
        return await self._sender.arun("using the store", self._batch(asked, vectors, wanted))

    def _ask(self, ops: Iterable[base.Op]) -> tuple[list[Any], list[str], set[str]]:
        """Check operations; beside them, the texts and the queries to embed."""
        asked = [_checked(op) for op in ops]
        if not self._vectors:
            return asked, [], set()
        puts = (op for op in asked if isinstance(op, base.PutOp))
        texts = dict.fromkeys(text for op in puts for text in self._vectors.texts(op))
        return asked, [*texts], {op.query for op in asked if getattr(op, "query", None)}

    def _batch(self, asked: list[Any], vectors: Any, wanted: Any) -> Steps[list[base.Result]]:
        writes: dict[Any, Steps[None]] = {}  # of several to an item, the last
        reads: dict[Any, Steps[Any]] = {}
        for place, op in enumerate(asked):
            if isinstance(op, base.PutOp):
                packed = self._vectors.pack(op, vectors) if self._vectors else b""
                writes[op.namespace, op.key] = self._steps.write(op, packed)
            else:
                reads[place] = self._steps.read(op, wanted)
        one_trip = all(isinstance(asked[place], base.GetOp) for place in reads)
        found = yield from together(reads | writes if one_trip else reads)
        yield from together({} if one_trip else writes)
        return [found.get(place) for place in range(len(asked))]


def _checked(op: Any) -> Any:
    if isinstance(op, base.GetOp | base.PutOp):
        check_text("key", op.key)
    if isinstance(op, base.PutOp) and op.value is not None:
        check_seconds("ttl (in minutes)", 1 if op.ttl is None else op.ttl)
        if not isinstance(op.value, dict):
            raise TypeError(f"value is a {type_name(op.value)}; it takes a dict, or None.")
        check_json(op.value)
    if isinstance(op, base.ListNamespacesOp):
        if any(isinstance(condition.path, str) for condition in op.match_conditions or ()):
            raise TypeError("A prefix or suffix is a str; it takes a tuple of texts.")
        return op
    namespace = op[0]
    if not isinstance(namespace, tuple):
        raise TypeError(f"A namespace is a {type_name(namespace)}; it takes a tuple of texts.")
    for part in namespace:
        check_text("A part of a namespace", part)
    if "" in namespace or (isinstance(op, base.PutOp) and not namespace):
        raise base.InvalidNamespaceError(f"The namespace {namespace!r} is empty, or a part of it.")
    return op
