"""What is found is complete, or an error: new shards, moving slots, failovers, replicas."""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest
import redis
from redis.crc import key_slot

import servers
from memorystore_chat import MemorystoreChatError, connect, sessions
from memorystore_tutorial import sessions_table
from proxy import Proxy
from reshaping import add_shard, empty_primary, fail_over, move_slots
from servers import Cluster, Server
from stored import element, exported, ids

NAMES = [f"{number:03}" for number in range(90)]


def store(client: Any, key_prefix: str) -> None:
    for name in NAMES:
        client.rpush(f"{key_prefix}{name}", element(), element())


def test_a_client_that_knows_an_older_cluster(key_prefix: str) -> None:
    """Connected before a shard was added, and idle during a failover, it finds all."""
    with (
        servers.cluster(cluster_node_timeout=500) as cluster,
        cluster.client() as client,
        connect(cluster.url) as ours,
    ):
        store(client, key_prefix)
        add_shard(cluster, {key_slot(f"{key_prefix}{name}".encode()) for name in NAMES[::3]})
        for either in (client, ours):
            assert ids(either, key_prefix) == NAMES
        fail_over(cluster, cluster.nodes[0])
        for either in (client, ours):
            assert len(sessions_table(either, key_prefix=key_prefix)) == len(NAMES)
            file = exported(either, key_prefix)
            deleted = sessions.delete(either, key_prefix=key_prefix, dry_run=False)
            assert deleted.sessions == len(NAMES)
            assert sessions.load(either, file).sessions == len(NAMES)


def test_slots_that_move(key_prefix: str) -> None:
    """A move under way is an error before anything is done, one in between afterwards."""
    with servers.cluster() as cluster, cluster.client() as client:
        store(client, key_prefix)
        new = empty_primary(cluster)
        slot = key_slot(f"{key_prefix}{NAMES[0]}".encode())
        source = cluster.node_of(f"{key_prefix}{NAMES[0]}")
        found = sessions.scan(client, key_prefix=key_prefix)
        assert next(found).messages == 2
        move_slots([slot], source, new)
        with pytest.raises(MemorystoreChatError, match="again"):
            list(found)
        assert ids(client, key_prefix) == NAMES
        move_slots([slot], new, source, "open")
        with pytest.raises(MemorystoreChatError, match="again"):
            sessions.delete(client, key_prefix=key_prefix, dry_run=False)


def test_one_node_of_a_cluster_is_refused(valkey_cluster: Cluster, key_prefix: str) -> None:
    """A plain client of it would see only its own sessions; with all slots it is welcome."""
    with (
        valkey_cluster.nodes[0].client() as client,
        pytest.raises(MemorystoreChatError, match="RedisCluster"),
    ):
        ids(client, key_prefix)
    with servers.cluster(primaries=1) as single, single.nodes[0].client() as client:
        store(client, key_prefix)
        assert ids(client, key_prefix) == NAMES


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


@pytest.mark.parametrize("cut", [True, False], ids=["cut", "surviving"])
@pytest.mark.parametrize("kind", ["redis-py", "connect"])
def test_a_server_that_fails_over_during_a_scan(pair: Pair, kind: str, cut: bool) -> None:
    """Another server behind the address, or a connection that stays with the old one."""
    url = f"redis://127.0.0.1:{pair.proxy.port}"
    with connect(url) if kind == "connect" else redis.Redis.from_url(url) as client:
        store(client, "")
        pair.copy()
        found = sessions.scan(client)
        assert next(found).messages == 2
        pair.fail_over(cut=cut)
        with pytest.raises(MemorystoreChatError, match="again"):
            list(found)
        assert ids(client, "") == NAMES


@pytest.mark.parametrize(
    ("command", "change"),
    [
        ("SCAN", partial(sessions.delete, key_prefix="a", dry_run=False)),
        ("SCAN", partial(sessions.expire, key_prefix="a", ttl=100, dry_run=False)),
        ("EVAL", lambda client: sessions.load(client, exported(client, "a"), key_prefix="b")),
    ],
    ids=["delete", "expire", "load"],
)
def test_a_server_that_fails_over_during_a_change(
    pair: Pair, command: str, change: Callable[..., sessions.Report]
) -> None:
    """What was written last may be gone with it: an error says so; done again, it is complete."""
    with redis.Redis(port=pair.proxy.port, protocol=2) as client:
        store(client, "a")
        pair.copy()
        answer = client.response_callbacks.get(command, lambda reply, **_: reply)
        count = 0

        def then_fail_over(reply: Any, **options: Any) -> Any:
            nonlocal count
            count += 1
            if count == 1:
                pair.fail_over()
            return answer(reply, **options)

        client.set_response_callback(command, then_fail_over)
        with pytest.raises(MemorystoreChatError):
            change(client)
        report = change(client)
        assert report.sessions + report.existing == len(NAMES) or not ids(client, "a")
        if report.action == "expire":
            assert all(session.ttl for session in sessions.scan(client))


def test_a_replica_is_refused(pair: Pair) -> None:
    """It may lack sessions; the error says where to go."""
    pair.copy()
    with pair.second.client() as client, pytest.raises(MemorystoreChatError, match="primary"):
        ids(client, "")
