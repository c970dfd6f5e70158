"""The history's contract, on a server and a cluster, synchronous and asynchronous."""

import asyncio
import json
from typing import Any

import pytest
import redis
import redis.asyncio
from blockbuster import blockbuster_ctx
from langchain_core.chat_history import BaseChatMessageHistory
from langchain_core.messages import (
    AIMessage,
    BaseMessage,
    HumanMessage,
    SystemMessage,
    ToolMessage,
    message_to_dict,
)

import servers
from memorystore_chat import (
    ConnectError,
    CorruptHistoryError,
    MemorystoreChatError,
    MemorystoreChatMessageHistory,
)
from memorystore_chat.codec import aside_key
from memorystore_chat.commands import script
from stored import said, texts

CONVERSATION: list[BaseMessage] = [
    SystemMessage("Be brief."),
    HumanMessage([{"type": "text", "text": "Wie ist das Wetter in Zürich? 🌧"}], id="1", name="Ada"),
    AIMessage(
        "",
        tool_calls=[{"name": "weather", "args": {"city": "Zürich"}, "id": "call-1"}],
        usage_metadata={"input_tokens": 7, "output_tokens": 3, "total_tokens": 10},
        response_metadata={"model_name": "gemini", "logprobs": float("inf")},
    ),
    ToolMessage("rain", tool_call_id="call-1", artifact={"mm": [1, 2.5]}, status="success"),
    AIMessage("It rains."),
]
BROKEN = [
    b'{"type": "human", "data": {"content": "trunc',
    b'{"type": "human", "data": {"content": "\xc3',
    b'["list"]',
    b'{"type": "robot", "data": {}}',
    b'{"type": "ai", "data": {"content": "", "tool_calls": [1]}}',
]


class Session:
    """One session of a place, used in its way."""

    def __init__(self, place: Any, key_prefix: str, name: str = "s", **options: Any) -> None:
        self.history = MemorystoreChatMessageHistory(
            place.client, name, key_prefix=key_prefix, **options
        )
        self.place, self.raw = place, place.sync_client

    async def add(self, *messages: Any, **options: Any) -> None:
        await self.place.call(self.history, "add_messages", list(messages), **options)

    async def read(self) -> Any:
        return await self.place.call(self.history, "messages")

    async def texts(self) -> list[str]:
        return texts(await self.read())

    async def clear(self) -> None:
        await self.place.call(self.history, "clear")

    async def repair(self, **options: Any) -> Any:
        return await self.place.call(self.history, "repair", **options)


@pytest.fixture
def session(place: Any, key_prefix: str) -> Any:
    return lambda *given, **options: Session(place, key_prefix, *given, **options)


NAMES = ["plain", "{braces}", "a{b}c", "Zürich 🌧", " \n\0"]


@pytest.mark.parametrize("name", NAMES)
async def test_a_conversation_is_read_back_as_it_was_appended(session: Any, name: str) -> None:
    """All of it, over several appends, whatever the session is called; one key, one expiry."""
    s = session(name, ttl=100)
    assert await s.read() == []
    await s.add(*CONVERSATION[:2])
    await s.add(*CONVERSATION[2:])
    await s.add()
    assert await s.read() == CONVERSATION
    assert s.raw.ttl(s.history.key) == 100
    stored = [json.loads(element) for element in s.raw.lrange(s.history.key, 0, -1)]
    ids = [element.pop("id") for element in stored]
    assert stored == [message_to_dict(message) for message in CONVERSATION]
    assert ids[0] == ids[1] < ids[2] == ids[4]
    s.raw.rpush(s.history.key, *BROKEN)
    assert len(await s.repair(dry_run=False)) == len(BROKEN)
    assert s.raw.lrange(aside_key(s.history.key), 0, -1) == BROKEN
    await s.clear()
    await s.clear()
    assert s.raw.exists(s.history.key) == s.raw.exists(aside_key(s.history.key)) == 0


async def test_sessions_and_lists_of_broken_elements_do_not_meet(session: Any) -> None:
    """No session id names the list that repair() makes; clear() touches one session only."""
    ada, namesake = session("ada"), session("ada:corrupt")
    for one in (ada, namesake):
        await one.add(*said(one.history.session_id))
        one.raw.rpush(one.history.key, b"broken")
        await one.repair(dry_run=False)
    await ada.clear()
    assert await namesake.texts() == ["ada:corrupt"]
    assert namesake.raw.llen(aside_key(namesake.history.key)) == 1
    with pytest.raises(UnicodeDecodeError):
        aside_key("ada").decode()


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


@pytest.mark.parametrize("cap", [None, 2])
@pytest.mark.parametrize(
    ("before", "ttl", "after"),
    [(None, None, -1), (None, 100, 100), (50, None, 50), (50, 100, 100), (500, 100, 100)],
)
async def test_an_append_sets_the_expiry_or_leaves_it(
    session: Any, cap: int | None, before: int | None, ttl: int | None, after: int
) -> None:
    """It counts from the newest message; reading, repairing and an empty append leave it."""
    await session(ttl=before).add(*said(1))
    s = session(ttl=ttl, max_messages=cap)
    await s.add(*said(2, 3))
    assert s.raw.ttl(s.history.key) == after
    s.raw.expire(s.history.key, 70)
    await s.add()
    await s.read()
    assert await s.repair(dry_run=False) == []
    assert s.raw.ttl(s.history.key) == 70
    s.raw.pexpire(s.history.key, 1)
    await asyncio.sleep(0.01)
    assert await s.read() == []


async def test_a_window_bounds_reading_and_a_cap_bounds_the_list(session: Any) -> None:
    """The write that exceeds the cap drops the oldest, also if the batch itself exceeds it."""
    s, window, most = session(max_messages=3), session(window=2), 10**12
    for batch, kept in (((1, 2), "12"), ((3,), "123"), ((4, 5), "345"), (range(6, 10), "789")):
        await s.add(*said(*batch))
        assert await s.texts() == list(kept)
        assert await window.texts() == list(kept)[-2:]
    assert s.raw.llen(s.history.key) == 3
    longest = session("longest", ttl=most, max_messages=most, window=most)
    await longest.add(*said(1, 2))
    assert await longest.texts() == ["1", "2"]
    assert longest.raw.ttl(longest.history.key) == most


async def test_reading_and_appending_are_one_command_each(place: Any, session: Any) -> None:
    """However many messages, with expiry, window and cap; and one script for all."""
    if place.client is not place.sync_client or isinstance(place.server, servers.Cluster):
        pytest.skip("one server's own counts, once")
    s = session(ttl=100, window=20, max_messages=1000)
    await s.add(*said(*range(30)))
    s.raw.config_resetstat()
    await s.add(*said(*range(30)))
    assert len(await s.read()) == 20
    used = {name: entry["calls"] for name, entry in s.raw.info("commandstats").items()}
    expected = ("evalsha", "lrange", "lpos", "rpush", "ltrim", "expire")
    assert {k: v for k, v in used.items() if "resetstat" not in k} == {
        f"cmdstat_{name}": 1 + (name == "lrange") for name in expected
    }


@pytest.mark.parametrize("element", BROKEN[:2], ids=range(2))
async def test_a_broken_element_is_named_and_moved(session: Any, element: bytes) -> None:
    """Key and index, from the end if a window was read; a dry run only reports; expiry stays."""
    s, near, far = session(ttl=100), session(window=2), session(window=3)
    await s.add(*said(0))
    s.raw.rpush(s.history.key, element)
    await s.add(*said(2, 3))
    for reader, index in ((s, 1), (far, -3)):
        with pytest.raises(CorruptHistoryError, match="not a stored message") as raised:
            await reader.read()
        assert (raised.value.key, raised.value.index) == (s.history.key, index)
    assert await near.texts() == ["2", "3"]
    assert [error.index for error in await s.repair()] == [1]
    assert s.raw.llen(s.history.key) == 4
    assert [error.index for error in await s.repair(dry_run=False)] == [1]
    assert await s.texts() == ["0", "2", "3"]
    assert 99 <= s.raw.ttl(aside_key(s.history.key)) <= 100
    assert s.raw.ttl(s.history.key) == 100


@pytest.mark.parametrize("bad", ["hi", HumanMessage("hi"), None, 7], ids=str)
async def test_what_is_no_list_of_messages_is_refused(session: Any, bad: Any) -> None:
    s = session()
    with pytest.raises(TypeError, match="list of LangChain messages"):
        await s.place.call(s.history, "add_messages", bad)
    for one, error in ((HumanMessage("x", raw={1}), ValueError), ("text", TypeError)):
        with pytest.raises(error, match=r"messages\[1\]"):
            await s.add(HumanMessage("fine"), one)
    for append_id, error in (("1", ValueError), (7, TypeError)):
        with pytest.raises(error, match="UUID"):
            await s.add(*said(1), append_id=append_id)
    assert s.raw.exists(s.history.key) == 0


async def test_a_key_of_another_type_is_reported(session: Any) -> None:
    """Reading, repairing and appending say what to do; the key stays as it is."""
    s = session()
    s.raw.set(s.history.key, "text")
    s.raw.script_flush()
    for use in (s.read, s.repair, lambda: s.add(*said(1))):
        with pytest.raises(MemorystoreChatError, match=r"WRONGTYPE.*key_prefix") as raised:
            await use()
        assert isinstance(raised.value.__cause__, redis.ResponseError)
    assert s.raw.get(s.history.key) == b"text"


def test_it_is_a_langchain_history(client: redis.Redis, key_prefix: str) -> None:
    """The inherited conveniences work, the options are public, and truth asks no server."""
    history = MemorystoreChatMessageHistory(
        client=client, session_id="s", ttl=60, key_prefix=key_prefix, window=20, max_messages=30
    )
    assert isinstance(history, BaseChatMessageHistory)
    history.add_user_message("My name is Ada.")
    history.add_ai_message(AIMessage("Hello, Ada."))
    history.add_message(HumanMessage("What is my name?"))
    assert len(history) == 3
    assert (history.client, history.session_id, history.key) == (client, "s", f"{key_prefix}s")
    assert (history.ttl, history.window, history.max_messages) == (60, 20, 30)
    away = MemorystoreChatMessageHistory(redis.Redis(port=1, password="pass-word"), "s", window=2)
    assert away
    assert repr(away) == (
        "MemorystoreChatMessageHistory(key='s', ttl=None, window=2, max_messages=None)"
    )


NUMBERS = ("ttl", "window", "max_messages")
BAD: list[tuple[dict[str, Any], type[Exception]]] = [
    *(({n: v}, TypeError) for n in ("session_id", "key_prefix") for v in (None, 7, b"s")),
    *(({n: v}, TypeError) for n in NUMBERS for v in (True, 1.5, "60")),
    *(({n: v}, ValueError) for n in NUMBERS for v in (0, -1, 10**12 + 1)),
    *(({n: "\ud800"}, ValueError) for n in ("session_id", "key_prefix")),
    ({"session_id": ""}, ValueError),
]


@pytest.mark.parametrize(("options", "error"), BAD, ids=str)
def test_a_bad_option_is_refused_at_once(options: dict[str, Any], error: type[Exception]) -> None:
    """The text names the option and what it takes; no server is asked."""
    with pytest.raises(error, match=f"^{next(iter(options))} is .*(takes|cannot hold)") as raised:
        MemorystoreChatMessageHistory(redis.Redis(port=1), **{"session_id": "s"} | options)
    assert type(raised.value) is error


def test_what_is_no_client_is_refused() -> None:
    asynchronous, client = redis.asyncio.Redis(port=1), redis.Redis(port=1)
    wrong: Any
    for wrong in ("redis://u:pass-word@h", None):
        with pytest.raises(TypeError, match=r"^client is a") as raised:
            MemorystoreChatMessageHistory(wrong, "s")
        assert "pass-word" not in str(raised.value)
    for wrong in ("redis://h", client):
        with pytest.raises(TypeError, match=r"^async_client is a"):
            MemorystoreChatMessageHistory(client, "s", async_client=wrong)
    with pytest.raises(TypeError, match="beside a synchronous client"):
        MemorystoreChatMessageHistory(asynchronous, "s", async_client=asynchronous)


async def test_with_an_asyncio_client_alone_the_others_say_what_to_await() -> None:
    history: Any = MemorystoreChatMessageHistory(redis.asyncio.Redis(port=1), "s")
    for use, awaited in (
        (lambda: history.messages, "aget_messages"),
        (lambda: len(history), "aget_messages"),
        (lambda: history.add_user_message("x"), "aadd_messages"),
        (history.clear, "aclear"),
        (history.repair, "arepair"),
    ):
        with pytest.raises(TypeError, match=rf"await {awaited}\(\)"):
            use()


async def test_an_asyncio_client_beside_a_synchronous_one_or_none(
    client: redis.Redis, async_client: Any, key_prefix: str
) -> None:
    """Without it the a-methods run in a thread."""
    for given in (None, async_client):
        history = MemorystoreChatMessageHistory(
            client, "s", key_prefix=key_prefix, async_client=given
        )
        await history.aadd_messages(said("one"))
        assert await history.aget_messages() == history.messages == said("one")
        await history.aclear()


async def test_scripts_are_read_off_the_event_loop(async_client: Any, key_prefix: str) -> None:
    script.cache_clear()
    history = MemorystoreChatMessageHistory(async_client, "s", key_prefix=key_prefix)
    with blockbuster_ctx():
        await history.aadd_messages(said(1))
    assert texts(await history.aget_messages()) == ["1"]


RIGHTS = ("evalsha", "eval", "lrange", "rpush", "ltrim", "expire", "lpos")


@pytest.mark.own_server
@pytest.mark.parametrize("removed", RIGHTS)
def test_whatever_right_is_missing_an_append_is_done_whole_or_refused(
    server: Any, removed: str
) -> None:
    """NOPERM, nothing written, nothing of the message in the error; repeated it is as before."""
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
                assert texts(whole.messages) == ["2", "3"]
                assert client.ttl(name) == 100
                continue
            with pytest.raises(MemorystoreChatError, match=r"NOPERM.*rights") as raised:
                history.add_user_message("a secret")
            assert "a secret" not in str(raised.value)
            assert (client.lrange(name, 0, -1), client.ttl(name)) == was
        whole.clear()


@pytest.mark.parametrize("command", ["PING", "LLEN"])
def test_an_answer_that_cannot_be_its_own_is_an_error(
    client: redis.Redis, key_prefix: str, command: str
) -> None:
    """A connection one reply behind, as a signal in other code leaves it, is dropped."""
    history = MemorystoreChatMessageHistory(client, "s", key_prefix=key_prefix)
    history.add_messages(said("mine"))
    for use in (lambda: history.messages, lambda: history.add_messages(said("lost?"))):
        connection = client.connection_pool.get_connection()
        client.connection_pool.release(connection)
        send = connection.send_command

        def send_two(*args: Any, send: Any = send, **options: Any) -> None:
            send(*([command] if command == "PING" else [command, history.key]))
            send(*args, **options)

        connection.send_command = send_two  # type: ignore[method-assign]
        with pytest.raises(ConnectError, match="something else"):
            use()
        del connection.send_command
        assert history.messages[0].text == "mine"
