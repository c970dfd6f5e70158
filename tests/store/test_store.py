"""The contract of LangGraph's stores, on servers and a cluster, synchronous and asyncio."""

import asyncio
import json
from datetime import UTC, datetime
from functools import partial
from typing import Any, cast
from unittest.mock import Mock

import numpy
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

Place = Any  # of conftest.py
ADA = ("users", "ada")
A, AB = ("a",), cast("Any", "ab")
ONES: Any = {"dims": 1, "embed": lambda texts: [[1.0]] * len(texts)}
SOME = pytest.mark.parametrize(
    "place", ["redis_server-async", "valkey_cluster-sync"], indirect=True
)


def using(place: Place, key_prefix: str, **options: Any) -> Any:
    """A store used in the way of a place: `await store("put", ...)` puts or awaits aput."""
    return partial(place.call, MemorystoreStore(place.client, key_prefix=key_prefix, **options))


def keys(items: Any) -> list[str]:
    return [item.key for item in items]


async def test_an_item_says_when_it_was_put(place: Place, key_prefix: str) -> None:
    """First and last; of many at once one wins; what a batch reads was there before its writes."""
    store, begun = using(place, key_prefix), datetime.now(UTC)
    await store("put", ADA, "drink", {"likes": "tea"})
    first = await store("get", ADA, "drink")
    assert begun <= first.created_at == first.updated_at <= datetime.now(UTC)
    await store("put", ADA, "drink", {"likes": "coffee"})
    second = await store("get", ADA, "drink")
    assert second.created_at == first.created_at < second.updated_at
    await asyncio.gather(*(store("put", ADA, "both", {"one": n, "two": n}) for n in range(50)))
    both = (await store("get", ADA, "both")).value
    assert both["one"] == both["two"]
    ops = [PutOp(ADA, "drink", None), SearchOp(("users",)), GetOp(ADA, "drink")]
    _, found, got = await store("batch", ops)
    assert (keys(found), got) == (["drink", "both"], second)
    assert keys(await store("search", ())) == ["both"]


def test_filters(client: redis.Redis, key_prefix: str) -> None:
    """They compare as numbers what are numbers, and texts as texts; nothing else compares."""
    store = MemorystoreStore(client, key_prefix=key_prefix)
    for key, value in {"a": 1, "b": 2, "c": "2", "d": None, "e": "x", "f": [1, {"y": 2}]}.items():
        store.put(("n",), key, {"n": value})
    for wanted, found in (
        ({"$gt": 1}, "bc"),
        ({"$eq": 2}, "b"),
        ({"$gt": "w"}, "e"),
        ([1, {"y": {"$lt": 3}}], "f"),
    ):
        assert "".join(keys(store.search(("n",), filter={"n": wanted}))) == found
    with pytest.raises(ValueError, match="operators"):
        store.search(("n",), filter={"n": {"$in": [1]}})


@SOME
async def test_a_large_namespace_is_read_in_parts(place: Place, key_prefix: str) -> None:
    """More than a script looks at, in few items or in many, some of them gone, is found once."""
    store, large = using(place, key_prefix), "x" * 400_000
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
    store, items = using(place, key_prefix), f"{key_prefix}store:{{/a}}"
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
    assert place.sync_client.zscore(items, "ekept") is None
    assert place.sync_client.ttl(items) == -1
    assert not place.sync_client.exists(f"{key_prefix}store:{{/b}}")


@SOME
@pytest.mark.parametrize("renew", [True, False])
async def test_reading_renews(place: Place, key_prefix: str, renew: bool) -> None:
    """TTLConfig says how long items live, and whether a read keeps them alive; or the read does."""
    store = using(place, key_prefix, ttl={"default_ttl": 60, "refresh_on_read": renew})
    client = place.sync_client
    reads: list[tuple[str, tuple[Any, ...], Any]] = [
        ("got", ("get", ("got",), "k"), {}),
        ("found", ("search", ("found",)), {}),
        ("below/n", ("search", ("below",)), {}),
        ("filtered", ("search", ("filtered",)), {"filter": {"n": 1}}),
    ]
    for path, read, options in reads:
        await store("put", tuple(path.split("/")), "k", {"n": 1})
        key = f"{key_prefix}store:{{/{path}}}"
        assert 3590 < client.ttl(key) <= 3600
        for renews, more in ((renew, {}), (not renew, {"refresh_ttl": not renew})):
            client.expire(key, 60)  # reading one item sets it anew
            assert await store(*read, **options, **more)
            assert (client.ttl(key) > 60) == renews


def vector(text: str) -> list[float]:
    """How often two words are in a text."""
    return [float(text.count(word)) for word in ("tea", "nuts")]


@SOME
async def test_search_by_meaning(place: Place, key_prefix: str) -> None:
    """A batch is embedded at once; vectors of another index, or of none, are not compared."""
    words = Mock(spec=Embeddings)
    words.embed_query.side_effect = words.aembed_query.side_effect = vector
    for embed in (words.embed_documents, words.aembed_documents):
        embed.side_effect = lambda texts: numpy.asfortranarray([*map(vector, texts)], "f4")
    store = using(place, key_prefix, index={"dims": 2, "embed": words, "fields": ["text"]})
    texts = {"unseen": "", "nuts": "no nuts", "both": "nuts, tea", "tea": "tea"}
    puts = [PutOp(ADA, each, {"text": text} if text else {}) for each, text in texts.items()]
    await store("batch", puts)
    found = await store("search", ADA, query="tea")
    assert keys(found) == ["tea", "both", "nuts", "unseen"]
    assert [item.score for item in found] == [1, pytest.approx(0.5**0.5), 0, None]
    a = "a" if place.way == "async" else ""
    assert [each[0] for each in words.method_calls] == [f"{a}embed_documents", f"{a}embed_query"]
    for options in ({}, {"index": ONES}):
        other = using(place, key_prefix, **options)
        assert [item.score for item in await other("search", ADA, query="tea")] == [None] * 4


@pytest.mark.parametrize(
    ("told", "error", "options", "ops"),
    [
        (r"value\['a'\]\[1\] is a set", TypeError, {}, [PutOp(A, "k", {"a": [1, {2, 3}]})]),
        ("key", TypeError, {}, [PutOp(A, "k", {"a": {1: "x"}})]),
        (r"\['n'\]", ValueError, {}, [PutOp(A, "k", {"n": float("nan")})]),
        (r"\['half'\]", ValueError, {}, [PutOp(A, "fine", {}), PutOp(A, "k", {"half": "\ud83d"})]),
        ("nested", ValueError, {}, [PutOp(A, "k", {"deep": json.loads("[" * 101 + "]" * 101)})]),
        ("dict", TypeError, {}, [PutOp(A, "k", AB)]),
        ("empty", InvalidNamespaceError, {}, [PutOp((), "k", {})]),
        ("empty", InvalidNamespaceError, {}, [PutOp(("a", ""), "k", None)]),
        ("tuple", TypeError, {}, [PutOp(AB, "k", None)]),
        ("tuple", TypeError, {}, [ListNamespacesOp((MatchCondition("prefix", AB),))]),
        ("ttl", ValueError, {}, [PutOp(A, "k", {}, None, 0)]),
        ("ttl", ValueError, {}, [PutOp(A, "k", {}, None, 1e16)]),
        ("ttl", TypeError, {"ttl": 60}, []),
        ("ttl", ValueError, {"ttl": {"default_ttl": 0}}, []),
        ("dims", ValueError, {"index": {"dims": 0, "embed": len}}, []),
        ("fields", TypeError, {"index": {"dims": 1, "embed": len, "fields": "text"}}, []),
        ("numbers", ValueError, {"index": ONES | {"dims": 2}}, [PutOp(A, "k", {})]),
        ("reach", ConnectError, {}, [GetOp(A, "k")]),
        ("reach", ConnectError, {}, [SearchOp(())]),
        ("reach", ConnectError, {}, [ListNamespacesOp()]),
    ],
)
def test_what_is_not_acceptable_is_refused(
    told: str, error: type[Exception], options: Any, ops: Any
) -> None:
    """A wrong option when the store is made, a wrong operation before any is sent.

    What needs a server that is not there is refused as well: no answer is never an empty one.
    """
    with pytest.raises(error, match=told):
        MemorystoreStore(nowhere(), **options).batch(ops)


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
