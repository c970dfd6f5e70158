"""Messages to bytes and back.

A stored element is one line of JSON::

    {"id": "<unique per append>", "type": "human", "data": {...}}

``type`` and ``data`` are what LangChain's ``message_to_dict`` gives, so
langchain-google-memorystore-redis reads what is written here, and the other way round. ``id``, a
UUIDv7 (RFC 9562), is the same for all elements of one append, and tells when that was.
"""

import json
import logging
import marshal
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from langchain_core.messages import (
    AIMessage,
    BaseMessage,
    ChatMessage,
    FunctionMessage,
    HumanMessage,
    SystemMessage,
    ToolMessage,
    message_chunk_to_message,
    messages_from_dict,
)
from langchain_core.utils.uuid import uuid7
from pydantic import TypeAdapter, ValidationError
from pydantic_core import from_json, to_json, to_jsonable_python

from memorystore_chat.arguments import type_name

_logger = logging.getLogger(__name__)

_STANDARD: dict[type[BaseMessage], str] = {
    HumanMessage: "human",
    AIMessage: "ai",
    SystemMessage: "system",
    ToolMessage: "tool",
    FunctionMessage: "function",
    ChatMessage: "chat",
}
_CLASSES = {name: kind for kind, name in _STANDARD.items()}
_ADAPTERS = {kind: TypeAdapter(kind) for kind in _STANDARD}
_PLAIN: dict[type, dict[str, Any]] = {
    HumanMessage: {"type": "human", "additional_kwargs": {}},
    AIMessage: {"type": "ai", "additional_kwargs": {}, "tool_calls": [], "invalid_tool_calls": []},
}
_DEPTH = 190  # at which lists and dicts may be nested; pydantic's JSON parser stops at 200
_COUNTS = frozenset({"input_tokens", "output_tokens", "total_tokens"})
_UNSENT = frozenset({"artifact", "response_metadata"})  # the program's own: no model is sent them
_LOST = object()
# LangChain's own checks raise all of these, ValidationError among them.
_NO_MESSAGE = (ValueError, TypeError, LookupError, AttributeError)


def new_append_id() -> str:
    """Make an id for one append: a UUIDv7, 36 characters, which carries the time."""
    return str(uuid7())


def aside_key(key: str) -> bytes:
    """Return the key of the list that takes the broken elements of a session.

    It is no text in UTF-8, so it is the key of no session and of no thread; its ``{...}`` puts it
    into the session's hash slot, unless the session's key has a brace of its own.
    """
    return b"%b\xff{%b}" % (key.encode(), key.encode())


def encode(messages: Iterable[BaseMessage], append_id: str) -> list[bytes]:
    """Serialize the messages of one append, one element each.

    Args:
        messages: Messages of LangChain's standard types; a chunk is stored as a whole message, one
            of a subclass as its standard class. Tuples become lists, keys strings, and pydantic
            objects dicts, as in LangChain's own serialization. NaN and the infinities are kept.
        append_id: Unique per append, the same for all its elements.

    Raises:
        TypeError: Something is not a LangChain message.
        ValueError: A message holds a value JSON cannot, or would not be read back as it is. The
            text names the place, without its content.

    Example:
        >>> encode([HumanMessage("hi")], "1")[0].startswith(b'{"id":"1","type":"human","data":{')
        True
    """
    start = b'{"id":%b,"type":"' % to_json(append_id)
    elements = []
    for index, message in enumerate(messages):
        whole, kind = _whole(message, index)
        data = _data(whole, kind, index)
        elements.append(b"".join((start, _STANDARD[kind].encode(), b'","data":', data, b"}")))
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
    try:
        if kind in _CLASSES:
            return _message(_CLASSES[kind], data)
        # Other packages store the chunk that a stream ended in as it is.
        other = message_chunk_to_message(messages_from_dict([{"type": kind, "data": data}])[0])
    except _NO_MESSAGE as error:
        why = f"LangChain cannot make a message of type {kind[:40]!r} of it ({_why(error)})"
        raise ValueError(why) from None  # the error itself may show what was stored
    if type(other) not in _STANDARD:
        raise ValueError(f"its type is {kind[:40]!r}, which is no part of a conversation")
    return other


def appended_at(element: bytes | str) -> datetime | None:
    """Tell when an element was appended, by the clock of the program that did it (UTC, ms).

    It is None if the element's id does not say so, as in elements that
    langchain-google-memorystore-redis wrote, and in broken ones.
    """
    uuid = id_of_append(element)
    try:
        return datetime.fromtimestamp((uuid.int >> 80) / 1000, UTC) if uuid else None
    except (ValueError, OverflowError):
        return None


def id_of_append(element: bytes | str) -> UUID | None:
    """Return the id of the append that wrote an element, if it is a UUIDv7.

    Ids that one program makes one after the other grow, also within a millisecond.
    """
    try:
        uuid = UUID(_record(element).get("id"))
    except (ValueError, TypeError, AttributeError):
        return None
    return uuid if uuid.version == 7 else None


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


def _message(kind: type[BaseMessage], data: dict[str, Any]) -> BaseMessage:
    # What every constructor ends in; LangChain's constructors around it cost as much again.
    validator = _ADAPTERS[kind].validator
    message: BaseMessage = validator.validate_python(data, self_instance=kind.__new__(kind))
    return message


def _why(error: Exception) -> str:
    """What is wrong with the fields, without what is in them."""
    if not isinstance(error, ValidationError):
        return type(error).__name__
    places = [f"{[*found['loc'], 'message'][0]}: {found['type']}" for found in error.errors()]
    return ", ".join(dict.fromkeys(places))


def _whole(message: BaseMessage, index: int) -> tuple[BaseMessage, type[BaseMessage]]:
    """The message to store, whole if a stream handed over a chunk, and its standard class."""
    if type(message) in _STANDARD:
        return message, type(message)
    if not isinstance(message, BaseMessage):
        why = "not a LangChain message. Wrap text in HumanMessage(...) or AIMessage(...)."
        raise TypeError(f"messages[{index}] is a {type_name(message)}, {why}")
    try:
        message = message_chunk_to_message(message)
    except _NO_MESSAGE as error:
        raise ValueError(f"messages[{index}] makes no whole message ({_why(error)})") from None
    kind = next((base for base in _STANDARD if isinstance(message, base)), None)
    if kind is None:
        known = ", ".join(each.__name__ for each in _STANDARD)
        raise ValueError(f"messages[{index}] is a {type_name(message)}; it takes one of {known}.")
    return message, kind


def _data(message: BaseMessage, kind: type[BaseMessage], index: int) -> bytes:
    """The JSON of a message's fields, of which LangChain makes the message again."""
    try:
        text = _ADAPTERS[kind].serializer.to_json(message, warnings=False)
        if _is_plain(message):
            return text
        back = _message(kind, from_json(text))
        if _exactly(back) == _exactly(message):
            return text
    except _NO_MESSAGE:
        pass  # no JSON for pydantic: a lone surrogate, or a value that is refused below
    return _odd_data(message, kind, index)


def _exactly(message: BaseMessage) -> bytes:
    """The fields in a form that tells True from 1 and a tuple from a list; plain data only."""
    return marshal.dumps((message.__dict__, message.__pydantic_extra__), 0)


def _is_plain(message: BaseMessage) -> bool:
    """Whether a glance tells that it reads back: a text, with texts and counts beside it."""
    fields, plain = message.__dict__, _PLAIN.get(type(message))
    if plain is None or not fields.items() >= plain.items() or message.__pydantic_extra__:
        return False
    metadata, usage = fields["response_metadata"], fields.get("usage_metadata")
    names = [name for name in (fields["name"], fields["id"]) if name is not None]
    texts = (fields["content"], *names, *metadata, *metadata.values())
    return all(type(text) is str for text in texts) and (
        usage is None
        or (usage.keys() == _COUNTS and all(type(n) is int and n < 2**60 for n in usage.values()))
    )


def _odd_data(message: BaseMessage, kind: type[BaseMessage], index: int) -> bytes:
    """`_data` of a message with something out of the ordinary; says what cannot be stored."""
    place = f"messages[{index}]"
    left_out: list[str] = []
    try:
        fields = message.model_dump(warnings=False, exclude=set(_UNSENT))
        for name in message.__dict__.keys() & _UNSENT:
            fields[name] = _form(message.__dict__[name], name, left_out)
        text = _json(fields)
        back = decode(f'{{"type":"{_STANDARD[kind]}","data":{text}}}').model_dump(warnings=False)
        changes = (_changed(fields[name], back.get(name), f"{place}.{name}") for name in fields)
        why = next(filter(None, changes), "")
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{place} could not be read back: {error}") from error
    if why:
        raise ValueError(why)
    if left_out:
        _logger.warning(
            "A message (%s, name %r) is stored without %s, which has no JSON form.",
            message.type,
            message.name,
            ", ".join(dict.fromkeys(left_out)),
        )
    return text.encode()


def _json(value: Any) -> str:
    """Write JSON; what it cannot hold is left out or null, which `_changed` finds."""
    return json.dumps(value, separators=(",", ":"), skipkeys=True, default=lambda _: None)


def _changed(value: Any, back: Any, place: str, depth: int = _DEPTH) -> str:
    """Say where a value was read back as another, and why; LangChain may add keys to dicts."""
    inner: list[tuple[Any, Any, str]] = []
    if isinstance(value, dict) and isinstance(back, dict):
        for key, item in value.items():
            name = key if isinstance(key, str) else json.dumps(key, default=type_name)
            inner.append((item, back.get(name, _LOST), f"{place}[{key!r}]"))
    elif isinstance(value, list | tuple) and isinstance(back, list) and len(back) == len(value):
        inner = [(*pair, f"{place}[{at}]") for at, pair in enumerate(zip(value, back, strict=True))]
    elif not isinstance(value, str | int | float | dict | list | tuple | None):
        return (
            f"{place[:80]} is a {type_name(value)}, which JSON cannot hold, so nothing was "
            "stored. Make it text, a number, a list or a dict first."
        )
    elif (
        not isinstance(value, type(back))
        or isinstance(value, bool) != isinstance(back, bool)
        or (value != back and value == value)  # NaN differs from itself
    ):
        return f"{place[:80]} would be read back as something else. Build the message anew."
    if inner and depth == 0:
        return f"{place[:80]} is nested more than {_DEPTH} levels deep."
    return next(filter(None, (_changed(*each, depth - 1) for each in inner)), "")


def _form(value: Any, name: str, left_out: list[str]) -> Any:
    """A value as it is, or in pydantic's JSON form; what has none becomes None and is noted."""

    def fallback(found: Any) -> Any:
        if getattr(found, "shape", None) == ():  # numpy's scalars
            return found.item()
        left_out.append(f"{name} (a {type_name(found)} in it)")
        return None

    try:
        if not _changed(value, json.loads(_json(value)), name):
            return value
        return to_jsonable_python(
            value, bytes_mode="base64", inf_nan_mode="constants", fallback=fallback
        )
    except (ValueError, TypeError, RecursionError):
        left_out.append(f"{name} (a {type_name(value)})")
        return {} if isinstance(value, dict) else None
