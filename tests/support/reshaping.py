"""Clusters that change while somebody uses them: new shards, slots that move, fail-overs."""

from collections.abc import Iterable
from typing import Any

import redis

from memorystore_tutorial.launching import shards
from servers import Cluster, Server


def add_shard(cluster: Cluster, slots: Iterable[int]) -> None:
    """Make the last replica a primary that takes slots, keys included, from the others."""
    new, wanted = cluster.nodes[-1], {*slots}
    with new.admin() as admin:
        admin.execute_command("CLUSTER REPLICATE", "NO", "ONE")

    def knows(admin: redis.Redis) -> bool:
        nodes: Any = admin.cluster("NODES")
        return "master" in nodes[f"{new.host}:{new.port}"]["flags"]

    cluster.nodes[0].wait_for(knows)
    for source, its in zip(cluster.nodes, shards(cluster.primaries), strict=False):
        move_slots([*wanted.intersection(its)], source, new)


def move_slots(slots: list[int], source: Server, target: Server, *steps: str) -> None:
    """Move slots with their keys from one primary to another.

    Args:
        slots: The hash slots.
        source: Where they are.
        target: Where they go.
        *steps: Which of "open", "keys" and "close" to do; none stands for all.
    """
    steps = steps or ("open", "keys", "close")
    with source.admin() as one, target.admin() as other, one.client() as held, other.client() as to:
        source_id, target_id = (node.execute_command("CLUSTER MYID") for node in (held, to))
        for slot in slots:
            if "open" in steps:
                to.execute_command("CLUSTER SETSLOT", slot, "IMPORTING", source_id)
                held.execute_command("CLUSTER SETSLOT", slot, "MIGRATING", target_id)
            while "keys" in steps and (
                keys := held.execute_command("CLUSTER GETKEYSINSLOT", slot, 1000)
            ):
                held.migrate(target.host, target.port, keys, 0, 5000, auth=None)
            if "close" in steps:
                for node in (to, held):
                    node.execute_command("CLUSTER SETSLOT", slot, "NODE", target_id)


def fail_over(cluster: Cluster, primary: Server) -> None:
    """Kill a primary, have its replica take over, and start it again with nothing.

    It comes back as a replica that waits for its copy: the new primary is told to wait before it
    sends one. The cluster is one that had no fail-over before.
    """
    replica = cluster.nodes[cluster.nodes.index(primary) + cluster.primaries]

    def is_served(admin: redis.Redis) -> bool:
        state: Any = admin.cluster("INFO")["cluster_state"]
        return bool(state == "ok" and role_of(admin) == "master")

    with replica.admin() as admin:
        admin.config_set("repl-diskless-sync-delay", 3600)
        primary.kill()
        admin.execute_command("CLUSTER FAILOVER", "TAKEOVER")
    replica.wait_for(is_served)
    primary.spawn()
    primary.wait_for(lambda admin: role_of(admin) == "slave" and not admin.dbsize())


def role_of(admin: redis.Redis) -> str:
    """What a server is, "master" or "slave"."""
    return str(admin.info("replication")["role"])
