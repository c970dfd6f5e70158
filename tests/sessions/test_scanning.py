"""Finding sessions: what is one, and that each is listed once."""

import json
import subprocess
import sys
import time
import tracemalloc
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import redis
from langchain_core.messages import HumanMessage, message_to_dict
from redis.backoff import NoBackoff
from redis.cluster import LoadBalancingStrategy
from redis.retry import Retry

import servers
from interference import InterferingRedis
from memorystore_chat import ConnectError, MemorystoreChatMessageHistory, sessions
from servers import Cluster, Server
from stored import UNTIMED, element, exported, ids


@pytest.mark.parametrize("decode", [False, True])
def test_scan_says_what_a_session_is(server: Server, key_prefix: str, decode: bool) -> None:
    """Id, key, number of messages, time to live, bytes, and when it began and ended."""
    with server.client(decode_responses=decode) as client:
        history = MemorystoreChatMessageHistory(client, "Ada Ł", 60, key_prefix=key_prefix)
        begun = datetime.now(UTC)
        history.add_user_message("Hello!")
        time.sleep(0.005)
        history.add_ai_message("Hi there! " * 100)
        (session,) = sessions.scan(client, key_prefix=key_prefix)
    assert (session.id, session.key) == ("Ada Ł", f"{key_prefix}Ada Ł")
    assert session.messages == 2
    assert session.ttl is not None
    assert 58 <= session.ttl <= 60
    assert 1000 < session.bytes < 3000
    assert session.first is not None
    assert session.last is not None
    assert begun - timedelta(seconds=1) < session.first < session.last <= datetime.now(UTC)


def test_messages_of_other_libraries_have_no_time(client: redis.Redis, key_prefix: str) -> None:
    client.rpush(f"{key_prefix}a", UNTIMED, element())
    client.lpush(f"{key_prefix}b", json.dumps(message_to_dict(HumanMessage("hi"))))
    found = sorted(sessions.scan(client, key_prefix=key_prefix), key=lambda session: session.id)
    assert [(one.id, one.messages, one.first) for one in found] == [("a", 2, None), ("b", 1, None)]
    assert found[0].last is not None
    assert found[1].last is None


@pytest.mark.parametrize("odd", ["*", "?", "[a]", "\\", "a*b?[c]\\d", "[^x]", "ü-{tag}"])
def test_a_prefix_is_taken_literally(client: redis.Redis, key_prefix: str, odd: str) -> None:
    client.rpush(f"{key_prefix}{odd}1", element())
    client.rpush(f"{key_prefix}other", element())
    client.rpush(f"{key_prefix}a", element())
    assert ids(client, key_prefix + odd) == ["1"]


def test_scan_passes_over_what_is_no_session(client: redis.Redis, key_prefix: str) -> None:
    """Other types, other people's lists, keys that are not text, and sessions being loaded.

    One readable message at either end makes a session, so that it can be found and mended.
    """
    client.set(f"{key_prefix}string", "x")
    client.hset(f"{key_prefix}hash", "a", "b")
    client.rpush(f"{key_prefix}list", "x", '{"json": true}')
    client.rpush(f"{key_prefix}a:corrupt", "{broken", "[]")
    client.rpush(key_prefix.encode() + b"\xff", element())
    client.rpush(f"memorystore-chat:loading:{{{key_prefix}x}}", element())
    client.rpush(f"{key_prefix}newest", element(), "{broken")
    client.rpush(f"{key_prefix}oldest", "{broken", element())
    try:
        assert ids(client, key_prefix) == ["newest", "oldest"]
        assert not any(key_prefix in id_ for id_ in ids(client, "memorystore-chat:"))
    finally:
        client.unlink(f"memorystore-chat:loading:{{{key_prefix}x}}")


def test_scan_lists_each_of_many_once_and_in_few_round_trips(
    interfering: InterferingRedis, key_prefix: str
) -> None:
    """Steps of SCAN are smaller than the server; each costs two pipelines."""
    with interfering.pipeline() as pipe:
        for number in range(2500):
            pipe.rpush(f"{key_prefix}{number:04}", element())
        pipe.execute()
    interfering.pipelines = 0
    assert ids(interfering, key_prefix) == [f"{number:04}" for number in range(2500)]
    assert interfering.pipelines < 25
    assert ids(interfering, key_prefix, count=10) == ids(interfering, key_prefix, count=5000)


def test_a_key_that_scan_answers_twice_is_listed_once(server: Server, key_prefix: str) -> None:
    """SCAN may repeat keys while the server rehashes them."""
    with server.client() as client:
        client.rpush(f"{key_prefix}a", element())
        client.rpush(f"{key_prefix}b", element())
        answer = client.response_callbacks["SCAN"]
        twice = []

        def repeat(reply: Any, **options: Any) -> Any:
            cursor, keys = answer(reply, **options)
            twice.extend(keys)
            return cursor, keys * 2

        client.set_response_callback("SCAN", repeat)
        assert ids(client, key_prefix) == ["a", "b"]
        assert {key.decode().removeprefix(key_prefix) for key in twice} == {"a", "b"}


def test_sessions_that_go_during_the_scan_are_left_out(
    interfering: InterferingRedis, key_prefix: str
) -> None:
    """One is deleted after SCAN has named it, one after its length was asked for."""
    for name in "abc":
        interfering.rpush(f"{key_prefix}{name}", element())
    interfering.actions = {
        1: lambda: interfering.unlink(f"{key_prefix}a"),
        2: lambda: interfering.unlink(f"{key_prefix}b"),
    }
    interfering.pipelines = 0
    assert ids(interfering, key_prefix) == ["c"]


def test_a_server_without_scan_type(server: Server, key_prefix: str) -> None:
    """Redis 5 does not know SCAN's TYPE; keys of other types are sorted out by the client."""
    refused = []

    class Redis5(redis.Redis):
        def pipeline(self, *args: Any, **options: Any) -> Any:
            pipe: Any = super().pipeline(*args, **options)
            execute = pipe.execute_command

            def execute_command(*command: Any, **choices: Any) -> Any:
                if command[0] == "SCAN" and b"TYPE" in command:
                    refused.append(command)
                    command = ("SCAN", 0, b"NOTYPE", b"list")  # answered as Redis 5 answers TYPE
                return execute(*command, **choices)

            pipe.execute_command = execute_command
            return pipe

    with Redis5(host=server.host, port=server.port, protocol=2) as client:
        client.set(f"{key_prefix}string", "x")
        client.rpush(f"{key_prefix}list", "x")
        client.rpush(f"{key_prefix}session", element())
        assert ids(client, key_prefix) == ["session"]
        report = sessions.delete(client, key_prefix=key_prefix, dry_run=False)
        assert report.sessions == 1
        assert len(refused) == 2  # once in each scan
        assert client.exists(f"{key_prefix}string", f"{key_prefix}list") == 2


@pytest.mark.own_server
def test_commands_that_memorystore_refuses_are_not_needed(server: Server, key_prefix: str) -> None:
    """KEYS, OBJECT, CONFIG, CLIENT, and even MEMORY: sizes are estimated from the messages."""
    refused = ("-keys", "-object", "-config", "-client", "-acl", "-debug", "-memory")
    with server.limited(*refused) as client:
        client.rpush(f"{key_prefix}a", *[element("x" * 1000)] * 7)
        (session,) = sessions.scan(client, key_prefix=key_prefix)
        assert session.bytes == 7 * len(element("x" * 1000))
        assert sessions.delete(client, key_prefix=key_prefix, dry_run=False).sessions == 1


def test_large_messages_do_not_fill_the_memory(valkey_server: Server, key_prefix: str) -> None:
    """60 MB of messages at the ends of 30 sessions pass through some 20 MB of memory."""
    client = valkey_server.client()
    for number in range(30):
        client.rpush(f"{key_prefix}{number}", *[element("x" * 1_000_000)] * 2)
    tracemalloc.start()
    try:
        assert len(ids(client, key_prefix)) == 30
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 35e6


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"decode_responses": True},
        {"load_balancing_strategy": LoadBalancingStrategy.ROUND_ROBIN},
    ],
    ids=["bytes", "text", "replicas"],
)
def test_all_nodes_of_a_cluster_are_asked(
    valkey_cluster: Cluster, key_prefix: str, options: dict[str, Any]
) -> None:
    with valkey_cluster.client(**options) as client:
        for number in range(60):
            history = MemorystoreChatMessageHistory(client, str(number), 60, key_prefix=key_prefix)
            history.add_messages([HumanMessage("hi"), HumanMessage("there")])
        found = list(sessions.scan(client, key_prefix=key_prefix, count=7))
        assert sorted(int(session.id) for session in found) == list(range(60))
        assert {session.messages for session in found} == {2}
        assert all(session.ttl and session.bytes and session.last for session in found)
        assert len({client.get_node_from_key(session.key).port for session in found}) == 3
        some = sessions.delete(client, ["1", "2", "x"], key_prefix=key_prefix, dry_run=False)
        assert (some.sessions, some.missing) == (2, 1)
        for node in valkey_cluster.nodes:
            with node.admin() as admin:
                admin.config_resetstat()
        rest = sessions.delete(client, key_prefix=key_prefix, idle_for=1e-6, dry_run=False)
        assert (rest.sessions, rest.changed) == (58, 0)
        for node in valkey_cluster.nodes:
            with node.admin() as admin:  # which would be a round trip of its own for each script
                assert "cmdstat_command|getkeys" not in admin.info("commandstats")
        assert ids(client, key_prefix) == []


def test_an_outage_is_an_error() -> None:
    """A server that is gone is never a server without sessions."""
    with servers.valkey() as server, server.client(retry=Retry(NoBackoff(), 0)) as client:
        for number in range(50):
            client.rpush(str(number), element())
        found = sessions.scan(client, count=10)
        next(found)
        server.kill()
        with pytest.raises(ConnectError, match=r"failed while listing sessions \(redis") as caught:
            list(found)
        assert isinstance(caught.value.__cause__, redis.ConnectionError)
        with pytest.raises(ConnectError, match=r"while deleting sessions"):
            sessions.delete(client, ["1"])


@pytest.mark.parametrize("encoding", ["latin-1", "utf-16"])
def test_keys_are_utf_8_whatever_the_encoding_of_the_client(
    server: Server, client: redis.Redis, key_prefix: str, encoding: str
) -> None:
    """A client of another encoding finds, expires and deletes the sessions of everybody else."""
    with server.client(encoding=encoding) as other:
        for name in ("é1", "😀"):
            client.rpush(f"{key_prefix}{name}", element(ago=timedelta(hours=1)))
        file = exported(other, key_prefix)
        assert ids(other, key_prefix) == ["é1", "😀"]
        report = sessions.expire(other, ["é1"], key_prefix=key_prefix, ttl=100, dry_run=False)
        assert (report.sessions, report.missing) == (1, 0)
        assert client.ttl(f"{key_prefix}é1") > 90
        report = sessions.delete(other, key_prefix=key_prefix, idle_for=60, dry_run=False)
        assert report.sessions == 2
        assert sessions.load(other, file).sessions == 2
        assert client.exists(f"{key_prefix}é1", f"{key_prefix}😀") == 2


def test_loading_the_package_loads_nothing_that_formats() -> None:
    """A program that deletes sessions needs no HTML; `sessions_table` brings it."""
    program = (
        "import sys; from memorystore_chat import sessions; sessions.delete;"
        "formats = {n for n in sys.modules if n.split('.')[0] == 'html' or 'tutorial' in n};"
        "assert not formats, formats; sessions_table;"
        "assert 'memorystore_tutorial' in sys.modules"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
