"""Deleting sessions, setting when they expire, and what the functions are given and answer."""

from datetime import timedelta
from functools import partial
from typing import Any

import pytest
import redis

from interference import InterferingRedis
from memorystore_chat import MemorystoreChatMessageHistory, sessions
from memorystore_chat.sessions import Report
from scripted import nowhere
from servers import Server
from stored import UNTIMED, element

DAY = timedelta(days=1)


CHANGES: Any = {
    "delete": sessions.delete,
    "expire": partial(sessions.expire, ttl=1000),
    "persist": partial(sessions.expire, ttl=None),
}


@pytest.mark.parametrize("name", CHANGES)
@pytest.mark.parametrize(
    ("options", "meant", "counts"),
    [
        ({}, ["old", "undated", "used"], (0, 0)),
        ({"ids": ["old", "used", "old", "nobody", "string"]}, ["old", "used"], (2, 0)),
        ({"ids": []}, [], (0, 0)),
        ({"idle_for": 30 * DAY}, ["old"], (0, 1)),
        ({"idle_for": 2_592_000}, ["old"], (0, 1)),
        ({"idle_for": 0.5, "ids": ["used", "undated"]}, ["used"], (0, 1)),
    ],
)
def test_delete_and_expire(
    client: Any, key_prefix: str, name: str, options: Any, meant: list[str], counts: Any
) -> None:
    """By default they count; the newest message tells the age; ids count once, none is not all."""
    client.rpush(f"{key_prefix}old", element(ago=90 * DAY), element(ago=31 * DAY))
    client.rpush(f"{key_prefix}used", element(ago=90 * DAY), element(ago=29 * DAY))
    client.rpush(f"{key_prefix}undated", element(ago=90 * DAY), UNTIMED)
    client.set(f"{key_prefix}string", "x", ex=50)
    client.expire(f"{key_prefix}old", 50)
    before = {"old": 50, "undated": None, "used": None}
    after = before | dict.fromkeys(meant, 1000 if name == "expire" else None)
    if name == "delete":
        after = {each: ttl for each, ttl in before.items() if each not in meant}
    for dry_run, left in ((True, before), (False, after)):
        given = {each: iter(value) if each == "ids" else value for each, value in options.items()}
        report = CHANGES[name](client, key_prefix=key_prefix, dry_run=dry_run, **given)
        assert (report.dry_run, report.missing, report.undated) == (dry_run, *counts)
        assert (report.sessions, report.messages) == (len(meant), 2 * len(meant))
        assert (report.bytes > 0) == bool(meant)
        found = {one.id: one.ttl for one in sessions.scan(client, key_prefix=key_prefix)}
        assert found == {each: ttl and pytest.approx(ttl, abs=9) for each, ttl in left.items()}
    assert client.ttl(f"{key_prefix}string") > 0


def test_all_sessions_leaves_everything_else(valkey_server: Server) -> None:
    with valkey_server.client(db=9) as client:
        client.rpush("a", element())
        client.rpush("list", "x")
        client.set("string", "x")
        for change in CHANGES.values():
            with pytest.raises(ValueError, match="all_sessions=True"):
                change(client, idle_for=60, dry_run=False)
        assert sessions.delete(client, all_sessions=True, dry_run=False).sessions == 1
        assert sorted(client.scan_iter()) == [b"list", b"string"]
        client.flushdb()


def test_a_session_that_is_used_meanwhile_is_left(
    interfering: InterferingRedis, key_prefix: str
) -> None:
    """One is trimmed by an append, one replaced by something else, one gets the same bytes."""
    client, same = interfering, element(ago=9 * DAY)
    a, b, c, d = keys = [f"{key_prefix}{name}" for name in "abcd"]

    def use_again() -> None:
        history = MemorystoreChatMessageHistory(client, a, max_messages=1)
        history.add_user_message("I am back")
        client.set(b, "something else")
        client.rpush(d, same)

    for change, left in ((partial(sessions.expire, ttl=99), 4), (sessions.delete, 3)):
        client.unlink(*keys)
        for key in keys:
            client.rpush(key, same)
        client.before = {"sessions/change": use_again}
        report = change(client, key_prefix=key_prefix, dry_run=False)
        assert (report.sessions, report.changed) == (1, 3)
        assert client.exists(*keys) == left
        assert client.get(b) == b"something else"
        assert [key for key in keys if client.ttl(key) > 0] == [c][: left - 3]


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
    ("error", "name", "value"),
    [
        (TypeError, "ids", "abc"),
        (ValueError, "ids", ["\ud800"]),
        (TypeError, "key_prefix", b"x"),
        (ValueError, "idle_for", 0),
        (ValueError, "idle_for", 1e300),
        (TypeError, "dry_run", None),
        (TypeError, "all_sessions", 1),
        (ValueError, "ttl", 0),
        (TypeError, "client", "redis://localhost"),
        (TypeError, "client", redis.asyncio.Redis()),
    ],
)
def test_bad_options_are_refused(error: type[Exception], name: str, value: Any) -> None:
    """Before anything is sent; the text names the argument."""
    given: Any = {"client": nowhere(), "key_prefix": "x", "dry_run": False, "ttl": 1, name: value}
    with pytest.raises(error, match=name):
        sessions.expire(**given)
    del given["ttl"]
    for function, takes in ((sessions.scan, ["client", "key_prefix"]), (sessions.delete, given)):
        if name in takes:
            with pytest.raises(error, match=name):  # of scan, before a session is asked for
                function(**{each: given[each] for each in takes})
