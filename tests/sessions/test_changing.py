"""Deleting sessions and threads, setting when they expire, and what is refused."""

import inspect
import io
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from itertools import product
from types import ModuleType
from typing import Any

import pytest
import redis
from langgraph.checkpoint.base import empty_checkpoint
from langgraph.checkpoint.memory import InMemorySaver

from interference import InterferingRedis
from memorystore_chat import MemorystoreChatMessageHistory, sessions
from memorystore_chat.checkpoint import MemorystoreSaver
from memorystore_chat.sessions import Report, threads
from scripted import nowhere
from servers import Server
from stored import UNTIMED, element

DAY = timedelta(days=1)


@dataclass
class Kind:
    """Sessions or threads: the module of their functions, and what these are given."""

    module: ModuleType
    asked: Any  # a client or a saver
    options: dict[str, Any]
    prefix: str  # of the Redis keys

    def __call__(self, name: str, **options: Any) -> Report:
        report: Report = getattr(self.module, name)(self.asked, **self.options | options)
        return report

    def put(self, name: str, ago: timedelta | None) -> None:
        """Add a message or a checkpoint that is so old; one for which that is None says nothing."""
        if self.module is sessions:
            self.asked.rpush(self.prefix + name, UNTIMED if ago is None else element(ago=ago))
        else:
            moment = "" if ago is None else (datetime.now(UTC) - ago).isoformat()
            config: Any = {"configurable": {"thread_id": name, "checkpoint_ns": ""}}
            self.asked.put(config, empty_checkpoint() | {"ts": moment}, {}, {})


@pytest.fixture(params=["sessions", "threads"])
def kind(request: pytest.FixtureRequest, client: Any, key_prefix: str) -> Kind:
    """Beside them is something else under the same prefix."""
    client.set(f"{key_prefix}string", "x")
    if request.param == "sessions":
        return Kind(sessions, client, {"key_prefix": key_prefix}, key_prefix)
    saver = MemorystoreSaver(client, key_prefix=key_prefix)
    return Kind(threads, saver, {"all_threads": True}, f"{key_prefix}checkpoints:")


CHANGES: Any = [("expire", {"ttl": 1000}, 1000), ("expire", {"ttl": None}, -1), ("delete", {}, -2)]


@pytest.mark.parametrize(
    ("options", "meant", "counts"),
    [
        ({}, ["old", "undated", "used"], (0, 0)),
        ({"ids": ["old", "used", "old", "nobody", "string"]}, ["old", "used"], (2, 0)),
        ({"ids": []}, [], (0, 0)),
        ({"idle_for": 30 * DAY}, ["old"], (0, 1)),
        ({"idle_for": 0.5, "ids": ["used", "undated"]}, ["used"], (0, 1)),
    ],
)
def test_expire_and_delete(
    kind: Kind, client: Any, options: dict[str, Any], meant: list[str], counts: tuple[int, int]
) -> None:
    """By default they count; the newest message tells the age; ids count once, none is not all."""
    before = {"old": 50, "undated": -1, "used": -1}
    for each, newest in (("old", 31 * DAY), ("undated", None), ("used", 29 * DAY)):
        kind.put(each, 90 * DAY)
        kind.put(each, newest)
    client.expire(f"{kind.prefix}old", 50)
    for (name, ttl, then), dry_run in product(CHANGES, (True, False)):
        given = {each: iter(value) if each == "ids" else value for each, value in options.items()}
        report = kind(name, **given, **ttl, **{} if dry_run else {"dry_run": False})
        assert (report.dry_run, report.missing, report.undated) == (dry_run, *counts)
        assert (report.sessions, report.messages) == (len(meant), 2 * len(meant))
        assert (report.bytes > 0) == bool(meant)
        before |= {} if dry_run else dict.fromkeys(meant, then)
        times = {each: client.ttl(f"{kind.prefix}{each}") for each in before}
        assert times == pytest.approx(before, rel=0.1)


def test_all_leaves_everything_else(valkey_server: Server) -> None:
    with valkey_server.client(db=9) as client:
        client.rpush("a", element())
        client.rpush("list", "x")
        client.set("string", "x")
        for module, asked in ((sessions, client), (threads, MemorystoreSaver(client))):
            for change in (module.delete, partial(module.expire, ttl=1)):
                with pytest.raises(ValueError, match=f"all_{module.__name__.split('.')[-1]}=True"):
                    change(asked, idle_for=60, dry_run=False)
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


@pytest.mark.parametrize("kind", ["threads"], indirect=True)
def test_a_thread_that_goes_on_meanwhile_is_left(
    kind: Kind, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is looked at once more directly before."""
    look = MemorystoreSaver.threads

    def look_and_go_on(saver: MemorystoreSaver, thread_ids: Any = None) -> Any:
        found = look(saver, thread_ids)
        if thread_ids is None:
            kind.put("eve", timedelta())
        return found

    kind.put("ada", DAY)
    kind.put("eve", DAY)
    monkeypatch.setattr(MemorystoreSaver, "threads", look_and_go_on)
    assert kind("delete", idle_for=60, dry_run=False).sessions == 1
    assert [one.thread_id for one in look(kind.asked)] == ["eve"]


def test_what_repair_moved_aside_goes_with_its_session(client: Any, key_prefix: str) -> None:
    """Its list of broken elements expires and is deleted with it, and nobody else's list is."""
    for name in "ab":
        client.rpush(f"{key_prefix}{name}", element(), "{broken", element())
        history = MemorystoreChatMessageHistory(client, name, key_prefix=key_prefix)
        assert len(history.repair(dry_run=False)) == 1
    before = {*client.scan_iter(f"{key_prefix}*")}
    options: dict[str, Any] = {"key_prefix": key_prefix, "dry_run": False}
    sessions.expire(client, ["a"], ttl=100, **options)
    expiring = {key for key in before if client.ttl(key) > 0}
    assert len(expiring) == 2
    assert sessions.delete(client, ["a"], **options).sessions == 1
    assert {*client.scan_iter(f"{key_prefix}*")} == before - expiring


def test_reports_are_sentences() -> None:
    """The repr says what was done, what was not, and why."""
    assert repr(Report("delete", "session", True, 12, 3400, 1_250_000)) == (
        "Would delete 12 sessions (3,400 messages, 1.2 MB); "
        "nothing was changed, dry_run=False does it."
    )
    told = repr(Report("delete", "session", False, 1, 1, 99, 2, 3, 4, 5, 6, 7))
    assert told.startswith("Deleted 1 session (1 message, less than 0.1 MB); 2 not found; 3 left")
    assert all(f"; {number} " in told for number in range(2, 8))
    assert "thread (2 checkpoints" in repr(Report("expire", "thread", False, 1, 2))
    assert "thread (2 messages" in repr(Report("export", "thread", False, 1, 2))


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
        (TypeError, "all_threads", 1),
        (ValueError, "ttl", 0),
        (TypeError, "file", 7),
        (TypeError, "file", io.StringIO()),  # it would change line ends
        (TypeError, "client", "redis://localhost"),
        (TypeError, "client", redis.asyncio.Redis()),
        (TypeError, "saver", InMemorySaver()),
    ],
)
def test_bad_options_are_refused(error: type[Exception], name: str, value: Any) -> None:
    """Before anything is sent, or a session asked for; the text names the argument."""
    given = {"ids": [], "ttl": 1, "file": io.BytesIO(), "key_prefix": "x"}
    given |= {"client": nowhere(), "saver": MemorystoreSaver(nowhere()), name: value}
    functions = [getattr(sessions, each) for each in sessions.__all__ if each.islower()]
    functions += [threads.scan, threads.delete, threads.expire, threads.export]
    taking = [each for each in functions if name in inspect.signature(each).parameters]
    assert taking
    for function in taking:
        takes = given.keys() & inspect.signature(function).parameters
        with pytest.raises(error, match=name):
            function(**{each: given[each] for each in takes})
