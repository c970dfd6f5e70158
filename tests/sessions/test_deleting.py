"""Deleting sessions, and setting when they expire."""

import threading
from collections.abc import Callable
from datetime import timedelta
from functools import partial
from typing import Any

import pytest
import redis

import servers
from interference import InterferingRedis
from memorystore_chat import MemorystoreChatError, MemorystoreChatMessageHistory, sessions
from memorystore_chat.sessions import Report
from servers import Cluster, Server
from stored import UNTIMED, element, ids


def test_delete_only_counts_by_default(client: redis.Redis, key_prefix: str) -> None:
    for name in "abc":
        client.rpush(f"{key_prefix}{name}", element(), element())
    dry = sessions.delete(client, key_prefix=key_prefix)
    assert (dry.dry_run, dry.sessions, dry.messages) == (True, 3, 6)
    assert dry.bytes > 400
    assert ids(client, key_prefix) == ["a", "b", "c"]
    real = sessions.delete(client, key_prefix=key_prefix, dry_run=False)
    assert real == Report("delete", False, sessions=3, messages=6, bytes=dry.bytes)
    assert ids(client, key_prefix) == []


def test_delete_by_ids(client: redis.Redis, key_prefix: str) -> None:
    """Only the named ones go, each counted once; unknown ones are reported; none is not all."""
    for name in "abc":
        client.rpush(f"{key_prefix}{name}", element())
    assert sessions.delete(client, [], key_prefix=key_prefix, dry_run=False).sessions == 0
    assert ids(client, key_prefix) == ["a", "b", "c"]
    client.set(f"{key_prefix}string", "x")
    wanted = iter(["a", "b", "a", "nobody", "string"])
    report = sessions.delete(client, wanted, key_prefix=key_prefix, dry_run=False)
    assert (report.sessions, report.missing) == (2, 2)
    assert ids(client, key_prefix) == ["c"]
    assert client.exists(f"{key_prefix}string")


@pytest.mark.parametrize("dry_run", [True, False])
@pytest.mark.parametrize("idle_for", [None, 60])
def test_everything_is_only_deleted_when_asked_for(
    client: redis.Redis, dry_run: bool, idle_for: float | None
) -> None:
    with pytest.raises(ValueError, match=r"every session on the server.*all_sessions=True"):
        sessions.delete(client, dry_run=dry_run, idle_for=idle_for)


def test_all_sessions_leaves_everything_else() -> None:
    with servers.valkey() as server, server.client() as client:
        client.rpush("a", element())
        client.rpush("other:b", element())
        client.rpush("list", "x")
        client.set("string", "x")
        assert sessions.delete(client, all_sessions=True, dry_run=False).sessions == 2
        assert sorted(client.scan_iter()) == [b"list", b"string"]


@pytest.mark.parametrize("limit", [timedelta(days=30), 30 * 86_400, 2_592_000.0])
def test_delete_by_age(client: redis.Redis, key_prefix: str, limit: timedelta | float) -> None:
    """The newest message counts; sessions that do not say when are kept and counted."""
    day = timedelta(days=1)
    client.rpush(f"{key_prefix}old", element(ago=90 * day), element(ago=31 * day))
    client.rpush(f"{key_prefix}used", element(ago=90 * day), element(ago=29 * day))
    client.rpush(f"{key_prefix}undated", element(ago=90 * day), UNTIMED)
    report = sessions.delete(client, key_prefix=key_prefix, idle_for=limit, dry_run=False)
    assert (report.sessions, report.messages, report.undated) == (1, 2, 1)
    assert ids(client, key_prefix) == ["undated", "used"]


@pytest.mark.parametrize("dry_run", [True, False])
def test_age_and_ids_go_together(client: redis.Redis, key_prefix: str, dry_run: bool) -> None:
    for name in "abc":
        client.rpush(f"{key_prefix}{name}", element(ago=timedelta(hours=int("abc".index(name)))))
    report = sessions.delete(
        client, ["a", "c"], key_prefix=key_prefix, idle_for=60, dry_run=dry_run
    )
    assert report.sessions == 1
    assert ids(client, key_prefix) == (["a", "b", "c"] if dry_run else ["a", "b"])


def test_a_session_that_is_used_again_is_not_deleted_by_age(
    interfering: InterferingRedis, key_prefix: str
) -> None:
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


def test_sessions_in_use_survive_deletion_by_age(server: Server, key_prefix: str) -> None:
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
def test_expire_sets_the_time_to_live(client: redis.Redis, key_prefix: str, dry_run: bool) -> None:
    """Of all under the prefix, or of the named ones; by default nothing is changed."""
    for name in "abc":
        client.rpush(f"{key_prefix}{name}", element(), element())
    client.expire(f"{key_prefix}c", 50)
    client.rpush(f"{key_prefix}list", "x")
    options: dict[str, Any] = {} if dry_run else {"dry_run": False}
    report = sessions.expire(client, key_prefix=key_prefix, ttl=1000, **options)
    assert (report.action, report.dry_run) == ("expire", dry_run)
    assert (report.sessions, report.messages) == (3, 6)
    ttls = {session.id: session.ttl for session in sessions.scan(client, key_prefix=key_prefix)}
    if dry_run:
        assert ttls == {"a": None, "b": None, "c": pytest.approx(50, abs=2)}
    else:
        assert all(ttl and 998 <= ttl <= 1000 for ttl in ttls.values())
    assert client.ttl(f"{key_prefix}list") == -1
    named = sessions.expire(client, ["c", "x"], key_prefix=key_prefix, ttl=None, dry_run=dry_run)
    assert (named.sessions, named.missing) == (1, 1)
    ttls = {session.id: session.ttl for session in sessions.scan(client, key_prefix=key_prefix)}
    assert [name for name in "abc" if ttls[name] is None] == (["a", "b"] if dry_run else ["c"])


def test_expired_sessions_go_by_themselves(client: redis.Redis, key_prefix: str) -> None:
    """The server deletes them, and a history that has a ttl sets its own with the next append."""
    history = MemorystoreChatMessageHistory(client, "kept", 500, key_prefix=key_prefix)
    history.add_user_message("Hello!")
    client.rpush(f"{key_prefix}a", element())
    sessions.expire(client, key_prefix=key_prefix, ttl=1, dry_run=False)
    history.add_user_message("Still here.")
    servers.wait_until(lambda: ids(client, key_prefix) == ["kept"], "the end of the other", 5)
    assert len(history) == 2


def test_expire_by_age(interfering: InterferingRedis, key_prefix: str) -> None:
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
def test_expire_on_a_cluster(
    valkey_cluster: Cluster, key_prefix: str, options: dict[str, Any]
) -> None:
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
            assert all(ttl and (age or 0) + 55 <= ttl <= (age or 0) + 60 for ttl in ttls)
        sessions.delete(client, key_prefix=key_prefix, dry_run=False)


MAY = r"expiring sessions: NOPERM [^@]* The user that is signed in may"


@pytest.mark.own_server
@pytest.mark.parametrize("idle_for", [None, 60], ids=["by itself", "in a script"])
@pytest.mark.parametrize(
    ("right", "change", "message"),
    [
        ("unlink", sessions.delete, r"refused deleting sessions: NOPERM .*may"),
        ("expire", partial(sessions.expire, ttl=60), MAY),
        ("persist", partial(sessions.expire, ttl=None), MAY),
        ("scan", sessions.delete, r"refused listing sessions: NOPERM"),
    ],
)
def test_a_refused_command_is_an_error(
    server: Server,
    key_prefix: str,
    right: str,
    change: Callable[..., Report],
    message: str,
    idle_for: float | None,
) -> None:
    """It says which right is missing and what was tried."""
    with server.limited(f"-{right}") as client:
        client.rpush(f"{key_prefix}a", element(ago=timedelta(hours=1)))
        with pytest.raises(MemorystoreChatError, match=message) as caught:
            change(client, key_prefix=key_prefix, idle_for=idle_for, dry_run=False)
        assert idle_for or right in str(caught.value)
        assert client.exists(f"{key_prefix}a")


@pytest.mark.parametrize("idle_for", [None, 60])
def test_what_repair_moved_aside_goes_with_its_session(
    client: redis.Redis, key_prefix: str, idle_for: float | None
) -> None:
    """Its list of broken elements expires and is deleted with it, and nobody else's list is."""
    for name in ("a", "b"):
        client.rpush(f"{key_prefix}{name}", element(ago=timedelta(hours=1)), "{broken")
        client.rpush(f"{key_prefix}{name}", element(ago=timedelta(hours=1)))
        history = MemorystoreChatMessageHistory(client, name, key_prefix=key_prefix)
        assert len(history.repair(dry_run=False)) == 1
    client.rpush(f"{key_prefix}c", element(ago=timedelta(hours=1)))
    client.rpush(f"{key_prefix}c:corrupt", element())  # a session, whatever its name is
    options: dict[str, Any] = {"key_prefix": key_prefix, "idle_for": idle_for, "dry_run": False}
    sessions.expire(client, ["a", "c"], ttl=100, **options)
    assert 90 < client.ttl(f"{key_prefix}a:corrupt") <= 100
    assert client.ttl(f"{key_prefix}c:corrupt") == client.ttl(f"{key_prefix}b:corrupt") == -1
    assert sessions.delete(client, ["a", "c"], **options).sessions == 2
    left = {key.decode().removeprefix(key_prefix) for key in client.scan_iter(f"{key_prefix}*")}
    assert left == {"b", "b:corrupt", "c:corrupt"}
