"""What redis-py raises becomes one of ours, and how that looks in a notebook."""

import asyncio
import linecache
from typing import Any
from unittest import mock

import pytest
import redis
import redis.asyncio
from redis import exceptions

from memorystore_chat import (
    ConnectError,
    MemorystoreChatError,
    MemorystoreChatMessageHistory,
    sessions,
)
from memorystore_chat.arguments import check_ids
from memorystore_chat.errors import COLUMNS, explaining
from memorystore_chat.extras import require
from servers import Server

CELL = """from memorystore_chat import connect

def open_it(endpoint, password):
    return connect(endpoint, password=password)
"""


@pytest.mark.parametrize(
    ("call", "hidden"),
    [
        ('open_it("redis://h?x=1", password="open-sesame")', 'open_it("...", password="...")'),
        ('connect("redis://a:open-sesame@127.0.0.1:1")', 'connect("redis://...@127.0.0.1:1")'),
        ('connect("127.0.0.1:1", password="\\"open-sesame")', 'connect("127.0.0.1:1", pass'),
        ("connect('127.0.0.1:6379/open-sesame')", 'connect("...")'),
        ('connect(endpoint="redis://h?open-sesame", cluster=False)', 'connect(endpoint="'),
    ],
)
def test_a_notebook_shows_the_sentence_and_the_readers_lines(call: str, hidden: str) -> None:
    """Without passwords: one may stand anywhere in what is no endpoint, so no text is shown."""
    names: dict[str, Any] = {"__name__": "__main__"}
    linecache.cache["<a cell>"] = (1, None, CELL.splitlines(), "<a cell>")
    linecache.cache["<another>"] = (1, None, [call], "<another>")
    exec(compile(CELL, "<a cell>", "exec"), names)
    with pytest.raises(MemorystoreChatError) as raised:
        exec(compile(call, "<another>", "exec"), names)
    lines = raised.value._render_traceback_()
    own = [line for line in lines if line.startswith("---> ")]
    assert own[0].startswith(f"---> 1 {hidden}")
    assert own[1:] == ["---> 4 return connect(endpoint, password=password)"] * ("open_it" in call)
    assert max(len(line) for line in lines if line not in own) <= COLUMNS
    assert not any(word in line for word in ("site-packages", "open-sesame") for line in lines)


def test_what_redis_py_raises_is_explained() -> None:
    explained: list[tuple[Exception, type, str]] = [
        (redis.ConnectionError("x"), ConnectError, "may or may not"),
        (redis.TimeoutError("x"), ConnectError, "may or may not"),
        (exceptions.MaxConnectionsError("x"), ConnectError, "max_connections"),
        (redis.AuthenticationError("x"), ConnectError, "refuses the login"),
        (redis.ConnectionError("max number of clients reached"), ConnectError, "share one"),
        (exceptions.ClusterDownError("x"), MemorystoreChatError, "patience"),
        (exceptions.NoPermissionError("x"), MemorystoreChatError, "ACL SETUSER"),
        (redis.OutOfMemoryError("x"), MemorystoreChatError, "ttl"),
        (redis.ReadOnlyError("x"), MemorystoreChatError, "primary endpoint"),
        (exceptions.MovedError("1 h:1"), MemorystoreChatError, "RedisCluster"),
        (redis.ResponseError("WRONGTYPE x"), MemorystoreChatError, "key_prefix"),
        (exceptions.InvalidResponse("x"), ConnectError, "no Redis"),
        (redis.ResponseError("invalid bulk length"), MemorystoreChatError, "512 MB"),
        (RuntimeError("attached to a different loop"), MemorystoreChatError, "asyncio.run"),
    ]
    for error, kind, word in explained:
        with pytest.raises(kind, match=f"trying.*{word}") as raised, explaining("trying"):
            raise error
        assert type(raised.value) is kind
        assert raised.value.__cause__ is error


async def test_what_breaks_inside_redis_py_is_a_connect_error() -> None:
    """As when another task closes a connection: what that raises is the cause of ours."""
    client: Any = redis.Redis(port=1)
    async_client: Any = redis.asyncio.Redis(port=1)
    history = MemorystoreChatMessageHistory(client, "s", async_client=async_client)
    for error in (AttributeError("_sock"), EOFError(), IndexError("pop")):
        client.execute_command = async_client.execute_command = mock.Mock(side_effect=error)
        for read in (history.aget_messages, lambda: asyncio.to_thread(len, history)):
            with pytest.raises(ConnectError, match="lost the connection") as raised:
                await read()
            assert raised.value.__cause__.__cause__ is error  # type: ignore[union-attr]


def test_a_scan_that_is_refused_is_explained(valkey_server: Server) -> None:
    with (
        valkey_server.limited("-scan") as client,
        pytest.raises(MemorystoreChatError, match=r"NOPERM.*rights"),
    ):
        list(sessions.scan(client))


def test_an_event_loop_that_is_missing_or_another_is_explained(valkey_server: Server) -> None:
    """As under trio, or after a second asyncio.run()."""
    history = MemorystoreChatMessageHistory(valkey_server.async_client(), "s")
    assert asyncio.run(history.aget_messages()) == []
    with pytest.raises(MemorystoreChatError, match=r"asyncio\.run"):
        asyncio.run(history.aget_messages())
    with pytest.raises(MemorystoreChatError, match="trio"):
        history.aget_messages().send(None)


def test_ids_and_extras() -> None:
    """One text in place of several ids is refused; a missing library names its extra."""
    wrong: Any
    for wrong in ("ab", b"ab", None, 7, ["a", 7]):
        with pytest.raises(TypeError, match=r"^session_ids.* takes"):
            check_ids("session_ids", wrong)
    assert require("threading", extra="agents").__name__ == "threading"
    for name in ("no_such_library", "one_it_needs"):
        missing = ModuleNotFoundError(f"No module named {name!r}", name=name)
        with (
            mock.patch("memorystore_chat.extras.import_module", side_effect=missing),
            pytest.raises(ModuleNotFoundError, match=rf'^{name} is not.*\[agents\]"'),
        ):
            require("no_such_library", extra="agents")
