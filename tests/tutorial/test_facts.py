"""What a server says about itself."""

import pytest
import redis

from memorystore_tutorial import server_facts
from servers import Cluster


def test_standalone(client: redis.Redis, request: pytest.FixtureRequest) -> None:
    facts = server_facts(client)
    expected = {"valkey9": "Valkey 9", "redis7": "Redis 7"}.get(request.node.callspec.id)
    if expected is not None:
        assert f"{facts['product']} {facts['version'][0]}" == expected
    assert facts["mode"] == "standalone"
    assert facts["memory limit"] == "none"
    assert facts["round trip"].endswith("ms")


def test_cluster(valkey_cluster: Cluster) -> None:
    with valkey_cluster.client() as client:
        facts = server_facts(client)
    assert (facts["product"], facts["mode"]) == ("Valkey", "cluster")


def test_memory_limit(client: redis.Redis) -> None:
    client.config_set("maxmemory", "1500mb")
    try:
        assert server_facts(client)["memory limit"] == "1.6 GB"
    finally:
        client.config_set("maxmemory", 0)


@pytest.mark.parametrize(
    ("policy", "meaning"),
    [
        ("noeviction", "it stores nothing more"),
        (
            "volatile-lru",
            "it removes sessions with a TTL before their time, and keeps those without one (not "
            "used for longest first)",
        ),
        ("allkeys-random", "it removes any session, with a TTL or without"),
    ],
)
def test_what_happens_when_memory_is_full(client: redis.Redis, policy: str, meaning: str) -> None:
    before = client.config_get("maxmemory-policy")["maxmemory-policy"]
    client.config_set("maxmemory-policy", policy)
    try:
        assert server_facts(client)["when memory is full"] == f"{policy}: {meaning}"
    finally:
        client.config_set("maxmemory-policy", str(before))


def test_a_fact_that_is_not_told_is_left_out(
    client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Some servers say nothing of eviction, and future ones may have other policies."""
    info = client.info()
    monkeypatch.setattr(client, "info", lambda: info | {"maxmemory_policy": "future-policy"})
    assert server_facts(client)["when memory is full"] == "future-policy"
    del info["maxmemory_policy"]
    monkeypatch.setattr(client, "info", lambda: info)
    assert "when memory is full" not in server_facts(client)
