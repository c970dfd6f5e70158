"""Messages to bytes and back: everything LangChain has, or a refusal that says why."""

import datetime
import json
import time
import traceback
import uuid
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from langchain_core.messages import (
    AIMessage,
    AIMessageChunk,
    BaseMessage,
    ChatMessage,
    FunctionMessage,
    HumanMessage,
    HumanMessageChunk,
    RemoveMessage,
    SystemMessage,
    ToolMessage,
    ToolMessageChunk,
    message_chunk_to_message,
    message_to_dict,
    messages_from_dict,
)
from pydantic import AnyUrl, BaseModel

from memorystore_chat import codec

ID = "01932c07-2080-7000-8000-000000000000"

text = st.text(st.characters(), max_size=8)  # lone surrogates included
maybe = st.none() | text
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | text,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(text, inner, max_size=3),
    max_leaves=6,
)
objects = st.dictionaries(text, values, max_size=3)
common: dict[str, Any] = {
    "content": text | st.lists(objects | text, max_size=3),
    "additional_kwargs": objects,
    "response_metadata": objects,
    "name": maybe,
    "id": maybe,
}


def lists_of(**fields: Any) -> Any:
    return st.lists(st.fixed_dictionaries(fields), max_size=2)


counts = st.integers(0, 2**70)
usage = st.none() | st.fixed_dictionaries(
    {"input_tokens": counts, "output_tokens": counts, "total_tokens": counts},
    optional={"input_token_details": st.fixed_dictionaries({}, optional={"cache_read": counts})},
)
ai = {
    "tool_calls": lists_of(name=text, args=objects, id=maybe),
    "invalid_tool_calls": lists_of(name=maybe, args=maybe, id=maybe, error=maybe),
}
chunk = {"tool_call_chunks": lists_of(name=maybe, args=maybe, id=maybe, index=st.none() | counts)}
tool = {"tool_call_id": text, "artifact": values, "status": st.sampled_from(["success", "error"])}
messages = st.one_of(
    st.builds(HumanMessage, **common, extra_field=values),
    st.builds(SystemMessage, **common),
    st.builds(AIMessage, **common, **ai, usage_metadata=usage),
    st.builds(ToolMessage, **common, **tool),
    st.builds(FunctionMessage, **common | {"name": text}),
    st.builds(ChatMessage, **common, role=text),
    st.builds(HumanMessageChunk, **common),
    st.builds(AIMessageChunk, **common, **chunk, usage_metadata=usage),
    st.builds(ToolMessageChunk, **common, **tool),
)


def same(one: Any, other: Any) -> bool:
    """Equal in value and type, with NaN equal to itself."""
    both = [each.model_dump() if isinstance(each, BaseMessage) else each for each in (one, other)]
    return type(one) is type(other) and repr(both[0]) == repr(both[1])


def encoded(message: BaseMessage) -> bytes:
    return codec.encode([message], ID)[0]


def back(message: BaseMessage) -> Any:
    return codec.decode(encoded(message))


@settings(max_examples=300)
@given(messages)
def test_every_message_is_read_back_as_it_was_written(message: BaseMessage) -> None:
    """A chunk as a whole message; langchain-google-memorystore-redis reads it, and is read."""
    whole = message_chunk_to_message(message)
    older = json.dumps(message_to_dict(whole))
    assert same(codec.decode(older.encode()), messages_from_dict([json.loads(older)])[0])
    try:
        element = encoded(message)
    except ValueError as error:
        assert "as something else" in str(error)  # noqa: PT017 - two surrogates that JSON joins
        return
    assert b"\n" not in element
    assert same(codec.decode(element), whole)
    assert same(codec.decode(element.decode()), whole)
    assert same(messages_from_dict([json.loads(element.decode("utf-8"))])[0], whole)
    assert json.loads(element)["id"] == ID


class Point(BaseModel):
    x: Any


class Own(BaseMessage):
    type: str = "own"


class Loud(HumanMessage):
    volume: int = 11  # kept as an extra field


def nested(levels: int) -> list[Any]:
    value: list[Any] = []
    for _ in range(levels - 1):
        value = [value]
    return value


def extra(value: Any) -> HumanMessage:
    return HumanMessage("x", additional_kwargs={"a": [0, value]})


def called(value: Any) -> AIMessage:
    return AIMessage("", tool_calls=[{"name": "f", "args": {"a": value}, "id": "1"}])


def assigned(message: BaseMessage, **fields: Any) -> BaseMessage:
    """LangChain does not check what is assigned to a message after its construction."""
    for name, value in fields.items():
        setattr(message, name, value)
    return message


KEYS = {1: "a", None: "b", 1.5: "c", False: "d"}
WRITTEN: list[tuple[Any, Any]] = [
    ((1, (2,)), [1, [2]]),
    (KEYS, {"1": "a", "null": "b", "1.5": "c", "false": "d"}),
    (Point(x=1), {"x": 1}),
    (10**40, 10**40),
    (float("inf"), float("inf")),
    (np.float64(0.5), 0.5),
    (nested(187), nested(187)),
]


def test_what_json_writes_in_its_own_way() -> None:
    """Tuples become lists, keys strings, objects dicts: as in LangChain's own serialization."""
    for value, stored in WRITTEN:
        for content in ("x", "\ud800"):
            message = assigned(extra(value), content=content)
            assert same(back(message).additional_kwargs, {"a": [0, stored]}), stored
    assert same(back(Loud(content="hi")), HumanMessage("hi", volume=11))


circular: dict[str, Any] = {}
circular["self"] = circular
COUNTS: Any = {"input_tokens": True, "output_tokens": 1, "total_tokens": 1}
REFUSED: list[tuple[BaseMessage, str]] = [
    (extra(b"secret"), "additional_kwargs['a'][1] is a bytes, "),
    (HumanMessage([{"type": "text", "a": {"secret"}}]), "content[0]['a'] is a set, "),
    (HumanMessage("x", own=datetime.datetime(2024, 1, 1)), "own is a datetime.datetime, "),
    (called(np.int64(7)), "tool_calls[0]['args']['a'] is a numpy.int64, "),
    *(
        (extra(value), "")
        for value in (
            *({1: "a", "1": "b"}, {(1, 2): None}, {"\ud83d\ude00": 1}, "\ud83d\ude00"),
            *(nested(250), circular, 10**5000),
        )
    ),
    (RemoveMessage(id="1"), ""),
    (Own(content="x"), ""),
    (assigned(HumanMessage("x"), content=5), ""),
    (assigned(HumanMessage("x"), type="ai"), ""),
    (assigned(HumanMessage("x"), response_metadata=None), ""),
    (assigned(HumanMessage("x"), name=7), ""),
    (assigned(AIMessage("x"), response_metadata={"a": 1}, tool_calls=[5]), ""),
    (assigned(AIMessage("x"), usage_metadata={}), ""),
    (assigned(AIMessage("x"), usage_metadata=COUNTS), ""),
    (assigned(ToolMessage("x", tool_call_id="1"), status="lost"), ""),
    (assigned(AIMessageChunk(content="x"), tool_calls=[5]), ""),
]


@pytest.mark.parametrize(("message", "place"), REFUSED, ids=range(len(REFUSED)))
def test_what_would_not_be_read_back_is_refused(message: BaseMessage, place: str) -> None:
    """One such element would make the session unreadable, or come back as something else."""
    with pytest.raises(ValueError, match=r"^messages\[1\]") as raised:
        codec.encode([HumanMessage("fine"), message], ID)
    assert str(raised.value).startswith(f"messages[1]{place and '.'}{place}")
    assert "secret" not in "".join(traceback.format_exception(raised.value))


FORMS: list[tuple[Any, Any, str]] = [
    (datetime.datetime(2026, 5, 1, 12, tzinfo=datetime.UTC), "2026-05-01T12:00:00Z", ""),
    (b"\xff\x00", "_wA=", ""),
    ({1}, [1], ""),
    (np.float32(0.5), 0.5, ""),
    (Point(x=AnyUrl("https://example.com/a")), {"x": "https://example.com/a"}, ""),  # as of MCP
    (Point(x=np.int64(3)), {"x": 3}, ""),
    (float("inf"), float("inf"), ""),
    ("\ud800", "\ud800", ""),
    ([0, object(), 2], [0, None, 2], "object"),
    (np.array([1, 2]), None, "numpy.ndarray"),
]


@pytest.mark.parametrize(("value", "form", "left_out"), FORMS, ids=range(len(FORMS)))
def test_what_no_model_is_sent_is_stored_in_pydantics_json_form(
    value: Any, form: Any, left_out: str, caplog: pytest.LogCaptureFixture
) -> None:
    """A tool's artifact and a response's metadata lose no turn; one warning says what went."""
    answer = ToolMessage("secret", tool_call_id="1", name="search", artifact={"found": [value, 1]})
    assert same(back(answer).artifact, {"found": [form, 1]})
    assert same(back(AIMessage("x", response_metadata={"a": value})).response_metadata, {"a": form})
    assert len(caplog.messages) == (2 if left_out else 0)
    if left_out:
        assert all(word in caplog.messages[0] for word in ("search", "artifact", left_out))
        assert "secret" not in caplog.messages[0]
    assert back(ToolMessage("x", tool_call_id="1", artifact=circular)).artifact == {}


BROKEN = [
    (b'{"type": "human", "data": {"content": "a secr', "not JSON"),
    (b'{"a":' + b"[" * 100_000, "not JSON"),
    (b'["a secret"]', "JSON list"),
    (b'{"data": {"content": "a secret"}}', "text 'type'"),
    (b'{"type": "robot", "data": {"content": "a secret"}}', "'robot'"),
    (b'{"type": "remove", "data": {"content": "", "id": "1"}}', "'remove'"),
    (b'{"type": "ai", "data": {}}', "content: missing"),
    (b'{"type": "ai", "data": {"content": "", "tool_calls": ["a secret"]}}', "AttributeError"),
    (b'{"type": "tool", "data": {"content": "a secret"}}', "KeyError"),
    (b'{"type": "HumanMessageChunk", "data": {"content": "a secret", "self": 1}}', "TypeError"),
]


@pytest.mark.parametrize(("element", "reason"), BROKEN, ids=range(len(BROKEN)))
def test_a_broken_element_is_a_value_error_that_says_why(element: bytes, reason: str) -> None:
    """The text and the chain say what is wrong, and keep the content to themselves."""
    with pytest.raises(ValueError, match=reason) as raised:
        codec.decode(element)
    assert "secr" not in "".join(traceback.format_exception(raised.value))
    assert codec.appended_at(element) is None


def test_the_id_tells_when_it_was_appended() -> None:
    """To the millisecond; other ids, and times no calendar has, are no error. Ids rise."""
    before = time.time()
    element = codec.encode([HumanMessage("x")], codec.new_append_id())[0]
    at = codec.appended_at(element)
    assert at is not None
    assert at.tzinfo is datetime.UTC
    assert before - 0.002 <= at.timestamp() <= time.time() + 0.002
    for id_ in (None, 7, "x", str(uuid.uuid4()), "ffffffff-ffff-7fff-bfff-ffffffffffff"):
        assert codec.appended_at(json.dumps({"id": id_, "type": "human", "data": {}})) is None
    ids = [codec.new_append_id() for _ in range(10_000)]
    assert ids == sorted(set(ids))
