"""What a session holds, as models take it: tables, and the rules of models at random."""

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

from memorystore_chat import codec
from memorystore_chat.conversation import NO_RESULT, NOT_CARRIED_OUT, sendable
from scripted import Make


def calling(*ids: str, bad: tuple[str | None, ...] = ()) -> AIMessage:
    """A model's calls of `get_weather`, of which some are malformed, as both clients make them."""
    calls = [{"name": "get_weather", "args": {"city": "Zürich"}, "id": id_} for id_ in ids]
    cut = [{"name": "get_weather", "args": "{bad", "id": id_, "error": "no JSON"} for id_ in bad]
    google = {"function_call": {"name": "get_weather", "arguments": "{}"}}
    return AIMessage("", tool_calls=calls, invalid_tool_calls=cut, additional_kwargs=google)


def found(id_: str) -> ToolMessage:
    return ToolMessage("rain", tool_call_id=id_, name="get_weather")


def stand_in(id_: str, text: str = NO_RESULT) -> BaseMessage:
    return ToolMessage(
        text, tool_call_id=id_, name="get_weather", id=f"no-result-None-{id_}", status="error"
    )


ask, end, system = HumanMessage("ask"), AIMessage("end"), SystemMessage("Be brief.")
call, both, answer = calling("a"), calling("a", "b"), found("a")
bad, missing, malformed = calling(bad=("a",)), stand_in("a"), stand_in("a", NOT_CARRIED_OUT)
unnamed, spoken = calling(bad=(None,)), ChatMessage(content="ask", role="user")
old_call = AIMessage("", additional_kwargs={"function_call": {"name": "g", "arguments": "{}"}})
old_answer = FunctionMessage(content="G", name="g")

READ: dict[str, tuple[list[BaseMessage], list[BaseMessage]]] = {
    "a call without a result": ([ask, call], [ask, call, missing]),
    "a call without a result, long ago": (
        [ask, call, ask, end],
        [ask, call, missing, ask, end],
    ),
    "a result that came too late": ([ask, call, ask, answer], [ask, call, missing, ask]),
    "one of two calls without a result": (
        [ask, both, found("b"), end],
        [ask, both, found("b"), missing, end],
    ),
    "a malformed call": ([ask, bad, end], [ask, bad, malformed, end]),
    "a malformed call with its result": ([ask, bad, answer, end], [ask, bad, answer, end]),
    "a malformed call without an id": ([ask, unnamed, end], [ask, unnamed, end]),
    "two results": ([ask, call, answer, answer, end], [ask, call, answer, end]),
    "a result without a call": ([ask, answer, end], [ask, end]),
    "an answer and then a call": ([ask, end, end, call, answer, end],) * 2,
    "a call before the first question": ([end, call, answer, end, ask, end], [ask, end]),
    "a call that nobody asked for": ([system, call, answer, end], []),
    "an answer before the first question": ([end, ask], [end, ask]),
}


def test_each_call_is_handed_out_with_one_result(make: Make, client: redis.Redis) -> None:
    """A call without a result gets one, a result without a call goes; what is stored stays."""
    for name, (stored, read) in READ.items():
        history = make(name)
        history.add_messages(stored)
        assert history.messages == read, name
        assert [codec.decode(element) for element in client.lrange(history.key, 0, -1)] == stored


WINDOWS: list[tuple[list[BaseMessage], int, int]] = [
    ([ask, call, answer, end], 4, 4),
    ([ask, call, answer, end], 3, 0),
    ([ask, call, answer, end], 1, 0),
    ([ask, end, ask, call, answer, end], 5, 4),
    ([ask, bad, answer, end], 2, 0),
    ([ask, end, ask, call, answer, call, answer], 1, 5),
    ([ask, end, ask, call, answer, call, answer], 4, 5),
    ([ask, end, ask, call, answer], 3, 3),
    ([call, answer], 1, 0),
    ([ask, end, system, ask, end], 4, 3),
    ([ask, end, spoken, end], 3, 2),
    ([ask, end, system, ask, end], 3, 3),
    ([end, end, ask, end], 3, 2),
    ([end, ask, end], 3, 3),
    ([ask, old_call, old_answer, end], 5, 4),
]


def test_a_window_begins_at_a_users_message(make: Make) -> None:
    """A call cut off from its question is left out; without a question nothing is handed out.

    But a turn in which a model has to go on from a result is handed out whole.
    """
    for number, (stored, window, read) in enumerate(WINDOWS):
        history = make(f"{number}", window=window)
        history.add_messages(stored)
        assert history.messages == stored[len(stored) - read :], number
    capped = make("capped", max_messages=3)
    capped.add_messages([ask, end, ask, end])
    assert capped.messages == [ask, end]


ids = st.sampled_from(["a", "b", "c"])
steps = st.one_of(
    st.sampled_from([ask, system, end]),
    st.lists(ids, max_size=2).map(lambda called: calling(*called)),
    ids.map(found),
)


@settings(max_examples=300, deadline=None)
@given(st.lists(steps, max_size=12), st.booleans())
def test_what_is_handed_out_keeps_the_rules_of_models(
    messages: list[BaseMessage], cut: bool
) -> None:
    """Each call is followed by its results and each result follows its call; no text is lost."""
    read = sendable(messages, cut=cut)
    waiting: set[str | None] = set()
    asked = False
    for message in [*read, end]:
        asked = asked or message == ask
        if isinstance(message, ToolMessage):
            waiting.remove(message.tool_call_id)
            continue
        assert not waiting
        waiting = {call["id"] for call in getattr(message, "tool_calls", [])}
        assert asked or not waiting, "a model calls only when it was asked"
    first = next((m for m in read if not isinstance(m, SystemMessage)), None)
    assert not cut or first is None or first == ask
    assert read.count(ask) == messages.count(ask)
