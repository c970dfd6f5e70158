"""The index of namespaces and the cost of each operation, also while a cluster changes."""

import asyncio
import time
from typing import Any

import pytest
from langgraph.store.base import GetOp, PutOp, SearchOp
from redis.crc import key_slot

import servers
from memorystore_chat.connection import connect, connect_async
from memorystore_chat.store import MemorystoreStore, memory
from proxy import Proxy
from reshaping import move_slots
from servers import Cluster, Server

client = servers.client_of("redis_server", "valkey_cluster")


@pytest.fixture
def store(client: Any, key_prefix: str) -> MemorystoreStore:
    return MemorystoreStore(client, key_prefix=key_prefix)


def listed(client: Any, prefix: str) -> set[bytes]:
    """The paths in all parts of the index."""
    parts = client.scan_iter(match=f"{prefix}*}}", count=1000)
    return {path for part in parts for path in client.zrange(part, 0, -1)}


def test_the_index_is_in_parts(
    client: Any, store: MemorystoreStore, key_prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All users are found, in parts of about the same size and in many pages; no deleted one is."""
    monkeypatch.setattr(memory, "TOGETHER", 10)
    users = [("users", f"{n:03}") for n in range(400)]
    store.batch([PutOp(user, "k", {"n": n % 2}) for n, user in enumerate(users)])
    store.batch([PutOp((user[1], *user), "k", {"n": 2}) for user in users[:25]])
    assert [item.namespace for item in store.search(("users",), limit=2000)] == users
    odd = store.search(("users",), filter={"n": 1}, limit=150, offset=40)
    assert [item.namespace for item in odd] == users[81:381:2]
    parts = list(client.scan_iter(match=f"{key_prefix}*}}", count=1000))
    assert sorted(key_slot(part) // 1024 for part in parts) == list(range(16))
    assert max(map(client.zcard, parts)) < 2 * 425 / 16
    roots = [(user[1],) for user in users[:25]] + [("users",)]
    assert store.list_namespaces(max_depth=1, limit=30) == roots
    store.batch([PutOp(user, "k", None) for user in users[::2]])
    assert store.list_namespaces(prefix=("users",), limit=2000) == users[1::2]
    assert store.list_namespaces(suffix=("*", "399")) == [users[399]]


def test_what_leads_nowhere_is_removed(
    client: Any, store: MemorystoreStore, key_prefix: str
) -> None:
    """A name goes with its last item, or if that expired, when it is met; no other name does."""
    for name in ("b", "c", "d"):
        store.put(("a", name), "", {}, ttl=0.001 / 60 if name == "d" else None)
    store.delete(("a", "c"), "")
    time.sleep(0.05)
    assert listed(client, key_prefix) == {b"!a!b", b"!a!d"}
    assert store.search((), filter={"n": 1}) == []
    assert listed(client, key_prefix) == {b"!a!b"}
    store.put(("a", "d"), "", {}, ttl=0.001 / 60)
    time.sleep(0.05)
    assert store.list_namespaces(prefix=("a",)) == store.list_namespaces() == [("a", "b")]
    assert listed(client, key_prefix) == {b"!a!b"}


def test_costs_do_not_depend_on_what_is_stored(valkey_server: Server, key_prefix: str) -> None:
    """One round trip for what concerns one namespace, three for a prefix; no slow script."""
    names = [("users", f"{number}") for number in range(1000)]
    with (
        valkey_server.client() as direct,
        Proxy(valkey_server.host, valkey_server.port) as proxy,
        valkey_server.client(port=proxy.port) as client,
    ):
        filler = MemorystoreStore(direct, key_prefix=key_prefix)
        filler.batch([PutOp(name, f"{n}", {"n": n}) for name in names for n in range(3)])
        direct.config_resetstat()
        store = MemorystoreStore(client, key_prefix=key_prefix, ttl={"default_ttl": 5})
        both: list[Any] = [PutOp(names[1], "k", {}), GetOp(names[1], "0")]
        store.get(names[3], "0")
        for most, ask in (
            (1, lambda: store.get(names[3], "1")),
            (1, lambda: store.put(("new", "one"), "1", {})),
            (1, lambda: store.delete(("new", "one"), "1")),
            (1, lambda: store.search(names[3], limit=1, offset=1)),
            (1, lambda: store.search(names[5], filter={"n": 1})),
            (1, lambda: store.search(("new", "none"))),
            (1, lambda: store.batch(both)),
            (1, lambda: store.batch([SearchOp(names[6])] * 2)),
            (3, lambda: store.search(("users",), limit=5)),
            (2, lambda: store.list_namespaces(limit=10)),
            (5, lambda: store.list_namespaces(prefix=("users",), limit=100)),
            (4, lambda: store.list_namespaces(max_depth=1)),
        ):
            proxy.reset()
            ask()
            assert proxy.round_trips <= most
        assert direct.info("commandstats")["cmdstat_evalsha"]["usec_per_call"] < 2000


def test_a_clock_that_is_behind(client: Any, store: MemorystoreStore, key_prefix: str) -> None:
    """After a failover to it, new items still come last, and no two share a score."""
    store.put(("a",), "old", {"n": 1})
    [key] = client.scan_iter(match=f"{key_prefix}*!a")
    for member in client.zrange(key, 0, -1):
        client.zincrby(key, 3.6e9, member)
    store.put(("a",), "new", {"n": 2})
    found = [(item.key, item.value["n"]) for item in store.search(("a",))]
    assert found == [("old", 1), ("new", 2)]


async def test_a_namespace_is_found_while_its_part_moves(
    valkey_cluster: Cluster, key_prefix: str
) -> None:
    """At every step of the move it is read and written, and a new one waits until it is over."""
    client: Any = connect(valkey_cluster.url, patience=60)
    other: Any = await connect_async(valkey_cluster.url, patience=60)
    store = MemorystoreStore(client, key_prefix=key_prefix, async_client=other)
    store.batch([PutOp(("a", f"{n}"), "k", {}) for n in range(64)])
    part = next(client.scan_iter(match=f"{key_prefix}*}}", count=1000))
    old, new = [("a", path.decode()[3:]) for path in client.zrange(part, 0, 1)]
    store.delete(new, "k")
    source = valkey_cluster.node_of(part)
    target = next(node for node in valkey_cluster.nodes[:3] if node is not source)
    for step in ("open", "keys", "close"):
        move_slots([key_slot(part)], source, target, step)
        if step == "open":
            waiting = asyncio.create_task(asyncio.to_thread(store.put, new, "k", {}))
        elif step == "close":
            await waiting
        store.put(old, step, {})
        await store.aput(old, f"a{step}", {})
        assert len(store.search(("a",), limit=100)) == len(await store.asearch(("a",), limit=100))
        assert len(await store.asearch(old)) == len(store.search(old))
        assert step == "close" or not waiting.done()
    assert len(store.search(new)) == 1
    client.close()
    await other.aclose()
