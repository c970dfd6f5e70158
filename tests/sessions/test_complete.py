"""Nothing is missed while servers change: new shards, moving slots, fail-overs."""

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import redis
from langchain_core.messages import HumanMessage, message_to_dict
from redis.crc import key_slot

import servers
from memorystore_chat import MemorystoreChatError, MemorystoreChatMessageHistory, connect, sessions
from memorystore_chat.sessions import _primaries
from memorystore_tutorial import sessions_table
from proxy import Proxy
from reshaping import add_shard, empty_primary, fail_over, move_slots
from servers import Cluster, Server
from stored import element, exported, fill, ids

NAMES = [f"{number:03}" for number in range(90)]


def store(client: Any, key_prefix: str) -> None:
    for name in NAMES:
        client.rpush(f"{key_prefix}{name}", element(), element())


def test_a_shard_that_was_added_is_asked(key_prefix: str) -> None:
    """A client that was connected before lists, exports, expires, copies and deletes all."""
    with servers.cluster() as cluster, cluster.client() as client:
        store(client, key_prefix)
        for name in NAMES:
            client.lpush(f"theirs:{name}", json.dumps(message_to_dict(HumanMessage("hi"))))
        keys = [f"{prefix}{name}" for prefix in (key_prefix, "theirs:", "ours:") for name in NAMES]
        add_shard(cluster, {key_slot(key.encode()) for key in keys[::3]})
        assert ids(client, key_prefix) == NAMES
        assert len(sessions_table(client, key_prefix=key_prefix, limit=100)) == len(NAMES)
        expired = sessions.expire(client, key_prefix=key_prefix, ttl=100, dry_run=False)
        assert expired.sessions == len(NAMES)
        copied = sessions.from_langchain_community(
            client, key_prefix_from="theirs:", key_prefix="ours:", dry_run=False
        )
        assert copied.sessions == len(NAMES)
        file = exported(client, key_prefix)
        assert sessions.delete(client, key_prefix=key_prefix, dry_run=False).sessions == len(NAMES)
        with cluster.client() as fresh:
            assert ids(fresh, key_prefix) == []
            assert ids(fresh, "ours:") == NAMES
        assert sessions.load(client, file).sessions == len(NAMES)


def test_a_slot_on_its_way_to_a_shard_that_nobody_knows(key_prefix: str) -> None:
    """A key that is there already is found where ASK says, which redis-py does not know."""
    with servers.cluster() as cluster, cluster.client() as client, connect(cluster.url) as ours:
        store(client, key_prefix)
        new = empty_primary(cluster)
        key = f"{key_prefix}{NAMES[0]}"
        moving = [key_slot(key.encode())], cluster.node_of(key), new
        move_slots(*moving, "open", "keys")
        with new.admin() as admin:
            assert admin.dbsize() == 1
        for either in (client, ours):
            assert ids(either, key_prefix) == NAMES
            assert sessions.expire(either, NAMES[:1], key_prefix=key_prefix, ttl=9).sessions == 1
        move_slots(*moving, "close")
        for either in (client, ours):
            assert ids(either, key_prefix) == NAMES


def owners_in(cluster: Cluster, key_prefix: str) -> dict[str, Server]:
    servers_by_port = {node.port: node for node in cluster.nodes}
    with cluster.client() as client:
        return {
            name: servers_by_port[client.get_node_from_key(f"{key_prefix}{name}").port]
            for name in NAMES
        }


@pytest.fixture
def owners(valkey_cluster: Cluster, key_prefix: str) -> Iterator[dict[str, Server]]:
    """Where each session's slot was before the test; it is brought back there afterwards."""
    with valkey_cluster.client() as client:
        store(client, key_prefix)
    before = owners_in(valkey_cluster, key_prefix)
    yield before
    now = owners_in(valkey_cluster, key_prefix)
    for name, node in before.items():
        if now[name] is not node:
            move_slots([key_slot(f"{key_prefix}{name}".encode())], now[name], node)


@pytest.mark.parametrize("finished", [True, False])
def test_slots_that_move_during_a_scan(
    valkey_cluster: Cluster, key_prefix: str, owners: dict[str, Server], finished: bool
) -> None:
    """From a node whose turn is to come to one that had it, all the way or with the slot open."""
    with valkey_cluster.client() as client:
        found = sessions.scan(client, key_prefix=key_prefix, count=1)
        listed = [next(found).id]
        first = owners[listed[0]]
        while (session := next(found)) and owners[session.id] is first:
            listed.append(session.id)
        listed.append(session.id)
        last = next(n for n in owners.values() if n not in (first, owners[session.id]))
        slots = {key_slot(f"{key_prefix}{n}".encode()) for n in NAMES if owners[n] is last}
        assert len(slots) > 10
        steps = () if finished else ("open", "keys")
        move_slots(sorted(slots), last, first, *steps)
        listed += [session.id for session in found]
    assert sorted(listed) == NAMES
    if not finished:
        move_slots(sorted(slots), last, first, "close")


def test_a_slot_that_stays_open_is_no_obstacle(
    valkey_cluster: Cluster, key_prefix: str, owners: dict[str, Server]
) -> None:
    """A move that somebody began and never ended: each session is found, wherever it is."""
    key = f"{key_prefix}{NAMES[0]}"
    source = owners[NAMES[0]]
    target = next(node for node in owners.values() if node is not source)
    moving = [key_slot(key.encode())], source, target
    move_slots(*moving, "open")
    with valkey_cluster.client() as client:
        assert ids(client, key_prefix) == NAMES
        move_slots(*moving, "keys")
        assert ids(client, key_prefix) == NAMES
        assert sessions.delete(client, NAMES[:1], key_prefix=key_prefix, dry_run=False).sessions
        assert ids(client, key_prefix) == NAMES[1:]
    move_slots(*moving, "close")


def test_clients_that_were_idle_during_a_fail_over(key_prefix: str) -> None:
    """Their former primary is a replica without data by now, and is not asked."""
    with (
        servers.cluster(cluster_node_timeout=500) as cluster,
        cluster.client() as client,
        connect(cluster.url) as ours,
    ):
        store(client, key_prefix)
        fail_over(cluster, cluster.nodes[0])
        for either in (client, ours):
            assert ids(either, key_prefix) == NAMES
            file = exported(either, key_prefix)
            deleted = sessions.delete(either, key_prefix=key_prefix, dry_run=False)
            assert deleted.sessions == len(NAMES)
            assert sessions.load(either, file).sessions == len(NAMES)


def test_a_cluster_without_one_of_its_primaries_is_an_error(
    monkeypatch: pytest.MonkeyPatch, key_prefix: str
) -> None:
    """Nobody took over its slots: no list is complete."""
    monkeypatch.setattr(_primaries, "_SETTLES_WITHIN", 1.0)
    config: dict[str, Any] = {"cluster_node_timeout": 500, "cluster_require_full_coverage": "no"}
    with servers.cluster(replicas=0, **config) as cluster, cluster.client() as client:
        store(client, key_prefix)
        cluster.nodes[2].kill()
        with pytest.raises(MemorystoreChatError, match="while listing sessions"):
            ids(client, key_prefix)


class Pair:
    """A server and its copy behind one address."""

    def __init__(self, first: Server, second: Server, proxy: Proxy) -> None:
        self.first, self.second, self.proxy = first, second, proxy

    def copy(self) -> None:
        """Make the second server a replica that has everything."""
        with self.first.admin() as primary, self.second.admin() as replica:
            replica.execute_command("REPLICAOF", self.first.host, self.first.port)
            servers.wait_until(
                lambda: (
                    replica.info("replication")["master_link_status"] == "up"
                    and replica.dbsize() == primary.dbsize()
                ),
                "the copy",
            )

    def fail_over(self, *, cut: bool = True) -> None:
        """Promote the copy, make the address lead to it, and demote the first server."""
        with self.second.admin() as replica:
            replica.execute_command("REPLICAOF", "NO", "ONE")
        self.proxy.lead_to(self.second.host, self.second.port, cut=cut)
        with self.first.admin() as primary:
            primary.execute_command("REPLICAOF", self.second.host, self.second.port)


@pytest.fixture
def pair() -> Iterator[Pair]:
    at_once: dict[str, Any] = {"repl_diskless_sync_delay": 0, "repl_diskless_load": "swapdb"}
    with (
        servers.valkey(**at_once) as first,
        servers.valkey(**at_once) as second,
        Proxy(first.host, first.port) as proxy,
    ):
        yield Pair(first, second, proxy)


@pytest.fixture
def through(pair: Pair) -> Iterator[redis.Redis]:
    """A client of the address."""
    with redis.Redis(port=pair.proxy.port, protocol=2) as client:
        yield client


@pytest.fixture(params=["redis-py", "connect"])
def either(pair: Pair, request: pytest.FixtureRequest) -> Iterator[Any]:
    """A client of the address, of redis-py or of ours."""
    url = f"redis://127.0.0.1:{pair.proxy.port}"
    with connect(url) if request.param == "connect" else redis.Redis.from_url(url) as client:
        yield client


def before_reply(client: Any, command: str, number: int, act: Callable[[], object]) -> list[int]:
    """Do something when the nth reply to a command has come; answer where replies are counted."""
    answer = client.response_callbacks.get(command, lambda reply, **_: reply)
    count = [0]

    def then(reply: Any, **options: Any) -> Any:
        count[0] += 1
        if count[0] == number:
            act()
        return answer(reply, **options)

    client.set_response_callback(command, then)
    return count


@pytest.mark.parametrize("cut", [True, False], ids=["cut", "surviving"])
def test_a_server_that_fails_over_during_a_scan(pair: Pair, either: Any, cut: bool) -> None:
    """Another server behind the address, or a connection that stays with the old one."""
    store(either, "")
    pair.copy()
    found = sessions.scan(either, count=10)
    listed = [next(found).id for _ in range(40)]
    pair.fail_over(cut=cut)
    listed += [session.id for session in found]
    assert sorted(listed) == NAMES


@pytest.mark.parametrize(
    "change",
    [
        lambda client: sessions.delete(client, key_prefix="a", dry_run=False),
        lambda client: sessions.expire(client, key_prefix="a", ttl=100, dry_run=False),
        lambda client: sessions.from_langchain_community(
            client, key_prefix_from="a", key_prefix="b", dry_run=False
        ),
    ],
    ids=["delete", "expire", "copy"],
)
def test_a_server_that_fails_over_during_a_change(
    pair: Pair, through: redis.Redis, change: Callable[..., sessions.Report]
) -> None:
    """What was written last may be gone with it: an error says so; done again, it is complete."""
    for number in range(1200):
        through.rpush(f"a{number}", element())
    pair.copy()
    before_reply(through, "SCAN", 2, pair.fail_over)
    with pytest.raises(MemorystoreChatError, match=r"was replaced by another one while.*again"):
        change(through)
    report = change(through)
    assert report.sessions + report.existing + ids(through, "b").count("x") > 0
    if report.action == "delete":
        assert ids(through, "a") == []
    elif report.action == "expire":
        assert all(session.ttl for session in sessions.scan(through, key_prefix="a"))
    else:
        assert len(ids(through, "b")) == 1200


def test_a_server_that_fails_over_while_sessions_are_loaded(
    pair: Pair, through: redis.Redis
) -> None:
    for number in range(3):
        fill(through, f"a{number}", 2500)
    file = exported(through, "a")
    sessions.delete(through, key_prefix="a", dry_run=False)
    pair.copy()
    before_reply(through, "LRANGE", 9, pair.fail_over)
    with pytest.raises(MemorystoreChatError, match=r"was replaced by another one while loading"):
        sessions.load(through, file)
    file.seek(0)
    report = sessions.load(through, file)
    assert report.sessions + report.existing == 3
    assert [through.llen(f"a{number}") for number in range(3)] == [2500] * 3


def test_a_replica_is_refused(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    """It may lack sessions; the error says where to go."""
    monkeypatch.setattr(_primaries, "_SETTLES_WITHIN", 0.2)
    pair.copy()
    with pair.second.client() as client, pytest.raises(MemorystoreChatError, match="the primary"):
        ids(client, "")


def test_one_node_of_a_cluster_is_refused(valkey_cluster: Cluster, key_prefix: str) -> None:
    """A plain client of it would see only its own sessions; with all slots it is welcome."""
    with (
        valkey_cluster.nodes[0].client() as client,
        pytest.raises(MemorystoreChatError, match=r"node of a cluster.*RedisCluster"),
    ):
        ids(client, key_prefix)
    with servers.cluster(primaries=1) as single, single.nodes[0].client() as client:
        store(client, key_prefix)
        assert ids(client, key_prefix) == NAMES
        new = empty_primary(single)
        slot = key_slot(f"{key_prefix}{NAMES[0]}".encode())
        move_slots([slot], single.nodes[0], new, "open", "keys")
        with pytest.raises(MemorystoreChatError, match="when no slots are moved"):
            sessions.delete(client, NAMES[:1], key_prefix=key_prefix)


def test_servers_that_never_rest_are_an_error(pair: Pair, through: redis.Redis) -> None:
    store(through, "")
    answer = through.response_callbacks["SCAN"]
    turn = 0

    def then_change(reply: Any, **options: Any) -> Any:
        nonlocal turn
        turn += 1
        there = (pair.second, pair.first)[turn % 2]
        pair.proxy.lead_to(there.host, there.port)
        return answer(reply, **options)

    through.set_response_callback("SCAN", then_change)
    with pytest.raises(MemorystoreChatError, match=r"changed again and again while listing"):
        list(sessions.scan(through, count=1))
    assert turn < 50


def test_a_session_that_was_seen_is_read_from_the_new_server(
    pair: Pair, through: redis.Redis
) -> None:
    """An export across a fail-over holds what the new server has, and each session once."""
    store(through, "a")
    long = fill(through, "along", 2500)
    pair.copy()
    pages = before_reply(through, "LRANGE", 20, pair.fail_over)
    file = exported(through, "a")
    assert pages[0] > 20
    loaded = sessions.load(through, file, key_prefix="b")
    assert loaded.sessions == len(NAMES) + 1
    history = MemorystoreChatMessageHistory(through, "long", key_prefix="b")
    assert len(history) == len(long)
