"""The index of namespaces and the cost of each operation, also while a cluster changes."""

import time
from itertools import product
from typing import Any

import pytest
from langgraph.store.base import GetOp, PutOp, SearchOp
from redis.cluster import RedisCluster
from redis.crc import key_slot

import servers
from memorystore_chat.connection import connect, connect_async
from memorystore_chat.store import MemorystoreStore, memory
from proxy import Proxy
from reshaping import move_slots
from servers import Cluster, Server

AGO = 2 * 3_600_000  # milliseconds: long enough to be forgotten


client = servers.client_of("redis_server", "valkey_cluster")


@pytest.fixture
def store(client: Any, key_prefix: str) -> MemorystoreStore:
    return MemorystoreStore(client, key_prefix=key_prefix)


def shards(client: Any, prefix: str) -> list[bytes]:
    return list(client.scan_iter(match=f"{prefix}*}}#*", count=1000))


def age_notes(client: Any, prefix: str) -> None:
    """Make what is noted in the index look two hours older."""
    for shard in shards(client, prefix):
        for path in client.zrange(shard, 0, -1):
            client.zincrby(shard, -AGO, path)


def noted(client: Any, prefix: str) -> set[bytes]:
    return {path for shard in shards(client, prefix) for path in client.zrange(shard, 0, -1)}


def test_the_index_is_sharded(
    client: Any, store: MemorystoreStore, key_prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All users are found, in shards of about the same size and many pages; no deleted one is."""
    monkeypatch.setattr(memory, "PAGE", 10)
    users = [("users", f"{n:03}" * 30) for n in range(400)]  # a server sends all short ones at once
    store.batch([PutOp(user, "k", {}) for user in users])
    assert [item.namespace for item in store.search(("users",), limit=2000)] == users
    assert max(client.zcard(shard) for shard in shards(client, key_prefix)) < 2 * 400 / 8
    store.batch([PutOp(user, "k", None) for user in users[::2]])
    assert store.list_namespaces(prefix=("users",), limit=2000) == users[1::2]


def test_what_leads_nowhere_is_forgotten(
    client: Any, store: MemorystoreStore, key_prefix: str
) -> None:
    """A name goes with its last item; on a cluster once no put into it can be under way."""
    for name in ("b", "c", "d"):
        store.put(("a", name), "k", {}, ttl=0.001 / 60 if name == "d" else None)
    age_notes(client, key_prefix)
    store.delete(("a", "c"), "k")
    store.put(("a", "young"), "k", {})
    store.delete(("a", "young"), "k")
    time.sleep(0.05)
    left = {b"/a/b", b"/a/d"} | ({b"/a/young"} if isinstance(client, RedisCluster) else set())
    assert noted(client, key_prefix) == left
    assert [item.namespace for item in store.search((), filter={})] == [("a", "b")]
    assert store.search((), filter={"n": 1}) == []
    assert noted(client, key_prefix) == left - {b"/a/d"}
    age_notes(client, key_prefix)
    assert store.list_namespaces(prefix=("a",)) == store.list_namespaces() == [("a", "b")]
    assert noted(client, key_prefix) == {b"/a/b"}


def test_a_put_that_was_cut_off_leaves_nothing_unfound(
    valkey_cluster: Cluster, key_prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a cluster the note comes first; a put that comes too long after it notes again."""
    answers: list[Any] = []
    with valkey_cluster.client() as client, valkey_cluster.client() as other:
        store, ask = MemorystoreStore(other, key_prefix=key_prefix), client.execute_command

        def late(*parts: Any, **options: Any) -> Any:
            """Once it is noted, long before or not, it is looked for in vain and forgotten."""
            answers.append(ask(*parts, **options))
            if isinstance(answers[-1], int):
                assert noted(other, key_prefix) == {b"/a"}
                assert store.list_namespaces() == store.search(()) == []
                if len(answers) < 5:
                    age_notes(other, key_prefix)
                    assert store.list_namespaces() == []
                    assert noted(other, key_prefix) == set()
                    return answers[-1] - AGO
            return answers[-1]

        monkeypatch.setattr(client, "execute_command", late)
        MemorystoreStore(client, key_prefix=key_prefix).put(("a",), "k", {})
        assert [type(answer) for answer in answers] == [bytes, int, bytes, int, bytes, int, bytes]
        assert [item.namespace for item in store.search(())] == [("a",)]


def test_a_note_that_a_failover_lost_is_made_again(
    client: Any, store: MemorystoreStore, key_prefix: str
) -> None:
    """A day after it was noted, the next put into a namespace notes it again."""
    store.put(("a", "b"), "k", {})
    for shard in shards(client, key_prefix):
        client.unlink(shard)
    store.put(("a", "b"), "k", {})
    assert store.search(()) == []
    client.zincrby(f"{key_prefix}store:{{/a/b}}", -2 * 86_400_000, "n")
    store.put(("a", "b"), "k", {})
    assert len(store.search(())) == 1


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
            (1, lambda: store.batch(both)),
            (1, lambda: store.batch([SearchOp(names[6])] * 2)),
            (3, lambda: store.search(("users",), limit=5)),
            (5, lambda: store.list_namespaces(prefix=("users",), limit=100)),
        ):
            proxy.reset()
            ask()
            assert proxy.round_trips <= most
        assert direct.info("commandstats")["cmdstat_evalsha"]["usec_per_call"] < 2000


def test_a_clock_that_is_behind(client: Any, store: MemorystoreStore, key_prefix: str) -> None:
    """After a failover to it, new items still come last, and no two share a score."""
    key = f"{key_prefix}store:{{/a}}"
    store.put(("a",), "old", {"n": 1})
    for member in client.zrangebyscore(key, 1e13, "+inf"):
        client.zincrby(key, 3.6e9, member)
    store.put(("a",), "new", {"n": 2})
    found = [(item.key, item.value["n"]) for item in store.search(("a",))]
    assert found == [("old", 1), ("new", 2)]
    store.batch([PutOp(("a",), key, {"n": 3}) for key in ("old", "new")])
    assert [item.value["n"] for item in store.search(("a",))] == [3, 3]


async def test_a_namespace_is_found_while_its_slot_moves(
    valkey_cluster: Cluster, key_prefix: str
) -> None:
    """At every step of the move of a namespace, and of its index, it is read and written."""
    client: Any = connect(valkey_cluster.url)
    other: Any = await connect_async(valkey_cluster.url)
    store = MemorystoreStore(client, key_prefix=key_prefix, async_client=other)
    for number, (name, step) in enumerate(product(("{/a/b}", "{/}"), ("open", "keys", "close"))):
        key = f"{key_prefix}store:{name}"
        source = valkey_cluster.node_of(key)
        target = next(node for node in valkey_cluster.nodes[:3] if node is not source)
        move_slots([key_slot(key.encode())], source, target, step)
        store.put(("a", "b"), f"{number}", {})
        await store.aput(("a", f"new{number}"), "k", {})
        assert len(store.search(("a", "b"), limit=100)) == number + 1
        assert len(await store.asearch((), limit=100)) == 2 * (number + 1)
    client.close()
    await other.aclose()
