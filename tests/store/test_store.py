"""The contract of LangGraph's stores, on servers and a cluster, synchronous and asyncio."""

import asyncio
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeAlias

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


class Store:
    """A store used in the way of a place: `await store("put", ...)` puts or awaits aput."""

    def __init__(self, place: Place, key_prefix: str, **options: Any) -> None:
        self.place = place
        self.store = MemorystoreStore(place.client, key_prefix=key_prefix, **options)

    async def __call__(self, name: str, *given: Any, **options: Any) -> Any:
        return await self.place.call(self.store, name, *given, **options)


@pytest.fixture
def store(place: Place, key_prefix: str) -> Store:
    return Store(place, key_prefix)


def keys(items: Any) -> list[str]:
    return [item.key for item in items]


async def test_an_item_is_there_until_it_is_deleted(store: Store) -> None:
    """What was put is found by its key and each prefix of its namespace; its times tell."""
    await store("put", ADA, "drink", {"likes": "tea"})
    await store("put", (*ADA, "work"), "role", {"is": "engineer"})
    first = await store("get", ADA, "drink")
    assert (first.namespace, first.key, first.value) == (ADA, "drink", {"likes": "tea"})
    assert first.created_at == first.updated_at
    assert first.created_at.utcoffset().total_seconds() == 0
    assert keys(await store("search", ADA)) == keys(await store("search", ())) == ["drink", "role"]
    await store("put", ADA, "drink", {"likes": "coffee"})
    second = await store("get", ADA, "drink")
    assert second.value == {"likes": "coffee"}
    assert second.created_at == first.created_at
    assert second.updated_at > first.updated_at
    assert await store("get", ("users", "grace"), "drink") is None
    for _ in range(2):
        await store("delete", ADA, "drink")
        assert await store("get", ADA, "drink") is None
    assert keys(await store("search", ("users",))) == ["role"]
    assert await store("list_namespaces") == [(*ADA, "work")]


async def test_a_batch_reads_before_it_writes(store: Store) -> None:
    """Each operation has its answer at its place; of two writes to an item, the last counts."""
    await store("put", ("a", "b"), "k", {"n": 1})
    asked = [
        PutOp(("a",), "new", {"n": 0}),
        GetOp(("a",), "new"),
        SearchOp(("a",), {"n": {"$gte": 1}}),
        PutOp(("a",), "new", {"n": 5}),
        ListNamespacesOp((MatchCondition("suffix", ("b",)),)),
        PutOp(("a", "b"), "k", None),
        GetOp(("a", "b"), "k"),
    ]
    answers = await store("batch", asked)
    assert [answers[place] for place in (0, 1, 3, 5)] == [None] * 4
    assert keys(answers[2]) == ["k"]
    assert answers[4] == [("a", "b")]
    assert answers[6].value == {"n": 1}
    assert (await store("get", ("a",), "new")).value == {"n": 5}
    assert await store("get", ("a", "b"), "k") is None
    assert await store("batch", []) == []


async def test_searches_are_paged_and_ordered(store: Store) -> None:
    """Pages of a search make up the whole: oldest first within a namespace, then the next."""
    puts = [PutOp(("all", f"{n % 3}"), f"k{n}", {"n": n}) for n in range(150)]
    await store("batch", puts)
    await store("put", ("all", "0"), "k0", {"n": 0, "again": True})
    expected = [f"k{n}" for rest in range(3) for n in range(rest, 150, 3)]
    assert keys(await store("search", ("all",), limit=1000)) == expected
    pages = [await store("search", ("all",), limit=7, offset=7 * page) for page in range(23)]
    assert [key for page in pages for key in keys(page)] == expected
    own = [await store("search", ("all", "1"), limit=7, offset=7 * page) for page in range(9)]
    assert [key for page in own for key in keys(page)] == expected[50:100]
    odd = {"n": {"$gte": 100, "$ne": 101}}
    assert keys(await store("search", ("all", "2"), filter=odd, limit=5, offset=1)) == [
        "k107", "k110", "k113", "k116", "k119"
    ]  # fmt: skip


async def test_a_large_namespace_is_read_in_parts(store: Store, place: Place) -> None:
    """More items than a script looks at, some of them gone, are all found and counted once."""
    for start in range(0, 2600, 200):
        puts = [PutOp(("big",), f"k{n}", {"n": n}) for n in range(start, start + 200)]
        await store("batch", puts)
    await store("batch", [PutOp(("big",), f"k{n}", None) for n in range(0, 2600, 2)])
    found = await store("search", ("big",), limit=5000)
    assert keys(found) == [f"k{n}" for n in range(1, 2600, 2)]
    assert keys(await store("search", ("big",), filter={"n": 2599})) == ["k2599"]
    assert keys(await store("search", ("big",), limit=1, offset=1299)) == ["k2599"]


async def test_items_expire(store: Store, key_prefix: str, place: Place) -> None:
    """An item past its minutes is never returned, and the next write removes it."""
    second = 1 / 60
    await store("put", ("a",), "short", {}, ttl=0.3 * second)
    await store("put", ("a",), "kept", {}, ttl=0.3 * second)
    await store("put", ("b",), "short", {}, ttl=0.3 * second)
    await store("put", ("a",), "long", {}, ttl=None)
    await store("put", ("a",), "kept", {"now": "for ever"})
    assert keys(await store("search", ("a",), refresh_ttl=False)) == ["short", "kept", "long"]
    await asyncio.sleep(0.5)
    assert await store("get", ("a",), "short") is None
    assert keys(await store("search", ())) == ["kept", "long"]
    assert keys(await store("search", (), filter={})) == ["kept", "long"]
    assert await store("list_namespaces") == [("a",)]
    items = f"{key_prefix}store:{{/a}}"
    assert place.sync_client.hexists(items, "i:short")
    await store("put", ("a",), "other", {})
    assert not place.sync_client.hexists(items, "i:short")
    assert place.sync_client.ttl(items) == -1
    assert not place.sync_client.exists(f"{key_prefix}store:{{/b}}")


async def test_reading_begins_the_time_to_live_anew(place: Place, key_prefix: str) -> None:
    """TTLConfig says how long items live, and whether get and search keep them alive."""
    minutes = 1.2 / 60
    fresh = Store(place, f"{key_prefix}1:", ttl={"default_ttl": minutes})
    aging = Store(place, f"{key_prefix}2:", ttl={"default_ttl": minutes, "refresh_on_read": False})
    for store in (fresh, aging):
        for name in ("got", "found", "filtered", "left"):
            await store("put", (name,), "k", {"name": name})
        await store("put", ("lasting",), "k", {"name": "lasting"}, ttl=None)
    for _ in range(3):
        await asyncio.sleep(0.5)
        for store in (fresh, aging):
            await store("get", ("got",), "k")
            await store("get", ("left",), "k", refresh_ttl=False)
            await store("search", ("found",))
            await store("search", ("filtered",), filter={"name": "filtered"})
    assert await fresh("list_namespaces") == [("filtered",), ("found",), ("got",), ("lasting",)]
    assert await aging("list_namespaces") == [("lasting",)]


class Words(Embeddings):
    """Counts words from a small vocabulary; notes how often it is asked, and in which way."""

    vocabulary = ("tea", "nuts", "train", "green")

    def __init__(self) -> None:
        self.calls: Counter[str] = Counter()

    def _vector(self, text: str) -> list[float]:
        return [float(text.lower().count(word)) for word in self.vocabulary]

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        self.calls["documents"] += 1
        return [self._vector(text) for text in texts]

    def embed_query(self, text: str) -> list[float]:
        self.calls["query"] += 1
        return self._vector(text)

    async def aembed_documents(self, texts: list[str]) -> list[list[float]]:
        self.calls["adocuments"] += 1
        return [self._vector(text) for text in texts]

    async def aembed_query(self, text: str) -> list[float]:
        self.calls["aquery"] += 1
        return self._vector(text)


async def test_search_by_meaning(place: Place, key_prefix: str) -> None:
    """The nearest come first, each with its best vector; what has none comes last."""
    words = Words()
    index: Any = {"dims": 4, "embed": words, "fields": ["text", "also[*]"]}
    store = Store(place, key_prefix, index=index)
    await store(
        "batch",
        [
            PutOp((*ADA, "food"), "tea", {"text": "Drinks green tea.", "kind": "taste"}),
            PutOp((*ADA, "food"), "nuts", {"text": "No nuts!", "kind": "allergy"}),
            PutOp(ADA, "trip", {"text": "By train.", "also": ["nuts on the train", "tea"]}),
            PutOp(ADA, "unseen", {"text": "green tea"}, index=False),
            PutOp(ADA, "other", {"title": "green tea", "text": "no words"}, index=["title"]),
            PutOp(("users", "grace"), "tea", {"text": "green tea"}),
        ],
    )
    a = "a" if place.way == "async" else ""
    assert words.calls == {f"{a}documents": 1}
    found = await store("search", ADA, query="green tea")
    assert keys(found) == ["other", "tea", "trip", "nuts", "unseen"]
    scores = [item.score for item in found]
    assert scores[:4] == pytest.approx([1, 1, 0.5**0.5, 0])
    assert scores[4] is None
    assert words.calls[f"{a}query"] == 1
    wanted = {"kind": {"$ne": "taste"}}
    pages = [
        await store("search", ADA, query="tea", filter=wanted, limit=2, offset=offset)
        for offset in (0, 2, 4)
    ]
    assert [keys(page) for page in pages] == [["trip", "other"], ["nuts", "unseen"], []]
    assert keys(await store("search", ADA, query="tea", limit=2, offset=3)) == ["nuts", "unseen"]
    await store("put", (*ADA, "food"), "tea", {"text": "It is green."})
    assert keys(await store("search", ADA, query="green", limit=1)) == ["tea"]
    plain = Store(place, key_prefix)
    assert [item.score for item in await plain("search", ADA, query="tea")] == [None] * 5
    other = Store(
        place, key_prefix, index={"dims": 2, "embed": lambda texts: [[1, 0]] * len(texts)}
    )
    assert {item.score for item in await other("search", ADA, query="tea")} == {None}


Circle: list[Any] = []
Circle.append(Circle)


@pytest.mark.parametrize(
    ("value", "error", "told"),
    [
        ({"a": {"b": [1, {2, 3}]}}, TypeError, r"value\['a'\]\['b'\]\[1\] is a set"),
        ({"when": time.gmtime}, TypeError, r"\['when'\]"),
        ({"pair": (1, 2)}, TypeError, "tuple"),
        ({"bytes": b""}, TypeError, "bytes"),
        ({"a": {1: "x"}}, TypeError, "key"),
        ({"n": float("nan")}, ValueError, r"\['n'\]"),
        ({"half": "\ud83d"}, ValueError, r"\['half'\]"),
        ({"circle": Circle}, ValueError, "deep"),
        (["no", "dict"], TypeError, "dict"),
    ],
)
async def test_only_json_is_stored(
    store: Store, place: Place, key_prefix: str, value: Any, error: type[Exception], told: str
) -> None:
    """Anything else is refused, and nothing of its batch is written."""
    with pytest.raises(error, match=told):
        await store("batch", [PutOp(("a",), "fine", {}), PutOp(("a",), "k", value)])
    assert not list(place.sync_client.scan_iter(match=f"{key_prefix}*"))


async def test_json_reads_back_equal(store: Store) -> None:
    """Every kind of JSON, as it was; large numbers, odd texts and depth included."""
    deep: Any = []
    for _ in range(90):
        deep = [deep]
    value = {"": None, "b": [True, 1, 1.0, -0.0, 10**40, 1e300], "t": "\0\u2028🍵'\"", "deep": deep}
    await store("put", ("a",), "k", value)
    read = (await store("get", ("a",), "k")).value
    assert repr(read) == repr(value)


@pytest.mark.parametrize(
    ("ops", "error"),
    [
        ([PutOp((), "k", {})], InvalidNamespaceError),
        ([PutOp(("a.b",), "k", {})], InvalidNamespaceError),
        ([PutOp(("a", ""), "k", {})], InvalidNamespaceError),
        ([GetOp(("a\0",), "k")], InvalidNamespaceError),
        ([SearchOp((1,))], InvalidNamespaceError),  # type: ignore[arg-type]
        ([ListNamespacesOp((MatchCondition("prefix", ("",)),))], InvalidNamespaceError),
        ([GetOp(("\ud83d",), "k")], ValueError),
        ([GetOp("ab", "k")], TypeError),  # type: ignore[arg-type]
        ([GetOp(("a",), 1)], TypeError),  # type: ignore[arg-type]
        ([GetOp(("a",), "\ud83d")], ValueError),
        ([PutOp(("a",), "k", {}, ttl=0)], ValueError),
        ([PutOp(("a",), "k", {}, ttl="5")], TypeError),  # type: ignore[arg-type]
        ([SearchOp(("a",), limit=-1)], ValueError),
        ([ListNamespacesOp(offset=-1)], ValueError),
        ([SearchOp(("a",), filter={"n": {"$in": [1]}})], ValueError),
        ([SearchOp(("a",), filter=["n"])], TypeError),  # type: ignore[arg-type]
        (["get"], TypeError),
    ],
)
def test_what_is_not_acceptable_is_refused(ops: Any, error: type[Exception]) -> None:
    """Nothing is sent for a batch in which one operation is wrong."""
    with pytest.raises(error):
        MemorystoreStore(nowhere()).batch(ops)


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"client": "redis://"}, TypeError),
        ({"ttl": 60}, TypeError),
        ({"ttl": {"default_ttl": 0}}, ValueError),
        ({"key_prefix": None}, TypeError),
        ({"async_client": nowhere()}, TypeError),
        ({"index": {"dims": 0, "embed": len}}, ValueError),
        ({"index": {"dims": 3}}, ValueError),
        ({"index": {"embed": len}}, TypeError),
        ({"index": {"dims": 3, "embed": len, "fields": "text"}}, TypeError),
    ],
)
def test_options_are_checked(options: Any, error: type[Exception]) -> None:
    """A wrong option is refused when the store is made."""
    with pytest.raises(error):
        MemorystoreStore(**({"client": nowhere()} | options))


@pytest.mark.parametrize("vectors", [[[1.0, 2.0]], [[1.0], [2.0]], []])
async def test_embeddings_of_another_size_are_refused(store: Store, vectors: Any) -> None:
    """What an embedding makes is held to the index's dims, and to one vector a text."""
    index: Any = {"dims": 1, "embed": lambda texts: vectors, "fields": ["text"]}
    wrong = MemorystoreStore(store.place.sync_client, key_prefix="x", index=index)
    with pytest.raises(ValueError, match=r"vector|embed"):
        wrong.put(("a",), "k", {"text": "t"})


def test_an_extra_that_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without numpy, only an index fails, and says what to install."""
    monkeypatch.setitem(__import__("sys").modules, "numpy", None)
    MemorystoreStore(nowhere())
    with pytest.raises(ModuleNotFoundError, match=r"memorystore-chat\[agents\]"):
        MemorystoreStore(nowhere(), index={"dims": 1, "embed": len})  # type: ignore[arg-type]


async def test_clients_of_every_kind(valkey_server: servers.Server, key_prefix: str) -> None:
    """One that decodes; one of asyncio alone, which cannot wait; and a pair."""
    with valkey_server.client(decode_responses=True, encoding="utf-16") as decoding:
        store = MemorystoreStore(decoding, key_prefix=key_prefix)
        store.put(("ä",), "k", {"t": "🍵"})
        assert store.search(())[0].value == {"t": "🍵"}
        assert (await store.aget(("ä",), "k")).value == {"t": "🍵"}  # type: ignore[union-attr]
        async with valkey_server.async_client(decode_responses=True) as asynchronous:
            alone = MemorystoreStore(asynchronous, key_prefix=key_prefix)
            assert (await alone.asearch(()))[0].namespace == ("ä",)
            with pytest.raises(TypeError, match="abatch"):
                alone.get(("ä",), "k")
            pair = MemorystoreStore(decoding, key_prefix=key_prefix, async_client=asynchronous)
            await pair.adelete(("ä",), "k")
            assert pair.get(("ä",), "k") is None


async def test_an_outage_is_never_an_empty_answer() -> None:
    """A server that is not there is a ConnectError, whatever is asked."""
    store = MemorystoreStore(nowhere())
    for ask in (lambda: store.get(("a",), "k"), lambda: store.search(()), store.list_namespaces):
        with pytest.raises(ConnectError):
            ask()
    with pytest.raises(ConnectError):
        await store.aput(("a",), "k", {})


def test_a_key_of_another_kind_is_an_error(client: redis.Redis, key_prefix: str) -> None:
    """What is no hash is left as it is."""
    client.set(f"{key_prefix}store:{{/a}}", "text")
    with pytest.raises(MemorystoreChatError, match="another kind"):
        MemorystoreStore(client, key_prefix=key_prefix).put(("a",), "k", {})


def test_a_server_whose_memory_is_full_still_reads() -> None:
    """A put is refused as a whole; a read that would begin the time to live anew is answered."""
    with servers.valkey(maxmemory="1gb", maxmemory_policy="noeviction") as full, full.client() as c:
        store = MemorystoreStore(c, ttl={"default_ttl": 5})
        store.put(("a",), "k", {"n": 1})
        with full.admin() as admin:
            admin.config_set("maxmemory", 1)
        with pytest.raises(MemorystoreChatError, match="full"):
            store.batch([PutOp(("b", "c"), "k", {})])
        assert store.get(("a",), "k").value == {"n": 1}  # type: ignore[union-attr]
        assert [item.namespace for item in store.search(())] == [("a",)]
        store.delete(("a",), "k")
        assert store.list_namespaces() == []


def test_two_writers_leave_one_whole_item(client: redis.Redis, key_prefix: str) -> None:
    """Of many puts at once the last wins, and the namespace has one item."""
    store = MemorystoreStore(client, key_prefix=key_prefix)

    def put(number: int) -> None:
        store.put(("a", f"{number % 2}"), "k", {"one": number, "other": number})

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(put, range(200)))
    found = store.search(("a",))
    assert [item.namespace for item in found] == [("a", "0"), ("a", "1")]
    assert all(item.value["one"] == item.value["other"] for item in found)
