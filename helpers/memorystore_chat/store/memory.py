"""MemorystoreStore, LangGraph's long-term memory on Memorystore."""

import json
import zlib
from collections.abc import Iterable, Mapping, Sequence
from itertools import chain, takewhile
from typing import Any
from urllib.parse import quote, unquote

from langgraph.store import base
from redis.asyncio.cluster import RedisCluster as AsyncRedisCluster
from redis.cluster import RedisCluster
from typing_extensions import override

from memorystore_chat.arguments import check_seconds, check_text, type_name
from memorystore_chat.commands import AsyncClient, Client, Command, Sender, Steps, script
from memorystore_chat.store.items import (
    Namespace,
    Record,
    Vectors,
    checked,
    fits,
    matches,
    together,
)

TOGETHER = 64  # namespaces that are asked in one round trip
SHARDS = 8  # of the index of each prefix
PAGE = 1000  # names that are read of a shard in one round trip
_ALL = 10**9


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
        check_seconds("ttl (in minutes)", 1 if minutes is None else minutes, most=10**9)
        self.ttl_config = ttl
        self.embeddings: Any = base.ensure_embeddings(index.get("embed")) if index else None
        self._vectors = Vectors(index.get("dims"), index.get("fields") or ["$"]) if index else None
        self._prefix, self._sender = key_prefix, Sender(client, async_client)
        # A server takes commands with keys of several hash slots, and a cluster doesn't.
        self._one_server = not isinstance(client, RedisCluster | AsyncRedisCluster)

    @override
    def batch(self, ops: Iterable[base.Op]) -> list[base.Result]:
        """Do several operations at once, none if one is unacceptable: those that read first."""
        asked, texts, queries = self._ask(ops)
        vectors = self.embeddings.embed_documents(texts) if texts else ()
        wanted = {query: self.embeddings.embed_query(query) for query in queries}
        steps = self._batch(asked, dict(zip(texts, vectors, strict=True)), wanted)
        return self._sender.run("using the store", steps, "abatch")

    @override
    async def abatch(self, ops: Iterable[base.Op]) -> list[base.Result]:
        """``batch``, without blocking the event loop."""
        asked, texts, queries = self._ask(ops)
        vectors = await self.embeddings.aembed_documents(texts) if texts else ()
        wanted = {query: await self.embeddings.aembed_query(query) for query in queries}
        steps = self._batch(asked, dict(zip(texts, vectors, strict=True)), wanted)
        return await self._sender.arun("using the store", steps)

    def _ask(self, ops: Iterable[base.Op]) -> tuple[list[Any], list[str], set[str]]:
        """Check operations; beside them, the texts and the queries to embed."""
        asked = [checked(op) for op in ops]
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
                writes[op.namespace, op.key] = self._write(op, packed)
            elif isinstance(op, base.GetOp):
                reads[place] = self._get(op)
            elif isinstance(op, base.SearchOp):
                reads[place] = self._search(op, wanted.get(op.query))
            else:
                reads[place] = self._namespaces(op)
        one_trip = all(isinstance(asked[place], base.GetOp) for place in reads)
        found = yield from together(reads | writes if one_trip else reads)
        yield from together({} if one_trip else writes)
        return [found.get(place) for place in range(len(asked))]

    def _get(self, op: base.GetOp) -> Steps[base.Item | None]:
        found = yield from self._read(Record(op.namespace, op.key.encode()), op.refresh_ttl)
        return found.item(base.Item) if found.json else None

    def _write(self, op: base.PutOp, vectors: bytes) -> Steps[None]:
        """Remove an item, or store it after noting its namespace in the index of those above."""
        path, shards, noted = _path(op.namespace), self._shards(op.namespace), 0
        keys = [self._key(op.namespace), *(shards if self._one_server else ())]
        if op.value is None:
            if (yield [_call("delete", keys, op.key, path)]) == [b"EMPTY"]:
                yield [_call("forget", [shard], path) for shard in shards]
            return
        ttl = 0 if op.ttl is None else max(1, round(op.ttl * 60_000))
        value = json.dumps(op.value, ensure_ascii=False, separators=(",", ":"))
        while (yield [_call("put", keys, op.key, path, ttl, value, vectors, noted)]) == [b"NEW"]:
            noted = min((yield [_call("note", [shard], path, kind=int) for shard in shards]))

    def _search(self, op: base.SearchOp, query: Any) -> Steps[list[base.SearchItem]]:
        prefix, wanted = op.namespace_prefix, op.filter or {}
        what = "j" * bool(wanted) + "v" * (query is not None)  # that it is chosen by
        most = op.offset + op.limit if query is None else _ALL
        here = what or "j" + "r" * op.refresh_ttl  # one exact namespace is one round trip
        first = self._page(prefix, most, here, wanted, 0 if what else op.offset)
        found, names = (yield from together({0: first, 1: self._below(prefix)})).values()
        while names and len(found) < most:
            left = most - len(found)
            group = names[: TOGETHER if what else min(TOGETHER, left)]
            names = names[len(group) :]
            pages = {name: self._page(name, left, what, wanted) for name in group}
            found += chain.from_iterable((yield from together(pages)).values())
        if query is not None and self._vectors:
            found = self._vectors.ranked(query, found)
        best = found[op.offset :][: op.limit]
        read = yield from together({one: self._read(one, op.refresh_ttl) for one in best})
        return [one.item(base.SearchItem, score=one.score) for one in read.values() if one.json]

    def _namespaces(self, op: base.ListNamespacesOp) -> Steps[list[Namespace]]:
        conditions, most = op.match_conditions or (), op.offset + op.limit
        starts = (one.path for one in conditions if one.match_type == "prefix")
        prefix = max((tuple(takewhile("*".__ne__, path)) for path in starts), key=len, default=())
        below = yield from self._below(prefix)
        names = [name for name in (prefix, *below) if all(fits(name, one) for one in conditions)]
        found: dict[Namespace, None] = {}
        while names and len(found) < most:
            group = names[: min(TOGETHER, most - len(found))]
            pages = yield from together({name: self._page(name, 1) for name in group})
            found |= dict.fromkeys(name[: op.max_depth] for name in group if pages[name])
            names = [name for name in names[len(group) :] if name[: op.max_depth] not in found]
        return list(found)[op.offset :][: op.limit]

    def _page(
        self, name: Namespace, most: int, what: str = "", wanted: Any = None, skip: int = -1
    ) -> Steps[list[Record]]:
        """Read live items that are wanted, the oldest first.

        A name from the index, of which none is skipped (-1), is forgotten if there are none.
        """
        after, there, found = b"1e13", skip >= 0, list[Record]()
        while after and len(found) < most:
            left = _ALL if wanted else most - len(found)
            page = ("page", [self._key(name)], after, skip - len(found), left, what)
            [(after, parts)] = yield [_call(*page, kind=list)]
            new = [Record(name, *each) for each in parts]
            found += [one for one in new if not wanted or matches(json.loads(one.json), wanted)]
            there = there or bool(new)
        if not there:
            yield [_call("forget", [shard], _path(name)) for shard in self._shards(name)]
        return found

    def _read(self, record: Record, refresh: bool) -> Steps[Record]:
        """Read what lacks its JSON, or is to be renewed; an item that went meanwhile has none."""
        if record.json and (record.ttl == b"0" or not refresh):
            return record
        name, what = [self._key(record.namespace)], "j" + "r" * refresh
        [parts] = yield [_call("get", name, record.key, what, kind=list)]
        return Record(record.namespace, *parts)._replace(score=record.score)

    def _below(self, prefix: Namespace) -> Steps[list[Namespace]]:
        """Read the namespaces below a prefix, by name, from its index."""
        found, left = set[str](), {self._key(prefix) + b"#%d" % n: 0 for n in range(SHARDS)}
        while left:
            asked = [((shard,), (cursor, "COUNT", PAGE)) for shard, cursor in left.items()]
            pages = yield [Command("ZSCAN", *each, kind=tuple) for each in asked]
            found.update(path.decode() for _, paths in pages for path, _ in paths)
            left = {shard: page[0] for shard, page in zip(left, pages, strict=True) if page[0]}
        return sorted(tuple(map(unquote, path[1:].split("/"))) for path in found)

    def _key(self, namespace: Namespace) -> bytes:
        return f"{self._prefix}store:{{{_path(namespace)}}}".encode()

    def _shards(self, namespace: Namespace) -> list[bytes]:
        """Where a namespace is noted: one shard of the index of each prefix that it has."""
        number = b"#%d" % (zlib.crc32(_path(namespace).encode()) % SHARDS)
        return [self._key(namespace[:depth]) + number for depth in range(len(namespace))]


def _call(ask: str, keys: Sequence[bytes], *arguments: Any, kind: type = bytes) -> Command:
    return Command("", tuple(keys), (ask, *arguments), script("store/store"), kind)


def _path(namespace: Namespace) -> str:
    return "/" + "/".join(quote(part, safe=":@ ") for part in namespace)  # chooses no slot
