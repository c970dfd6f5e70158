"""Messages to bytes and back: everything LangChain has, or a refusal that says why."""

import datetime
import enum
import json
import math
import time
import traceback
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal
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
from pydantic import AnyUrl, BaseModel, field_serializer

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
blocks = st.sampled_from(
    [
        {"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBORw0KGgo="}},
        {"type": "reasoning", "reasoning": "because", "extras": {"signature": "x"}},
    ]
)
common: dict[str, Any] = {
    "content": text | st.lists(objects | text | blocks, max_size=3),
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
    if type(one) is not type(other):
        return False
    if isinstance(one, BaseMessage):
        return same(one.model_dump(), other.model_dump())
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list):
        return len(one) == len(other) and all(map(same, one, other))
    return bool(one == other) or (isinstance(one, float) and math.isnan(one) and math.isnan(other))


def encoded(message: BaseMessage) -> bytes:
    return codec.encode([message], ID)[0]


def back(message: BaseMessage) -> Any:
    return codec.decode(encoded(message))


@settings(max_examples=300, deadline=None)
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


class Color(enum.Enum):
    RED = "red"


class Point(BaseModel):
    x: int


@dataclass
class Pair:
    left: int


class Failing(BaseModel):
    x: int = 1

    @field_serializer("x")
    def fail(self, value: int) -> int:
        raise ValueError(f"no {value}")


def nested(levels: int) -> list[Any]:
    value: list[Any] = []
    for _ in range(levels - 1):
        value = [value]
    return value


circular: dict[str, Any] = {}
circular["self"] = circular
SPLIT = "\ud83d\ude00"


@pytest.mark.parametrize(
    ("value", "stored"),
    [
        ((1, (2,)), [1, [2]]),
        ({1: "a", None: "b", 1.5: "c"}, {"1": "a", "null": "b", "1.5": "c"}),
        ({True: "a"}, {"true": "a"}),
        (Point(x=1), {"x": 1}),
        (Pair(1), {"left": 1}),
        (10**40, 10**40),
        (float("inf"), float("inf")),
        (np.float64(0.5), 0.5),
        (nested(188), nested(188)),
    ],
    ids=range(9),
)
@pytest.mark.parametrize("content", ["x", "\ud800"])
def test_what_json_writes_in_its_own_way(value: Any, stored: Any, content: str) -> None:
    """Tuples become lists, keys strings, objects dicts: as in LangChain's own serialization."""
    message = HumanMessage(content, additional_kwargs={"value": value})
    assert same(back(message).additional_kwargs, {"value": stored})


HELD: list[tuple[Any, str]] = [
    (b"secret", "bytes"),
    (datetime.datetime(2024, 1, 1), "datetime.datetime"),
    ({"secret"}, "set"),
    (Decimal("1.5"), "decimal.Decimal"),
    (Color.RED, f"{__name__}.Color"),
    (np.int64(7), "numpy.int64"),
    (np.array([1, 2]), "numpy.ndarray"),
    (object(), "object"),
]
PLACES: dict[str, Callable[[Any], BaseMessage]] = {
    "additional_kwargs['a'][1]": lambda v: HumanMessage("x", additional_kwargs={"a": [0, v]}),
    "content[0]['a']": lambda v: HumanMessage([{"type": "text", "a": v}]),
    "own": lambda v: HumanMessage("x", own=v),
    "tool_calls[0]['args']['a']": lambda v: AIMessage(
        "", tool_calls=[{"name": "f", "args": {"a": v}, "id": "1"}]
    ),
}


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize(("value", "kind"), HELD, ids=[kind for _, kind in HELD])
def test_a_value_json_cannot_hold_is_refused(value: Any, kind: str, place: str) -> None:
    """It is never quietly turned into text; the error names the place and the type."""
    with pytest.raises(ValueError, match="nothing was stored") as raised:
        codec.encode([HumanMessage("fine"), PLACES[place](value)], ID)
    assert str(raised.value).startswith(f"messages[1].{place} is a {kind}, ")
    assert "secret" not in "".join(traceback.format_exception(raised.value))


CHANGED: dict[str, Any] = {
    "same key": {1: "a", "1": "b"},
    "tuple key": {(1, 2): None},
    "deep": nested(250),
    "very deep": nested(5000),
    "circular": circular,
    "failing": Failing(),
    "huge": 10**5000,
    "split": SPLIT,
    "split key": {SPLIT: 1},
}


@pytest.mark.parametrize("value", CHANGED.values(), ids=CHANGED)
def test_what_json_would_change_is_refused(value: Any) -> None:
    """Nothing that would be read back as something else, or not at all, is written."""
    with pytest.raises(ValueError, match=r"messages\[0\].*(read back|levels)"):
        encoded(ToolMessage("x", tool_call_id="1", additional_kwargs={"a": value}))


class Page(BaseModel):
    """Holds what an MCP server's EmbeddedResource holds: an address that is an object."""

    url: AnyUrl
    hits: Any = 0


@pytest.mark.parametrize(
    ("value", "form", "left_out"),
    [
        (datetime.datetime(2026, 5, 1, 12, tzinfo=datetime.UTC), "2026-05-01T12:00:00Z", ""),
        (uuid.UUID(int=7), "00000000-0000-0000-0000-000000000007", ""),
        (Decimal("1.50"), "1.50", ""),
        (b"\xff\x00", "_wA=", ""),
        ({1}, [1], ""),
        (np.float32(0.5), 0.5, ""),
        (
            Page(url=AnyUrl("https://example.com/a"), hits=np.int64(3)),
            {"url": "https://example.com/a", "hits": 3},
            "",
        ),
        (float("inf"), float("inf"), ""),
        ("\ud800", "\ud800", ""),
        ([0, object(), 2], [0, None, 2], "object"),
        (np.array([1, 2]), None, "numpy.ndarray"),
    ],
    ids=range(11),
)
def test_what_no_model_is_sent_is_stored_in_pydantics_json_form(
    value: Any, form: Any, left_out: str, caplog: pytest.LogCaptureFixture
) -> None:
    """A tool's artifact and a response's metadata lose no turn; one warning says what went."""
    answer = ToolMessage("secret", tool_call_id="1", name="search", artifact={"found": [value, 1]})
    assert same(back(answer).artifact, {"found": [form, 1]})
    said = AIMessage("x", response_metadata={"a": value})
    assert same(back(said).response_metadata, {"a": form})
    warnings = caplog.messages
    assert len(warnings) == (2 if left_out else 0)
    if left_out:
        assert all(word in warnings[0] for word in ("search", "artifact", left_out))
        assert "secret" not in warnings[0]


class Loud(HumanMessage):
    volume: int = 11


class Own(BaseMessage):
    type: str = "own"


class Renamed(AIMessage):
    type: str = "renamed"  # type: ignore[assignment]


def test_a_message_of_a_subclass_is_read_back_as_the_standard_class() -> None:
    """What its class adds is kept as extra fields."""
    assert same(
        back(Loud(content="hi", id="1", name="Ada")),
        HumanMessage("hi", id="1", name="Ada", volume=11),
    )


@pytest.mark.parametrize("message", ["hi", None, ("human", "hi")], ids=str)
def test_what_is_no_message_is_refused(message: Any) -> None:
    with pytest.raises(TypeError, match=r"^messages\[0\] is a .* LangChain message"):
        encoded(message)


def assigned(message: BaseMessage, **fields: Any) -> BaseMessage:
    """LangChain does not check what is assigned to a message after its construction."""
    for name, value in fields.items():
        setattr(message, name, value)
    return message


@pytest.mark.parametrize(
    "message",
    [
        RemoveMessage(id="1"),
        Own(content="x"),
        Renamed(content="x"),
        assigned(HumanMessage("x"), content=5),
        assigned(HumanMessage("x"), type="own"),
        assigned(HumanMessage("x"), type="ai"),
        assigned(HumanMessage("x"), additional_kwargs=None),
        assigned(HumanMessage("x"), response_metadata=None),
        assigned(AIMessage("x"), tool_calls=[5]),
        assigned(AIMessage("x"), tool_calls=None),
        assigned(AIMessage("x"), usage_metadata={}),
        assigned(
            AIMessage("x"),
            usage_metadata={"input_tokens": True, "output_tokens": 1, "total_tokens": 1},
        ),
        assigned(ToolMessage("x", tool_call_id="1"), status="lost"),
        assigned(ToolMessage("x", tool_call_id="1"), tool_call_id=1),
        assigned(AIMessageChunk(content="x"), tool_calls=[5]),
    ],
    ids=lambda message: repr(message)[:60],
)
def test_a_message_that_would_not_be_read_back_is_refused(message: BaseMessage) -> None:
    """One such element would make the session unreadable, or come back as something else."""
    with pytest.raises(ValueError, match=r"messages\[0\]"):
        encoded(message)


BROKEN = [
    (b"", "not JSON"),
    (b'{"type": "human", "data": {"content": "a secr', "not JSON"),
    (b'{"type": "human", "data": {"content": "\xc3', "not JSON"),
    (b'{"a":' + b"[" * 100_000, "not JSON"),
    (b'["a secret"]', "JSON list"),
    (b'{"data": {"content": "a secret"}}', "text 'type'"),
    (b'{"type": "human", "data": "a secret"}', "object 'data'"),
    (b'{"type": "robot", "data": {"content": "a secret"}}', "'robot'"),
    (b'{"type": "remove", "data": {"content": "", "id": "1"}}', "'remove'"),
    (b'{"type": "ai", "data": {}}', "content: missing"),
    (b'{"type": "ai", "data": {"content": "", "tool_calls": ["a secret"]}}', "AttributeError"),
    (b'{"type": "tool", "data": {"content": "a secret"}}', "KeyError"),
]


@pytest.mark.parametrize(("element", "reason"), BROKEN, ids=range(len(BROKEN)))
def test_a_broken_element_is_a_value_error_that_says_why(element: bytes, reason: str) -> None:
    """The text and the chain say what is wrong, and keep the content to themselves."""
    with pytest.raises(ValueError, match=reason) as raised:
        codec.decode(element)
    assert "secr" not in "".join(traceback.format_exception(raised.value))
    assert codec.appended_at(element) is None


junk = st.dictionaries(
    st.sampled_from([*AIMessage.model_fields, *ToolMessage.model_fields, "role", "self"]),
    values | st.lists(objects, max_size=2),
)
kinds = st.sampled_from(["human", "ai", "tool", "chat", "remove", "AIMessageChunk"]) | text


@settings(max_examples=100, deadline=None)
@given(kinds, junk)
def test_an_element_is_a_message_or_a_value_error(kind: str, data: dict[str, Any]) -> None:
    """No stored bytes make anything else escape, and the error keeps the content to itself."""
    data = data | {"content": data.get("content", "a secret"), "name": {"a secret": "a secret"}}
    with pytest.raises(ValueError) as raised:  # noqa: PT011
        codec.decode(json.dumps({"type": kind, "data": data}))
    assert "a secret" not in "".join(traceback.format_exception(raised.value))


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
