"""Deleting sessions, setting when they expire, and what the functions are given and answer."""

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
from servers import Server
from stored import UNTIMED, element, ids

DAY = timedelta(days=1)


def ttls(client: Any, key_prefix: str) -> dict[str, int | None]:
    return {found.id: found.ttl for found in sessions.scan(client, key_prefix=key_prefix)}


def test_delete_only_counts_by_default(client: Any, key_prefix: str) -> None:
    for name in "abc":
        client.rpush(f"{key_prefix}{name}", element(), element())
    dry = sessions.delete(client, key_prefix=key_prefix)
    assert (dry.dry_run, dry.sessions, dry.messages) == (True, 3, 6)
    assert ids(client, key_prefix) == ["a", "b", "c"]
    real = sessions.delete(client, key_prefix=key_prefix, dry_run=False)
    assert real == Report("delete", False, sessions=3, messages=6, bytes=dry.bytes)
    assert ids(client, key_prefix) == []


def test_delete_by_ids(client: Any, key_prefix: str) -> None:
    """Only the named ones go, each counted once; unknown ones are reported; none is not all."""
    for name in "abc":
        client.rpush(f"{key_prefix}{name}", element())
    assert sessions.delete(client, [], key_prefix=key_prefix, dry_run=False).sessions == 0
    client.set(f"{key_prefix}string", "x")
    wanted = iter(["a", "b", "a", "nobody", "string"])
    report = sessions.delete(client, wanted, key_prefix=key_prefix, dry_run=False)
    assert (report.sessions, report.missing) == (2, 2)
    assert ids(client, key_prefix) == ["c"]
    assert client.exists(f"{key_prefix}string")


@pytest.mark.parametrize("limit", [30 * DAY, 30 * 86_400, 2_592_000.0])
def test_delete_by_age(client: Any, key_prefix: str, limit: timedelta | float) -> None:
    """The newest message counts; sessions that do not say when are kept and counted."""
    client.rpush(f"{key_prefix}old", element(ago=90 * DAY), element(ago=31 * DAY))
    client.rpush(f"{key_prefix}used", element(ago=90 * DAY), element(ago=29 * DAY))
    client.rpush(f"{key_prefix}undated", element(ago=90 * DAY), UNTIMED)
    named = sessions.delete(client, ["used"], key_prefix=key_prefix, idle_for=limit)
    assert named.sessions == 0
    report = sessions.delete(client, key_prefix=key_prefix, idle_for=limit, dry_run=False)
    assert (report.sessions, report.messages, report.undated) == (1, 2, 1)
    assert ids(client, key_prefix) == ["undated", "used"]


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


@pytest.mark.parametrize("idle_for", [None, 60])
def test_a_session_that_is_used_meanwhile_is_left(
    interfering: InterferingRedis, key_prefix: str, idle_for: float | None
) -> None:
    """One is trimmed by an append, one replaced by something else, one gets the same bytes."""
    client = interfering
    for change, left in ((partial(sessions.expire, ttl=9), 4), (sessions.delete, 3)):
        for name in "abcd":
            client.unlink(f"{key_prefix}{name}")
            client.rpush(f"{key_prefix}{name}", element(ago=9 * DAY))
        same = element(ago=9 * DAY)
        client.rpush(f"{key_prefix}d", same)

        def use_again(same: bytes = same) -> None:
            MemorystoreChatMessageHistory(
                client, "a", key_prefix=key_prefix, max_messages=1
            ).add_user_message("I am back")
            client.unlink(f"{key_prefix}b")
            client.set(f"{key_prefix}b", "something else")
            client.rpush(f"{key_prefix}d", same)

        client.before = {"sessions/change": use_again}
        report = change(client, key_prefix=key_prefix, idle_for=idle_for, dry_run=False)
        assert (report.sessions, report.changed) == (1, 3)
        assert len(client.keys(f"{key_prefix}*")) == left
        assert client.get(f"{key_prefix}b") == b"something else"
        assert client.ttl(f"{key_prefix}a") == client.ttl(f"{key_prefix}d") == -1


def test_what_repair_moved_aside_goes_with_its_session(client: Any, key_prefix: str) -> None:
    """Its list of broken elements expires and is deleted with it, and nobody else's list is."""
    for name in "ab":
        client.rpush(f"{key_prefix}{name}", element(), "{broken", element())
        history = MemorystoreChatMessageHistory(client, name, key_prefix=key_prefix)
        assert len(history.repair(dry_run=False)) == 1
    client.rpush(f"{key_prefix}c", element())
    client.rpush(f"{key_prefix}c:corrupt", element())  # a session, whatever its name is
    before = {*client.scan_iter(f"*{key_prefix}*")}
    options: dict[str, Any] = {"key_prefix": key_prefix, "dry_run": False}
    sessions.expire(client, ["a", "c"], ttl=100, **options)
    expiring = {key for key in before if client.ttl(key) > 0}
    assert len(expiring) == 3
    assert sessions.delete(client, ["a", "c"], **options).sessions == 2
    left = {*client.scan_iter(f"*{key_prefix}*")}
    assert left == before - expiring
    assert f"{key_prefix}c:corrupt".encode() in left


@pytest.mark.own_server
@pytest.mark.parametrize(
    ("right", "change"),
    [
        ("unlink", sessions.delete),
        ("expire", partial(sessions.expire, ttl=60)),
        ("llen", sessions.delete),
        ("scan", sessions.delete),
    ],
)
def test_a_refused_command_is_an_error(
    server: Server, key_prefix: str, right: str, change: Callable[..., Report]
) -> None:
    with server.limited(f"-{right}") as client:
        client.rpush(f"{key_prefix}a", element(ago=timedelta(hours=1)))
        with pytest.raises(MemorystoreChatError, match="NOPERM"):
            change(client, key_prefix=key_prefix, dry_run=False)
        assert client.ttl(f"{key_prefix}a") == -1


def test_reports_are_sentences() -> None:
    """The repr says what was done, what was not, and why."""
    assert repr(Report("delete", True, 12, 3400, 1_250_000)) == (
        "Would delete 12 sessions (3,400 messages, 1.2 MB); "
        "nothing was changed, dry_run=False does it."
    )
    told = repr(Report("delete", False, 1, 1, 99, missing=2, undated=3, changed=4, existing=5))
    told += repr(Report("copy", False, conflicting=6, unreadable=7))
    for words in (
        "Deleted 1 session (1 message, less than 0.1 MB);", "2 not found", "3 left because their",
        "4 left because they were", "5 there already", "6 left out", "7 unreadable",
    ):  # fmt: skip
        assert words in told


@pytest.mark.parametrize(
    ("error", "options"),
    [
        (TypeError, {"ids": "abc"}), (ValueError, {"ids": ["\ud800"]}),
        (TypeError, {"key_prefix": b"x"}), (ValueError, {"idle_for": 0}),
        (ValueError, {"idle_for": 1e300}), (TypeError, {"dry_run": None}),
        (TypeError, {"all_sessions": 1}), (ValueError, {"ttl": 0}), (TypeError, {"ttl": 1.5}),
    ],
)  # fmt: skip
def test_bad_options_are_refused(
    valkey_server: Server, error: type[Exception], options: dict[str, Any]
) -> None:
    """Before anything is sent; the text names the argument."""
    [name] = options
    given = {"key_prefix": "x", "dry_run": False, **options}
    with valkey_server.client() as client:
        with pytest.raises(error, match=name):
            sessions.expire(client, **({"ttl": 1} | given))
        if name != "ttl":
            with pytest.raises(error, match=name):
                sessions.delete(client, **given)


@pytest.mark.parametrize("client", ["redis://localhost", redis.asyncio.Redis()])
def test_what_is_no_client_is_refused(client: Any) -> None:
    for call in (
        lambda: sessions.scan(client, key_prefix="a"),
        lambda: sessions.delete(client, key_prefix="a"),
        lambda: sessions.export(client, "sessions.jsonl", key_prefix="a"),
        lambda: sessions.load(client, "sessions.jsonl"),
        lambda: sessions.from_langchain_community(client),
    ):
        with pytest.raises(TypeError, match="client"):
            call()
