"""MemorystoreStore, LangGraph's long-term memory on Memorystore."""

import json
import zlib
from collections.abc import Iterable, Mapping
from itertools import chain, count, takewhile
from typing import Any
from urllib.parse import unquote

from langgraph.store import base
from redis.crc import key_slot
from typing_extensions import override

from memorystore_chat.arguments import check_seconds, check_text, type_name
from memorystore_chat.commands import AsyncClient, Client, Command, Sender, Steps, script
from memorystore_chat.store.items import Namespace, Record, Vectors, at_once, checked, fits, matches

TOGETHER = 64  # namespaces that are asked in one round trip
PARTS = 16
# Hash tags of the parts of a store, spread evenly over the slots of a cluster.
_TAGS = [next(n for n in count() if key_slot(b"%d" % n) * PARTS >> 14 == m) for m in range(PARTS)]
# What sorts before the "!" between the parts of a path, or may be taken for it, is escaped.
_ESCAPES = {code: f"%{code:02X}" for code in range(ord("%") + 1)}
_ALL = 10**9


class MemorystoreStore(base.BaseStore):
    """Keeps what agents know across conversations in Memorystore, on one server or a cluster.

    A namespace is one Redis sorted set, its items by age. It is in one of 16 parts, each of which
    has an index of its namespaces in the same hash slot of a cluster. ``get``, ``put``, ``delete``,
    the ``search`` of a namespace with nothing below it, and a batch of these are one round trip (to
    each node of a cluster). A search of a prefix takes three, and more beyond 64 namespaces.

    - **A put is whole**, the index included: of two writers of a key, the last one wins. While a
      cluster moves a part to another node, writes to it wait. A batch is no transaction: what it
      reads is what was stored before its writes.
    - **Values are JSON**, and read back equal. Anything else is refused, and nothing written.
    - **Order**: without a query, the oldest item of a namespace is first; namespaces go by name.
      Only items within the limit are fetched, unless a filter or a query has to see them.
    - **Time to live** is in minutes. An expired item is never returned, and removed by the next
      write; the name of a namespace in which all expired, by the next search that meets it.
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
        if "{}" in key_prefix:
            raise ValueError(f"key_prefix is {key_prefix!r}; it takes text without '{{}}'.")
        for name, given in (("ttl", ttl), ("index", index)):
            if given is not None and not isinstance(given, Mapping):
                raise TypeError(f"{name} is a {type_name(given)}; it takes a dict, or None.")
        minutes = (ttl or {}).get("default_ttl")
        check_seconds("ttl (in minutes)", 1 if minutes is None else minutes)
        self.ttl_config = ttl
        self.embeddings: Any = base.ensure_embeddings(index.get("embed")) if index else None
        self._vectors = Vectors(index.get("dims"), index.get("fields") or ["$"]) if index else None
        self._sender = Sender(client, async_client)
        self._parts = [f"{key_prefix}store:{{{tag}}}".encode() for tag in _TAGS]

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
        found = yield from at_once(reads | writes if one_trip else reads)
        yield from at_once({} if one_trip else writes)
        return [found.get(place) for place in range(len(asked))]

    def _get(self, op: base.GetOp) -> Steps[base.Item | None]:
        found = yield from self._read(Record(op.namespace, op.key.encode()), op.refresh_ttl)
        return found.item(base.Item) if found.json else None

    def _write(self, op: base.PutOp, vectors: bytes) -> Steps[None]:
        ttl = 0 if op.ttl is None else max(1, round(op.ttl * 60_000))
        value = json.dumps(op.value, ensure_ascii=False, separators=(",", ":"))
        yield [self._call("put", op.namespace, op.key, ttl, value, vectors)]

    def _search(self, op: base.SearchOp, query: Any) -> Steps[list[base.SearchItem]]:
        prefix, wanted = op.namespace_prefix, op.filter or {}
        most = op.offset + op.limit if query is None else _ALL
        what = "j" * bool(wanted) + "v" * (query is not None)  # that it is chosen by
        here = what or "j" + "r" * op.refresh_ttl  # one exact namespace is one round trip
        first = self._page(prefix, most, here, wanted, 0 if what else op.offset)
        asked: dict[Namespace | None, Steps[Any]] = {prefix: first}
        several = TOGETHER if wanted else min(TOGETHER, most)
        found, low = list[Record](), b"(" + _path(prefix)
        while asked and len(found) < most:
            if low:
                asked[None] = self._names(prefix, low, several)
            answers = yield from at_once(asked)
            names, low = answers.pop(None, ((), b""))
            found += chain.from_iterable(answers.values())
            asked = {name: self._page(name, most - len(found), what, wanted) for name in names}
        if query is not None and self._vectors:
            found = self._vectors.ranked(query, found)
        best = found[op.offset :][: op.limit]
        read = yield from at_once({one: self._read(one, op.refresh_ttl) for one in best})
        return [one.item(base.SearchItem, score=one.score) for one in read.values() if one.json]

    def _namespaces(self, op: base.ListNamespacesOp) -> Steps[list[Namespace]]:
        conditions, most = op.match_conditions or (), op.offset + op.limit
        starts = (one.path for one in conditions if one.match_type == "prefix")
        prefix = tuple(takewhile("*".__ne__, next(starts, ())))
        asked: dict[Namespace | None, Steps[Any]] = {}
        found, low = dict[Namespace, None](), b"[" + _path(prefix)
        while (low or asked) and len(found) < most:
            if low:
                more = bool(conditions)  # which may leave few
                asked[None] = self._names(prefix, low, min(TOGETHER, most), more=more)
            answers = yield from at_once(asked)
            names, low = answers.pop(None, ((), b""))
            found |= dict.fromkeys(name[: op.max_depth] for name, page in answers.items() if page)
            if low and (listed := names[-1][: op.max_depth]) in found:
                low = b"(" + _path(listed) + b'"'  # after all below it
            new = [name for name in names if name[: op.max_depth] not in found]
            fitting = [name for name in new if all(fits(name, one) for one in conditions)]
            asked = {name: self._page(name, 1) for name in fitting}
        return list(found)[op.offset :][: op.limit]

    def _page(
        self, name: Namespace, most: int, what: str = "", wanted: Any = None, skip: int = -1
    ) -> Steps[list[Record]]:
        """Read live items that are wanted, the oldest first.

        A name from the index, of which none is skipped (-1), is removed from it if there are none.
        """
        after, found = b"1e13", list[Record]()
        while after and len(found) < most:
            left = _ALL if wanted else most - len(found)
            [(after, rows)] = yield [self._call("page", name, after, skip - len(found), left, what)]
            new = [Record(name, *row) for row in rows]
            found += [one for one in new if not wanted or matches(json.loads(one.json), wanted)]
        if skip < 0 and not (rows or found):
            yield [self._call("tidy", name)]
        return found

    def _read(self, record: Record, refresh: bool) -> Steps[Record]:
        """Read what lacks its JSON, or is to be renewed; an item that went meanwhile has none."""
        if record.json and (record.ttl == b"0" or not refresh):
            return record
        [parts] = yield [self._call("get", record.namespace, record.key, "j" + "r" * refresh)]
        return Record(record.namespace, *parts)._replace(score=record.score)

    def _names(
        self, prefix: Namespace, low: bytes, most: int, *, more: bool = False
    ) -> Steps[tuple[list[Namespace], bytes]]:
        """Read the next namespaces below a prefix from the index, and where to go on, if at all.

        With `more` they are all that is certain to come next of what the parts answered.
        """
        limits = (low, b"(" + _path(prefix) + b'"', "LIMIT", 0, most)
        parts = yield [Command("ZRANGEBYLEX", (part,), limits, kind=list) for part in self._parts]
        paths = sorted(chain.from_iterable(parts))
        ends = [part[-1] for part in parts if len(part) == most] if more else paths[most - 1 : most]
        paths = [path for path in paths if not ends or path <= min(ends)]
        names = [tuple(map(unquote, path.decode()[1:].split("!"))) for path in paths]
        return names, b"(" + paths[-1] if ends else b""

    def _call(self, ask: str, namespace: Namespace, *arguments: Any) -> Command:
        path = _path(namespace)
        part = self._parts[zlib.crc32(path) % PARTS]
        if ask in ("get", "page"):
            return Command("", (part + path,), (ask, *arguments), script("store/store"), list)
        return Command("", (part + path, part), (ask, *arguments), script("store/store"))


def _path(namespace: Namespace) -> bytes:
    """Name a namespace such that paths are sorted as namespaces are."""
    return "".join(f"!{part.translate(_ESCAPES)}" for part in namespace).encode()
