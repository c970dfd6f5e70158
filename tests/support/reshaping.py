"""Clusters that change while somebody uses them: new shards, slots that move, fail-overs."""

import re
from collections.abc import Iterable

import redis

from servers import Cluster, Server, wait_until

SLOTS = 16384


def replica_of(cluster: Cluster, primary: Server) -> Server:
    """A running replica of a primary."""
    for node in cluster.nodes:
        if node.running:
            with node.admin() as admin:
                role = admin.info("replication")
            if role["role"] == "slave" and role["master_port"] == primary.port:
                return node
    raise AssertionError(f"no replica of {primary.port}")


def empty_primary(cluster: Cluster) -> Server:
    """Make the last replica of a cluster a primary without slots, as a shard just added is."""
    new = cluster.nodes[-1]
    with new.admin() as admin, cluster.nodes[0].admin() as known:
        admin.execute_command("CLUSTER REPLICATE", "NO", "ONE")
        mine = admin.execute_command("CLUSTER MYID").decode()
        wait_until(
            lambda: re.search(rf"^{mine} \S+ master", nodes_by(known), re.MULTILINE),
            "the others knowing the new primary",
        )
    return new


def add_shard(cluster: Cluster, slots: Iterable[int] = range(0, SLOTS, 4)) -> Server:
    """Make the last replica a primary that takes slots, keys included, from the others."""
    new = empty_primary(cluster)
    wanted = set(slots)
    for source in cluster.nodes[: cluster.primaries]:
        with source.admin() as admin:
            owned = own_slots(admin)
        move_slots([slot for slot in owned if slot in wanted], source, new)
    return new


def nodes_by(admin: redis.Redis) -> str:
    """What a node says of all."""
    text: str = admin.execute_command("CLUSTER", "NODES").decode()
    return text


def own_slots(admin: redis.Redis) -> list[int]:
    """The hash slots that a node has."""
    for fields in nodes_by(admin).splitlines():
        if "myself" in fields:
            ranges = [part for part in fields.split()[8:] if not part.startswith("[")]
            ends = [list(map(int, part.split("-"))) for part in ranges]
            return [slot for pair in ends for slot in range(pair[0], pair[-1] + 1)]
    raise AssertionError("a node that does not know itself")


def move_slots(slots: list[int], source: Server, target: Server, *steps: str) -> None:
    """Move slots with their keys from one primary to another.

    Args:
        slots: The hash slots.
        source: Where they are.
        target: Where they go.
        *steps: Which of "open", "keys" and "close" to do; none stands for all.
    """
    with source.admin() as one, target.admin() as other, one.client() as held, other.client() as to:
        source_id, target_id = (node.execute_command("CLUSTER MYID") for node in (held, to))
        for slot in slots:
            if "open" in steps or not steps:
                to.execute_command("CLUSTER SETSLOT", slot, "IMPORTING", source_id)
                held.execute_command("CLUSTER SETSLOT", slot, "MIGRATING", target_id)
            if "keys" in steps or not steps:
                while keys := held.execute_command("CLUSTER GETKEYSINSLOT", slot, 1000):
                    held.migrate(target.host, target.port, keys, 0, 5000, auth=None)
            if "close" in steps or not steps:
                for node in (to, held):
                    node.execute_command("CLUSTER SETSLOT", slot, "NODE", target_id)


def fail_over(cluster: Cluster, primary: Server) -> Server:
    """Kill a primary, wait for its replica to take over, and start it again with nothing.

    It comes back as a replica that waits for its copy: the new primary is told to wait before it
    sends one.
    """
    replica = replica_of(cluster, primary)
    with replica.admin() as admin:
        admin.config_set("repl-diskless-sync-delay", 3600)
        primary.kill()
        wait_until(lambda: admin.info("replication")["role"] == "master", "the fail-over")
        wait_until(
            lambda: admin.execute_command("CLUSTER INFO")["cluster_state"] == "ok",
            "the cluster being served again",
        )
    primary.spawn()

    def is_empty_replica() -> bool:
        try:
            with primary.admin() as admin:
                return bool(admin.info("replication")["role"] == "slave" and not admin.dbsize())
        except redis.ConnectionError:
            return False

    wait_until(is_empty_replica, "the former primary coming back as a replica")
    return replica
