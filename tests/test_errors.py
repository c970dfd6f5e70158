"""What redis-py raises becomes one of ours, and how that looks in a notebook."""

import asyncio
import threading
from typing import Any

import pytest
import redis
import redis.asyncio
from nbclient import NotebookClient
from nbformat.v4 import new_code_cell, new_notebook

from memorystore_chat import ConnectError, MemorystoreChatError, MemorystoreChatMessageHistory
from memorystore_chat.arguments import check_ids
from memorystore_chat.errors import COLUMNS, explaining
from memorystore_chat.extras import require
from servers import Server


@pytest.fixture(scope="module")
def outputs() -> list[str]:
    """What a real kernel shows for three cells, the second of which fails inside the package."""
    cells = [
        "from memorystore_chat import connect\n\n"
        "def open_it(endpoint, password):\n"
        "    return connect(endpoint, password=password, timeout=0.2)",
        'client = open_it("127.0.0.1:1", password="open-sesame")',
        "import traceback; traceback.print_last()",
        'connect("redis://ada:open-sesame@127.0.0.1:1", timeout=0.2)',
        'connect("redis://:open-sesame")',
        "connect('127.0.0.1:6379/open-sesame')",
        'connect(endpoint="redis://127.0.0.1?password=open-sesame", cluster=False)',
        'connect("127.0.0.1:1", password="not \\"open-sesame", timeout=0.2)',
    ]
    book = new_notebook(cells=[new_code_cell(cell) for cell in cells])
    NotebookClient(book, timeout=60, kernel_name="python3", allow_errors=True).execute()
    return [
        "\n".join(output.get("traceback", [])) or output.get("text", "")
        for cell in book.cells
        for output in cell.outputs
    ]


def test_the_sentence_and_the_readers_lines_are_shown(outputs: list[str]) -> None:
    """In order of the calls, each line by its number in its cell, and nothing of the library."""
    lines = outputs[0].split("\n")
    assert lines[0].startswith("ConnectError: Cannot connect to")
    assert [line for line in lines if line.startswith("--->")] == [
        '---> 1 client = open_it("127.0.0.1:1", password="...")',
        "---> 4 return connect(endpoint, password=password, timeout=0.2)",
    ]
    assert "helpers" not in outputs[0]
    assert "site-packages" not in outputs[0]
    # A window of 900 pixels breaks longer lines anywhere; the reader's own are not wrapped.
    assert max(len(line) for line in lines if not line.startswith("--->")) <= COLUMNS
    assert outputs[0].endswith("The whole stack: import traceback; traceback.print_last()")
    assert "memorystore_chat/connection/" in outputs[1]


def test_passwords_in_the_readers_line_are_hidden(outputs: list[str]) -> None:
    """A password may stand anywhere in what is no endpoint, so that line comes without any text."""
    assert "open-sesame" not in outputs[0] + "".join(outputs[2:])
    assert '---> 1 connect("redis://...@127.0.0.1:1", timeout=0.2)' in outputs[2]
    assert '---> 1 connect(endpoint="...", cluster=False)' in outputs[5]


@pytest.mark.parametrize(
    ("error", "kind", "word"),
    [
        (redis.ConnectionError("x"), ConnectError, "may or may not"),
        (redis.TimeoutError("x"), ConnectError, "may or may not"),
        (redis.exceptions.MaxConnectionsError("x"), ConnectError, "max_connections"),
        (redis.AuthenticationError("x"), ConnectError, "refuses the login"),
        (redis.ConnectionError("max number of clients reached"), ConnectError, "share one"),
        (redis.exceptions.ClusterDownError("x"), MemorystoreChatError, "patience"),
        (redis.exceptions.NoPermissionError("x"), MemorystoreChatError, "ACL SETUSER"),
        (redis.OutOfMemoryError("x"), MemorystoreChatError, "ttl"),
        (redis.ReadOnlyError("x"), MemorystoreChatError, "primary endpoint"),
        (redis.exceptions.MovedError("1 h:1"), MemorystoreChatError, "RedisCluster"),
        (redis.ResponseError("WRONGTYPE x"), MemorystoreChatError, "key_prefix"),
        (redis.exceptions.InvalidResponse("x"), ConnectError, "no Redis"),
        (redis.ResponseError("invalid bulk length"), MemorystoreChatError, "512 MB"),
        (RuntimeError("attached to a different loop"), MemorystoreChatError, "asyncio.run"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else "",
)
def test_what_redis_py_raises_is_explained(error: Exception, kind: type, word: str) -> None:
    with pytest.raises(kind, match=word) as raised, explaining("trying"):
        raise error
    assert type(raised.value) is kind
    assert raised.value.__cause__ is error
    assert "trying" in str(raised.value)


@pytest.mark.parametrize("error", [AttributeError("_sock"), EOFError(), IndexError("pop")])
async def test_a_connection_that_breaks_inside_redis_py_is_a_connect_error(
    monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    """As when another task closes it: whatever class that raises is the cause of ours."""

    def broken(*_: Any, **__: Any) -> Any:
        raise error

    async_client = redis.asyncio.Redis(port=1)
    for client in (redis.Redis(port=1), async_client):
        monkeypatch.setattr(client, "execute_command", broken)
    beside = MemorystoreChatMessageHistory(redis.Redis(port=1), "s", async_client=async_client)
    with pytest.raises(ConnectError, match="lost the connection") as raised:
        await beside.aget_messages()
    assert raised.value.__cause__.__cause__ is error  # type: ignore[union-attr]
    client = redis.Redis(port=1)
    monkeypatch.setattr(client, "execute_command", broken)
    with pytest.raises(ConnectError, match="lost the connection"):
        _ = MemorystoreChatMessageHistory(client, "s").messages


def test_without_a_loop_of_asyncio_a_sentence_says_so(valkey_server: Server) -> None:
    """As under trio; a coroutine that is driven by hand has no loop either."""
    with valkey_server.client() as client, pytest.raises(MemorystoreChatError, match="trio"):
        MemorystoreChatMessageHistory(client, "s").aget_messages().send(None)


def test_a_client_of_another_event_loop_is_explained(valkey_server: Server) -> None:
    async def opened() -> Any:
        client = valkey_server.async_client()
        await client.ping()
        return client

    history = MemorystoreChatMessageHistory(asyncio.run(opened()), "s")
    with pytest.raises(MemorystoreChatError, match=r"asyncio\.run"):
        asyncio.run(history.aget_messages())


@pytest.mark.parametrize("ids", ["ab", b"ab", None, 7, ["a", 7]], ids=str)
def test_one_text_in_place_of_several_ids_is_refused(ids: Any) -> None:
    with pytest.raises(TypeError, match=r"^session_ids.* takes"):
        check_ids("session_ids", ids)


def test_a_missing_library_names_its_extra() -> None:
    with pytest.raises(ModuleNotFoundError, match=r'pip install "memorystore-chat\[agents\]"'):
        require("no_such_library.at_all", extra="agents")
    assert require("threading", extra="agents") is threading
