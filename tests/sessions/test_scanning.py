"""Finding sessions: what is one, and that each is listed once."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from redis.backoff import NoBackoff
from redis.cluster import LoadBalancingStrategy
from redis.retry import Retry

import servers
from interference import InterferingRedis
from memorystore_chat import ConnectError, MemorystoreChatMessageHistory, sessions
from servers import Cluster, Server
from stored import element, exported, ids


def test_scan_says_what_a_session_is(client: Any, key_prefix: str) -> None:
    """Id, key, number of messages, time to live, bytes, and when it began and ended."""
    history = MemorystoreChatMessageHistory(client, "Ada Ł", 60, key_prefix=key_prefix)
    begun = datetime.now(UTC)
    history.add_user_message("Hello!")
    history.add_ai_message("Hi there! " * 100)
    (session,) = sessions.scan(client, key_prefix=key_prefix)
    assert (session.id, session.key, session.messages) == ("Ada Ł", f"{key_prefix}Ada Ł", 2)
    assert session.ttl is not None
    assert 58 <= session.ttl <= 60
    assert 1000 < session.bytes < 3000
    assert session.first is not None
    assert session.last is not None
    assert begun - timedelta(seconds=1) < session.first <= session.last <= datetime.now(UTC)


@pytest.mark.parametrize("odd", ["*", "?", "[a]", "\\", "a*b?[c]\\d", "[^x]", "ü-{tag}"])
def test_a_prefix_is_taken_literally(client: Any, key_prefix: str, odd: str) -> None:
    for name in (f"{odd}1", "other", "a"):
        client.rpush(f"{key_prefix}{name}", element())
    assert ids(client, key_prefix + odd) == ["1"]


def test_scan_passes_over_what_is_no_session(client: Any, key_prefix: str) -> None:
    """One readable message at either end makes a session, so that it can be found and mended."""
    client.set(f"{key_prefix}string", "x")
    client.hset(f"{key_prefix}hash", "a", "b")
    client.rpush(f"{key_prefix}list", "x", '{"json": true}')
    client.rpush(key_prefix.encode() + b"\xff", element())
    client.rpush(f"{key_prefix}newest", element(), "{broken")
    client.rpush(f"{key_prefix}oldest", "{broken", element())
    assert ids(client, key_prefix) == ["newest", "oldest"]


def test_many_are_listed_once_and_in_few_round_trips(
    interfering: InterferingRedis, key_prefix: str
) -> None:
    """SCAN may repeat keys while the server rehashes them."""
    with interfering.pipeline() as pipe:
        for number in range(2500):
            pipe.rpush(f"{key_prefix}{number:04}", element())
        pipe.execute()
    answer = interfering.response_callbacks["SCAN"]

    def repeat(reply: Any, **options: Any) -> Any:
        cursor, keys = answer(reply, **options)
        return cursor, keys * 2

    interfering.set_response_callback("SCAN", repeat)
    interfering.trips = 0
    assert ids(interfering, key_prefix) == [f"{number:04}" for number in range(2500)]
    assert interfering.trips < 30


def test_sessions_that_go_during_the_scan_are_left_out(
    interfering: InterferingRedis, key_prefix: str
) -> None:
    for name in "abc":
        interfering.rpush(f"{key_prefix}{name}", element())
    interfering.before = {"sessions/look": lambda: interfering.unlink(f"{key_prefix}a")}
    assert ids(interfering, key_prefix) == ["b", "c"]


@pytest.mark.own_server
def test_commands_that_memorystore_refuses_are_not_needed(server: Server, key_prefix: str) -> None:
    """KEYS, OBJECT, CONFIG, CLIENT, and even MEMORY: sizes are estimated from the messages."""
    refused = ("-keys", "-object", "-config", "-client", "-acl", "-debug", "-memory")
    with server.limited(*refused) as client:
        client.rpush(f"{key_prefix}a", *[element("x" * 1000)] * 7)
        (session,) = sessions.scan(client, key_prefix=key_prefix)
        assert session.bytes == 7 * len(element("x" * 1000))
        file = exported(client, key_prefix)
        assert sessions.delete(client, key_prefix=key_prefix, dry_run=False).sessions == 1
        assert sessions.load(client, file).messages == 7


@pytest.mark.parametrize(
    "options",
    [
        {"decode_responses": True},
        {"load_balancing_strategy": LoadBalancingStrategy.ROUND_ROBIN},
        {"encoding": "utf-16"},
    ],
    ids=["text", "replicas", "utf-16"],
)
def test_whatever_a_client_decodes_and_reads_from(
    valkey_cluster: Cluster, key_prefix: str, options: dict[str, Any]
) -> None:
    names = sorted(f"é{number}" for number in range(60))
    with valkey_cluster.client() as plain, valkey_cluster.client(**options) as client:
        for name in names:
            plain.rpush(f"{key_prefix}{name}", element(ago=timedelta(hours=2)))
        assert ids(client, key_prefix) == names
        file = exported(client, key_prefix)
        report = sessions.expire(client, names[:2], key_prefix=key_prefix, ttl=9, dry_run=False)
        assert (report.sessions, report.missing) == (2, 0)
        report = sessions.delete(client, key_prefix=key_prefix, idle_for=60, dry_run=False)
        assert (report.sessions, report.changed) == (60, 0)
        assert ids(plain, key_prefix) == []
        assert sessions.load(client, file).sessions == 60
        assert plain.ttl(f"{key_prefix}{names[0]}") == -1


def test_an_outage_is_an_error(key_prefix: str) -> None:
    """It is never a short list."""
    with servers.valkey() as server, server.client(retry=Retry(NoBackoff(), 0)) as client:
        for number in range(300):
            client.rpush(f"{key_prefix}{number}", element())
        found = sessions.scan(client, key_prefix=key_prefix)
        assert next(found).messages == 1
        server.kill()
        with pytest.raises(ConnectError, match="listing"):
            list(found)
