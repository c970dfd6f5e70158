"""The contract of LangGraph's stores, on servers and a cluster, synchronous and asyncio."""

import asyncio
import json
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeAlias
from unittest.mock import Mock

import pytest
import redis
from langchain_core.embeddings import Embeddings
from langgraph.store.base import (
    GetOp,
    InvalidNamespaceError,
    ListNamespacesOp,
    MatchCondition,
    PutOp,
    SearchOp,
)

import servers
from memorystore_chat import ConnectError, MemorystoreChatError
from memorystore_chat.store import MemorystoreStore
from scripted import nowhere

Place: TypeAlias = Any  # of conftest.py
ADA = ("users", "ada")
AB: Any = "ab"
SOME = pytest.mark.parametrize(
    "place", ["redis_server-async", "valkey_cluster-sync"], indirect=True
)


class Store:
    """A store used in the way of a place: `await store("put", ...)` puts or awaits aput."""

    def __init__(self, place: Place, key_prefix: str, **options: Any) -> None:
        self.place = place
        self.store = MemorystoreStore(place.client, key_prefix=key_prefix, **options)

    async def __call__(self, name: str, *given: Any, **options: Any) -> Any:
        return await self.place.call(self.store, name, *given, **options)


def keys(items: Any) -> list[str]:
    return [item.key for item in items]


async def test_an_item_is_there_until_it_is_deleted(place: Place, key_prefix: str) -> None:
    """What was put is found by its key and each prefix of its namespace; its times tell."""
    store = Store(place, key_prefix)
    await store("put", ADA, "drink", {"likes": "tea"})
    await store("put", (*ADA, "work"), "role", {"is": "engineer"})
    first = await store("get", ADA, "drink")
    assert (first.namespace, first.key, first.value) == (ADA, "drink", {"likes": "tea"})
    assert first.created_at == first.updated_at
    assert keys(await store("search", ADA)) == keys(await store("search", ())) == ["drink", "role"]
    await store("put", ADA, "drink", {"likes": "coffee"})
    second = await store("get", ADA, "drink")
    assert second.value == {"likes": "coffee"}
    assert second.created_at == first.created_at < second.updated_at
    ops = [PutOp(ADA, "drink", None), SearchOp(("users",)), GetOp(ADA, "drink")]
    _, found, got = await store("batch", ops)  # reads come first
    assert (keys(found), got) == (["drink", "role"], second)
    assert await store("get", ADA, "drink") is None
    assert await store("list_namespaces") == [(*ADA, "work")]


def test_filters(client: redis.Redis, key_prefix: str) -> None:
    """They compare as numbers what are numbers, and texts as texts; nothing else compares."""
    store = MemorystoreStore(client, key_prefix=key_prefix)
    for key, value in {"a": 1, "b": 2, "c": "2", "d": None, "e": "x", "f": [1, {"y": 2}]}.items():
        store.put(("n",), key, {"n": value})
    for wanted, found in (
        ({"$gt": 1}, "bc"),
        ({"$gte": 2}, "bc"),
        ({"$lt": 2}, "a"),
        ({"$lte": 2}, "abc"),
        ({"$eq": 2}, "b"),
        ({"$ne": 2}, "acdef"),
        ({"$gt": "w"}, "e"),
        ({"$gt": 1, "$lt": 2}, ""),
        ([1, {"y": {"$lt": 3}}], "f"),
    ):
        assert "".join(keys(store.search(("n",), filter={"n": wanted}))) == found
    with pytest.raises(ValueError, match="operators"):
        store.search(("n",), filter={"n": {"$in": [1]}})


@SOME
async def test_a_large_namespace_is_read_in_parts(place: Place, key_prefix: str) -> None:
    """More than a script looks at, in few items or in many, some of them gone, is found once."""
    store, large = Store(place, key_prefix), "x" * 400_000
    await store("batch", [PutOp(("big",), f"k{n}", {"n": n, "x": large}) for n in range(5)])
    await store("batch", [PutOp(("big",), f"k{n}", {"n": n}) for n in range(5, 1500)])
    await store("batch", [PutOp(("big",), f"k{n}", None) for n in range(0, 1500, 2)])
    found = await store("search", ("big",), limit=5000)
    assert keys(found) == [f"k{n}" for n in range(1, 1500, 2)]
    assert keys(await store("search", ("big",), filter={"n": 1499})) == ["k1499"]
    assert keys(await store("search", ("big",), limit=1, offset=749)) == ["k1499"]


@SOME
async def test_items_expire(place: Place, key_prefix: str) -> None:
    """An item past its minutes is never returned, and the next write removes it."""
    store, items = Store(place, key_prefix), f"{key_prefix}store:{{/a}}"
    await store("put", ("a",), "kept", {}, ttl=9)
    await store("put", ("a",), "long", {})
    await store("put", ("a",), "kept", {"now": "for ever"}, ttl=None)
    for namespace in (("a",), ("b",)):
        await store("put", namespace, "short", {}, ttl=0.001 / 60)
    await asyncio.sleep(0.05)
    assert await store("get", ("a",), "short") is None
    assert keys(await store("search", ())) == ["kept", "long"]
    assert await store("list_namespaces") == [("a",)]
    assert place.sync_client.zscore(items, "kshort")
    await store("put", ("a",), "other", {})
    assert place.sync_client.zscore(items, "kshort") is None
    assert place.sync_client.ttl(items) == -1
    assert not place.sync_client.exists(f"{key_prefix}store:{{/b}}")


@SOME
async def test_reading_renews(place: Place, key_prefix: str) -> None:
    """TTLConfig says how long items live, and whether get and search keep them alive."""
    for refresh in (True, False):
        prefix, ttl = f"{key_prefix}{refresh}:", {"default_ttl": 60, "refresh_on_read": refresh}
        store = Store(place, prefix, ttl=ttl)
        names = ["below", "filtered", "found", "got", "left"]
        for name in names:
            await store("put", (name, "n") if name == "below" else (name,), "k", {"n": name})
        found = {name: f"{prefix}store:{{/{name}}}" for name in names}
        found["below"] = f"{prefix}store:{{/below/n}}"
        for key in found.values():
            assert 3590 < place.sync_client.ttl(key) <= 3600
            place.sync_client.expire(key, 60)  # reading one item sets it anew
        assert await store("get", ("got",), "k")
        assert await store("get", ("left",), "k", refresh_ttl=False)
        assert await store("search", ("found",))
        assert await store("search", ("below",))
        assert await store("search", ("filtered",), filter={"n": "filtered"})
        renewed = [name for name, key in found.items() if place.sync_client.ttl(key) > 60]
        assert renewed == (names[:4] if refresh else [])


def two(texts: list[str]) -> list[list[float]]:
    """Two numbers a text."""
    return [[1, 0]] * len(texts)


def count(text: str) -> list[float]:
    """How often four words are in a text."""
    return [float(text.lower().count(word)) for word in ("tea", "nuts", "train", "green")]


@SOME
async def test_search_by_meaning(place: Place, key_prefix: str) -> None:
    """The nearest come first, each with its best vector; what has none comes last."""
    words = Mock(spec=Embeddings)
    words.embed_query.side_effect = words.aembed_query.side_effect = count
    for embed in (words.embed_documents, words.aembed_documents):
        embed.side_effect = lambda texts: [*map(count, texts)]
    index: Any = {"dims": 4, "embed": words, "fields": ["text", "also[*]"]}
    store = Store(place, key_prefix, index=index)
    puts = [
        PutOp((*ADA, "food"), "tea", {"text": "Drinks green tea.", "kind": "taste"}),
        PutOp((*ADA, "food"), "nuts", {"text": "No nuts!", "kind": "allergy"}),
        PutOp(ADA, "trip", {"text": "By train.", "also": ["nuts on the train", "tea"]}),
        PutOp(ADA, "unseen", {"text": "green tea"}, index=False),
        PutOp(ADA, "other", {"title": "green tea", "text": "no words"}, index=["title"]),
        PutOp(("users", "grace"), "tea", {"text": "green tea"}),
    ]
    await store("batch", puts)
    found = await store("search", ADA, query="green tea")
    assert keys(found) == ["other", "tea", "trip", "nuts", "unseen"]
    assert [item.score for item in found[:4]] == pytest.approx([1, 1, 0.5**0.5, 0])
    assert found[4].score is None
    a = "a" if place.way == "async" else ""
    assert [each[0] for each in words.method_calls] == [f"{a}embed_documents", f"{a}embed_query"]
    wanted = {"kind": {"$ne": "taste"}}
    found = await store("search", ADA, query="tea", filter=wanted, limit=2, offset=1)
    assert keys(found) == ["other", "nuts"]
    await store("put", (*ADA, "food"), "tea", {"text": "It is green."})
    assert keys(await store("search", ADA, query="green", limit=1)) == ["tea"]
    other_index: Any = {"dims": 2, "embed": two}
    for other in (Store(place, key_prefix), Store(place, key_prefix, index=other_index)):
        assert [item.score for item in await other("search", ADA, query="tea")] == [None] * 5


@pytest.mark.parametrize(
    ("told", "error", "options", "ops"),
    [
        (r"value\['a'\]\[1\] is a set", TypeError, {}, [(("a",), "k", {"a": [1, {2, 3}]})]),
        ("key", TypeError, {}, [(("a",), "k", {"a": {1: "x"}})]),
        (r"\['n'\]", ValueError, {}, [(("a",), "k", {"n": float("nan")})]),
        (r"\['half'\]", ValueError, {}, [(("a",), "fine", {}), (("a",), "k", {"half": "\ud83d"})]),
        ("nested", ValueError, {}, [(("a",), "k", {"deep": json.loads("[" * 101 + "]" * 101)})]),
        ("dict", TypeError, {}, [(("a",), "k", ["no", "dict"])]),
        ("empty", InvalidNamespaceError, {}, [((), "k", {})]),
        ("empty", InvalidNamespaceError, {}, [(("a", ""), "k", None)]),
        ("tuple", TypeError, {}, [("ab", "k", None)]),
        ("tuple", TypeError, {}, [ListNamespacesOp((MatchCondition("prefix", AB),))]),
        ("ttl", ValueError, {}, [(("a",), "k", {}, None, 0)]),
        ("ttl", TypeError, {"ttl": 60}, []),
        ("ttl", ValueError, {"ttl": {"default_ttl": 0}}, []),
        ("dims", ValueError, {"index": {"dims": 0, "embed": len}}, []),
        ("fields", TypeError, {"index": {"dims": 1, "embed": len, "fields": "text"}}, []),
        ("numbers", ValueError, {"index": {"dims": 1, "embed": two}}, [(("a",), "k", {})]),
    ],
)  # fmt: skip
def test_what_is_not_acceptable_is_refused(
    told: str, error: type[Exception], options: Any, ops: Any
) -> None:
    """A wrong option is refused when the store is made, a wrong operation before all are sent."""
    with pytest.raises(error, match=told):
        MemorystoreStore(nowhere(), **options).batch(
            [PutOp(*op) if type(op) is tuple else op for op in ops]
        )


async def test_clients_of_every_kind(valkey_server: servers.Server, key_prefix: str) -> None:
    """One that decodes; and one of asyncio alone, which cannot wait."""
    with valkey_server.client(decode_responses=True, encoding="utf-16") as decoding:
        store = MemorystoreStore(decoding, key_prefix=key_prefix)
        store.put(("ä",), "k", {"t": "🍵"})
        assert store.search(())[0].value == {"t": "🍵"}
    async with valkey_server.async_client(decode_responses=True) as asynchronous:
        alone = MemorystoreStore(asynchronous, key_prefix=key_prefix)
        assert (await alone.asearch(()))[0].namespace == ("ä",)
        with pytest.raises(TypeError, match="abatch"):
            alone.get(("ä",), "k")


def test_an_outage_is_never_an_empty_answer() -> None:
    """A server that is not there is a ConnectError."""
    store = MemorystoreStore(nowhere())
    for ask in (lambda: store.get(("a",), "k"), lambda: store.search(()), store.list_namespaces):
        with pytest.raises(ConnectError):
            ask()


def test_a_refused_put_writes_nothing() -> None:
    """A key of another kind stays; a server whose memory is full still reads, and renews."""
    with servers.valkey(maxmemory="1gb", maxmemory_policy="noeviction") as full, full.client() as c:
        store = MemorystoreStore(c, ttl={"default_ttl": 5})
        store.put(("a",), "k", {"n": 1})
        c.set("store:{/text}", "text")
        with pytest.raises(MemorystoreChatError, match="another kind"):
            store.put(("text",), "k", {})
        with full.admin() as admin:
            admin.config_set("maxmemory", 1)
        with pytest.raises(MemorystoreChatError, match="full"):
            store.put(("b", "c"), "k", {})
        assert [item.namespace for item in store.search(())] == [("a",)]
        assert sorted(c.scan_iter()) == [b"store:{/a}", b"store:{/text}", *c.scan_iter("*#*")]


def test_two_writers_leave_one_whole_item(client: redis.Redis, key_prefix: str) -> None:
    """Of many puts at once the last wins, and the namespace has one item."""
    store = MemorystoreStore(client, key_prefix=key_prefix)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda n: store.put(("a",), "k", {"one": n, "other": n}), range(200)))
    [item] = store.search(())
    assert item.value["one"] == item.value["other"]
