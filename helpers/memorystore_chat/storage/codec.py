"""Messages to bytes and back.

A stored element is one line of JSON::

    {"id": "<unique per append>", "type": "human", "data": {...}}

``type`` and ``data`` are what LangChain's ``message_to_dict`` gives, so
langchain-google-memorystore-redis reads what is written here, and the other way round. ``id`` is
the same for all elements of one append. It is a UUIDv7 (RFC 9562), so it also tells when.
"""

import json
import math
import re
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

from langchain_core.messages import (
    AIMessage,
    BaseMessage,
    BaseMessageChunk,
    ChatMessage,
    FunctionMessage,
    HumanMessage,
    RemoveMessage,
    SystemMessage,
    ToolMessage,
    messages_from_dict,
)
from langchain_core.utils.uuid import uuid7
from pydantic_core import PydanticSerializationError, ValidationError, from_json, to_json

MAX_DEPTH = 100
"""Deepest nesting of lists and dicts in a message; the JSON parsers on the way back stop at 200."""

_STANDARD: dict[type[BaseMessage], str] = {
    HumanMessage: "human",
    AIMessage: "ai",
    SystemMessage: "system",
    ToolMessage: "tool",
    FunctionMessage: "function",
    ChatMessage: "chat",
}
_CLASSES = {name: kind for kind, name in _STANDARD.items()}
_ATOMS = frozenset({str, bool, type(None)})
_CHUNK_ONLY = frozenset({"type", "tool_call_chunks", "chunk_position"})
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_CALL_KEYS = frozenset({"name", "args", "id", "type"})
_COUNTS = frozenset({"input_tokens", "output_tokens", "total_tokens"})
_SPLIT_CHARACTER = re.compile("[\ud800-\udbff][\udc00-\udfff]")


def new_append_id() -> str:
    """A fresh id for one append: a UUIDv7, 36 characters, which carries the time."""
    return str(uuid7())


def encode(messages: Iterable[BaseMessage], append_id: str) -> list[bytes]:
    """Serialize the messages of one append.

    Args:
        messages: Messages of LangChain's standard types. A message chunk is stored as the message
            it is a chunk of, and a message of a subclass without fields of its own as its
            standard class. As in LangChain's own serialization tuples become lists, keys become
            strings, pydantic objects and dataclasses become dicts. NaN and the infinities are
            kept: they are written as ``json.dumps`` writes them, which Python's parsers read.
        append_id: Unique per append, the same for all its elements.

    Returns:
        One element per message.

    Raises:
        TypeError: Something is not a LangChain message.
        ValueError: A message holds a value JSON cannot, or would not be read back as it is. The
            text names the place, without its content.

    Example:
        >>> from langchain_core.messages import HumanMessage
        >>> encode([HumanMessage("hi")], "1")[0].startswith(b'{"id":"1","type":"human","data":{')
        True
    """
    start = b'{"id":%b,"type":"' % to_json(append_id)
    elements = []
    for index, message in enumerate(messages):
        whole, kind = _whole(message, index)
        name = _STANDARD[kind].encode()
        elements.append(b"".join((start, name, b'","data":', _data(whole, kind, index), b"}")))
    return elements


def decode(element: bytes | str) -> BaseMessage:
    """Read one stored element.

    Raises:
        ValueError: The element is not a stored message; the text says why, without its content.

    Example:
        >>> decode('{"type": "human", "data": {"content": "hi", "type": "human"}}').content
        'hi'
    """
    record = _record(element)
    kind, data = record.get("type"), record.get("data")
    if not isinstance(kind, str) or not isinstance(data, dict):
        raise ValueError("it needs a text 'type' and an object 'data'")
    if kind == "remove":
        raise ValueError("it is a RemoveMessage, an instruction and not a part of a conversation")
    try:
        return _message(kind, data)
    except ValidationError as error:
        # The error itself shows what was stored, so it is not passed on.
        raise ValueError(f"LangChain cannot make a message of it ({_places(error)})") from None
    except (ValueError, TypeError, LookupError, AttributeError) as error:
        # LangChain's own checks raise all of these; their texts may show what was stored.
        reason = type(error).__name__ if kind in _CLASSES else f"its type is {kind[:40]!r}"
        raise ValueError(f"LangChain cannot make a message of it ({reason})") from None


def appended_at(element: bytes | str) -> datetime | None:
    """When the element was appended, by the clock of the program that did it (UTC, milliseconds).

    Returns:
        The time in the element's id, or None where it has none, as in elements written by
        langchain-google-memorystore-redis, or where the element is broken.

    Example:
        >>> element = b'{"id":"01932c07-2080-7000-8000-000000000000","type":"human","data":{}}'
        >>> appended_at(element).isoformat()
        '2024-11-14T18:54:44.864000+00:00'
    """
    uuid = id_of_append(element)
    try:
        # RFC 9562, section 5.7: the first 48 bits are milliseconds since 1970.
        return None if uuid is None else _EPOCH + timedelta(milliseconds=uuid.int >> 80)
    except OverflowError:
        return None


def id_of_append(element: bytes | str) -> UUID | None:
    """The id of the append that wrote an element, if it is a UUIDv7.

    Ids that one program makes one after the other grow, also within a millisecond.

    Example:
        >>> element = b'{"id":"01932c07-2080-7000-8000-000000000000","type":"human","data":{}}'
        >>> id_of_append(element).version
        7
    """
    try:
        uuid = UUID(_record(element).get("id"))
    except (ValueError, TypeError, AttributeError):
        return None
    return uuid if uuid.version == 7 else None


def without_orphans(messages: Sequence[BaseMessage]) -> list[BaseMessage]:
    """The longest tail in which every tool result follows the call it answers.

    Models refuse a result without its call, which is what a cut through a tool exchange leaves.

    Example:
        >>> from langchain_core.messages import HumanMessage, ToolMessage
        >>> tail = without_orphans([ToolMessage("7", tool_call_id="a"), HumanMessage("thanks")])
        >>> [message.type for message in tail]
        ['human']
    """
    start, calls = 0, set[tuple[type, str | None]]()
    for index, message in enumerate(messages):
        if isinstance(message, AIMessage):
            calls |= {(ToolMessage, call["id"]) for call in message.tool_calls}
            calls |= {(ToolMessage, call["id"]) for call in message.invalid_tool_calls}
            function = message.additional_kwargs.get("function_call")
            if isinstance(function, dict) and isinstance(function.get("name"), str):
                calls.add((FunctionMessage, function["name"]))
        elif isinstance(message, ToolMessage | FunctionMessage):
            answered: tuple[type, str | None] = (
                (ToolMessage, message.tool_call_id)
                if isinstance(message, ToolMessage)
                else (FunctionMessage, message.name)
            )
            if answered not in calls:
                start = index + 1
                calls.clear()
    return list(messages[start:])


def _record(element: bytes | str) -> dict[str, Any]:
    try:
        record = from_json(element)
    except ValueError:
        # Python's own parser also takes lone surrogates, which json.dumps writes as escapes.
        try:
            record = json.loads(element)
        except (ValueError, RecursionError) as error:
            raise ValueError(f"it is not JSON ({error})") from error
    if not isinstance(record, dict):
        raise ValueError(f"it is a JSON {type(record).__name__} and not an object")
    return record


def _message(kind: str, data: dict[str, Any]) -> BaseMessage:
    standard = _CLASSES.get(kind)
    if standard is None:
        return messages_from_dict([{"type": kind, "data": data}])[0]
    # What every constructor ends in; LangChain's constructors around it cost as much again.
    message: BaseMessage = standard.__pydantic_validator__.validate_python(
        data, self_instance=standard.__new__(standard)
    )
    return message


def _places(error: ValidationError) -> str:
    """Where the fields are wrong, without what is in them."""
    details = error.errors(include_url=False, include_context=False, include_input=False)
    places = [f"{[*detail['loc'], 'message'][0]}: {detail['type']}" for detail in details]
    return ", ".join(dict.fromkeys(places))


def _whole(message: BaseMessage, index: int) -> tuple[BaseMessage, type[BaseMessage]]:
    """The message to store, whole where a stream handed over a chunk, and its standard class."""
    kind = type(message)
    if kind in _STANDARD:
        return message, kind
    if not isinstance(message, BaseMessage):
        raise TypeError(
            f"messages[{index}] is a {kind.__name__}, not a LangChain message. "
            "Wrap text in HumanMessage(...) or AIMessage(...)."
        )
    if isinstance(message, RemoveMessage):
        raise ValueError(
            f"messages[{index}] is a RemoveMessage: it tells LangGraph to drop a message and is "
            "not a part of a conversation. Use clear() to empty the session."
        )
    standard = next((base for base in _STANDARD if isinstance(message, base)), None)
    if standard is None:
        raise ValueError(
            f"messages[{index}] is a {kind.__name__}, which LangChain could not read back. "
            f"Store one of {', '.join(known.__name__ for known in _STANDARD)}."
        )
    is_chunk = isinstance(message, BaseMessageChunk)
    known = set(standard.model_fields) | (_CHUNK_ONLY if is_chunk else set())
    if not is_chunk and message.type != _STANDARD[standard]:
        known.discard("type")
    if own := sorted(kind.model_fields.keys() - known):
        raise ValueError(
            f"messages[{index}] is a {kind.__name__} with {', '.join(own)} of its own, which would "
            f"be read back as a {standard.__name__}. Put them in additional_kwargs of a "
            f"{standard.__name__}."
        )
    if not is_chunk:
        return message, standard
    fields = {k: v for k, v in message.__dict__.items() if k not in _CHUNK_ONLY}
    try:
        return standard(**fields, **(message.model_extra or {})), standard
    except ValidationError as error:
        raise ValueError(
            f"messages[{index}] cannot be made a whole {standard.__name__} ({_places(error)})"
        ) from None
    except (ValueError, TypeError, LookupError, AttributeError) as error:
        raise ValueError(
            f"messages[{index}] cannot be made a whole {standard.__name__} "
            f"(a {type(error).__name__} in LangChain)"
        ) from None


def _data(message: BaseMessage, kind: type[BaseMessage], index: int) -> bytes:
    """The JSON of a message's fields."""
    if _is_usual(message):
        try:
            return kind.__pydantic_serializer__.to_json(message)
        except PydanticSerializationError:
            pass  # a lone surrogate: text that UTF-8 cannot hold, but a JSON escape can
    try:
        fields = message.model_dump(warnings=False)
    except ValueError as error:
        raise ValueError(f"messages[{index}] cannot be serialized: {error}") from error
    for name, value in fields.items():
        _refuse(value, f"messages[{index}].{name}", MAX_DEPTH)
    try:
        text = json.dumps(fields, separators=(",", ":"))
        back = decode(f'{{"type":"{_STANDARD[kind]}","data":{text}}}')
    except ValueError as error:
        raise ValueError(f"messages[{index}] could not be read back: {error}") from error
    if not _holds(_tree(json.dumps(back.model_dump(warnings=False))), _tree(text)):
        raise ValueError(
            f"messages[{index}] would be read back as another {kind.__name__}: a field was given "
            "a value that its class changes. Build the message anew from its fields."
        )
    return text.encode()


def _is_usual(message: BaseMessage) -> bool:
    """Whether pydantic's fast serializer writes just what LangChain will read.

    It would write bytes and dates as text and NaN as null, and a field that was assigned a value
    of the wrong type could not be read back, so anything out of the ordinary says no here.
    """
    kind, fields = type(message), message.__dict__
    if message.model_extra or fields["type"] != _STANDARD.get(kind):
        return False
    content, name, id_ = fields["content"], fields["name"], fields["id"]
    kwargs, metadata = fields["additional_kwargs"], fields["response_metadata"]
    if not (
        (name is None or type(name) is str)
        and (id_ is None or type(id_) is str)
        and type(kwargs) is dict
        and type(metadata) is dict
    ):
        return False
    loose: list[Any] = [held for held in (kwargs, metadata) if held]
    if type(content) is not str:
        if not _is_list_of_blocks(content):
            return False
        loose.append(content)
    if kind is AIMessage:
        calls = fields["tool_calls"]
        if not (
            (calls == [] or (type(calls) is list and all(map(_is_usual_call, calls))))
            and fields["invalid_tool_calls"] == []
            and _is_usual_usage(fields["usage_metadata"])
        ):
            return False
        if calls:
            loose += [call["args"] for call in calls]
        elif "tool_calls" in kwargs:
            return False  # LangChain reads calls out of it where there are no others
    elif kind is ToolMessage:
        if type(fields["tool_call_id"]) is not str or fields["status"] not in ("success", "error"):
            return False
        loose.append(fields["artifact"])
    elif kind is not HumanMessage and kind is not SystemMessage:
        return False
    return not loose or _is_plain(loose, MAX_DEPTH)


def _is_list_of_blocks(content: object) -> bool:
    return type(content) is list and all(type(block) in (str, dict) for block in content)


def _is_usual_call(call: object) -> bool:
    return (
        type(call) is dict
        and call.keys() == _CALL_KEYS
        and type(call["name"]) is str
        and type(call["args"]) is dict
        and (call["id"] is None or type(call["id"]) is str)
        and call["type"] == "tool_call"
    )


def _is_usual_usage(usage: object) -> bool:
    if type(usage) is not dict:
        return usage is None
    counts = 0
    for name, value in usage.items():
        if name in _COUNTS:
            counts += 1
            if type(value) is not int:
                return False
        elif type(value) is dict:
            for detail, count in value.items():
                if type(detail) is not str or type(count) is not int:
                    return False
        else:
            return False
    return counts == len(_COUNTS)


def _is_plain(values: Iterable[Any], depth: int) -> bool:
    for value in values:
        kind = type(value)
        if kind in _ATOMS:
            continue
        if kind is int:
            if not -(2**63) <= value < 2**63:
                return False
        elif kind is float:
            if not math.isfinite(value):
                return False
        elif depth == 0:
            return False
        elif kind is dict:
            for key in value:
                if type(key) is not str:
                    return False
            if not _is_plain(value.values(), depth - 1):
                return False
        elif kind is list:
            if value and not _is_plain(value, depth - 1):
                return False
        else:
            return False
    return True


def _refuse(value: object, place: str, depth: int) -> None:
    """Raise a ValueError that names the first place JSON cannot hold."""
    if isinstance(value, str):
        if _SPLIT_CHARACTER.search(value):
            raise ValueError(
                f"{place} has a character in two surrogate halves, which JSON would join to one"
            )
        return
    if value is None or isinstance(value, int | float):
        return
    if not isinstance(value, dict | list | tuple):
        raise ValueError(
            f"{place} is a {type(value).__name__}, which JSON cannot hold, so nothing was stored. "
            "Make it text, a number, a list or a dict first."
        )
    if depth == 0:
        raise ValueError(f"{place[:60]}... is nested more than {MAX_DEPTH} levels deep")
    if not isinstance(value, dict):
        for position, item in enumerate(value):
            _refuse(item, f"{place}[{position}]", depth - 1)
        return
    texts = set()
    for key, item in value.items():
        if not (key is None or isinstance(key, str | int | float)):
            raise ValueError(f"{place} has a {type(key).__name__} as key, which JSON cannot hold")
        text = key if isinstance(key, str) else json.dumps(key)
        if text in texts:
            raise ValueError(f"{place} has two keys that JSON writes as {text!r}")
        texts.add(text)
        _refuse(text, f"a key of {place}", depth)
        _refuse(item, f"{place}[{key!r}]", depth - 1)


def _tree(text: str) -> Any:
    """Parsed JSON in which NaN equals itself."""
    return json.loads(text, parse_constant=str)


def _holds(back: Any, written: Any) -> bool:
    """Whether nothing of ``written`` is lost or changed; LangChain may add defaults in dicts."""
    if isinstance(written, dict):
        return isinstance(back, dict) and all(
            key in back and _holds(back[key], value) for key, value in written.items()
        )
    if isinstance(written, list):
        return (
            isinstance(back, list) and len(back) == len(written) and all(map(_holds, back, written))
        )
    return bool(back == written)
