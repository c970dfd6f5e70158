"""The index of namespaces and the cost of each operation, also while a cluster changes."""

import json
import time
from contextlib import ExitStack
from typing import Any

import pytest
from langgraph.store.base import GetOp, PutOp, SearchOp
from redis.crc import key_slot

import servers
from memorystore_chat.commands import run, script
from memorystore_chat.connection import connect, connect_async
from memorystore_chat.store import MemorystoreStore
from memorystore_chat.store.steps import ROOM, StoreSteps
from proxy import Proxy
from reshaping import fail_over, move_slots
from servers import Cluster, Server

AGO = 2 * 3_600_000  # milliseconds: long enough to be forgotten


@pytest.fixture(params=["valkey_server", "redis_server", "valkey_cluster"])
def client(request: pytest.FixtureRequest) -> Any:
    """A client of a server or a cluster."""
    with request.getfixturevalue(request.param).client() as connected:
        yield connected


def age_notes(client: Any, prefix: str) -> None:
    """Make what is noted in the index look two hours older."""
    for node in client.scan_iter(match=f"{prefix}*#"):
        for path, noted in client.hgetall(node).items():
            client.hset(node, path, int(noted or 0) - AGO)


def noted(client: Any, prefix: str) -> set[bytes]:
    nodes = client.scan_iter(match=f"{prefix}*#")
    return {path for node in nodes for path in client.hkeys(node) if path}


def test_no_node_of_the_index_grows_without_bound(client: Any, key_prefix: str) -> None:
    """All of 1,500 users are found, in nodes of no more than their room."""
    store = MemorystoreStore(client, key_prefix=key_prefix)
    users = [("users", f"{n:04}") for n in range(1500)]
    for start in range(0, 1500, 100):
        store.batch([PutOp(user, "k", {"n": 1}) for user in users[start : start + 100]])
    assert store.list_namespaces(limit=2000) == users
    assert [item.namespace for item in store.search(("users",), limit=2000)] == users
    assert store.search(("users",), limit=1, offset=1499)[0].namespace == users[-1]
    nodes = list(client.scan_iter(match=f"{key_prefix}*#", count=1000))
    assert max(client.hlen(node) for node in nodes) <= ROOM + 1
    for user in users[::3]:
        store.delete(user, "k")
    age_notes(client, key_prefix)
    left = [user for user in users if user not in users[::3]]
    for prefix in ((), ("users",)) * 2:  # each has an index of its own; full nodes stay open
        assert store.list_namespaces(prefix=prefix, limit=2000) == left
    assert len(noted(client, key_prefix)) == 1000
    for node in client.scan_iter(match=f"{key_prefix}*", count=1000):
        client.unlink(node)


def test_what_leads_nowhere_is_forgotten_once_it_is_old(client: Any, key_prefix: str) -> None:
    """A note without items is left for an hour, as its put may be under way, and then removed."""
    store = MemorystoreStore(client, key_prefix=key_prefix)
    store.put(("a", "b"), "k", {})
    store.delete(("a", "b"), "k")
    assert store.search(()) == store.list_namespaces() == []
    assert noted(client, key_prefix) == {b"/a/b"}
    node = f"{key_prefix}store:{{/a}}#".encode()
    client.eval(script("store/store").text, 1, node, "forget", "/a/b", "noted by another meanwhile")
    assert client.hexists(node, "/a/b")
    age_notes(client, key_prefix)
    store.put(("a", "c"), "k", {})
    assert store.list_namespaces(prefix=("a",)) == [("a", "c")]
    assert client.hkeys(f"{key_prefix}store:{{/a}}#") == [b"/a/c"]
    assert [item.namespace for item in store.search((), filter={})] == [("a", "c")]
    assert noted(client, key_prefix) == {b"/a/c"}


def test_a_put_that_was_cut_off_leaves_nothing_unfound(
    valkey_cluster: Cluster, key_prefix: str
) -> None:
    """On a cluster the note is first; a put that comes too long after it notes again."""
    steps = StoreSteps(key_prefix, None, one_server=False)
    put = steps.write(PutOp(("a", "b"), "k", {}), b"{}", b"")
    with valkey_cluster.client() as client:
        store = MemorystoreStore(client, key_prefix=key_prefix)

        def ask(request: Any) -> Any:
            def one() -> Any:
                return (yield request)

            return run(client, one())

        refused = ask(next(put))
        assert refused == [b"NEW"]
        when = ask(put.send(refused))
        assert noted(client, key_prefix) == {b"/a/b"}
        assert store.list_namespaces() == []  # a crash here leaves a note that leads nowhere
        late = put.send([str(int(each) - AGO).encode() for each in when])
        assert ask(late) == [b"NEW"]
        assert store.get(("a", "b"), "k") is None
        age_notes(client, key_prefix)
        again = put.send([b"NEW"])
        assert store.list_namespaces() == store.search(("a",)) == []
        assert noted(client, key_prefix) == set()
        with pytest.raises(StopIteration):
            put.send(ask(put.send(ask(again))))
        assert [item.namespace for item in store.search(("a",))] == [("a", "b")]


def test_a_note_that_a_fail_over_lost_is_made_again(client: Any, key_prefix: str) -> None:
    """A day after it was noted, the next put into a namespace notes it again."""
    store = MemorystoreStore(client, key_prefix=key_prefix)
    store.put(("a", "b"), "k", {})
    client.unlink(f"{key_prefix}store:{{/}}#")
    store.put(("a", "b"), "k", {})
    assert store.search(()) == []
    items = f"{key_prefix}store:{{/a/b}}"
    fields = ("next", "items", "lasting", "longest", "swept", "noted")
    text = (
        "local m = cmsgpack.unpack(redis.call('HGET', KEYS[1], 'meta')) "
        "m.noted = m.noted - 2 * 86400000 "
        "redis.call('HSET', KEYS[1], 'meta', cmsgpack.pack(m)) return cjson.encode(m)"
    )
    assert set(json.loads(client.eval(text, 1, items))) == set(fields)
    store.put(("a", "b"), "k", {})
    assert len(store.search(())) == 1


@pytest.mark.parametrize("namespaces", [10, 2000])
def test_costs_do_not_depend_on_what_is_stored(
    valkey_server: Server, key_prefix: str, namespaces: int
) -> None:
    """One round trip for what concerns one namespace, three for a prefix; no slow script."""
    names = [("users", f"{number}") for number in range(namespaces)]
    with valkey_server.client() as direct:
        filler = MemorystoreStore(direct, key_prefix=key_prefix)
        for start in range(0, namespaces, 200):
            puts = [PutOp(name, f"{n}", {"n": n}) for name in names[start:][:200] for n in range(3)]
            filler.batch(puts)
        direct.config_resetstat()
    with (
        Proxy(valkey_server.host, valkey_server.port) as proxy,
        valkey_server.client(port=proxy.port) as client,
    ):
        store = MemorystoreStore(client, key_prefix=key_prefix, ttl={"default_ttl": 5})
        user: Any = names[3]
        both: list[Any] = [PutOp(names[1], "k", {}), GetOp(names[1], "0")]
        asked: dict[str, Any] = {
            "get": lambda: store.get(user, "1"),
            "put": lambda: store.put(user, "1", {"n": 7}),
            "put into a new namespace": lambda: store.put((*user, "new"), "1", {}),
            "delete": lambda: store.delete((*user, "new"), "1"),
            "search": lambda: store.search(names[4]),
            "filter": lambda: store.search(names[5], filter={"n": 1}),
            "batch": lambda: store.batch([*both, PutOp(names[2], "k", {})]),
            "searches": lambda: store.batch([SearchOp(names[6]), SearchOp(names[7])]),
        }
        store.get(user, "0")
        for name, ask in asked.items():
            proxy.reset()
            ask()
            assert proxy.round_trips == 1, name
        proxy.reset()
        assert len(store.search(("users",), limit=5)) == 5
        assert proxy.round_trips <= 3 + (namespaces > ROOM)  # a node that is full has some below
    with valkey_server.client() as direct:
        assert direct.info("commandstats")["cmdstat_evalsha"]["usec_per_call"] < 2000


@pytest.mark.parametrize("way", ["sync", "async"])
async def test_a_namespace_is_found_while_its_slot_moves(
    valkey_cluster: Cluster, key_prefix: str, way: str
) -> None:
    """At every step of the move of a namespace, and of its index, it is read and written."""
    client: Any = connect(valkey_cluster.url)
    other: Any = await connect_async(valkey_cluster.url) if way == "async" else None
    store = MemorystoreStore(client, key_prefix=key_prefix, async_client=other)
    written = 0

    async def turn() -> None:
        nonlocal written
        await store.aput(("a", "b"), f"{written}", {"n": written})
        await store.aput(("a", f"new{written}"), "k", {"n": written})
        written += 1
        assert len(await store.asearch(("a", "b"), limit=100)) == written
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
    if other is not None:
        await other.aclose()


def test_a_fail_over_loses_nothing_that_was_replicated() -> None:
    """Puts go on after the fail-over of a primary, and all that its replica had is found."""
    with servers.cluster(cluster_node_timeout=1000) as cluster, ExitStack() as ends:
        client: Any = ends.enter_context(connect(cluster.url))
        store = MemorystoreStore(client)
        for number in range(50):
            store.put(("users", f"{number}"), "k", {"n": number})
        time.sleep(1)  # replicas are behind by less
        fail_over(cluster, cluster.node_of("store:{/}#"))
        for number in range(50, 60):
            store.put(("users", f"{number}"), "k", {"n": number})
        found = store.search(("users",), limit=100)
        assert sorted(item.value["n"] for item in found) == list(range(60))
        assert len(store.list_namespaces()) == 60
