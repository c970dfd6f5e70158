"""What a server says about itself, in words for people."""

import statistics
import timeit

import redis
from redis.cluster import RedisCluster

from memorystore_tutorial.tables import size

_ROUND_TRIPS = 21

# What a server does when its memory is full: https://valkey.io/topics/lru-cache/
_FULL = {
    "noeviction": "it stores nothing more",
    "volatile": "it removes sessions with a TTL before their time, and keeps those without one",
    "allkeys": "it removes any session, with a TTL or without",
}
_FIRST = {
    "lru": "not used for longest", "lrm": "not changed for longest", "lfu": "used least",
    "ttl": "soonest to expire",
}  # fmt: skip


def server_facts(client: redis.Redis | RedisCluster) -> dict[str, str]:
    """Product, version, mode, memory and round-trip time of the server a client is connected to.

    Of a cluster, one node answers. A fact that the server does not tell is left out.

    Args:
        client: A connected client, such as `memorystore_chat.connect` returns.

    Returns:
        Name of the fact to its value, both to show.

    Example:
        >>> from memorystore_chat import connect
        >>> with connect("embedded") as client:
        ...     server_facts(client)["product"]
        'Valkey'
    """
    info = client.info()
    limit = int(info.get("maxmemory", 0))
    facts = {
        # Valkey gives redis_version for the sake of old clients, and its own beside it.
        "product": "Valkey" if "valkey_version" in info else "Redis",
        "version": str(info.get("valkey_version") or info.get("redis_version")),
        "mode": str(info.get("server_mode") or info.get("redis_mode")),
        "memory used": size(int(info.get("used_memory", 0))),
        "memory limit": size(limit) if limit else "none",
    }
    if policy := info.get("maxmemory_policy"):
        facts["when memory is full"] = _eviction(str(policy))
    seconds = statistics.median(timeit.repeat(client.ping, number=1, repeat=_ROUND_TRIPS))
    return facts | {"round trip": f"{seconds * 1000:.2g} ms"}


def _eviction(policy: str) -> str:
    """The policy and what it means for sessions: "volatile-lru: ..."."""
    whose, _, first = policy.partition("-")
    meaning = _FULL.get(whose, "")
    order = f" ({_FIRST[first]} first)" if first in _FIRST else ""
    return f"{policy}: {meaning}{order}" if meaning else policy
