"""What a server says about itself."""

import pytest
import redis

from memorystore_chat.tutorial.facts import _megabytes, _milliseconds, server_facts
from servers import Cluster


def test_standalone(client: redis.Redis, request: pytest.FixtureRequest) -> None:
    """Product and version are the server's own, and the numbers are coarse."""
    facts = server_facts(client)
    expected = {"valkey9": "Valkey 9", "redis7": "Redis 7"}.get(request.node.callspec.id)
    if expected is not None:
        assert f"{facts['product']} {facts['version'][0]}" == expected
    assert facts["mode"] == "standalone"
    assert facts["memory limit"] == "none"
    assert facts["round trip"].endswith("ms")


def test_cluster(valkey_cluster: Cluster) -> None:
    """One node of a cluster answers for it."""
    with valkey_cluster.client() as client:
        facts = server_facts(client)
    assert (facts["product"], facts["mode"]) == ("Valkey", "cluster")


def test_memory_limit(client: redis.Redis) -> None:
    """A limit is shown in megabytes."""
    client.config_set("maxmemory", "1500mb")
    try:
        assert server_facts(client)["memory limit"] == "1,573 MB"
    finally:
        client.config_set("maxmemory", 0)


def test_coarse_numbers() -> None:
    """What differs from one look to the next is not shown."""
    assert (_megabytes(900_000), _megabytes(25_300_000)) == ("under 10 MB", "25 MB")
    assert (_milliseconds(0.00007), _milliseconds(0.0032)) == ("under 1 ms", "3 ms")
