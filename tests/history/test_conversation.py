"""What a session holds, as models take it."""

import redis
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
from memorystore_chat.conversation import NO_RESULT, NOT_CARRIED_OUT
from scripted import Make


def calling(*ids: str, bad: tuple[str | None, ...] = ()) -> AIMessage:
    """A model's calls of `get_weather`, of which some are malformed, as both clients make them."""
    calls = [{"name": "get_weather", "args": {"city": "Zürich"}, "id": id_} for id_ in ids]
    cut = [{"name": "get_weather", "args": "{bad", "id": id_, "error": "no JSON"} for id_ in bad]
    google = {"function_call": {"name": "get_weather", "arguments": "{}"}}
    return AIMessage("", tool_calls=calls, invalid_tool_calls=cut, additional_kwargs=google)


def found(call: str, text: str = "rain", **fields: str) -> ToolMessage:
    return ToolMessage(text, tool_call_id=call, name="get_weather", **fields)


OLD_CALL = {"function_call": {"name": "g", "arguments": "{}"}}
STAND_IN = {"call": "a", "id": "no-result-None-a", "status": "error"}
LETTERS: dict[str, BaseMessage] = {
    "q": HumanMessage("ask"),
    "w": ChatMessage(content="ask", role="user"),
    "s": SystemMessage("Be brief."),
    "e": AIMessage("end"),
    "a": calling("a"),
    "b": calling("a", "b"),
    "m": calling(bad=("a",)),
    "n": calling(bad=(None,)),
    "A": found("a"),
    "B": found("b"),
    "-": found(text=NO_RESULT, **STAND_IN),
    "!": found(text=NOT_CARRIED_OUT, **STAND_IN),
    "o": AIMessage("", additional_kwargs=OLD_CALL),
    "O": FunctionMessage(content="G", name="g"),
}


def spelled(letters: str) -> list[BaseMessage]:
    """Messages by their letters."""
    return [LETTERS[letter] for letter in letters]


CONVERSATIONS: list[tuple[str, int | None, str]] = [  # stored, window, and what is handed out
    ("qa", None, "qa-"),
    ("qaqe", None, "qa-qe"),
    ("qaqA", None, "qa-q"),  # a result that came too late
    ("qbBe", None, "qbB-e"),
    ("qme", None, "qm!e"),
    ("qmAe", None, "qmAe"),
    ("qne", None, "qne"),  # a result for a call without an id has no place
    ("qaAAe", None, "qaAe"),
    ("qAe", None, "qe"),
    ("qeeaAe", None, "qeeaAe"),
    ("eaAeqe", None, "qe"),  # models call only when they were asked
    ("saAe", None, ""),
    ("eq", None, "eq"),
    ("qaAe", 4, "qaAe"),
    ("qaAe", 3, ""),
    ("qaAe", 1, ""),
    ("qeqaAe", 5, "qaAe"),
    ("qmAe", 2, ""),
    ("qeqaAaA", 1, "qaAaA"),  # a model has to go on from a result
    ("qeqaAaA", 4, "qaAaA"),
    ("qeqaA", 3, "qaA"),
    ("aA", 1, ""),
    ("qesqe", 4, "sqe"),
    ("qesqe", 3, "sqe"),
    ("qewe", 3, "we"),
    ("eeqe", 3, "qe"),
    ("eqe", 3, "eqe"),
    ("qoOe", 5, "qoOe"),
]


def test_what_is_handed_out_can_be_sent_to_a_model(make: Make, client: redis.Redis) -> None:
    """Each call with one result, a window from a user's message on; what is stored stays."""
    for number, (stored, window, read) in enumerate(CONVERSATIONS):
        history = make(f"{number}", window=window)
        history.add_messages(spelled(stored))
        assert history.messages == spelled(read), (stored, window)
        elements = client.lrange(history.key, 0, -1)
        assert [codec.decode(element) for element in elements] == spelled(stored)
    capped = make("capped", max_messages=3)
    capped.add_messages(spelled("qeqe"))
    assert capped.messages == spelled("qe")
