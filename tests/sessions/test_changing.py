"""Deleting sessions, setting when they expire, and what the functions are given and answer."""

from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from functools import partial
from typing import Any

import pytest
import redis

import servers
from interference import InterferingRedis
from memorystore_chat import MemorystoreChatMessageHistory, sessions
from memorystore_chat.sessions import Report
from scripted import nowhere
from servers import Server
from stored import UNTIMED, element, ids

DAY = timedelta(days=1)


def ttls(client: Any, key_prefix: str) -> dict[str, int | None]:
    return {found.id: found.ttl for found in sessions.scan(client, key_prefix=key_prefix)}


def test_delete(client: Any, key_prefix: str) -> None:
    """By default it counts; named ones count once, unknown ones are told, none is not all."""
    for name in "abc":
        client.rpush(f"{key_prefix}{name}", element(), element())
    client.set(f"{key_prefix}string", "x")
    wanted = ["a", "b", "a", "nobody", "string"]
    dry = sessions.delete(client, iter(wanted), key_prefix=key_prefix)
    assert (dry.dry_run, dry.sessions, dry.messages, dry.missing) == (True, 2, 4, 2)
    assert sessions.delete(client, [], key_prefix=key_prefix, dry_run=False).sessions == 0
    assert ids(client, key_prefix) == ["a", "b", "c"]
    real = sessions.delete(client, iter(wanted), key_prefix=key_prefix, dry_run=False)
    assert real == Report("delete", False, sessions=2, messages=4, bytes=dry.bytes, missing=2)
    assert ids(client, key_prefix) == ["c"]
    assert client.exists(f"{key_prefix}string")


def test_delete_by_age(client: Any, key_prefix: str) -> None:
    """The newest message counts; sessions that do not say when are kept and counted."""
    for limit in (30 * DAY, 30 * 86_400, 2_592_000.0):
        client.unlink(f"{key_prefix}used", f"{key_prefix}undated")
        client.rpush(f"{key_prefix}old", element(ago=90 * DAY), element(ago=31 * DAY))
        client.rpush(f"{key_prefix}used", element(ago=90 * DAY), element(ago=29 * DAY))
        client.rpush(f"{key_prefix}undated", element(ago=90 * DAY), UNTIMED)
        named = sessions.delete(client, ["used"], key_prefix=key_prefix, idle_for=limit)
        assert named.sessions == 0
        report = sessions.delete(client, key_prefix=key_prefix, idle_for=limit, dry_run=False)
        assert (report.sessions, report.messages, report.undated) == (1, 2, 1)
        assert ids(client, key_prefix) == ["undated", "used"]


def test_writers_beside_delete_by_age(valkey_server: Server, key_prefix: str) -> None:
    """Eight writers come back to old sessions while these are deleted: none of theirs is lost."""
    with valkey_server.client() as client:
        for number in range(400):
            client.rpush(f"{key_prefix}{number}", element(ago=9 * DAY))

        def write(number: int) -> str:
            history = MemorystoreChatMessageHistory(client, str(number), key_prefix=key_prefix)
            history.add_user_message("I am back")
            return str(number)

        options: dict[str, Any] = {"key_prefix": key_prefix, "idle_for": 3600, "dry_run": False}
        with ThreadPoolExecutor(8) as pool:
            written = pool.map(write, range(0, 400, 3))
            for _ in range(5):
                sessions.delete(client, **options)
        sessions.delete(client, **options)
        assert ids(client, key_prefix) == sorted(written)


def test_all_sessions_leaves_everything_else() -> None:
    with servers.valkey() as server, server.client() as client:
        client.rpush("a", element())
        client.rpush("list", "x")
        client.set("string", "x")
        for change in (sessions.delete, partial(sessions.expire, ttl=60)):
            with pytest.raises(ValueError, match="all_sessions=True"):
                change(client, idle_for=60, dry_run=False)
        assert sessions.delete(client, all_sessions=True, dry_run=False).sessions == 1
        assert sorted(client.scan_iter()) == [b"list", b"string"]


def test_expire_sets_the_time_to_live(client: Any, key_prefix: str) -> None:
    """Of all under the prefix, or of the named ones; by default nothing is changed."""
    for name in "abc":
        client.rpush(f"{key_prefix}{name}", element(ago=DAY), element(ago=DAY))
    client.expire(f"{key_prefix}c", 50)
    options: dict[str, Any] = {"key_prefix": key_prefix, "ttl": 1000, "idle_for": 60}
    assert sessions.expire(client, **options).sessions == 3
    assert ttls(client, key_prefix) == {"a": None, "b": None, "c": pytest.approx(50, abs=2)}
    report = sessions.expire(client, dry_run=False, **options)
    assert (report.sessions, report.messages, report.changed) == (3, 6, 0)
    assert all(ttl and 998 <= ttl <= 1000 for ttl in ttls(client, key_prefix).values())
    named = sessions.expire(client, ["c", "x"], key_prefix=key_prefix, ttl=None, dry_run=False)
    assert (named.sessions, named.missing) == (1, 1)
    assert ttls(client, key_prefix)["c"] is None


def test_a_session_that_is_used_meanwhile_is_left(
    interfering: InterferingRedis, key_prefix: str
) -> None:
    """One is trimmed by an append, one replaced by something else, one gets the same bytes."""
    client, same = interfering, element(ago=9 * DAY)
    a, b, c, d = (f"{key_prefix}{name}" for name in "abcd")

    def use_again() -> None:
        history = MemorystoreChatMessageHistory(client, a, max_messages=1)
        history.add_user_message("I am back")
        client.set(b, "something else")
        client.rpush(d, same)

    for change, left in ((partial(sessions.expire, ttl=9), 4), (sessions.delete, 3)):
        client.unlink(a, b, c, d)
        for key in (a, b, c, d):
            client.rpush(key, same)
        client.before = {"sessions/change": use_again}
        report = change(client, key_prefix=key_prefix, dry_run=False)
        assert (report.sessions, report.changed) == (1, 3)
        assert client.exists(a, b, c, d) == left
        assert client.get(b) == b"something else"
        assert client.ttl(a) == client.ttl(d) == -1


def test_what_repair_moved_aside_goes_with_its_session(client: Any, key_prefix: str) -> None:
    """Its list of broken elements expires and is deleted with it, and nobody else's list is."""
    for name in "ab":
        client.rpush(f"{key_prefix}{name}", element(), "{broken", element())
        history = MemorystoreChatMessageHistory(client, name, key_prefix=key_prefix)
        assert len(history.repair(dry_run=False)) == 1
    before = {*client.scan_iter(f"*{key_prefix}*")}
    options: dict[str, Any] = {"key_prefix": key_prefix, "dry_run": False}
    sessions.expire(client, ["a"], ttl=100, **options)
    expiring = {key for key in before if client.ttl(key) > 0}
    assert len(expiring) == 2
    assert sessions.delete(client, ["a"], **options).sessions == 1
    assert {*client.scan_iter(f"*{key_prefix}*")} == before - expiring


def test_reports_are_sentences() -> None:
    """The repr says what was done, what was not, and why."""
    assert repr(Report("delete", True, 12, 3400, 1_250_000)) == (
        "Would delete 12 sessions (3,400 messages, 1.2 MB); "
        "nothing was changed, dry_run=False does it."
    )
    told = repr(Report("delete", False, 1, 1, 99, 2, 3, 4, 5, 6, 7))
    assert told.startswith("Deleted 1 session (1 message, less than 0.1 MB); 2 not found; 3 left")
    assert all(f"; {number} " in told for number in range(2, 8))


@pytest.mark.parametrize(
    ("error", "options"),
    [
        (TypeError, {"ids": "abc"}), (ValueError, {"ids": ["\ud800"]}),
        (TypeError, {"key_prefix": b"x"}), (ValueError, {"idle_for": 0}),
        (ValueError, {"idle_for": 1e300}), (TypeError, {"dry_run": None}),
        (TypeError, {"all_sessions": 1}), (ValueError, {"ttl": 0}),
    ],
)  # fmt: skip
def test_bad_options_are_refused(error: type[Exception], options: dict[str, Any]) -> None:
    """Before anything is sent; the text names the argument."""
    [name] = options
    given = {"key_prefix": "x", "dry_run": False, **options}
    with pytest.raises(error, match=name):
        sessions.expire(nowhere(), **({"ttl": 1} | given))
    if name != "ttl":
        with pytest.raises(error, match=name):
            sessions.delete(nowhere(), **given)


@pytest.mark.parametrize("client", ["redis://localhost", redis.asyncio.Redis()])
def test_what_is_no_client_is_refused(client: Any) -> None:
    with pytest.raises(TypeError, match="client"):
        sessions.scan(client)  # before the first session is asked for
    with pytest.raises(TypeError, match="client"):
        sessions.load(client, "sessions.jsonl")
