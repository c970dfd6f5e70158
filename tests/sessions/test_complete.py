"""What is found is complete, or an error: new shards, moving slots, failovers, replicas."""

from functools import partial
from typing import Any

import pytest
from redis.crc import key_slot

import servers
from interference import InterferingRedis
from memorystore_chat import MemorystoreChatError, connect, sessions
from memorystore_tutorial import sessions_table
from proxy import Proxy
from reshaping import add_shard, fail_over, move_slots
from servers import Cluster
from stored import element, exported, ids

NAMES = [f"{number:03}" for number in range(90)]
MESSAGE = element()


def store(client: Any, key_prefix: str) -> None:
    for name in NAMES:
        client.rpush(f"{key_prefix}{name}", MESSAGE, MESSAGE)


def test_a_client_that_knows_an_older_cluster(key_prefix: str) -> None:
    """Connected before a shard was added, and idle during a failover, it finds all, or says so."""
    with (
        servers.cluster(cluster_require_full_coverage="no") as cluster,
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
        cluster.nodes[2].kill()  # its replica has become the new shard
        with pytest.raises(MemorystoreChatError, match="listing"):
            ids(client, key_prefix)


def test_slots_that_move(valkey_cluster: Cluster, key_prefix: str) -> None:
    """A move under way is an error before anything is done, one in between afterwards."""
    slot = key_slot(f"{key_prefix}{NAMES[0]}".encode())
    source = valkey_cluster.node_of(f"{key_prefix}{NAMES[0]}")
    target = next(node for node in valkey_cluster.nodes[:3] if node is not source)
    with valkey_cluster.client() as client:
        store(client, key_prefix)
        found = sessions.scan(client, key_prefix=key_prefix)
        assert next(found).messages == 2
        move_slots([slot], source, target)
        with pytest.raises(MemorystoreChatError, match="again"):
            list(found)
        assert ids(client, key_prefix) == NAMES
        move_slots([slot], target, source, "open")
        with pytest.raises(MemorystoreChatError, match="again"):
            sessions.delete(client, key_prefix=key_prefix, dry_run=False)
        move_slots([slot], target, source, "keys", "close")
        assert ids(client, key_prefix) == NAMES
    with source.client() as part, pytest.raises(MemorystoreChatError, match="RedisCluster"):
        ids(part, key_prefix)  # a plain client of one node sees only what that has


def load(client: Any) -> sessions.Report:
    return sessions.load(client, exported(client, "a"), key_prefix="b")


@pytest.mark.parametrize(
    ("when", "cut", "do"),
    [
        ("sessions/look", True, partial(ids, key_prefix="a")),
        ("sessions/look", False, partial(ids, key_prefix="a")),  # one stays, with a replica
        ("SCAN", True, partial(sessions.delete, key_prefix="a", dry_run=False)),
        ("sessions/change", True, partial(sessions.expire, key_prefix="a", ttl=99, dry_run=False)),
        ("sessions/load", True, load),
    ],
)
def test_a_server_that_fails_over(when: str, cut: bool, do: Any) -> None:
    """What was written last may be gone with it: an error says so; done again, it is complete."""
    with (
        servers.valkey() as first,
        servers.valkey() as second,
        Proxy(first.host, first.port) as proxy,
        InterferingRedis(port=proxy.port, protocol=2) as client,
    ):
        for server in (first, second):
            store(server.client(), "a")

        def take_over() -> None:
            proxy.lead_to(second.host, second.port, cut=cut)
            with first.admin() as former:
                former.execute_command("REPLICAOF", second.host, second.port)

        client.before = {when: take_over}
        with pytest.raises(MemorystoreChatError, match="again" if cut else "primary"):
            do(client)
        done = do(client)
        if isinstance(done, list):
            assert done == NAMES
        else:
            assert done.sessions + done.existing == len(NAMES) or not ids(client, "a")
            assert done.action != "expire" or all(one.ttl for one in sessions.scan(client))
