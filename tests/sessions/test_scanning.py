"""Finding sessions: what is one, and that each is listed once."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from redis.cluster import LoadBalancingStrategy

from interference import InterferingRedis
from memorystore_chat import MemorystoreChatMessageHistory, sessions
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
    assert session.ttl == pytest.approx(50, abs=10)
    assert 1000 < session.bytes < 3000
    assert session.first is not None
    assert session.last is not None
    assert begun - timedelta(seconds=1) < session.first <= session.last <= datetime.now(UTC)


def test_what_is_a_session(client: Any, key_prefix: str) -> None:
    """A prefix is literal; one readable message at either end suffices, so it can be mended."""
    for odd in ("*", "?", "[a]", "\\", "[^x]", "ü-{tag}"):
        client.rpush(f"{key_prefix}{odd}1", element())
        assert ids(client, key_prefix + odd) == ["1"]
    prefix = f"{key_prefix}new:"
    client.set(f"{prefix}string", "x")
    client.hset(f"{prefix}hash", "a", "b")
    client.rpush(f"{prefix}list", "x", '{"json": true}')
    client.rpush(prefix.encode() + b"\xff", element())
    client.rpush(f"{prefix}newest", element(), "{broken")
    client.rpush(f"{prefix}oldest", "{broken", element())
    assert ids(client, prefix) == ["newest", "oldest"]


def test_many_are_listed_once_and_in_few_round_trips(
    interfering: InterferingRedis, key_prefix: str
) -> None:
    """SCAN may repeat keys while the server rehashes them; what goes meanwhile is left out."""
    fill = "for number = 1000, 3499 do redis.call('RPUSH', KEYS[1] .. number, ARGV[1]) end"
    interfering.eval(fill, 1, key_prefix, element())
    answer = interfering.response_callbacks["SCAN"]

    def repeat(reply: Any, **options: Any) -> Any:
        cursor, keys = answer(reply, **options)
        return cursor, keys * 2

    interfering.set_response_callback("SCAN", repeat)
    interfering.before = {"sessions/look": lambda: interfering.unlink(f"{key_prefix}1000")}
    interfering.trips = 0
    assert ids(interfering, key_prefix) == [f"{number}" for number in range(1001, 3500)]
    assert interfering.trips < 30


def test_sizes_are_estimated_where_memory_is_refused(
    valkey_server: Server, key_prefix: str
) -> None:
    with valkey_server.limited("-memory") as client:
        client.rpush(f"{key_prefix}a", *[element("x" * 1000)] * 7)
        (session,) = sessions.scan(client, key_prefix=key_prefix)
        assert session.bytes == 7 * len(element("x" * 1000))


@pytest.mark.parametrize("options", [{"decode_responses": True}, {"encoding": "utf-16"}], ids=str)
def test_whatever_a_client_decodes_and_reads_from(
    valkey_cluster: Cluster, key_prefix: str, options: Any
) -> None:
    options["load_balancing_strategy"] = LoadBalancingStrategy.ROUND_ROBIN
    names = [f"é{number}" for number in range(10, 40)]
    given: Any = {"key_prefix": key_prefix, "dry_run": False}
    with valkey_cluster.client() as plain, valkey_cluster.client(**options) as client:
        for name in names:
            plain.rpush(f"{key_prefix}{name}", element(ago=timedelta(hours=2)))
        assert ids(client, key_prefix) == names
        file = exported(client, key_prefix)
        assert sessions.expire(client, names[:2], ttl=900, **given).sessions == 2
        assert sessions.delete(client, idle_for=60, **given).sessions == len(names)
        assert ids(plain, key_prefix) == []
        assert sessions.load(client, file).sessions == len(names)
        assert plain.ttl(f"{key_prefix}{names[0]}") == -1
