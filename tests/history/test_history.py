"""The history's contract, on a server and a cluster, synchronous and asynchronous."""

from typing import Any

import pytest
import redis
import redis.asyncio
from blockbuster import blockbuster_ctx
from langchain_core.messages import AIMessage, HumanMessage

from memorystore_chat import (
    ConnectError,
    CorruptHistoryError,
    MemorystoreChatError,
    MemorystoreChatMessageHistory,
)
from memorystore_chat.codec import aside_key, new_append_id
from memorystore_chat.commands import script
from scripted import Make, nowhere
from servers import Server
from stored import said


def test_reading_and_appending_are_one_command_each(make: Make, client: Any) -> None:
    """However many messages, with expiry, window and cap; and one script for all."""
    history = make(ttl=100, window=20, max_messages=1000)
    history.add_messages(said(*range(30)))
    client.config_resetstat()
    history.add_messages(said(*range(30)))
    assert len(history.messages) == 20
    used = {name: entry["calls"] for name, entry in client.info("commandstats").items()}
    assert {k: v for k, v in used.items() if "resetstat" not in k} == {
        f"cmdstat_{name}": 1 + (name == "lrange")
        for name in ("evalsha", "lrange", "lpos", "rpush", "ltrim", "expire")
    }


@pytest.mark.parametrize("name", ["s", "{s}"])
async def test_a_broken_element_is_named_and_moved(place: Any, key_prefix: str, name: str) -> None:
    """Key and index, from the end if a window was read; a dry run only reports; expiry stays."""
    options: Any = {"ttl": 100, "key_prefix": key_prefix}
    history, far, near = (
        MemorystoreChatMessageHistory(place.client, name, window=window, **options)
        for window in (None, 3, 2)
    )
    key, raw = history.key, place.sync_client
    await place.call(history, "add_messages", said(0))
    raw.rpush(key, b'{"type": "human", "data": {"content": "trunc')
    await place.call(history, "add_messages", said(2, 3))
    for reader, index in ((history, 1), (far, -3)):
        with pytest.raises(CorruptHistoryError, match="not a stored message") as raised:
            await place.call(reader, "messages")
        assert (raised.value.key, raised.value.index) == (key, index)
    assert await place.call(near, "messages") == said(2, 3)
    for options, left in (({}, 4), ({"dry_run": False}, 3)):
        found = await place.call(history, "repair", **options)
        assert [error.index for error in found] == [1]
        assert raw.llen(key) == left
    assert await place.call(history, "messages") == said(0, 2, 3)
    assert raw.ttl(key) == 100
    assert 99 <= raw.ttl(aside_key(key)) <= 100
    await place.call(history, "clear")
    assert [raw.exists(each) for each in (key, aside_key(key))] == [0, 0]


def test_a_refused_repair_writes_nothing(valkey_server: Server, key_prefix: str) -> None:
    with valkey_server.limited("-pexpire") as client:
        history = MemorystoreChatMessageHistory(client, "s", 100, key_prefix=key_prefix)
        history.add_messages(said(0))
        client.rpush(history.key, "broken")
        with pytest.raises(MemorystoreChatError, match="NOPERM"):
            history.repair(dry_run=False)
        assert (len(history), client.exists(aside_key(history.key))) == (2, 0)


async def test_a_key_of_another_type_is_reported(place: Any, key_prefix: str) -> None:
    """Reading, repairing and appending say what to do; the key stays as it is."""
    history = MemorystoreChatMessageHistory(place.client, "s", key_prefix=key_prefix)
    place.sync_client.set(history.key, "text")
    place.sync_client.script_flush()
    for name, *given in (("messages",), ("repair",), ("add_messages", said(1))):
        with pytest.raises(MemorystoreChatError, match=r"WRONGTYPE.*key_prefix") as raised:
            await place.call(history, name, *given)
        assert isinstance(raised.value.__cause__, redis.ResponseError)
    assert place.sync_client.get(history.key) == b"text"


def test_it_is_a_langchain_history(make: Make, client: Any, key_prefix: str) -> None:
    """The inherited conveniences work, the options are public, and truth asks no server."""
    options: Any = {"ttl": 60, "window": 20, "max_messages": 30}
    history = make("s", **options)
    history.add_user_message("My name is Ada.")
    history.add_ai_message(AIMessage("Hello, Ada."))
    history.add_message(HumanMessage("What is my name?"))
    assert len(history) == 3
    assert (history.client, history.session_id, history.key) == (client, "s", f"{key_prefix}s")
    assert {name: getattr(history, name) for name in options} == options
    away = MemorystoreChatMessageHistory(nowhere(password="pass-word"), "s", window=2)
    assert away
    assert "key='s', ttl=None, window=2, max_messages=None" in repr(away)


def test_what_is_not_acceptable_is_refused_on_entry() -> None:
    """The text names the argument and what it takes; no server is asked, no password shown."""
    client: Any = nowhere()
    asynchronous: Any = redis.asyncio.Redis(port=1)
    options: list[tuple[str, list[Any], type[Exception]]] = [
        *((name, [7, b"s"], TypeError) for name in ("session_id", "key_prefix")),
        *((name, ["\ud800"], ValueError) for name in ("session_id", "key_prefix")),
        ("session_id", [""], ValueError),
        *((name, [True, 1.5, "60"], TypeError) for name in ("ttl", "window", "max_messages")),
        *((name, [0, -1, 10**12 + 1], ValueError) for name in ("ttl", "window", "max_messages")),
        ("client", ["redis://u:pass-word@h", None], TypeError),
        ("async_client", ["redis://u:pass-word@h", client], TypeError),
    ]
    for name, values, error in options:
        for value in values:
            with pytest.raises(error, match=f"^{name} is .*(takes|cannot hold)") as raised:
                MemorystoreChatMessageHistory(**{"client": client, "session_id": "s", name: value})
            assert type(raised.value) is error
            assert "pass-word" not in str(raised.value)
    with pytest.raises(TypeError, match="beside a synchronous client"):
        MemorystoreChatMessageHistory(asynchronous, "s", async_client=asynchronous)
    given: list[tuple[Any, Any, type[Exception], str]] = [
        *((bad, None, TypeError, "list of LangChain") for bad in ("hi", said(1)[0], None, 7)),
        ([*said(1), "text"], None, TypeError, r"messages\[1\]"),
        ([*said(1), HumanMessage("x", raw={1})], None, ValueError, r"messages\[1\]"),
        (said(1), "1", ValueError, "UUID"),
        (said(1), 7, TypeError, "append_id"),
    ]
    for messages, append_id, error, word in given:
        with pytest.raises(error, match=word):
            MemorystoreChatMessageHistory(client, "s").add_messages(messages, append_id=append_id)


async def test_an_asyncio_client_alone_or_beside_a_synchronous_one_or_none(
    valkey_server: Server, key_prefix: str
) -> None:
    """Alone, the other methods say what to await; without one, the a-methods run in a thread."""
    with valkey_server.client() as client:
        async with valkey_server.async_client() as other:
            for one, beside in ((client, None), (client, other), (other, None)):
                history: Any = MemorystoreChatMessageHistory(one, key_prefix, async_client=beside)
                script.cache_clear()
                with blockbuster_ctx():  # the script's files are read in a thread, too
                    await history.aadd_messages(said("one"))
                assert await history.aget_messages() == said("one")
                await history.aclear()
    for name, awaited in (
        ("messages", "aget_messages"),
        ("__len__", "aget_messages"),
        ("add_user_message", "aadd_messages"),
        ("clear", "aclear"),
        ("repair", "arepair"),
    ):
        with pytest.raises(TypeError, match=rf"await {awaited}\(\)"):
            getattr(history, name)(*["x"] * name.startswith("add"))


RIGHTS = ("evalsha", "eval", "lrange", "rpush", "ltrim", "expire", "lpos")


@pytest.mark.parametrize("running", ["valkey_server", "redis_server"])
def test_whatever_right_is_missing_an_append_is_done_whole_or_refused(
    request: pytest.FixtureRequest, running: str
) -> None:
    """NOPERM, nothing written, nothing of the message in the error; repeated it is as before."""
    server = request.getfixturevalue(running)
    append_id = new_append_id()
    for removed in RIGHTS:
        rights = [f"+{right}" for right in RIGHTS if right != removed]
        name = f"refused-{removed}"
        with server.client() as client, server.limited("-@all", "+@connection", *rights) as limited:
            client.script_flush()
            whole = MemorystoreChatMessageHistory(client, name, 50)
            whole.add_messages(said("1", "2"))
            was = whole.messages, client.ttl(name)
            history = MemorystoreChatMessageHistory(limited, name, 100, max_messages=2)
            for _ in range(2):
                if removed in ("eval", "lpos"):  # the script is there by now, or has another way
                    client.script_load(script("demand", "append").text)
                    history.add_messages(said("a secret"), append_id=append_id)
                    was = said("2", "a secret"), 100
                else:
                    with pytest.raises(MemorystoreChatError, match=r"NOPERM.*rights") as raised:
                        history.add_messages(said("a secret"), append_id=append_id)
                    assert "a secret" not in str(raised.value)
                assert (whole.messages, client.ttl(name)) == was
            whole.clear()


@pytest.mark.parametrize("command", ["PING", "LLEN"])
def test_an_answer_that_cannot_be_its_own_is_an_error(
    valkey_server: Server, key_prefix: str, command: str
) -> None:
    """A connection one reply behind, as a signal in other code leaves it, is dropped."""
    with valkey_server.client(single_connection_client=True) as client:
        history = MemorystoreChatMessageHistory(client, "s", key_prefix=key_prefix)
        history.add_messages(said("mine"))
        for use in (lambda: history.messages, lambda: history.add_messages(said("lost?"))):
            client.connection.send_command(command, *[history.key] * (command == "LLEN"))
            with pytest.raises(ConnectError, match="something else"):
                use()
            assert history.messages[0].text == "mine"
