"""Messages to bytes and back.

A stored element is one line of JSON::

    {"id": "<unique per append>", "type": "human", "data": {...}}

``type`` and ``data`` are what LangChain's ``message_to_dict`` gives, so
langchain-google-memorystore-redis reads what is written here, and the other way round. ``id`` is
the same for all elements of one append. It is a UUIDv7 (RFC 9562), so it also tells when.
"""

import json
import logging
from collections.abc import Iterable
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
    message_chunk_to_message,
    messages_from_dict,
)
from langchain_core.utils.uuid import uuid7
from pydantic import TypeAdapter, ValidationError
from pydantic_core import from_json, to_json

from memorystore_chat.arguments import type_name
from memorystore_chat.values import json_form, refuse

_logger = logging.getLogger(__name__)

LARGEST = 512 * 1024 * 1024
"""Bytes of the largest element that a server takes unless it was set up otherwise."""

_STANDARD: dict[type[BaseMessage], str] = {
    HumanMessage: "human",
    AIMessage: "ai",
    SystemMessage: "system",
    ToolMessage: "tool",
    FunctionMessage: "function",
    ChatMessage: "chat",
}
_NOTHING_ELSE: dict[str, Any] = {"additional_kwargs": {}}
_USUAL = {
    HumanMessage: {"type": "human", **_NOTHING_ELSE}.items(),
    SystemMessage: {"type": "system", **_NOTHING_ELSE}.items(),
    AIMessage: {"type": "ai", "tool_calls": [], "invalid_tool_calls": [], **_NOTHING_ELSE}.items(),
}
"""Fields of messages without tool calls."""
_CLASSES = {name: kind for kind, name in _STANDARD.items()}
_ADAPTERS: dict[type[BaseMessage], TypeAdapter[Any]] = {
    kind: TypeAdapter(kind) for kind in _STANDARD
}
_CHUNK_ONLY = frozenset({"type", "tool_call_chunks", "chunk_position"})
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_TEXT = frozenset({str, type(None)})
_ATOMS = _TEXT | {bool}
_COUNTS = frozenset({"input_tokens", "output_tokens", "total_tokens"})
_UNSENT = frozenset({"artifact", "response_metadata"})
"""Fields that are the program's own: no model is sent them."""


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
        element = b"".join((start, name, b'","data":', _data(whole, kind, index), b"}"))
        if len(element) > LARGEST:
            raise ValueError(
                f"messages[{index}] takes {len(element) / 2**20:,.0f} MB, and a server takes at "
                f"most {LARGEST / 2**20:,.0f} MB. Keep large files elsewhere, such as in Cloud "
                "Storage, and their addresses in the message."
            )
        elements.append(element)
    return elements


def decode(element: bytes | str) -> BaseMessage:
    """Read one stored element.

    Raises:
        ValueError: The element is not a stored message; the text says why, without its content.

    Example:
        >>> decode('{"type": "human", "data": {"content": "hi", "type": "human"}}').content
        'hi'
    """
    return _decoded(_record(element))


def _decoded(record: dict[str, Any]) -> BaseMessage:
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
        # Other packages store the chunk that a stream ended in as it is.
        return message_chunk_to_message(messages_from_dict([{"type": kind, "data": data}])[0])
    # What every constructor ends in; LangChain's constructors around it cost as much again.
    message: BaseMessage = _ADAPTERS[standard].validator.validate_python(
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
    """The JSON of a message's fields, of which LangChain makes the message again."""
    try:
        text = _ADAPTERS[kind].serializer.to_json(message, warnings=False)
        if _is_plain(message) or _reads_back(text, message, kind):
            return text
    except ValueError:
        pass  # no JSON for pydantic: a lone surrogate, or a value that _odd_data refuses
    return _odd_data(message, kind, index)


def _is_plain(message: BaseMessage) -> bool:
    """Whether a glance tells that it reads back: a text, with texts and counts beside it."""
    fields, usual = message.__dict__, _USUAL.get(type(message))
    if usual is None or not fields.items() >= usual:
        return False
    metadata, usage = fields["response_metadata"], fields.get("usage_metadata")
    return (
        type(fields["content"]) is str
        and type(fields["name"]) in _TEXT
        and type(fields["id"]) in _TEXT
        and type(metadata) is dict
        and set(map(type, metadata)) <= {str}
        and all(type(value) in _ATOMS or _is_count(value) for value in metadata.values())
        and (usage is None or _is_usage(usage))
        and not message.__pydantic_extra__
    )


def _is_usage(value: object) -> bool:
    return type(value) is dict and value.keys() == _COUNTS and all(map(_is_count, value.values()))


def _is_count(value: object) -> bool:
    """Whether it is an int, and no longer than Python reads one."""
    return type(value) is int and value.bit_length() < 64


def _reads_back(text: bytes, message: BaseMessage, kind: type[BaseMessage]) -> bool:
    """Whether the text gives the fields again: no bytes, dates, NaN, tuples, odd assignments."""
    # Read one level deeper, as it will stand in its element.
    [data] = from_json(b"[%b]" % text)
    back = _decoded({"type": _STANDARD[kind], "data": data})
    return (back.__dict__, back.__pydantic_extra__) == (
        message.__dict__,
        message.__pydantic_extra__,
    )


def _odd_data(message: BaseMessage, kind: type[BaseMessage], index: int) -> bytes:
    """`_data` of a message with something out of the ordinary; says what cannot be stored."""
    try:
        strict = message.model_dump(warnings=False, exclude=set(_UNSENT))
    except ValueError as error:
        raise ValueError(f"messages[{index}] cannot be serialized: {error}") from error
    for name, value in strict.items():
        refuse(value, f"messages[{index}].{name}")
    fields = {**message.__dict__, **strict}
    left_out: list[str] = []
    for name in _UNSENT & fields.keys():
        fields[name] = json_form(
            fields[name],
            name,
            lambda place, value: left_out.append(f"{place} (a {type_name(value)})"),
        )
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
    if left_out:
        _warn_of(message, left_out)
    return text.encode()


def _warn_of(message: BaseMessage, left_out: list[str]) -> None:
    what = f"tool {message.name!r}" if isinstance(message, ToolMessage) else message.type
    more = f" and {len(left_out) - 3} more" if len(left_out) > 3 else ""
    _logger.warning(
        "A message (%s) is stored without %s%s, which has no JSON form. No model is sent it; what "
        "your program needs of it, make text, a number, a list or a dict.",
        what,
        ", ".join(left_out[:3]),
        more,
    )


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
