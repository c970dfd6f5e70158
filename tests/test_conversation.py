"""Whatever a session holds, both Google clients can send what the history hands out of it."""

from collections.abc import Iterator
from typing import Any, Literal

import pytest
import redis
from langchain_core.messages import (
    AIMessage,
    BaseMessage,
    FunctionMessage,
    HumanMessage,
    ToolMessage,
)
from langchain_core.tools import tool

from gemini_server import GeminiServer
from memorystore_chat import MemorystoreChatMessageHistory
from memorystore_chat.conversation import NO_RESULT
from memorystore_tutorial import chat_model

ask, question, end = HumanMessage("ask"), HumanMessage("And now?"), AIMessage("end")


def call(*ids: str, **fields: Any) -> AIMessage:
    """What both clients make of a model's calls."""
    calls = [{"name": "get_weather", "args": {"city": "Zürich"}, "id": id_} for id_ in ids]
    google = {"function_call": {"name": "get_weather", "arguments": '{"city": "Zürich"}'}}
    return AIMessage("", tool_calls=calls, additional_kwargs=google, **fields)


def answer(id_: str) -> ToolMessage:
    return ToolMessage("rain", tool_call_id=id_, name="get_weather")


malformed = AIMessage(
    "",
    additional_kwargs={"function_call": {"name": "get_weather", "arguments": "{bad"}},
    invalid_tool_calls=[{"name": "get_weather", "args": "{bad", "id": "a", "error": "no JSON"}],
)

older_call = AIMessage(
    "", additional_kwargs={"function_call": {"name": "get_weather", "arguments": "{}"}}
)
older_answer = FunctionMessage(content="rain", name="get_weather")

SESSIONS: dict[str, tuple[list[BaseMessage], dict[str, Any]]] = {
    "a window between question and call": ([ask, call("a"), answer("a"), end], {"window": 3}),
    "a window between call and result": ([ask, call("a"), answer("a"), end], {"window": 2}),
    "a window without a question": (
        [ask, call("a"), answer("a"), call("b"), answer("b"), end],
        {"window": 4},
    ),
    "a window with an earlier question": (
        [ask, end, ask, call("a"), answer("a"), end],
        {"window": 5},
    ),
    "a cap between question and call": ([ask, call("a"), answer("a"), end], {"max_messages": 3}),
    "a cap between call and result": ([ask, call("a"), answer("a"), end], {"max_messages": 2}),
    "a call without a result": ([ask, call("a")], {}),
    "one of two calls without a result": ([ask, call("a", "b"), answer("b"), end], {}),
    "a call without a result, long ago": ([ask, call("a"), ask, end], {}),
    "a malformed call without a result": ([ask, malformed, ask, end], {}),
    "a result without a call": ([ask, answer("a"), end], {}),
    "a result that came too late": ([ask, call("a"), ask, answer("a"), end], {}),
    "two results": ([ask, call("a"), answer("a"), answer("a"), end], {}),
    "a malformed call with its result": ([ask, malformed, answer("a"), end], {}),
    "an answer and then a call": ([ask, end, end, call("a"), answer("a"), end], {}),
    "an answer and a call before the first question": (
        [end, call("a"), answer("a"), end, ask, end],
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
    history.add_messages([ask, end, question, call("a"), answer("a"), call("b"), answer("b")])
    model = chat_model(provider=provider, project="my-project", **gemini.options(provider))
    assert model.bind_tools([get_weather]).invoke(history.messages).text
    assert gemini.requests[-1].turns[0] == ("user", "And now?")
    assert len(gemini.requests[-1].turns) == 5


@pytest.mark.parametrize("provider", ["vertexai", "google-genai"])
def test_an_older_call_and_text_before_a_call_are_sent(
    client: redis.Redis,
    key_prefix: str,
    gemini: GeminiServer,
    provider: Literal["vertexai", "google-genai"],
) -> None:
    history = MemorystoreChatMessageHistory(client, "s", key_prefix=key_prefix)
    history.add_messages([ask, older_call, older_answer, end, call("a"), answer("a")])
    model = chat_model(provider=provider, project="my-project", **gemini.options(provider))
    model.bind_tools([get_weather]).invoke(history.messages)
    assert gemini.requests[-1].turns == [
        ("user", "ask"),
        ("model", "call get_weather {}"),
        ("user", "result get_weather rain"),
        ("model", "end"),
        ("model", 'call get_weather {"city": "Z\\u00fcrich"}'),
        ("user", "result get_weather rain"),
    ]
