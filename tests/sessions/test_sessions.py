"""Listing and deleting sessions."""

import itertools
import json
import re
import sys
import threading
import time
import tracemalloc
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
import redis
from langchain_core.messages import HumanMessage, message_to_dict
from redis.backoff import NoBackoff
from redis.cluster import LoadBalancingStrategy
from redis.exceptions import ResponseError
from redis.retry import Retry

import servers
from interference import InterferingRedis
from memorystore_chat import (
    ConnectError,
    MemorystoreChatError,
    MemorystoreChatMessageHistory,
    sessions,
)
from memorystore_chat.sessions import Report
from memorystore_chat.storage import codec

UNTIMED = '{"type":"human","data":{"content":"hi","type":"human"}}'


def element(text: str = "hi", *, ago: timedelta = timedelta()) -> bytes:
    """A stored message, appended some time ago."""
    moment = int((datetime.now(UTC) - ago).timestamp() * 1000)
    append_id = UUID(int=moment << 80 | 7 << 76 | 2 << 62 | 1)
    return codec.encode([HumanMessage(text)], str(append_id))[0]


def ids(client: Any, key_prefix: str, **options: Any) -> list[str]:
    return sorted(session.id for session in sessions.scan(client, key_prefix=key_prefix, **options))


@pytest.fixture
def interfering(server: servers.Server) -> Any:
    with InterferingRedis(host=server.host, port=server.port, protocol=2) as client:
        yield client


@pytest.mark.parametrize("decode", [False, True])
def test_scan_says_what_a_session_is(server, key_prefix, decode):
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
    assert 58 <= session.ttl <= 60
    assert 1000 < session.bytes < 3000
    assert begun - timedelta(seconds=1) < session.first < session.last <= datetime.now(UTC)


def test_a_session_that_does_not_expire_has_no_ttl(client, key_prefix):
    """The ttl is None and not -1."""
    client.rpush(f"{key_prefix}a", element())
    (session,) = sessions.scan(client, key_prefix=key_prefix)
    assert session.ttl is None


def test_messages_without_a_time_have_none(client, key_prefix):
    """Elements of the older package do not say when they were appended."""
    client.rpush(f"{key_prefix}a", UNTIMED, element())
    (session,) = sessions.scan(client, key_prefix=key_prefix)
    assert session.first is None
    assert session.last is not None


@pytest.mark.parametrize("odd", ["*", "?", "[a]", "\\", "a*b?[c]\\d", "[^x]", "ü-{tag}"])
def test_a_prefix_is_taken_literally(client, key_prefix, odd):
    """Characters that SCAN's patterns give a meaning to match themselves only."""
    client.rpush(f"{key_prefix}{odd}1", element())
    client.rpush(f"{key_prefix}other", element())
    client.rpush(f"{key_prefix}a", element())
    assert ids(client, key_prefix + odd) == ["1"]


def test_scan_passes_over_what_is_no_session(client, key_prefix):
    """Other types, other people's lists, keys that are not text, and sessions being loaded."""
    client.set(f"{key_prefix}string", "x")
    client.hset(f"{key_prefix}hash", "a", "b")
    client.rpush(f"{key_prefix}list", "x", '{"json": true}')
    client.rpush(f"{key_prefix}a:corrupt", "{broken", "[]")
    client.rpush(key_prefix.encode() + b"\xff", element())
    client.rpush(f"memorystore-chat:loading:{{{key_prefix}x}}", element())
    client.rpush(f"{key_prefix}session", element())
    try:
        assert ids(client, key_prefix) == ["session"]
        assert not any(key_prefix in id_ for id_ in ids(client, "memorystore-chat:"))
    finally:
        client.unlink(f"memorystore-chat:loading:{{{key_prefix}x}}")


def test_a_session_with_a_broken_end_is_still_a_session(client, key_prefix):
    """One readable message at either end is enough, so that it can be found and mended."""
    client.rpush(f"{key_prefix}newest", element(), "{broken")
    client.rpush(f"{key_prefix}oldest", "{broken", element())
    assert ids(client, key_prefix) == ["newest", "oldest"]


def test_scan_lists_each_of_many_once_and_in_few_round_trips(interfering, key_prefix):
    """Steps of SCAN are smaller than the server; each costs two pipelines."""
    with interfering.pipeline() as pipe:
        for number in range(2500):
            pipe.rpush(f"{key_prefix}{number:04}", element())
        pipe.execute()
    interfering.pipelines = 0
    assert ids(interfering, key_prefix) == [f"{number:04}" for number in range(2500)]
    assert interfering.pipelines < 25
    assert ids(interfering, key_prefix, count=10) == ids(interfering, key_prefix, count=5000)


def test_a_key_that_scan_answers_twice_is_listed_once(server, key_prefix):
    """SCAN may repeat keys while the server rehashes them."""

    class Repeating(redis.Redis):
        def execute_command(self, *args: Any, **options: Any) -> Any:
            reply = super().execute_command(*args, **options)
            return (reply[0], reply[1] * 2) if args[0] == "SCAN" else reply

    with Repeating(host=server.host, port=server.port, protocol=2) as client:
        client.rpush(f"{key_prefix}a", element())
        client.rpush(f"{key_prefix}b", element())
        assert ids(client, key_prefix) == ["a", "b"]


def test_the_memory_of_keys_grows_and_stays_exact():
    """20,000 keys are new once and known afterwards, at no more than 24 bytes each."""
    seen = sessions._Seen()
    keys = [f"session:{number}".encode() for number in range(20_000)]
    assert all(seen.add(key) for key in keys)
    assert not any(seen.add(key) for key in keys)
    assert seen._slots.itemsize * len(seen._slots) <= 24 * len(keys)


def test_sessions_that_go_during_the_scan_are_left_out(interfering, key_prefix):
    """One is deleted after SCAN has named it, one after its length was asked for."""
    for name in "abc":
        interfering.rpush(f"{key_prefix}{name}", element())
    interfering.actions = {
        1: lambda: interfering.unlink(f"{key_prefix}a"),
        2: lambda: interfering.unlink(f"{key_prefix}b"),
    }
    interfering.pipelines = 0
    assert ids(interfering, key_prefix) == ["c"]


def test_a_server_without_scan_type(server, key_prefix):
    """Redis 5 does not know SCAN's TYPE; keys of other types are sorted out by the client."""

    class Redis5(redis.Redis):
        def execute_command(self, *args: Any, **options: Any) -> Any:
            if args[0] == "SCAN" and "TYPE" in args:
                raise ResponseError("syntax error")
            return super().execute_command(*args, **options)

    with Redis5(host=server.host, port=server.port, protocol=2) as client:
        client.set(f"{key_prefix}string", "x")
        client.rpush(f"{key_prefix}list", "x")
        client.rpush(f"{key_prefix}session", element())
        assert ids(client, key_prefix) == ["session"]
        report = sessions.delete(client, key_prefix=key_prefix, dry_run=False)
        assert report.sessions == 1
        assert client.exists(f"{key_prefix}string", f"{key_prefix}list") == 2


@pytest.mark.own_server
def test_commands_that_memorystore_refuses_are_not_needed(server, key_prefix):
    """KEYS, OBJECT, CONFIG, CLIENT, and even MEMORY: sizes are estimated from the messages."""
    with server.admin() as admin:
        admin.execute_command(
            *("ACL", "SETUSER", "limited", "on", ">pw", "~*", "+@all", "-keys", "-object"),
            *("-config", "-client", "-acl", "-debug", "-memory"),
        )
    try:
        with server.client(username="limited", password="pw") as client:
            client.rpush(f"{key_prefix}a", *[element("x" * 1000)] * 7)
            (session,) = sessions.scan(client, key_prefix=key_prefix)
            assert session.bytes == 7 * len(element("x" * 1000))
            assert sessions.delete(client, key_prefix=key_prefix, dry_run=False).sessions == 1
    finally:
        with server.admin() as admin:
            admin.execute_command("ACL", "DELUSER", "limited")


def test_large_messages_do_not_fill_the_memory(valkey_server, key_prefix):
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
def test_all_nodes_of_a_cluster_are_asked(valkey_cluster, key_prefix, options):
    """Sessions of every primary are listed, with all they have, and deleted."""
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


def test_delete_only_counts_by_default(client, key_prefix):
    """A dry run says what the real run then does."""
    for name in "abc":
        client.rpush(f"{key_prefix}{name}", element(), element())
    dry = sessions.delete(client, key_prefix=key_prefix)
    assert (dry.dry_run, dry.sessions, dry.messages) == (True, 3, 6)
    assert dry.bytes > 400
    assert ids(client, key_prefix) == ["a", "b", "c"]
    real = sessions.delete(client, key_prefix=key_prefix, dry_run=False)
    assert real == Report("delete", False, sessions=3, messages=6, bytes=dry.bytes)
    assert ids(client, key_prefix) == []


def test_delete_by_ids(client, key_prefix):
    """Only the named ones go, each counted once; unknown ones are reported."""
    for name in "abc":
        client.rpush(f"{key_prefix}{name}", element())
    client.set(f"{key_prefix}string", "x")
    wanted = iter(["a", "b", "a", "nobody", "string"])
    report = sessions.delete(client, wanted, key_prefix=key_prefix, dry_run=False)
    assert (report.sessions, report.missing) == (2, 2)
    assert ids(client, key_prefix) == ["c"]
    assert client.exists(f"{key_prefix}string")


def test_deleting_no_ids_deletes_nothing(client, key_prefix):
    """An empty list of ids does not stand for all."""
    client.rpush(f"{key_prefix}a", element())
    assert sessions.delete(client, [], key_prefix=key_prefix, dry_run=False).sessions == 0
    assert ids(client, key_prefix) == ["a"]


@pytest.mark.parametrize("dry_run", [True, False])
@pytest.mark.parametrize("idle_for", [None, 60])
def test_everything_is_only_deleted_when_asked_for(client, dry_run, idle_for):
    """Without ids and prefix it takes all_sessions=True."""
    with pytest.raises(ValueError, match=r"every session on the server.*all_sessions=True"):
        sessions.delete(client, dry_run=dry_run, idle_for=idle_for)


def test_all_sessions_leaves_everything_else():
    """Deleting all sessions of a server spares what is no session."""
    with servers.valkey() as server, server.client() as client:
        client.rpush("a", element())
        client.rpush("other:b", element())
        client.rpush("list", "x")
        client.set("string", "x")
        assert sessions.delete(client, all_sessions=True, dry_run=False).sessions == 2
        assert sorted(client.scan_iter()) == [b"list", b"string"]


@pytest.mark.parametrize("limit", [timedelta(days=30), 30 * 86_400, 2_592_000.0])
def test_delete_by_age(client, key_prefix, limit):
    """The newest message counts; sessions that do not say when are kept and counted."""
    day = timedelta(days=1)
    client.rpush(f"{key_prefix}old", element(ago=90 * day), element(ago=31 * day))
    client.rpush(f"{key_prefix}used", element(ago=90 * day), element(ago=29 * day))
    client.rpush(f"{key_prefix}undated", element(ago=90 * day), UNTIMED)
    report = sessions.delete(client, key_prefix=key_prefix, idle_for=limit, dry_run=False)
    assert (report.sessions, report.messages, report.undated) == (1, 2, 1)
    assert ids(client, key_prefix) == ["undated", "used"]


@pytest.mark.parametrize("dry_run", [True, False])
def test_age_and_ids_go_together(client, key_prefix, dry_run):
    """Of the named sessions only the old ones are deleted."""
    for name in "abc":
        client.rpush(f"{key_prefix}{name}", element(ago=timedelta(hours=int("abc".index(name)))))
    report = sessions.delete(
        client, ["a", "c"], key_prefix=key_prefix, idle_for=60, dry_run=dry_run
    )
    assert report.sessions == 1
    assert ids(client, key_prefix) == (["a", "b", "c"] if dry_run else ["a", "b"])


def test_a_session_that_is_used_again_is_not_deleted_by_age(interfering, key_prefix):
    """What is appended between the look and the deletion saves the session."""
    for name in "ab":
        interfering.rpush(f"{key_prefix}{name}", element(ago=timedelta(days=9)))
    interfering.rpush(f"{key_prefix}c", element(ago=timedelta(days=9)))

    def use_again() -> None:
        MemorystoreChatMessageHistory(
            interfering, "a", key_prefix=key_prefix, max_messages=1
        ).add_user_message("I am back")
        interfering.unlink(f"{key_prefix}b")
        interfering.set(f"{key_prefix}b", "something else")

    interfering.actions, interfering.pipelines = {3: use_again}, 0
    report = sessions.delete(interfering, key_prefix=key_prefix, idle_for=60, dry_run=False)
    assert (report.sessions, report.changed) == (1, 2)
    assert ids(interfering, key_prefix) == ["a"]
    assert interfering.get(f"{key_prefix}b") == b"something else"


def test_sessions_in_use_survive_deletion_by_age(server, key_prefix):
    """Eight writers come back to old sessions while these are deleted: none of theirs is lost."""
    with server.client() as client:
        for number in range(400):
            client.rpush(f"{key_prefix}{number}", element(ago=timedelta(days=9)))
        written: list[str] = []

        def write(worker: int) -> None:
            for number in range(worker, 400, 16):
                history = MemorystoreChatMessageHistory(client, str(number), key_prefix=key_prefix)
                history.add_user_message("I am back")
                written.append(str(number))

        threads = [threading.Thread(target=write, args=(worker,)) for worker in range(8)]
        for thread in threads:
            thread.start()
        for _ in range(5):
            sessions.delete(client, key_prefix=key_prefix, idle_for=3600, dry_run=False)
        for thread in threads:
            thread.join()
        sessions.delete(client, key_prefix=key_prefix, idle_for=3600, dry_run=False)
        assert ids(client, key_prefix) == sorted(written)


@pytest.mark.parametrize("dry_run", [True, False])
def test_expire_sets_the_time_to_live(client, key_prefix, dry_run):
    """Of all under the prefix, or of the named ones; by default nothing is changed."""
    for name in "abc":
        client.rpush(f"{key_prefix}{name}", element(), element())
    client.expire(f"{key_prefix}c", 50)
    client.rpush(f"{key_prefix}list", "x")
    options = {} if dry_run else {"dry_run": False}
    report = sessions.expire(client, key_prefix=key_prefix, ttl=1000, **options)
    assert (report.action, report.dry_run, report.sessions, report.messages) == (
        "expire",
        dry_run,
        3,
        6,
    )
    ttls = {session.id: session.ttl for session in sessions.scan(client, key_prefix=key_prefix)}
    if dry_run:
        assert ttls == {"a": None, "b": None, "c": pytest.approx(50, abs=2)}
    else:
        assert all(998 <= ttl <= 1000 for ttl in ttls.values())
    assert client.ttl(f"{key_prefix}list") == -1
    named = sessions.expire(client, ["c", "x"], key_prefix=key_prefix, ttl=None, dry_run=dry_run)
    assert (named.sessions, named.missing) == (1, 1)
    ttls = {session.id: session.ttl for session in sessions.scan(client, key_prefix=key_prefix)}
    assert [name for name in "abc" if ttls[name] is None] == (["a", "b"] if dry_run else ["c"])


def test_expired_sessions_go_by_themselves(client, key_prefix):
    """The server deletes them, and a history that has a ttl sets its own with the next append."""
    history = MemorystoreChatMessageHistory(client, "kept", 500, key_prefix=key_prefix)
    history.add_user_message("Hello!")
    client.rpush(f"{key_prefix}a", element())
    sessions.expire(client, key_prefix=key_prefix, ttl=1, dry_run=False)
    history.add_user_message("Still here.")
    servers.wait_until(lambda: ids(client, key_prefix) == ["kept"], "the end of the other", 5)
    assert len(history) == 2


def test_expire_by_age(interfering, key_prefix):
    """Old sessions only, and not one that is appended to between the look and the order."""
    week = timedelta(days=7)
    for name in "abc":
        interfering.rpush(f"{key_prefix}{name}", element(ago=week))
    interfering.rpush(f"{key_prefix}new", element())
    interfering.rpush(f"{key_prefix}undated", UNTIMED)

    def use_again() -> None:
        interfering.rpush(f"{key_prefix}a", element())

    interfering.actions, interfering.pipelines = {3: use_again}, 0
    report = sessions.expire(
        interfering, key_prefix=key_prefix, idle_for=week / 2, ttl=1000, dry_run=False
    )
    assert (report.sessions, report.changed, report.undated) == (2, 1, 1)
    ttls = {found.id: found.ttl for found in sessions.scan(interfering, key_prefix=key_prefix)}
    assert sorted(name for name, ttl in ttls.items() if ttl is not None) == ["b", "c"]


@pytest.mark.parametrize("options", [{}, {"decode_responses": True}])
def test_expire_on_a_cluster(valkey_cluster, key_prefix, options):
    """Sessions of every primary are set, by age and without."""
    with valkey_cluster.client(**options) as client:
        for number in range(30):
            client.rpush(f"{key_prefix}{number}", element(ago=timedelta(hours=2)))
        for age in (None, 3600):
            report = sessions.expire(
                client, key_prefix=key_prefix, idle_for=age, ttl=(age or 0) + 60, dry_run=False
            )
            assert (report.sessions, report.changed) == (30, 0)
            ttls = [found.ttl for found in sessions.scan(client, key_prefix=key_prefix)]
            assert len(ttls) == 30
            assert all((age or 0) + 55 <= ttl <= (age or 0) + 60 for ttl in ttls)
        sessions.delete(client, key_prefix=key_prefix, dry_run=False)


@pytest.mark.parametrize("ttl", [0, -1, 1.5, True, "60", timedelta(days=1)])
def test_a_bad_time_to_live_is_refused(client, ttl):
    """Before anything is set; and nobody sets all sessions of a server by leaving something out."""
    with pytest.raises(ValueError, match=r"ttl is .*; it takes a whole number of seconds from 1"):
        sessions.expire(client, key_prefix="x", ttl=ttl, dry_run=False)
    with pytest.raises(ValueError, match=r"would expire every session.*all_sessions=True"):
        sessions.expire(client, ttl=60, dry_run=False)


def test_reports_are_sentences():
    """The repr says what was done, what was not, and why."""
    assert repr(Report("delete", True, 12, 3400, 1_250_000)) == (
        "Would delete 12 sessions (3,400 messages, 1.2 MB); "
        "nothing was changed, dry_run=False does it."
    )
    assert repr(Report("delete", False, 1, 1, 99, missing=2, undated=3, changed=1)) == (
        "Deleted 1 session (1 message, less than 0.1 MB); 2 not found; 3 left because their age "
        "is not known; 1 left because they were appended to meanwhile."
    )
    assert repr(Report("expire", True, 1, 2, 3)) == (
        "Would set the time to live of 1 session (2 messages, less than 0.1 MB); "
        "nothing was changed, dry_run=False does it."
    )
    assert repr(Report("expire", False, 2, 3, 4)) == (
        "Set the time to live of 2 sessions (3 messages, less than 0.1 MB)."
    )
    assert repr(Report("load", False, existing=2, conflicting=1)) == (
        "Loaded 0 sessions (0 messages, less than 0.1 MB); 2 there already; "
        "1 left out because something else is there."
    )
    assert repr(Report("copy", True, 1, 2, 3, unreadable=1)) == (
        "Would copy 1 session (2 messages, less than 0.1 MB); 1 message cannot be read; "
        "nothing was changed, dry_run=False does it."
    )


def test_progress_is_shown_only_where_somebody_sees_it(client, key_prefix, capsys, monkeypatch):
    """Not unless asked for, not in a file, and in a notebook, a terminal or when insisted on."""
    monkeypatch.delitem(sys.modules, "ipykernel", raising=False)
    client.rpush(f"{key_prefix}a", element())
    sessions.delete(client, key_prefix=key_prefix)
    sessions.delete(client, key_prefix=key_prefix, progress=True)
    assert capsys.readouterr() == ("", "")
    sessions.delete(client, ["a"], key_prefix=key_prefix, progress="always")
    assert "Deleting: 100%" in capsys.readouterr().err
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    sessions.delete(client, key_prefix=key_prefix, progress=True)
    assert "1 sessions" in capsys.readouterr().err


def test_progress_without_tqdm_says_what_to_install(client, key_prefix, monkeypatch):
    """The bar's library is optional."""
    monkeypatch.setitem(sys.modules, "tqdm.auto", None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'memorystore-chat\[tutorial\]'"):
        sessions.delete(client, key_prefix=key_prefix, progress="always")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"ids": "abc"}, r"ids is 'abc'; it takes a list of session ids"),
        ({"ids": [1]}, r"a session id is 1, of type int; it takes text"),
        ({"key_prefix": b"x"}, r"key_prefix is b'x', of type bytes; it takes text"),
        ({"key_prefix": None}, r"key_prefix is None, of type NoneType; it takes text"),
        ({"idle_for": 0}, r"idle_for is 0; it takes a timedelta or seconds, more than 0"),
        ({"idle_for": True}, r"idle_for is True; it takes a timedelta or seconds"),
        ({"idle_for": "1d"}, r"idle_for is '1d'; it takes a timedelta or seconds"),
        ({"idle_for": float("nan")}, r"idle_for is nan; it takes a timedelta or seconds"),
        ({"idle_for": 1e300}, r"idle_for is 1e\+300; it takes a timedelta or seconds"),
        ({"progress": "yes"}, r"progress is 'yes'; it takes True, False or 'always'"),
    ],
)
def test_bad_options_are_refused(client, options, message):
    """The error says what was given and what is accepted, before anything happens."""
    with pytest.raises(ValueError, match=message):
        sessions.delete(client, **({"key_prefix": "x"} | options), dry_run=False)


@pytest.mark.parametrize("count", [0, -1, True, 1.5, None])
def test_a_bad_count_is_refused_by_the_call(client, count):
    """Not only when the first session is asked for."""
    with pytest.raises(ValueError, match=r"count is .*; it takes a whole number of keys from 1"):
        sessions.scan(client, count=count)


def test_an_outage_is_an_error():
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
        with pytest.raises(ConnectError, match=r"while listing sessions"):
            sessions.delete(client, ["1"])


@pytest.mark.own_server
def test_a_refused_command_is_an_error(server, key_prefix):
    """Without the right to SCAN, or to delete, the error says which right and what was tried."""
    with server.admin() as admin:
        admin.execute_command("ACL", "SETUSER", "reader", "on", ">pw", "~*", "+@all", "-unlink")
    try:
        with server.client(username="reader", password="pw") as client:
            client.rpush(f"{key_prefix}a", element(ago=timedelta(hours=1)))
            with pytest.raises(MemorystoreChatError, match=r"refused deleting sessions.*unlink"):
                sessions.delete(client, key_prefix=key_prefix, dry_run=False)
            with server.admin() as admin:
                admin.execute_command("ACL", "SETUSER", "reader", "-expire", "-persist")
            for idle_for in (None, 60):  # the command itself, and from within a script
                with pytest.raises(MemorystoreChatError, match=r"deleting sessions: NOPERM .*may"):
                    sessions.delete(client, key_prefix=key_prefix, idle_for=idle_for, dry_run=False)
                for ttl in (60, None):
                    with pytest.raises(
                        MemorystoreChatError,
                        match=r"expiring sessions: NOPERM [^@]* The user that is signed in may",
                    ):
                        sessions.expire(
                            client,
                            ["a"],
                            key_prefix=key_prefix,
                            ttl=ttl,
                            idle_for=idle_for,
                            dry_run=False,
                        )
            with server.admin() as admin:
                admin.execute_command("ACL", "SETUSER", "reader", "-scan")
            with pytest.raises(MemorystoreChatError, match=r"refused listing sessions.*scan"):
                sessions.delete(client, key_prefix=key_prefix, dry_run=False)
            assert client.exists(f"{key_prefix}a")
    finally:
        with server.admin() as admin:
            admin.execute_command("ACL", "DELUSER", "reader")


def test_sessions_of_the_other_libraries_are_listed(client, key_prefix):
    """What langchain-community and the older package store is a session without a time."""
    client.lpush(f"{key_prefix}a", json.dumps(message_to_dict(HumanMessage("hi"))))
    (session,) = itertools.islice(sessions.scan(client, key_prefix=key_prefix), 2)
    assert (session.id, session.messages, session.last) == ("a", 1, None)


# The table


def test_the_table_shows_the_sessions_used_last(client, key_prefix):
    """Newest first, in words for people, and a sequence of the sessions themselves."""
    day, minute = timedelta(days=1), timedelta(minutes=1)
    client.rpush(f"{key_prefix}old", *[element("x" * 1000, ago=3 * day)] * 1200)
    client.rpush(f"{key_prefix}new", element())
    client.expire(f"{key_prefix}new", 30 * 86_400)
    client.rpush(f"{key_prefix}mid", element(ago=90 * minute), element(ago=5 * minute))
    client.expire(f"{key_prefix}mid", 5400)
    client.rpush(f"{key_prefix}undated", UNTIMED)
    shown = sessions.table(client, key_prefix=key_prefix)
    assert [session.id for session in shown] == ["new", "mid", "old", "undated"]
    assert all(isinstance(session, sessions.Session) for session in shown)
    assert shown[2].messages == 1200
    title, _, heading, _, *lines = (re.split(r" {2,}", row) for row in str(shown).splitlines())
    assert title == ["4 sessions"]
    assert heading == ["session", "messages", "last activity", "expires in", "size"]
    assert lines == [
        ["new", "1", "just now", "30 days", "under 1 kB"],
        ["mid", "2", "5 minutes ago", "90 minutes", "under 1 kB"],
        ["old", "1,200", "3 days ago", "never", lines[2][-1]],
        ["undated", "1", "unknown", "never", "under 1 kB"],
    ]
    assert re.fullmatch(r"1\.\d MB", lines[2][-1])


def test_the_table_keeps_only_the_newest(client, key_prefix):
    """Of more sessions than the limit the ones used last are shown, and how many there are."""
    for number in range(30):
        client.rpush(f"{key_prefix}{number:02}", element(ago=timedelta(hours=number)))
    shown = sessions.table(client, key_prefix=key_prefix, limit=3)
    assert [session.id for session in shown] == ["00", "01", "02"]
    assert str(shown).startswith("The 3 used last of 30 sessions\n")


def test_the_table_of_nothing_says_so(client, key_prefix):
    """No heading, no columns: a sentence."""
    shown = sessions.table(client, key_prefix=key_prefix)
    assert list(shown) == []
    assert str(shown) == "No sessions."


def test_the_table_escapes_ids(client, key_prefix):
    """A session id is text that somebody else may have chosen."""
    name = "<script>alert(1)</script>\u202e"
    client.rpush(f"{key_prefix}{name}", element())
    html = sessions.table(client, key_prefix=key_prefix)._repr_html_()
    assert "&lt;script&gt;alert(1)&lt;/script&gt;[U+202E]" in html
    assert "<script" not in html


def test_the_table_has_the_sessions_of_all_nodes(valkey_cluster, key_prefix):
    """On a cluster every primary is asked."""
    with valkey_cluster.client() as client:
        for number in range(20):
            MemorystoreChatMessageHistory(client, str(number), key_prefix=key_prefix).add_messages(
                [HumanMessage("hi")]
            )
        shown = sessions.table(client, key_prefix=key_prefix)
        assert {session.id for session in shown} == set(map(str, range(20)))
        assert len({client.get_node_from_key(session.key).port for session in shown}) == 3


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"limit": 0}, r"limit is 0; it takes a whole number of sessions from 1"),
        ({"key_prefix": None}, r"key_prefix is None"),
        ({"progress": 1.5}, r"progress is 1\.5"),
    ],
)
def test_bad_options_of_the_table_are_refused(client, options, message):
    """The error says what was given and what is accepted."""
    with pytest.raises(ValueError, match=message):
        sessions.table(client, **options)


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0, "0 seconds"), (1, "1 second"), (59, "1 minute"), (100, "100 seconds"),
        (118, "2 minutes"), (3599, "1 hour"), (5400, "90 minutes"), (90_000, "25 hours"),
        (2_591_999, "30 days"), (86_400 * 1000, "1,000 days"),
    ],
)  # fmt: skip
def test_durations_are_told_in_the_unit_that_suits(seconds, words):
    """The largest unit that says it to within a few percent."""
    assert sessions._span(seconds) == words


@pytest.mark.parametrize(
    ("size", "words"),
    [
        (0, "under 1 kB"), (999, "under 1 kB"), (1000, "1.0 kB"), (9949, "9.9 kB"), (9960, "10 kB"),
        (999_499, "999 kB"), (999_500, "1.0 MB"), (56_000_000, "56 MB"), (3 * 10**12, "3,000 GB"),
    ],
)  # fmt: skip
def test_sizes_have_two_digits_and_a_unit(size, words):
    """Decimal units, as in the reports."""
    assert sessions._size(size) == words


@pytest.mark.parametrize("client", ["redis://localhost", None, redis.asyncio.Redis()])
def test_what_is_no_client_is_refused(client: object) -> None:
    """Each function says what it takes before it asks anybody."""
    for call in (
        lambda: list(sessions.scan(client, key_prefix="a")),
        lambda: sessions.table(client, key_prefix="a"),
        lambda: sessions.delete(client, key_prefix="a"),
        lambda: sessions.expire(client, key_prefix="a", ttl=1),
        lambda: sessions.export(client, "sessions.jsonl", key_prefix="a"),
        lambda: sessions.load(client, "sessions.jsonl"),
        lambda: sessions.from_langchain_community(client),
    ):
        with pytest.raises(TypeError, match=r"it takes a redis\.Redis"):
            call()
