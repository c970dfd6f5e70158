"""The chat history: reading, appending, expiry, windows, caps, refusals, repair."""

import inspect
import json
import time
from collections import Counter
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import pytest
import redis
import redis.asyncio
from hypothesis import given, settings
from hypothesis import strategies as st
from langchain_core.chat_history import BaseChatMessageHistory
from langchain_core.messages import (
    AIMessage,
    BaseMessage,
    ChatMessage,
    FunctionMessage,
    HumanMessage,
    SystemMessage,
    ToolMessage,
    message_to_dict,
)
from redis.backoff import NoBackoff

import servers
from memorystore_chat import (
    ConnectError,
    CorruptHistoryError,
    MemorystoreChatError,
    MemorystoreChatMessageHistory,
    codec,
)
from memorystore_chat.conversation import NO_RESULT, sendable
from scripted import NO_RETRY, Make
from stored import said, texts

if TYPE_CHECKING:
    from servers import Cluster, Server

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


NO_ASYNC_RETRY = redis.asyncio.retry.Retry(NoBackoff(), 0)


async def done(use: Callable[[], Any]) -> None:
    if inspect.isawaitable(used := use()):
        await used


@pytest.fixture(
    params=[{}, {"decode_responses": True},
            pytest.param({"protocol": 3}, marks=pytest.mark.own_server)],
    ids=["bytes", "decode_responses", "RESP3"],
)  # fmt: skip
def any_client(server: "Server", request: pytest.FixtureRequest) -> Any:
    with server.client(**request.param) as client:
        yield client


def test_messages_are_read_back_as_they_were_appended(any_client: Any, make: Make) -> None:
    """All of a message survives, with every kind of client, in order, over several appends."""
    history = make(client=any_client)
    assert history.messages == []
    history.add_messages(CONVERSATION[:2])
    history.add_messages(CONVERSATION[2:])
    assert history.messages == CONVERSATION
    assert len(history) == 5
    history.clear()
    history.clear()
    assert history.messages == []
    assert len(history) == 0
    assert any_client.exists(history.key) == 0


async def test_the_async_methods_do_the_same(
    client: redis.Redis, async_client: Any, make: Make
) -> None:
    history = make("s", 100, max_messages=4, async_client=async_client)
    await history.aadd_messages([])
    await history.aadd_messages(CONVERSATION[:2])
    await history.aadd_messages(CONVERSATION[2:])
    assert await history.aget_messages() == history.messages == CONVERSATION[1:]
    assert client.ttl(history.key) == 100
    await history.aclear()
    assert await history.aget_messages() == history.messages == []


async def test_the_async_methods_work_without_an_async_client(make: Make) -> None:
    """They run the sync ones in a thread; an append_id makes an append safe to repeat there too."""
    history = make()
    append_id = "01932c07-2080-7000-8000-000000000000"
    for _ in range(2):
        await history.aadd_messages(CONVERSATION, append_id=append_id)
    assert await history.aget_messages() == CONVERSATION
    await history.aclear()
    assert await history.aget_messages() == []


@pytest.mark.own_server
async def test_async_clients_may_decode_or_speak_resp3(server: "Server", make: Make) -> None:
    """What the async client does with replies makes no difference either."""
    for options in ({"decode_responses": True}, {"protocol": 3}):
        async with server.async_client(**options) as async_client:
            history = make(async_client=async_client)
            await history.aadd_messages(CONVERSATION)
            assert await history.aget_messages() == CONVERSATION
            await history.aclear()


@pytest.mark.parametrize("session_id", ["plain", "{braces}", "a{b}c", "{}", "Zürich 🌧", " \n\0"])
@pytest.mark.parametrize("decode", [False, True])
async def test_clusters_work_whatever_the_session_is_called(
    valkey_cluster: "Cluster", key_prefix: str, session_id: str, decode: bool
) -> None:
    """One session is one key, so braces and odd characters in its name do not matter."""
    with valkey_cluster.client(decode_responses=decode) as client:
        async with valkey_cluster.async_client(decode_responses=decode) as async_client:
            history = MemorystoreChatMessageHistory(
                client, session_id, 100, key_prefix=key_prefix, async_client=async_client
            )
            history.add_messages(CONVERSATION[:2])
            await history.aadd_messages(CONVERSATION[2:])
            assert history.messages == await history.aget_messages() == CONVERSATION
            assert len(history) == 5
            assert client.ttl(history.key) == 100
            if session_id == "plain":
                client.rpush(history.key, b"\xff")
                assert [error.index for error in history.repair(dry_run=False)] == [5]
                assert client.llen(f"{history.key}:corrupt") == 1
            await history.aclear()
            assert history.messages == []


def test_it_is_a_langchain_history(client: redis.Redis, key_prefix: str) -> None:
    """The inherited conveniences work: one message at a time, text instead of messages, str()."""
    history = MemorystoreChatMessageHistory(
        client=client, session_id="s", ttl=60, key_prefix=key_prefix
    )
    assert isinstance(history, BaseChatMessageHistory)
    history.add_user_message("My name is Ada.")
    history.add_ai_message(AIMessage("Hello, Ada."))
    history.add_message(HumanMessage("What is my name?"))
    assert str(history) == "Human: My name is Ada.\nAI: Hello, Ada.\nHuman: What is my name?"
    assert history.session_id == "s"


def test_sessions_do_not_mix(client: redis.Redis, key_prefix: str, make: Make) -> None:
    one = make("1")
    two = make("2")
    one.add_user_message("for one")
    two.add_user_message("for two")
    again = MemorystoreChatMessageHistory(client, f"{key_prefix}1")
    assert texts(again.messages) == ["for one"]
    one.clear()
    assert texts(two.messages) == ["for two"]
    assert again.key == one.key == f"{key_prefix}1"


def test_what_is_stored(client: redis.Redis, make: Make) -> None:
    """One list, one JSON object a message: the append's id, and what message_to_dict gives."""
    history = make()
    history.add_messages(CONVERSATION[:3])
    history.add_messages(CONVERSATION[3:])
    stored = [json.loads(element) for element in client.lrange(history.key, 0, -1)]
    ids = [element.pop("id") for element in stored]
    assert stored == [message_to_dict(message) for message in CONVERSATION]
    assert len(set(ids[:3])) == len(set(ids[3:])) == 1
    assert ids[0] < ids[3]


def test_nothing_to_append_does_nothing(client: redis.Redis, make: Make) -> None:
    history = make("s", 100)
    history.add_messages([])
    assert client.exists(history.key) == 0
    history.add_user_message("x")
    client.expire(history.key, 50)
    history.add_messages(iter(()))  # type: ignore[arg-type]
    assert client.ttl(history.key) == 50


@pytest.mark.own_server
def test_reading_and_appending_are_one_command_each(client: redis.Redis, make: Make) -> None:
    """However many messages, with expiry, window and cap: one request, one reply."""
    history = make("s", 100, window=20, max_messages=1000)
    history.add_messages(said(*range(30)))
    client.config_resetstat()
    history.add_messages(said(*range(30)))
    assert len(history.messages) == 20
    used = {name: entry["calls"] for name, entry in client.info("commandstats").items()}
    assert used.pop("cmdstat_config|resetstat", 1) == 1
    inside_the_script = {"lrange", "lpos", "rpush", "ltrim", "expire"}
    expected = Counter(f"cmdstat_{name}" for name in ("evalsha", "lrange", *inside_the_script))
    assert used == expected


# Expiry: (ttl before the append, ttl= of the history, ttl after it)
TRANSITIONS = {
    "none, none": (None, None, -1),
    "none, set": (None, 100, 100),
    "set, left alone": (50, None, 50),
    "set, longer": (50, 100, 100),
    "set, shorter": (500, 100, 100),
}


@pytest.mark.parametrize("cap", [None, 2])
@pytest.mark.parametrize("name", TRANSITIONS)
def test_an_append_sets_the_expiry_or_leaves_it(
    client: redis.Redis, name: str, cap: int | None, make: Make
) -> None:
    """Ttl counts from the newest message; ttl=None leaves what is there; a cap changes nothing."""
    before, ttl, after = TRANSITIONS[name]
    make("s", before).add_messages(said(1))
    history = make("s", ttl, max_messages=cap)
    history.add_messages(said(2, 3))
    assert client.ttl(history.key) == after


def test_reading_does_not_extend_the_expiry(client: redis.Redis, make: Make) -> None:
    history = make("s", 100)
    history.add_messages(said(1))
    client.expire(history.key, 50)
    assert texts(history.messages) == ["1"]
    assert len(history) == 1
    assert history.repair() == []
    assert client.ttl(history.key) == 50


def test_clearing_ends_the_expiry(client: redis.Redis, make: Make) -> None:
    make("s", 100).add_messages(said(1))
    history = make()
    history.clear()
    history.add_messages(said(2))
    assert client.ttl(history.key) == -1


def test_an_expired_session_is_empty(client: redis.Redis, make: Make) -> None:
    """After its time to live it is gone, and the next append begins anew."""
    history = make("s", 100)
    history.add_messages(said(1))
    client.pexpire(history.key, 1)
    time.sleep(0.01)
    assert history.messages == []
    history.add_messages(said(2))
    assert texts(history.messages) == ["2"]


def test_the_longest_ttl_and_cap_reach_the_server_unchanged(
    client: redis.Redis, make: Make
) -> None:
    """Numbers that Lua would write as 1e+12 do not."""
    most = 10**12
    history = make("s", most, max_messages=most, window=most)
    history.add_messages(said(1, 2))
    assert client.ttl(history.key) == most
    assert texts(history.messages) == ["1", "2"]


def test_a_window_reads_the_newest(client: redis.Redis, make: Make) -> None:
    """The window bounds what is read, never what is stored or counted."""
    history = make(window=2)
    history.add_messages(said(1))
    assert texts(history.messages) == ["1"]
    history.add_messages(said(2, 3))
    assert texts(history.messages) == ["2", "3"]
    assert len(history) == 3
    assert client.llen(history.key) == 3


def test_a_cap_keeps_the_newest(client: redis.Redis, make: Make) -> None:
    """The write that exceeds the cap drops the oldest, also where the batch itself exceeds it."""
    history = make(max_messages=3)
    history.add_messages(said(1, 2))
    history.add_messages(said(3))
    assert texts(history.messages) == ["1", "2", "3"]
    history.add_messages(said(4, 5))
    assert texts(history.messages) == ["3", "4", "5"]
    history.add_messages(said(*range(6, 16)))
    assert texts(history.messages) == ["13", "14", "15"]
    assert client.llen(history.key) == 3


call = AIMessage("", tool_calls=[{"name": "f", "args": {}, "id": "a"}])
bad_call = AIMessage("", invalid_tool_calls=[{"name": "f", "args": "{", "id": "b", "error": None}])
half_bad_call = AIMessage("Well.", invalid_tool_calls=bad_call.invalid_tool_calls)
old_call = AIMessage("", additional_kwargs={"function_call": {"name": "g", "arguments": "{}"}})
answer, bad_answer = ToolMessage("A", tool_call_id="a"), ToolMessage("B", tool_call_id="b")
old_answer = FunctionMessage(content="G", name="g")
both_calls = AIMessage("", tool_calls=[*call.tool_calls, {"name": "f", "args": {}, "id": "b"}])
# langchain-google-genai and -vertexai name their (last) call here, too.
googles_call = AIMessage(
    "", tool_calls=call.tool_calls, additional_kwargs={"function_call": {"name": "f"}}
)
ask, end, system = HumanMessage("ask"), AIMessage("end"), SystemMessage("Be brief.")
spoken = ChatMessage(content="ask", role="user")


def no_result(kind: type, name: str) -> BaseMessage:
    """What stands in for the result of one of the calls above."""
    if kind is FunctionMessage:
        return FunctionMessage(content=NO_RESULT, name=name, id=f"no-result-None-{name}")
    called = {"a": "f", "b": "f"}[name]
    return ToolMessage(
        NO_RESULT, tool_call_id=name, name=called, id=f"no-result-None-{name}", status="error"
    )


@pytest.mark.parametrize(
    ("stored", "window", "read"),
    [
        ([ask, call, answer, end], 4, 4),
        ([ask, call, answer, end], 3, 0),
        ([ask, call, answer, end], 1, 0),
        ([ask, end, ask, call, answer, end], 5, 4),
        ([ask, bad_call, bad_answer, end], 2, 0),
        ([ask, old_call, old_answer, end], 4, 4),
        ([ask, old_call, old_answer, end], 3, 0),
        ([ask, end, ask, call, answer, call, answer], 1, 5),
        ([ask, end, ask, call, answer, call, answer], 4, 5),
        ([ask, end, ask, call, answer], 3, 3),
        ([ask, end, spoken, old_call, old_answer], 2, 3),
        ([call, answer], 1, 0),
        ([ask, end, system, ask, end], 4, 3),
        ([ask, end, spoken, end], 3, 2),
        ([end, end, ask, end], 3, 2),
        ([end, ask, end], 3, 3),
        ([ask], 1, 1),
    ],
)
async def test_a_window_begins_at_a_users_message(
    async_client: Any, stored: list[BaseMessage], window: int, read: int, make: Make
) -> None:
    """A call cut off from its question is left out; without a question nothing is handed out.

    But a turn in which a model has to go on from a result is handed out whole.
    """
    history = make(window=window, async_client=async_client)
    history.add_messages(stored)
    expected = stored[len(stored) - read :]
    assert history.messages == await history.aget_messages() == expected


@pytest.mark.parametrize("cap", [1, 2, 3, 5])
def test_what_a_cap_cut_off_is_skipped_by_every_reader(cap: int, make: Make) -> None:
    """A reader that knows nothing of the cap does not begin inside a tool exchange either."""
    capped = make(max_messages=cap)
    other = make()
    capped.add_messages([ask, call, answer, call, answer, end])
    assert len(capped) == cap
    assert capped.messages == []
    assert other.messages == ([end] if cap == 1 else [])
    capped.add_messages([HumanMessage("And now?")])
    assert capped.messages == [HumanMessage("And now?")]


@pytest.mark.parametrize(
    ("stored", "read"),
    [
        ([ask, call], [ask, call, no_result(ToolMessage, "a")]),
        ([ask, call, ask, end], [ask, call, no_result(ToolMessage, "a"), ask, end]),
        ([ask, call, ask, answer], [ask, call, no_result(ToolMessage, "a"), ask]),
        ([ask, bad_call, end], [ask, end]),
        ([ask, bad_call, bad_answer, end], [ask, bad_call, bad_answer, end]),
        ([ask, half_bad_call, end], [ask, AIMessage("Well."), end]),
        ([ask, old_call, ask], [ask, old_call, no_result(FunctionMessage, "g"), ask]),
        (
            [ask, both_calls, bad_answer, end],
            [ask, both_calls, bad_answer, no_result(ToolMessage, "a"), end],
        ),
        ([ask, googles_call, answer, end], [ask, googles_call, answer, end]),
        ([ask, call, answer, answer, end], [ask, call, answer, end]),
        ([ask, answer, end], [ask, end]),
        ([answer, ask], [ask]),
        ([call, answer, ask, end], [ask, end]),
        ([end, call, answer, ask, end], [ask, end]),
        ([system, call, answer, end], []),
        ([end, ask], [end, ask]),
    ],
)
async def test_each_call_is_handed_out_with_one_result(
    client: redis.Redis,
    async_client: Any,
    stored: list[BaseMessage],
    read: list[BaseMessage],
    make: Make,
) -> None:
    """Whatever wrote the session: a call without a result gets one, a result without a call goes.

    What is stored stays as it is.
    """
    history = make(async_client=async_client)
    history.add_messages(stored)
    assert history.messages == await history.aget_messages() == read
    assert [codec.decode(element) for element in client.lrange(history.key, 0, -1)] == stored


def test_odd_function_calls_are_no_calls(make: Make) -> None:
    """What a provider puts into additional_kwargs can have any shape."""
    odd: list[BaseMessage] = [
        AIMessage("x", additional_kwargs={"function_call": value})
        for value in ("text", ["a"], {"name": ["a"]}, {"a": 1}, None)
    ]
    history = make(window=5)
    history.add_messages(odd)
    assert history.messages == odd


ids = st.sampled_from(["a", "b", "c"])
steps = st.one_of(
    st.just(HumanMessage("ask")),
    st.just(SystemMessage("be brief")),
    st.just(AIMessage("end")),
    st.lists(ids, max_size=2).map(
        lambda called: AIMessage(
            "", tool_calls=[{"name": "f", "args": {}, "id": i} for i in called]
        )
    ),
    ids.map(lambda called: ToolMessage("x", tool_call_id=called)),
    ids.map(lambda called: FunctionMessage(content="x", name=called)),
)


@settings(max_examples=300, deadline=None)
@given(st.lists(steps, max_size=12), st.booleans())
def test_what_is_handed_out_keeps_the_rules_of_models(
    messages: list[BaseMessage], cut: bool
) -> None:
    """Each call is followed by its results and each result follows its call; no text is lost."""
    read = sendable(messages, cut=cut)
    waiting: set[str | None] = set()
    for message in read:
        if isinstance(message, ToolMessage):
            assert message.tool_call_id in waiting
            waiting.remove(message.tool_call_id)
            continue
        assert not waiting
        assert not isinstance(message, FunctionMessage)
        if isinstance(message, AIMessage):
            waiting = {call["id"] for call in message.tool_calls}
    assert not waiting
    first = next((m for m in read if not isinstance(m, SystemMessage)), None)
    if cut:
        assert first is None or isinstance(first, HumanMessage)
    count = sum(isinstance(message, HumanMessage) for message in messages)
    assert sum(isinstance(message, HumanMessage) for message in read) == count


BAD_TYPES: list[tuple[dict[str, Any], str]] = [
    *(
        ({name: value}, f"{name} is {value!r}, of type {kind}; it takes text (str).")
        for name in ("session_id", "key_prefix")
        for value, kind in ((None, "NoneType"), (7, "int"), (b"s", "bytes"))
    ),
    *(
        (
            {name: value},
            f"{name} is {value!r}, of type {type(value).__name__}; it takes a whole number of "
            f"{unit} from 1 up (int), or None.",
        )
        for name, unit in (("ttl", "seconds"), ("window", "messages"), ("max_messages", "messages"))
        for value in (True, False, 1.5, float("inf"), "60")
    ),
]
BAD_VALUES: list[tuple[dict[str, Any], str]] = [
    ({"session_id": ""}, "session_id is empty; it takes text that names one conversation."),
    ({"session_id": "\ud800"}, "session_id is '\\ud800', which UTF-8 cannot hold."),
    *(
        (
            {name: value},
            f"{name} is {value!r}; it takes a whole number of {unit} from 1 up (int), or None.",
        )
        for name, unit in (("ttl", "seconds"), ("window", "messages"), ("max_messages", "messages"))
        for value in (0, -1, 10**12 + 1)
    ),
]


@pytest.mark.parametrize(("options", "text"), BAD_TYPES + BAD_VALUES, ids=str)
def test_a_bad_option_is_refused_at_once(options: dict[str, Any], text: str) -> None:
    """TypeError or ValueError says what was given and what is accepted; no server is asked."""
    expected = TypeError if (options, text) in BAD_TYPES else ValueError
    with pytest.raises((TypeError, ValueError)) as raised:
        MemorystoreChatMessageHistory(redis.Redis(port=1), **{"session_id": "s"} | options)
    assert type(raised.value) is expected
    assert str(raised.value) == text


def test_what_is_not_a_client_is_refused(server: "Server", valkey_cluster: "Cluster") -> None:
    """Also a pipeline, which would collect the appends and never send them."""
    url: Any = "redis://user:pass-word@host"
    wrong: Any
    with server.client() as client, valkey_cluster.client() as cluster_client:
        for wrong in (
            url,
            None,
            redis.asyncio.Redis(),
            client.pipeline(),
            cluster_client.pipeline(),
        ):
            with pytest.raises(
                TypeError, match=r"client is a .*; it takes a redis\.Redis or"
            ) as one:
                MemorystoreChatMessageHistory(wrong, "s")
            assert "pass-word" not in str(one.value)
        for wrong in (url, client, redis.asyncio.Redis().pipeline()):
            with pytest.raises(TypeError, match=r"async_client is a .*; it takes a redis\.asyncio"):
                MemorystoreChatMessageHistory(client, "s", async_client=wrong)


@pytest.mark.parametrize("messages", ["hi", HumanMessage("hi"), None, 7])
async def test_what_is_not_a_list_of_messages_is_refused(
    async_client: Any, messages: Any, make: Make
) -> None:
    history = make(async_client=async_client)
    with pytest.raises(TypeError, match=r"takes a list of LangChain messages.*add_message\(\)"):
        history.add_messages(messages)
    with pytest.raises(TypeError, match=r"takes a list of LangChain messages.*add_message\(\)"):
        await history.aadd_messages(messages)


@pytest.mark.parametrize("error", [RuntimeError("loop"), redis.ConnectionError("elsewhere")])
async def test_an_error_of_what_makes_the_messages_is_no_error_of_the_server(
    async_client: Any, make: Make, error: Exception
) -> None:
    def made() -> Iterator[BaseMessage]:
        yield HumanMessage("hi")
        raise error

    history = make(async_client=async_client)
    for use in (history.add_messages, history.aadd_messages):
        with pytest.raises(type(error), match=str(error)):
            await use(made())  # type: ignore[arg-type, misc]
    assert len(history) == 0


async def test_a_bad_message_stops_its_batch(
    client: redis.Redis, async_client: Any, make: Make
) -> None:
    history = make(async_client=async_client)
    bad: Any
    for bad, error in ((HumanMessage("x", raw={1}), ValueError), ("text", TypeError)):
        with pytest.raises(error, match=r"^messages\[1\]"):
            history.add_messages([HumanMessage("fine"), bad])
        with pytest.raises(error, match=r"^messages\[1\]"):
            await history.aadd_messages([HumanMessage("fine"), bad])
    assert client.exists(history.key) == 0


@pytest.mark.parametrize("append_id", ["", "1", 7, b"x"])
def test_an_append_id_is_a_uuid(client: redis.Redis, append_id: Any) -> None:
    history = MemorystoreChatMessageHistory(client, "s")
    expected = ValueError if isinstance(append_id, str) else TypeError
    with pytest.raises(expected, match=r"append_id is .*; it takes a UUID as text \(str\)"):
        history.add_messages(said(1), append_id=append_id)


async def test_a_key_of_another_type_is_reported(
    client: redis.Redis, async_client: Any, key_prefix: str, make: Make
) -> None:
    """Reading, counting and appending say what to do, in the same words on every server."""
    client.set(f"{key_prefix}s", "text")
    history = make(async_client=async_client)
    reason = (
        f"the session '{key_prefix}s': WRONGTYPE Operation against a key holding the wrong kind of "
        "value. The key holds something of another kind. Choose another session_id, thread_id or "
        "key_prefix; clear() or delete_thread() would delete what is there."
    )
    for use, doing in (
        (lambda: history.messages, "reading"),
        (history.aget_messages, "reading"),
        (lambda: len(history), ""),
        (history.repair, ""),
        (lambda: history.add_messages(said(1)), "The server refused appending to"),
        (lambda: history.aadd_messages(said(1)), "The server refused appending to"),
    ):
        with pytest.raises(MemorystoreChatError) as raised:
            await done(use)
        assert str(raised.value).endswith(f"{doing} {reason}")
        assert isinstance(raised.value.__cause__, redis.ResponseError)
    assert client.get(history.key) == b"text"


async def test_an_outage_is_an_error_and_not_an_empty_list() -> None:
    """Every method reports it with redis-py's own exception as the cause; it recovers by itself."""
    with servers.valkey() as server, server.client(retry=NO_RETRY) as client:
        async_client = server.async_client(retry=NO_ASYNC_RETRY)
        history = MemorystoreChatMessageHistory(client, "s", async_client=async_client)
        history.add_messages(said(1))
        await history.aadd_messages(said(2))
        server.kill()
        for use in (
            lambda: history.messages,
            lambda: len(history),
            lambda: history.add_messages(said(3)),
            history.clear,
            history.repair,
            history.aget_messages,
            lambda: history.aadd_messages(said(3)),
            history.aclear,
        ):
            with pytest.raises(ConnectError, match=r"the session 's' \(") as raised:
                await done(use)
            assert "Check that the server runs" in str(raised.value)
            assert isinstance(raised.value.__cause__, redis.ConnectionError)
        server.restart()
        history.add_messages(said(4))
        assert texts(await history.aget_messages()) == ["4"]
        await async_client.aclose()


async def test_a_server_that_does_not_answer_is_a_time_out() -> None:
    with (
        servers.valkey() as server,
        server.client(socket_timeout=0.1, retry=NO_RETRY) as client,
    ):
        async_client = server.async_client(socket_timeout=0.1, retry=NO_ASYNC_RETRY)
        history = MemorystoreChatMessageHistory(client, "s", async_client=async_client)
        history.add_messages(said(1))
        await history.aget_messages()
        server.pause()
        with pytest.raises(ConnectError, match="while reading the session 's'") as raised:
            _ = history.messages
        assert isinstance(raised.value.__cause__, redis.TimeoutError)
        with pytest.raises(ConnectError, match="while appending to the session 's'") as raised:
            await history.aadd_messages(said(2))
        assert isinstance(raised.value.__cause__, redis.TimeoutError)
        server.resume()
        await async_client.aclose()


def test_a_plain_client_of_a_cluster_is_told_so(valkey_cluster: "Cluster") -> None:
    """redis.Redis does not follow a cluster's redirections; the error names what does."""
    holder = valkey_cluster.node_of("s")
    other = next(n for n in valkey_cluster.nodes if n is not holder)
    with other.client() as client:
        history = MemorystoreChatMessageHistory(client, "s")
        for use in (lambda: history.messages, lambda: history.add_messages(said(1))):
            with pytest.raises(MemorystoreChatError, match=r"MOVED .*RedisCluster") as raised:
                use()
            assert isinstance(raised.value.__cause__, redis.exceptions.MovedError)


@pytest.mark.own_server
def test_a_refused_command_is_reported_without_the_messages(server: "Server") -> None:
    with server.limited("-@all", "+@read", "+@connection") as client:
        history = MemorystoreChatMessageHistory(client, "s")
        assert history.messages == []
        with pytest.raises(MemorystoreChatError, match=r"NOPERM .*may not run this") as raised:
            history.add_user_message("a secret")
    assert isinstance(raised.value.__cause__, redis.exceptions.NoPermissionError)
    assert "a secret" not in str(raised.value)


def test_a_server_that_quotes_what_it_was_sent_is_not_quoted() -> None:
    """A server without EVALSHA and EVAL repeats the beginning of the arguments in its error."""
    with (
        servers.redis7(rename_command=['EVALSHA ""', 'EVAL ""']) as server,
        server.client() as client,
    ):
        history = MemorystoreChatMessageHistory(client, "s")
        with pytest.raises(MemorystoreChatError) as raised:
            history.add_user_message("a secret")
        assert str(raised.value) == (
            "The server refused appending to the session 's': unknown command 'EVALSHA'."
        )


BROKEN = [
    b'{"type": "human", "data": {"content": "trunc',
    b'{"type": "human", "data": {"content": "\xc3',
    b'["list"]',
    b'{"type": "robot", "data": {}}',
    b'{"type": "ai", "data": {"content": "", "tool_calls": [1]}}',
]


@pytest.mark.parametrize("element", BROKEN, ids=range(len(BROKEN)))
async def test_a_broken_element_is_reported_with_its_place(
    any_client: Any, async_client: Any, make: Make, element: bytes
) -> None:
    """Key and index are in the error, counted from the end where a window was read."""
    history = make(client=any_client, async_client=async_client)
    history.add_messages(said(0))
    any_client.rpush(history.key, element)
    history.add_messages(said(2, 3))
    windowed = make(client=any_client, window=3)
    with pytest.raises(CorruptHistoryError) as raised:
        _ = history.messages
    assert (raised.value.key, raised.value.index) == (history.key, 1)
    assert f"Element 1 of the list {history.key!r} is not a stored message" in str(raised.value)
    assert f"LINDEX {history.key} 1" in str(raised.value)
    assert isinstance(raised.value.__cause__, ValueError)
    with pytest.raises(CorruptHistoryError) as araised:
        await history.aget_messages()
    assert str(araised.value) == str(raised.value)
    with pytest.raises(CorruptHistoryError) as from_end:
        _ = windowed.messages
    assert from_end.value.index == -3
    beyond = make(client=any_client, window=2)
    assert texts(beyond.messages) == ["2", "3"]


def test_repair_moves_broken_elements_aside(any_client: Any, make: Make) -> None:
    """A dry run only reports; then the rest is readable, nothing is lost, and the expiry stays."""
    history = make("s", 100, client=any_client)
    aside = f"{history.key}:corrupt"
    for number, element in enumerate([*BROKEN, BROKEN[0]]):
        history.add_messages(said(number))
        any_client.rpush(history.key, element)
    reported = history.repair()
    assert [error.index for error in reported] == [1, 3, 5, 7, 9, 11]
    assert {error.key for error in reported} == {history.key}
    assert len(history) == 12
    assert any_client.exists(aside) == 0
    repaired = history.repair(dry_run=False)
    assert list(map(str, repaired)) == list(map(str, reported))
    assert texts(history.messages) == ["0", "1", "2", "3", "4", "5"]
    assert any_client.ttl(history.key) == 100
    assert 99 <= any_client.ttl(aside) <= 100
    raw = redis.Redis(port=any_client.get_connection_kwargs()["port"], protocol=2)
    assert raw.lrange(aside, 0, -1) == [*BROKEN, BROKEN[0]]
    raw.close()
    assert history.repair(dry_run=False) == []


def test_repair_of_a_session_without_expiry_sets_none(client: redis.Redis, make: Make) -> None:
    """A session of nothing but broken elements is empty afterwards."""
    history = make()
    client.rpush(history.key, *BROKEN)
    assert len(history.repair(dry_run=False)) == len(BROKEN)
    assert client.exists(history.key) == 0
    assert client.ttl(f"{history.key}:corrupt") == -1
    assert client.llen(f"{history.key}:corrupt") == len(BROKEN)


def test_repr_and_truth_ask_no_server() -> None:
    """repr() shows key, ttl and window; an empty history is still true."""
    client = redis.Redis(port=1, password="pass-word", retry=NO_RETRY)
    history = MemorystoreChatMessageHistory(client, "s", 60, key_prefix="p:", window=20)
    assert repr(history) == (
        "MemorystoreChatMessageHistory(key='p:s', ttl=60, window=20, max_messages=None)"
    )
    assert history
    assert history.key == "p:s"
    with pytest.raises(ConnectError) as raised:
        len(history)
    assert "pass-word" not in str(raised.value)
