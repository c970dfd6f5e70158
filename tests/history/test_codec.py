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
    ChatMessageChunk,
    FunctionMessage,
    FunctionMessageChunk,
    HumanMessage,
    HumanMessageChunk,
    RemoveMessage,
    SystemMessage,
    SystemMessageChunk,
    ToolMessage,
    ToolMessageChunk,
    message_chunk_to_message,
    message_to_dict,
    messages_from_dict,
)
from pydantic import AnyUrl, BaseModel, field_serializer

from memorystore_chat import codec
from memorystore_chat.codec import MAX_DEPTH

ID = "01932c07-2080-7000-8000-000000000000"

text = st.text(st.characters(), max_size=12)  # lone surrogates included
atoms = st.none() | st.booleans() | st.integers() | st.floats() | text
values = st.recursive(
    atoms,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(text, inner, max_size=3),
    max_leaves=8,
)
objects = st.dictionaries(text, values, max_size=3)
blocks = (
    objects
    | text
    | st.sampled_from(
        [
            {"type": "text", "text": "What is this?"},
            {"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBORw0KGgo="}},
            {"type": "image", "base64": "iVBORw0KGgo=", "mime_type": "image/png"},
            {"type": "reasoning", "reasoning": "because", "extras": {"signature": "x"}},
            {"type": "media", "mime_type": "audio/wav", "data": "UklGRg=="},
        ]
    )
)
content = text | st.lists(blocks, max_size=3)
common = {
    "content": content,
    "additional_kwargs": objects,
    "response_metadata": objects,
    "name": st.none() | text,
    "id": st.none() | text,
}
maybe = st.none() | text
calls = st.lists(st.fixed_dictionaries({"name": text, "args": objects, "id": maybe}), max_size=2)
invalid_calls = st.lists(
    st.fixed_dictionaries({"name": maybe, "args": maybe, "id": maybe, "error": maybe}), max_size=2
)
counts = st.integers(0, 2**70)
usage = st.fixed_dictionaries(
    {"input_tokens": counts, "output_tokens": counts, "total_tokens": counts},
    optional={
        "input_token_details": st.fixed_dictionaries({}, optional={"cache_read": counts}),
        "output_token_details": st.fixed_dictionaries({}, optional={"reasoning": counts}),
    },
)
ai = common | {
    "tool_calls": calls,
    "invalid_tool_calls": invalid_calls,
    "usage_metadata": st.none() | usage,
}
tool = common | {
    "tool_call_id": text,
    "artifact": values,
    "status": st.sampled_from(["success", "error"]),
}
chunks_of_calls = st.lists(
    st.fixed_dictionaries(
        {"name": maybe, "args": maybe, "id": maybe, "index": st.none() | st.integers(0, 9)}
    ),
    max_size=2,
)
messages = st.one_of(
    st.builds(HumanMessage, **common),
    st.builds(SystemMessage, **common),
    st.builds(AIMessage, **ai),
    st.builds(ToolMessage, **tool),
    st.builds(FunctionMessage, **common | {"name": text}),
    st.builds(ChatMessage, **common, role=text),
    st.builds(HumanMessage, **common, extra_field=values),
)
message_chunks = st.one_of(
    st.builds(HumanMessageChunk, **common),
    st.builds(SystemMessageChunk, **common),
    st.builds(
        AIMessageChunk,
        **common,
        tool_call_chunks=chunks_of_calls,
        usage_metadata=st.none() | usage,
        chunk_position=st.sampled_from([None, "last"]),
    ),
    st.builds(ToolMessageChunk, **tool),
    st.builds(FunctionMessageChunk, **common | {"name": text}),
    st.builds(ChatMessageChunk, **common, role=text),
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


def artifact(message: ToolMessage) -> Any:
    back = codec.decode(encoded(message))
    assert isinstance(back, ToolMessage)
    return back.artifact


def check_round_trip(written: BaseMessage, expected: BaseMessage) -> None:
    try:
        element = encoded(written)
    except ValueError as error:
        assert "surrogate halves" in str(error)  # noqa: PT017
        return
    assert b"\n" not in element
    back = codec.decode(element)
    assert same(back, expected)
    assert same(codec.decode(element.decode()), expected)
    # The reader of langchain-google-memorystore-redis 0.3.0 does just this.
    assert same(messages_from_dict([json.loads(element.decode("utf-8"))])[0], expected)
    assert json.loads(element)["id"] == ID


@settings(max_examples=250, deadline=None)
@given(messages)
def test_every_message_is_read_back_as_it_was_written(message: BaseMessage) -> None:
    check_round_trip(message, message)


@settings(max_examples=80, deadline=None)
@given(message_chunks)
def test_a_chunk_is_stored_as_the_message_it_is_a_chunk_of(chunk: BaseMessage) -> None:
    check_round_trip(chunk, message_chunk_to_message(chunk))


@settings(max_examples=60, deadline=None)
@given(messages)
def test_the_bytes_of_the_older_package_are_read(message: BaseMessage) -> None:
    """What json.dumps(message_to_dict(...)) wrote is read as messages_from_dict reads it."""
    element = json.dumps(message_to_dict(message))
    expected = messages_from_dict([json.loads(element)])[0]
    back = codec.decode(element.encode())
    assert same(back, expected)
    assert back.model_fields_set == expected.model_fields_set


junk = st.dictionaries(
    st.sampled_from(
        [*AIMessage.model_fields, *ToolMessage.model_fields, "role", "self", "content_blocks"]
    ),
    values | st.lists(objects, max_size=2),
)
kinds = st.sampled_from(["human", "ai", "system", "tool", "function", "chat", "remove"])
chunk_kinds = st.sampled_from(["AIMessageChunk", "ToolMessageChunk"])


@settings(max_examples=200, deadline=None)
@given(kinds | chunk_kinds | text, junk)
def test_an_element_is_a_message_or_a_value_error(kind: str, data: dict[str, Any]) -> None:
    """No stored bytes make anything else escape, and the error keeps the content to itself."""
    data = data | {"content": data.get("content", "a secret"), "name": {"a secret": "a secret"}}
    try:
        message = codec.decode(json.dumps({"type": kind, "data": data}))
    except ValueError as error:
        assert "a secret" not in "".join(traceback.format_exception(error))  # noqa: PT017
    else:
        assert isinstance(message, BaseMessage)


class Point(BaseModel):
    x: int


@dataclass
class Pair:
    left: int


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
    ],
    ids=str,
)
def test_what_json_writes_in_its_own_way(value: Any, stored: Any) -> None:
    """Tuples become lists, keys strings, objects dicts: as in LangChain's own serialization."""
    message = HumanMessage("x", additional_kwargs={"value": value})
    assert codec.decode(encoded(message)).additional_kwargs == {"value": stored}


class Color(enum.Enum):
    RED = "red"


HELD: list[tuple[Any, str]] = [
    (b"secret", "bytes"),
    (bytearray(b"secret"), "bytearray"),
    (datetime.datetime(2024, 1, 1), "datetime.datetime"),
    (datetime.date(2024, 1, 1), "datetime.date"),
    (datetime.timedelta(1), "datetime.timedelta"),
    ({"secret"}, "set"),
    (frozenset({"secret"}), "frozenset"),
    (Decimal("1.5"), "decimal.Decimal"),
    (uuid.UUID(int=7), "uuid.UUID"),
    (Color.RED, f"{__name__}.Color"),
    (1j, "complex"),
    (np.int64(7), "numpy.int64"),
    (np.bool_(True), "numpy.bool"),
    (np.array([1, 2]), "numpy.ndarray"),
    (object(), "object"),
    (print, "builtin_function_or_method"),
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


def nested(levels: int) -> list[Any]:
    value: list[Any] = []
    for _ in range(levels - 1):
        value = [value]
    return value


class Failing(BaseModel):
    x: int = 1

    @field_serializer("x")
    def fail(self, value: int) -> int:
        raise ValueError(f"no {value}")


def circular() -> dict[str, Any]:
    value: dict[str, Any] = {}
    value["self"] = value
    return value


SPLIT = "\ud83d\ude00"
CHANGED: dict[str, tuple[Any, str]] = {
    "same key": ({1: "a", "1": "b"}, "two keys"),
    "tuple key": ({(1, 2): "a"}, "tuple as key"),
    "deep": (nested(250), "190 levels"),
    "very deep": (nested(5000), "190 levels"),
    "circular": (circular(), "190 levels"),
    "failing": (Failing(), "cannot be serialized"),
    "huge": (10**5000, "read back"),
    "split": (SPLIT, "surrogate halves"),
    "split key": ({SPLIT: 1}, "surrogate halves"),
}


@pytest.mark.parametrize(("value", "reason"), CHANGED.values(), ids=CHANGED)
def test_what_json_would_change_is_refused(value: Any, reason: str) -> None:
    """Nothing that would be read back as something else, or not at all, is written."""
    with pytest.raises(ValueError, match=rf"messages\[0\].*{reason}"):
        encoded(ToolMessage("x", tool_call_id="1", additional_kwargs={"a": value}))


@pytest.mark.parametrize("content", ["x", "\ud800"])
def test_nesting_up_to_the_limit_is_kept(content: str) -> None:
    message = HumanMessage(content, additional_kwargs={"a": nested(MAX_DEPTH - 1)})
    assert same(codec.decode(encoded(message)), message)


class Page(BaseModel):
    """Holds what an MCP server's EmbeddedResource holds: an address that is an object."""

    url: AnyUrl
    hits: Any = 0


FORMS: list[tuple[Any, Any]] = [
    (datetime.datetime(2026, 5, 1, 12, tzinfo=datetime.UTC), "2026-05-01T12:00:00Z"),
    (datetime.timedelta(hours=1), "PT1H"),
    (uuid.UUID(int=7), "00000000-0000-0000-0000-000000000007"),
    (Decimal("1.50"), "1.50"),
    (b"\xff\x00", "_wA="),
    (Color.RED, "red"),
    ({1}, [1]),
    ((1, (2,)), [1, [2]]),
    (np.int64(7), 7),
    (np.bool_(True), True),
    (np.float32(0.5), 0.5),
    (np.datetime64("2026-05-01"), "2026-05-01"),
    (
        Page(url=AnyUrl("https://example.com/a"), hits=np.int64(3)),
        {"url": "https://example.com/a", "hits": 3},
    ),
    (
        {None: 0, 1.5: 2, True: 3, datetime.date(2026, 5, 1): 4},
        {"None": 0, "1.5": 2, "true": 3, "2026-05-01": 4},
    ),
    (10**40, 10**40),
    (float("inf"), float("inf")),
    ("\ud800", "\ud800"),
]


@pytest.mark.parametrize(("value", "form"), FORMS, ids=str)
def test_what_no_model_is_sent_is_stored_in_pydantics_json_form(
    value: Any, form: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """A tool's artifact and the metadata of a response lose no turn; all of them is stored."""
    answer = ToolMessage("x", tool_call_id="1", artifact={"found": [value, 1]})
    assert _covers(artifact(answer), {"found": [form, 1]})
    said = AIMessage("x", response_metadata={"a": value})
    assert _covers(codec.decode(encoded(said)).response_metadata, {"a": form})
    assert not caplog.records


def _covers(stored: Any, form: Any) -> bool:
    """Whether all of the form is stored; a pydantic object may have more fields, which are null."""
    if isinstance(form, dict):
        return stored.keys() >= form.keys() and all(_covers(stored[key], form[key]) for key in form)
    if isinstance(form, list):
        return len(stored) == len(form) and all(map(_covers, stored, form))
    return same(stored, form)


FORMLESS: dict[str, tuple[Any, Any, str]] = {
    "object": ([0, object(), 2], [0, None, 2], "object"),
    "array": ([np.array([1, 2])], [None], "numpy.ndarray"),
    "function": (len, None, "builtin_function_or_method"),
    "longdouble": ({"a": np.longdouble(1)}, {"a": None}, "numpy.longdouble"),
    "failing": ([1, Failing()], None, "list"),
    "circular": (circular(), {}, "dict"),
    "split": ([SPLIT], None, "list"),
    "deep": (nested(5000), None, "list"),
}


@pytest.mark.parametrize(("value", "form", "kind"), FORMLESS.values(), ids=FORMLESS)
def test_what_has_no_json_form_becomes_none_with_one_warning(
    value: Any, form: Any, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    """The turn is stored with the rest of the artifact; name, field and type are in the log."""
    message = ToolMessage("secret", tool_call_id="1", name="search", artifact=value)
    assert artifact(message) == form
    (warning,) = caplog.messages
    assert all(word in warning for word in ("search", "artifact", kind))
    assert "secret" not in warning


def test_a_message_above_the_servers_limit_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """The server would cut the connection, and no retry helps; the error says what to do."""
    monkeypatch.setattr(codec, "LARGEST", 2**20)
    codec.encode([HumanMessage("x" * (2**20 - 500))], ID)
    with pytest.raises(ValueError, match=r"^messages\[1\] takes 2 MB, and .* at most 1 MB\. Keep"):
        codec.encode([HumanMessage("x"), HumanMessage("x" * 2**21)], ID)


class Plain(HumanMessage):
    pass


class Loud(HumanMessage):
    volume: int = 11


class Own(BaseMessage):
    type: str = "own"


class Renamed(AIMessage):
    type: str = "renamed"  # type: ignore[assignment]


def test_a_subclass_without_fields_of_its_own_is_read_back_as_the_standard_class() -> None:
    back = codec.decode(encoded(Plain(content="hi", id="1", name="Ada")))
    assert same(back, HumanMessage("hi", id="1", name="Ada"))


@pytest.mark.parametrize(
    ("message", "error", "reason"),
    [
        ("hi", TypeError, "is a str"),
        (None, TypeError, "is a NoneType"),
        (("human", "hi"), TypeError, "is a tuple"),
        (RemoveMessage(id="1"), ValueError, "RemoveMessage"),
        (Own(content="x"), ValueError, "is a Own"),
        (Loud(content="x"), ValueError, "volume of its own"),
        (Renamed(content="x"), ValueError, "type of its own"),
    ],
    ids=lambda given: type(given).__name__,
)
def test_what_is_not_a_standard_message_is_refused(
    message: Any, error: type[Exception], reason: str
) -> None:
    with pytest.raises(error, match=rf"^messages\[0\] .*{reason}"):
        encoded(message)


def assigned(message: BaseMessage, **fields: Any) -> BaseMessage:
    """LangChain does not check what is assigned to a message after its construction."""
    for name, value in fields.items():
        setattr(message, name, value)
    return message


@pytest.mark.parametrize(
    "message",
    [
        assigned(HumanMessage("x"), content=5),
        assigned(HumanMessage("x"), content=[5]),
        assigned(HumanMessage("x"), type="own"),
        assigned(HumanMessage("x"), type='","x":"'),
        assigned(HumanMessage("x"), type="ai"),
        assigned(HumanMessage("x"), additional_kwargs=None),
        assigned(HumanMessage("x"), name=5),
        assigned(AIMessage("x"), tool_calls=[5]),
        assigned(AIMessage("x"), tool_calls=None),
        assigned(AIMessage("x"), invalid_tool_calls=[5]),
        assigned(AIMessage("x"), tool_calls=[{"name": "f", "args": "text", "id": "1"}]),
        pytest.param(AIMessage("x", response_metadata={"n": 10**5000}), id="huge number"),
        assigned(AIMessage("x"), usage_metadata={}),
        assigned(
            AIMessage("x"),
            usage_metadata={"input_tokens": True, "output_tokens": 1, "total_tokens": 1},
        ),
        assigned(AIMessage("x"), usage_metadata={"input_tokens": 1}),
        assigned(
            AIMessage("x"),
            usage_metadata={"input_tokens": "1", "output_tokens": 1, "total_tokens": 1},
        ),
        assigned(
            AIMessage("x"),
            additional_kwargs={
                "tool_calls": [{"function": {"name": "f", "arguments": "{}"}, "id": "1"}]
            },
        ),
        assigned(ToolMessage("x", tool_call_id="1"), status="lost"),
        assigned(ToolMessage("x", tool_call_id="1"), tool_call_id=1),
        assigned(ToolMessage("x", tool_call_id="1"), content=[1, {}]),
        assigned(AIMessageChunk(content="x"), content=5),
        assigned(AIMessageChunk(content="x"), tool_calls=[5]),
    ],
    ids=lambda message: repr(message)[:60],
)
def test_a_message_whose_fields_were_spoiled_is_refused(message: BaseMessage) -> None:
    """One such element would make the session unreadable, or come back as something else."""
    with pytest.raises(ValueError, match=r"messages\[0\]"):
        encoded(message)


def test_a_call_that_was_added_later_is_kept() -> None:
    """LangChain adds the call's type on the way back; nothing that was written is lost."""
    message = AIMessage("")
    message.tool_calls.append({"name": "f", "args": {"a": 1}, "id": "1"})
    back = codec.decode(encoded(message))
    assert isinstance(back, AIMessage)
    (call,) = back.tool_calls
    assert call == {"name": "f", "args": {"a": 1}, "id": "1", "type": "tool_call"}


BROKEN: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "it is not JSON"),
    "truncated": (b'{"type": "human", "data": {"content": "a secr', "it is not JSON"),
    "not UTF-8": (b'{"type": "human", "data": {"content": "\xc3', "it is not JSON"),
    "deep": (b'{"a":' + b"[" * 100_000, "it is not JSON"),
    "a list": (b'["a secret"]', "it is a JSON list and not an object"),
    "a number": (b"7", "it is a JSON int and not an object"),
    "no type": (b'{"data": {"content": "a secret"}}', "it needs a text 'type'"),
    "no data": (b'{"type": "human", "data": "a secret"}', "an object 'data'"),
    "unknown type": (b'{"type": "robot", "data": {"content": "a secret"}}', "its type is 'robot'"),
    "removal": (b'{"type": "remove", "data": {"content": "", "id": "1"}}', "RemoveMessage"),
    "no content": (b'{"type": "ai", "data": {}}', "(content: missing)"),
    "wrong content": (b'{"type": "ai", "data": {"content": {"a": "secret"}}}', "content: "),
    "wrong calls": (
        b'{"type": "ai", "data": {"content": "", "tool_calls": ["a secret"]}}',
        "AttributeError",
    ),
    "wrong call": (
        b'{"type": "ai", "data": {"content": "", "tool_calls": [{"a secret": 1}]}}',
        "TypeError",
    ),
    "no call id": (b'{"type": "tool", "data": {"content": "a secret"}}', "KeyError"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_element_is_a_value_error_that_says_why(name: str) -> None:
    """The text and the chain say what is wrong, and keep the content to themselves."""
    element, reason = BROKEN[name]
    with pytest.raises(ValueError) as raised:  # noqa: PT011
        codec.decode(element)
    assert reason in str(raised.value)
    assert "secr" not in "".join(traceback.format_exception(raised.value))
    assert codec.appended_at(element) is None


def test_the_id_tells_when_it_was_appended() -> None:
    """The time of the append is in the element's id, to the millisecond."""
    before = time.time()
    element = codec.encode([HumanMessage("x")], codec.new_append_id())[0]
    at = codec.appended_at(element)
    assert at is not None
    assert at.tzinfo is datetime.UTC
    assert before - 0.002 <= at.timestamp() <= time.time() + 0.002
    assert codec.appended_at(element.decode()) == at


@pytest.mark.parametrize(
    "id_",
    [None, 7, "x", "33cc6d19-55e1-4f0c-b53d-3271aeda4764", "ffffffff-ffff-7fff-bfff-ffffffffffff"],
)
def test_an_element_without_a_time_has_none(id_: Any) -> None:
    """Other ids, and times no calendar has, are no error."""
    assert codec.appended_at(json.dumps({"id": id_, "type": "human", "data": {}})) is None


def test_ids_are_unique_and_rise() -> None:
    ids = [codec.new_append_id() for _ in range(10_000)]
    assert len(set(ids)) == len(ids)
    assert ids == sorted(ids)
    assert all(uuid.UUID(id_).version == 7 for id_ in ids)
