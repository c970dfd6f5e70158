"""The history's contract, on a server and a cluster, synchronous and asynchronous."""

from typing import Any

import pytest
import redis
import redis.asyncio
from blockbuster import blockbuster_ctx
from langchain_core.chat_history import BaseChatMessageHistory
from langchain_core.messages import AIMessage, HumanMessage

from memorystore_chat import (
    ConnectError,
    CorruptHistoryError,
    MemorystoreChatError,
    MemorystoreChatMessageHistory,
)
from memorystore_chat.codec import aside_key
from memorystore_chat.commands import script
from scripted import Make
from servers import Server
from stored import said, texts


@pytest.mark.parametrize("options", [{"decode_responses": True}, {"encoding": "utf-16"}], ids=str)
async def test_what_the_client_encodes_and_decodes_makes_no_difference(
    place: Any, key_prefix: str, options: dict[str, Any]
) -> None:
    open_one = place.server.async_client if place.way == "async" else place.server.client
    odd = open_one(**options)
    usual = MemorystoreChatMessageHistory(place.sync_client, "é", key_prefix=key_prefix)
    other = MemorystoreChatMessageHistory(odd, "é", 100, key_prefix=key_prefix)
    place.sync_client.script_flush()
    usual.add_messages(said("é"))
    await place.call(other, "add_messages", said("odd"))
    assert await place.call(other, "messages") == usual.messages == said("é", "odd")
    await place.call(other, "clear")
    assert usual.messages == []
    if place.way == "async":
        await odd.aclose()


def test_reading_and_appending_are_one_command_each(valkey_server: Server, key_prefix: str) -> None:
    """However many messages, with expiry, window and cap; and one script for all."""
    options: Any = {"key_prefix": key_prefix, "window": 20, "max_messages": 1000}
    with valkey_server.client() as client:
        history = MemorystoreChatMessageHistory(client, "s", 100, **options)
        history.add_messages(said(*range(30)))
        client.config_resetstat()
        history.add_messages(said(*range(30)))
        assert len(history.messages) == 20
        used = {name: entry["calls"] for name, entry in client.info("commandstats").items()}
        assert {k: v for k, v in used.items() if "resetstat" not in k} == {
            f"cmdstat_{name}": 1 + (name == "lrange")
            for name in ("evalsha", "lrange", "lpos", "rpush", "ltrim", "expire")
        }


async def test_a_broken_element_is_named_and_moved(place: Any, key_prefix: str) -> None:
    """Key and index, from the end if a window was read; a dry run only reports; expiry stays."""
    far, near, history = (
        MemorystoreChatMessageHistory(place.client, "s", 100, key_prefix=key_prefix, window=window)
        for window in (3, 2, None)
    )
    key, raw = history.key, place.sync_client
    await place.call(history, "add_messages", said(0))
    raw.rpush(key, b'{"type": "human", "data": {"content": "trunc')
    await place.call(history, "add_messages", said(2, 3))
    for reader, index in ((history, 1), (far, -3)):
        with pytest.raises(CorruptHistoryError, match="not a stored message") as raised:
            await place.call(reader, "messages")
        assert (raised.value.key, raised.value.index) == (key, index)
    assert texts(await place.call(near, "messages")) == ["2", "3"]
    for dry_run, left in ((True, 4), (False, 3)):
        found = await place.call(history, "repair", dry_run=dry_run)
        assert [error.index for error in found] == [1]
        assert raw.llen(key) == left
    assert texts(await place.call(history, "messages")) == ["0", "2", "3"]
    assert raw.ttl(key) == 100
    assert 99 <= raw.ttl(aside_key(key)) <= 100


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


def test_what_is_no_list_of_messages_is_refused(make: Make, client: redis.Redis) -> None:
    wrong: list[tuple[Any, type[Exception], str]] = [
        *((bad, TypeError, "list of LangChain messages") for bad in ("hi", said(1)[0], None, 7)),
        ([*said(1), "text"], TypeError, r"messages\[1\]"),
        ([*said(1), HumanMessage("x", raw={1})], ValueError, r"messages\[1\]"),
    ]
    for messages, error, word in wrong:
        with pytest.raises(error, match=word):
            make().add_messages(messages)
    for append_id, error in (("1", ValueError), (7, TypeError)):
        with pytest.raises(error, match="UUID"):
            make().add_messages(said(1), append_id=append_id)  # type: ignore[arg-type]
    assert not client.exists(make().key)


def test_it_is_a_langchain_history(valkey_server: Server, key_prefix: str) -> None:
    """The inherited conveniences work, the options are public, and truth asks no server."""
    options: Any = {"ttl": 60, "window": 20, "max_messages": 30}
    with valkey_server.client() as client:
        history = MemorystoreChatMessageHistory(
            client=client, session_id="s", key_prefix=key_prefix, **options
        )
        history.add_user_message("My name is Ada.")
        history.add_ai_message(AIMessage("Hello, Ada."))
        history.add_message(HumanMessage("What is my name?"))
        assert len(history) == 3
    assert isinstance(history, BaseChatMessageHistory)
    assert (history.client, history.session_id, history.key) == (client, "s", f"{key_prefix}s")
    assert {name: getattr(history, name) for name in options} == options
    away = MemorystoreChatMessageHistory(redis.Redis(port=1, password="pass-word"), "s", window=2)
    assert away
    assert "key='s', ttl=None, window=2, max_messages=None" in repr(away)


def test_a_bad_option_is_refused_at_once() -> None:
    """The text names the option and what it takes; no server is asked."""
    numbers = ("ttl", "window", "max_messages")
    bad: list[tuple[str, Any, type[Exception]]] = [
        *((name, value, TypeError) for name in ("session_id", "key_prefix") for value in (7, b"s")),
        *((name, value, TypeError) for name in numbers for value in (True, 1.5, "60")),
        *((name, value, ValueError) for name in numbers for value in (0, -1, 10**12 + 1)),
        *((name, "\ud800", ValueError) for name in ("session_id", "key_prefix")),
        ("session_id", "", ValueError),
    ]
    for name, value, error in bad:
        options = {"session_id": "s", name: value}
        with pytest.raises(error, match=f"^{name} is .*(takes|cannot hold)") as raised:
            MemorystoreChatMessageHistory(redis.Redis(port=1), **options)
        assert type(raised.value) is error


@pytest.mark.parametrize("wrong", ["redis://u:pass-word@h", None])
def test_what_is_no_client_is_refused(wrong: Any) -> None:
    asynchronous: Any = redis.asyncio.Redis(port=1)
    client: Any = redis.Redis(port=1)
    for word, clients in (
        ("^client is a", (wrong, None)),
        ("^async_client is a", (client, wrong or client)),
        ("beside a synchronous client", (asynchronous, asynchronous)),
    ):
        with pytest.raises(TypeError, match=word) as raised:
            MemorystoreChatMessageHistory(clients[0], "s", async_client=clients[1])
        assert "pass-word" not in str(raised.value)


async def test_an_asyncio_client_alone_or_beside_a_synchronous_one_or_none(
    valkey_server: Server, key_prefix: str
) -> None:
    """Alone, the other methods say what to await; without one, the a-methods run in a thread."""
    with valkey_server.client() as client:
        async with valkey_server.async_client() as async_client:
            for given in ((client, None), (client, async_client), (async_client, None)):
                history: Any = MemorystoreChatMessageHistory(
                    given[0], "s", key_prefix=key_prefix, async_client=given[1]
                )
                script.cache_clear()
                with blockbuster_ctx():  # the script's files are read in a thread, too
                    await history.aadd_messages(said("one"))
                assert await history.aget_messages() == said("one")
                await history.aclear()
    for use, awaited in (
        (lambda: history.messages, "aget_messages"),
        (lambda: len(history), "aget_messages"),
        (lambda: history.add_user_message("x"), "aadd_messages"),
        (history.clear, "aclear"),
        (history.repair, "arepair"),
    ):
        with pytest.raises(TypeError, match=rf"await {awaited}\(\)"):
            use()


RIGHTS = ("evalsha", "eval", "lrange", "rpush", "ltrim", "expire", "lpos")


@pytest.mark.own_server
def test_whatever_right_is_missing_an_append_is_done_whole_or_refused(server: Any) -> None:
    """NOPERM, nothing written, nothing of the message in the error; repeated it is as before."""
    for removed in RIGHTS:
        rights = [f"+{right}" for right in RIGHTS if right != removed]
        name = f"refused-{removed}"
        with server.client() as client, server.limited("-@all", "+@connection", *rights) as limited:
            client.script_flush()
            whole = MemorystoreChatMessageHistory(client, name, 50)
            whole.add_messages(said("1", "2"))
            was = client.lrange(name, 0, -1), client.ttl(name)
            history = MemorystoreChatMessageHistory(limited, name, 100, max_messages=2)
            for _ in range(2):
                if removed in ("eval", "lpos"):  # the script is there by now, or has another way
                    append_id = "01932c07-2080-7000-8000-000000000000"
                    client.script_load(script("demand", "append").text)
                    history.add_messages(said("3"), append_id=append_id)
                    assert (texts(whole.messages), client.ttl(name)) == (["2", "3"], 100)
                    continue
                with pytest.raises(MemorystoreChatError, match=r"NOPERM.*rights") as raised:
                    history.add_user_message("a secret")
                assert "a secret" not in str(raised.value)
                assert (client.lrange(name, 0, -1), client.ttl(name)) == was
            whole.clear()


@pytest.mark.parametrize("command", ["PING", "LLEN"])
def test_an_answer_that_cannot_be_its_own_is_an_error(
    valkey_server: Server, key_prefix: str, command: str
) -> None:
    """A connection one reply behind, as a signal in other code leaves it, is dropped."""
    with valkey_server.client() as client:
        history = MemorystoreChatMessageHistory(client, "s", key_prefix=key_prefix)
        history.add_messages(said("mine"))
        for use in (lambda: history.messages, lambda: history.add_messages(said("lost?"))):
            connection = client.connection_pool.get_connection()
            client.connection_pool.release(connection)
            send = connection.send_command

            def send_two(*args: Any, send: Any = send, **options: Any) -> None:
                send(command, *([history.key] if command == "LLEN" else []))
                send(*args, **options)

            connection.send_command = send_two
            with pytest.raises(ConnectError, match="something else"):
                use()
            del connection.send_command
            assert history.messages[0].text == "mine"
