"""The index of namespaces and the cost of each operation, also while a cluster changes."""

import time
from typing import Any

import pytest
from langgraph.store.base import GetOp, PutOp, SearchOp
from redis.cluster import RedisCluster
from redis.crc import key_slot

import servers
from memorystore_chat.commands import run
from memorystore_chat.connection import connect, connect_async
from memorystore_chat.store import MemorystoreStore
from memorystore_chat.store.steps import SHARDS, StoreSteps
from proxy import Proxy
from reshaping import fail_over, move_slots
from servers import Cluster, Server

AGO = 2 * 3_600_000  # milliseconds: long enough to be forgotten


@pytest.fixture(params=["redis_server", "valkey_cluster"])
def client(request: pytest.FixtureRequest) -> Any:
    """A client of a server or a cluster."""
    with request.getfixturevalue(request.param).client() as connected:
        yield connected


def shards(client: Any, prefix: str) -> list[bytes]:
    return list(client.scan_iter(match=f"{prefix}*}}#*", count=1000))


def age_notes(client: Any, prefix: str) -> None:
    """Make what is noted in the index look two hours older."""
    for shard in shards(client, prefix):
        for path in client.zrange(shard, 0, -1):
            client.zincrby(shard, -AGO, path)


def noted(client: Any, prefix: str) -> set[bytes]:
    return {path for shard in shards(client, prefix) for path in client.zrange(shard, 0, -1)}


def test_the_index_is_sharded(client: Any, key_prefix: str) -> None:
    """All users are found, in shards of about the same size; those deleted are not."""
    store = MemorystoreStore(client, key_prefix=key_prefix)
    users = [("users", f"{n:04}") for n in range(1000)]
    store.batch([PutOp(user, "k", {"n": 1}) for user in users])
    assert [item.namespace for item in store.search(("users",), limit=2000)] == users
    assert store.search(("users",), limit=1, offset=999)[0].namespace == users[-1]
    assert max(client.zcard(shard) for shard in shards(client, key_prefix)) < 2 * 1000 / SHARDS
    store.batch([PutOp(user, "k", None) for user in users[::2]])
    assert store.list_namespaces(prefix=("users",), limit=2000) == users[1::2]


def test_what_leads_nowhere_is_forgotten(client: Any, key_prefix: str) -> None:
    """A name goes with its last item; on a cluster once no put into it can be under way."""
    store = MemorystoreStore(client, key_prefix=key_prefix)
    cluster = isinstance(client, RedisCluster)
    for name in ("b", "c", "d"):
        store.put(("a", name), "k", {}, ttl=0.1 / 60 if name == "d" else None)
    age_notes(client, key_prefix)
    store.delete(("a", "c"), "k")
    store.put(("a", "young"), "k", {})
    store.delete(("a", "young"), "k")
    time.sleep(0.2)
    left = {b"/a/b", b"/a/d"} | ({b"/a/young"} if cluster else set())
    assert noted(client, key_prefix) == left
    assert [item.namespace for item in store.search((), filter={})] == [("a", "b")]
    assert noted(client, key_prefix) == left - {b"/a/d"}
    age_notes(client, key_prefix)
    assert store.list_namespaces(prefix=("a",)) == store.list_namespaces() == [("a", "b")]
    assert noted(client, key_prefix) == {b"/a/b"}


def test_a_put_that_was_cut_off_leaves_nothing_unfound(
    valkey_cluster: Cluster, key_prefix: str
) -> None:
    """On a cluster the note comes first; a put that comes too long after it notes again."""
    steps = StoreSteps(key_prefix, None, one_server=False)
    put = steps.write(PutOp(("a", "b"), "k", {}), b"")
    with valkey_cluster.client() as client:
        store = MemorystoreStore(client, key_prefix=key_prefix)

        def one(request: Any) -> Any:
            return (yield request)

        def ask(request: Any) -> Any:
            return run(client, one(request))

        assert ask(next(put)) == [b"NEW"]
        when = ask(put.send([b"NEW"]))
        assert noted(client, key_prefix) == {b"/a/b"}
        assert store.list_namespaces() == []  # a crash here leaves a note that leads nowhere
        assert ask(put.send([each - AGO for each in when])) == [b"NEW"]
        age_notes(client, key_prefix)
        again = put.send([b"NEW"])
        assert store.list_namespaces() == store.search(("a",)) == []
        assert noted(client, key_prefix) == set()
        with pytest.raises(StopIteration):
            put.send(ask(put.send(ask(again))))
        assert [item.namespace for item in store.search(("a",))] == [("a", "b")]


def test_a_note_that_a_failover_lost_is_made_again(client: Any, key_prefix: str) -> None:
    """A day after it was noted, the next put into a namespace notes it again."""
    store = MemorystoreStore(client, key_prefix=key_prefix)
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
        both: list[Any] = [PutOp(names[1], "k", {}), GetOp(names[1], "0"), SearchOp(names[6])]
        store.get(names[3], "0")
        for ask in (
            lambda: store.get(names[3], "1"),
            lambda: store.put(names[3], "1", {"n": 7}),
            lambda: store.put(("new", "one"), "1", {}),
            lambda: store.delete(("new", "one"), "1"),
            lambda: store.search(names[3]),
            lambda: store.search(names[3], limit=1, offset=1),
            lambda: store.search(names[5], filter={"n": 1}),
            lambda: store.batch(both[:2]),
            lambda: store.batch(both[2:] * 2),
        ):
            proxy.reset()
            ask()
            assert proxy.round_trips == 1
        proxy.reset()
        assert len(store.search(("users",), limit=5)) == 5
        assert proxy.round_trips <= 3
        assert direct.info("commandstats")["cmdstat_evalsha"]["usec_per_call"] < 2000


def test_a_clock_that_is_behind(client: Any, key_prefix: str) -> None:
    """After a failover to it, new items still come last, and no two share a score."""
    store, key = MemorystoreStore(client, key_prefix=key_prefix), f"{key_prefix}store:{{/a}}"
    store.put(("a",), "old", {"n": 1})
    for member in client.zrangebyscore(key, 1e13, "+inf"):
        client.zincrby(key, 3.6e9, member)
    store.put(("a",), "new", {"n": 2})
    assert [(item.key, item.value["n"]) for item in store.search(("a",))] == [
        ("old", 1),
        ("new", 2),
    ]


async def test_a_namespace_is_found_while_its_slot_moves(
    valkey_cluster: Cluster, key_prefix: str
) -> None:
    """At every step of the move of a namespace, and of its index, it is read and written."""
    client: Any = connect(valkey_cluster.url)
    other: Any = await connect_async(valkey_cluster.url)
    store = MemorystoreStore(client, key_prefix=key_prefix, async_client=other)
    written = 0

    async def turn() -> None:
        nonlocal written
        store.put(("a", "b"), f"{written}", {"n": written})
        await store.aput(("a", f"new{written}"), "k", {"n": written})
        written += 1
        assert len(store.search(("a", "b"), limit=100)) == written
        assert len(await store.asearch((), limit=100)) == 2 * written

    await turn()
    for name in ("{/a/b}", "{/a}", "{/}"):
        slot = key_slot(f"{key_prefix}store:{name}".encode())
        source = valkey_cluster.node_of(f"{key_prefix}store:{name}")
        target = next(node for node in valkey_cluster.nodes[:3] if node is not source)
        for step in ("open", "keys", "close"):
            move_slots([slot], source, target, step)
            await turn()
    client.close()
    await other.aclose()


def test_a_failover_loses_nothing_that_was_replicated() -> None:
    """Puts go on after the failover of a primary, and all that its replica had is found."""
    with servers.cluster(cluster_node_timeout=1000) as cluster, connect(cluster.url) as client:
        store = MemorystoreStore(client)
        for number in range(50):
            store.put(("users", f"{number}"), "k", {"n": number})
        time.sleep(1)  # replicas are behind by less
        fail_over(cluster, cluster.node_of("store:{/}"))
        for number in range(50, 60):
            store.put(("users", f"{number}"), "k", {"n": number})
        found = store.search(("users",), limit=100)
        assert sorted(item.value["n"] for item in found) == list(range(60))
        assert len(store.list_namespaces()) == 60
