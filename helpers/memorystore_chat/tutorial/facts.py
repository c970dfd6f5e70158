"""What a server says about itself, in words for people."""

import statistics
import time

import redis
from redis.cluster import RedisCluster

_ROUND_TRIPS = 21
_MEGA = 1_000_000


def server_facts(client: redis.Redis | RedisCluster) -> dict[str, str]:
    """Product, version, mode, memory and round-trip time of the server a client is connected to.

    Of a cluster, one node answers. Numbers are coarse on purpose, so that two looks at an idle
    server say the same.

    Args:
        client: A connected client, such as `memorystore_chat.connection.opening` returns.

    Returns:
        Name of the fact to its value, both to show.

    Example:
        >>> from memorystore_chat import connect
        >>> with connect("embedded") as client:
        ...     server_facts(client)["product"]
        'Valkey'
    """
    info = client.info()
    # Valkey gives redis_version for the sake of old clients, and its own beside it.
    product = "Valkey" if "valkey_version" in info else "Redis"
    return {
        "product": product,
        "version": str(info.get("valkey_version") or info.get("redis_version")),
        "mode": str(info.get("server_mode") or info.get("redis_mode")),
        "memory used": _megabytes(int(info.get("used_memory", 0))),
        "memory limit": _megabytes(int(info.get("maxmemory", 0)))
        if info.get("maxmemory")
        else "none",
        "round trip": _milliseconds(_round_trip(client)),
    }


def _round_trip(client: redis.Redis | RedisCluster) -> float:
    """Median seconds of a PING."""
    seconds = []
    for _ in range(_ROUND_TRIPS):
        began = time.perf_counter()
        client.ping()
        seconds.append(time.perf_counter() - began)
    return statistics.median(seconds)


def _megabytes(size: int) -> str:
    return "under 10 MB" if size < 10 * _MEGA else f"{size / _MEGA:,.0f} MB"


def _milliseconds(seconds: float) -> str:
    return "under 1 ms" if seconds < 0.001 else f"{seconds * 1000:.0f} ms"
