"""What a session holds, as models take it: a table, rules at random, and both Google clients."""

from collections.abc import Iterator
from typing import Any, Literal

import pytest
import redis
from hypothesis import given, settings
from hypothesis import strategies as st
from langchain_core.messages import (
    AIMessage,
    BaseMessage,
    ChatMessage,
    FunctionMessage,
    HumanMessage,
    SystemMessage,
    ToolMessage,
)
from langchain_core.tools import tool

from gemini_server import GeminiServer
from memorystore_chat import MemorystoreChatMessageHistory, codec
from memorystore_chat.conversation import NO_RESULT, NOT_CARRIED_OUT, sendable
from memorystore_tutorial import chat_model
from scripted import Make

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


def stand_in(id_: str, text: str = NO_RESULT) -> BaseMessage:
    return ToolMessage(text, tool_call_id=id_, name="f", id=f"no-result-None-{id_}", status="error")


missing, malformed = stand_in("a"), stand_in("b", NOT_CARRIED_OUT)
old_missing = FunctionMessage(content=NO_RESULT, name="g", id="no-result-None-g")
unnamed = AIMessage("", invalid_tool_calls=[{"name": "f", "args": "{", "id": None, "error": ""}])


@pytest.mark.parametrize(
    ("stored", "read"),
    [
        ([ask, call], [ask, call, missing]),
        ([ask, call, ask, end], [ask, call, missing, ask, end]),
        ([ask, call, ask, answer], [ask, call, missing, ask]),
        ([ask, bad_call, end], [ask, bad_call, malformed, end]),
        ([ask, bad_call], [ask, bad_call, malformed]),
        ([ask, bad_call, bad_answer, end], [ask, bad_call, bad_answer, end]),
        ([ask, half_bad_call, end], [ask, half_bad_call, malformed, end]),
        ([ask, unnamed, end], [ask, unnamed, end]),
        ([ask, old_call, ask], [ask, old_call, old_missing, ask]),
        ([ask, both_calls, bad_answer, end], [ask, both_calls, bad_answer, missing, end]),
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
def test_each_call_is_handed_out_with_one_result(
    client: redis.Redis, stored: list[BaseMessage], read: list[BaseMessage], make: Make
) -> None:
    """A call without a result gets one, a result without a call goes; what is stored stays."""
    history = make()
    history.add_messages(stored)
    assert history.messages == read
    assert [codec.decode(element) for element in client.lrange(history.key, 0, -1)] == stored


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
def test_a_window_begins_at_a_users_message(
    stored: list[BaseMessage], window: int, read: int, make: Make
) -> None:
    """A call cut off from its question is left out; without a question nothing is handed out.

    But a turn in which a model has to go on from a result is handed out whole.
    """
    history = make(window=window)
    history.add_messages(stored)
    expected = stored[len(stored) - read :]
    assert history.messages == expected


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


question = HumanMessage("And now?")


def look(*ids: str, **fields: Any) -> AIMessage:
    """What both clients make of a model's calls."""
    calls = [{"name": "get_weather", "args": {"city": "Zürich"}, "id": id_} for id_ in ids]
    google = {"function_call": {"name": "get_weather", "arguments": '{"city": "Zürich"}'}}
    return AIMessage("", tool_calls=calls, additional_kwargs=google, **fields)


def found(id_: str) -> ToolMessage:
    return ToolMessage("rain", tool_call_id=id_, name="get_weather")


bad_json = AIMessage(
    "",
    additional_kwargs={"function_call": {"name": "get_weather", "arguments": "{bad"}},
    invalid_tool_calls=[{"name": "get_weather", "args": "{bad", "id": "a", "error": "no JSON"}],
)

older_call = AIMessage(
    "", additional_kwargs={"function_call": {"name": "get_weather", "arguments": "{}"}}
)
older_answer = FunctionMessage(content="rain", name="get_weather")

SESSIONS: dict[str, tuple[list[BaseMessage], dict[str, Any]]] = {
    "a window between question and call": (
        [ask, look("a"), found("a"), end],
        {"window": 3},
    ),
    "a window between call and result": (
        [ask, look("a"), found("a"), end],
        {"window": 2},
    ),
    "a window without a question": (
        [ask, look("a"), found("a"), look("b"), found("b"), end],
        {"window": 4},
    ),
    "a window with an earlier question": (
        [ask, end, ask, look("a"), found("a"), end],
        {"window": 5},
    ),
    "a cap between question and call": (
        [ask, look("a"), found("a"), end],
        {"max_messages": 3},
    ),
    "a cap between call and result": (
        [ask, look("a"), found("a"), end],
        {"max_messages": 2},
    ),
    "a call without a result": ([ask, look("a")], {}),
    "one of two calls without a result": ([ask, look("a", "b"), found("b"), end], {}),
    "a call without a result, long ago": ([ask, look("a"), ask, end], {}),
    "a malformed call without a result": ([ask, bad_json, ask, end], {}),
    "a result without a call": ([ask, found("a"), end], {}),
    "a result that came too late": ([ask, look("a"), ask, found("a"), end], {}),
    "two results": ([ask, look("a"), found("a"), found("a"), end], {}),
    "a malformed call with its result": ([ask, bad_json, found("a"), end], {}),
    "an answer and then a call": ([ask, end, end, look("a"), found("a"), end], {}),
    "an answer and a call before the first question": (
        [end, look("a"), found("a"), end, ask, end],
        {},
    ),
    "an older kind of call": ([ask, older_call, older_answer, end], {}),
    "an older kind of call, malformed": (
        [
            ask,
            AIMessage("", additional_kwargs={"function_call": {"name": "f", "arguments": "{"}}),
            FunctionMessage(content="7", name="f"),
            end,
        ],
        {},
    ),
    "an older kind of result without a call": (
        [ask, FunctionMessage(content="7", name="f"), end],
        {},
    ),
}


@tool
def get_weather(city: str) -> str:
    """Look up the weather."""
    return f"rain in {city}"


@pytest.fixture(scope="module")
def gemini() -> Iterator[GeminiServer]:
    with GeminiServer() as server:
        yield server


@pytest.mark.parametrize("provider", ["vertexai", "google-genai"])
@pytest.mark.parametrize("name", SESSIONS)
def test_the_next_turn_goes_on(
    client: redis.Redis,
    key_prefix: str,
    gemini: GeminiServer,
    provider: Literal["vertexai", "google-genai"],
    name: str,
) -> None:
    stored, options = SESSIONS[name]
    history = MemorystoreChatMessageHistory(client, "s", key_prefix=key_prefix, **options)
    history.add_messages(stored)
    model = chat_model(provider=provider, project="my-project", **gemini.options(provider))
    reply = model.bind_tools([get_weather]).invoke([*history.messages, question])
    assert reply.text or reply.tool_calls
    sent = gemini.requests[-1].turns
    assert sent[0][0] == "user"
    assert sent[-1] == ("user", "And now?")
    unanswered = name.startswith(("a call", "one of", "a result that"))
    assert any(NO_RESULT in str(message.content) for message in history.messages) == unanswered


@pytest.mark.parametrize("provider", ["vertexai", "google-genai"])
@pytest.mark.parametrize("window", [1, 2, 4, 5])
def test_the_turn_under_way_goes_on(
    client: redis.Redis,
    key_prefix: str,
    gemini: GeminiServer,
    provider: Literal["vertexai", "google-genai"],
    window: int,
) -> None:
    history = MemorystoreChatMessageHistory(client, "s", key_prefix=key_prefix, window=window)
    history.add_messages([ask, end, question, look("a"), found("a"), look("b"), found("b")])
    model = chat_model(provider=provider, project="my-project", **gemini.options(provider))
    assert model.bind_tools([get_weather]).invoke(history.messages).text
    assert gemini.requests[-1].turns[0] == ("user", "And now?")
    assert len(gemini.requests[-1].turns) == 5
