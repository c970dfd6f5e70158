"""Messages to bytes and back.

A stored element is one line of JSON::

    {"id": "<unique per append>", "type": "human", "data": {...}}

``type`` and ``data`` are what LangChain's ``message_to_dict`` gives, so
langchain-google-memorystore-redis reads what is written here, and the other way round. ``id`` is
the same for all elements of one append. It is a UUIDv7 (RFC 9562), so it also tells when.
"""

import json
import logging
import marshal
import re
import sys
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
from pydantic_core import from_json, to_json, to_jsonable_python

from memorystore_chat.arguments import type_name

_logger = logging.getLogger(__name__)

LARGEST = 512 * 1024 * 1024
"""Bytes of the largest element that a server takes unless it was set up otherwise."""

MAX_DEPTH = 190
"""Deepest nesting of lists and dicts in a field; pydantic's JSON parser stops at 200."""

_STANDARD: dict[type[BaseMessage], str] = {
    HumanMessage: "human",
    AIMessage: "ai",
    SystemMessage: "system",
    ToolMessage: "tool",
    FunctionMessage: "function",
    ChatMessage: "chat",
}
_CLASSES = {name: kind for kind, name in _STANDARD.items()}
_ADAPTERS: dict[type[BaseMessage], TypeAdapter[Any]] = {
    kind: TypeAdapter(kind) for kind in _STANDARD
}
_PLAIN: dict[type[BaseMessage], Any] = {
    HumanMessage: {"type": "human", "additional_kwargs": {}}.items(),
    AIMessage: {
        "type": "ai",
        "additional_kwargs": {},
        "tool_calls": [],
        "invalid_tool_calls": [],
    }.items(),
}
_CHUNK_ONLY = frozenset({"type", "tool_call_chunks", "chunk_position"})
_UNSENT = frozenset({"artifact", "response_metadata"})  # the program's own: no model is sent them
_TEXT: frozenset[type] = frozenset({str, type(None)})
_INT: frozenset[type] = frozenset({int})
_ATOMS = _TEXT | {int, bool}
_COUNTS = frozenset({"input_tokens", "output_tokens", "total_tokens"})
_SPLIT_CHARACTER = re.compile("[\ud800-\udbff][\udc00-\udfff]")
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
# LangChain's own checks raise all of these, ValidationError among them.
_NO_MESSAGE = (ValueError, TypeError, LookupError, AttributeError)


def new_append_id() -> str:
    """Make an id for one append: a UUIDv7, 36 characters, which carries the time."""
    return str(uuid7())


def aside_key(key: str) -> bytes:
    r"""Return the key of the list that takes the broken elements of a session.

    It is no text in UTF-8, so it is the key of no session and of no thread; its ``{...}`` puts it
    into the session's hash slot, unless the session's key has a brace of its own.

    Example:
        >>> aside_key("ada")
        b'ada\xff{ada}'
    """
    return b"%b\xff{%b}" % (key.encode(), key.encode())


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
        >>> encode([HumanMessage("hi")], "1")[0].startswith(b'{"id":"1","type":"human","data":{')
        True
    """
    start = b'{"id":%b,"type":"' % to_json(append_id)
    elements = []
    for index, message in enumerate(messages):
        whole, kind = _whole(message, index)
        data = _data(whole, kind, index)
        element = b"".join((start, _STANDARD[kind].encode(), b'","data":', data, b"}"))
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
    record = _record(element)
    kind, data = record.get("type"), record.get("data")
    if not isinstance(kind, str) or not isinstance(data, dict):
        raise ValueError("it needs a text 'type' and an object 'data'")
    if kind == "remove":
        raise ValueError("it is a RemoveMessage, an instruction and not a part of a conversation")
    try:
        if kind in _CLASSES:
            return _message(_CLASSES[kind], data)
        # Other packages store the chunk that a stream ended in as it is.
        return message_chunk_to_message(messages_from_dict([{"type": kind, "data": data}])[0])
    except _NO_MESSAGE as error:
        why = _why(error) if kind in _CLASSES else f"its type is {kind[:40]!r}, {_why(error)}"
        # The error itself may show what was stored, so it is not passed on.
        raise ValueError(f"LangChain cannot make a message of it ({why})") from None


def appended_at(element: bytes | str) -> datetime | None:
    """Tell when an element was appended, by the clock of the program that did it (UTC, ms).

    Returns:
        The time in the element's id, or None if it has none, as in elements written by
        langchain-google-memorystore-redis, or if the element is broken.

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
    """Return the id of the append that wrote an element, if it is a UUIDv7.

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


def _message(kind: type[BaseMessage], data: dict[str, Any]) -> BaseMessage:
    # What every constructor ends in; LangChain's constructors around it cost as much again.
    validator = _ADAPTERS[kind].validator
    message: BaseMessage = validator.validate_python(data, self_instance=kind.__new__(kind))
    return message


def _why(error: Exception) -> str:
    """What is wrong with the fields, without what is in them."""
    if not isinstance(error, ValidationError):
        return type(error).__name__
    details = error.errors(include_url=False, include_context=False, include_input=False)
    places = [f"{[*detail['loc'], 'message'][0]}: {detail['type']}" for detail in details]
    return ", ".join(dict.fromkeys(places))


def _whole(message: BaseMessage, index: int) -> tuple[BaseMessage, type[BaseMessage]]:
    """The message to store, whole if a stream handed over a chunk, and its standard class."""
    kind = type(message)
    if kind in _STANDARD:
        return message, kind
    name = kind.__name__
    if not isinstance(message, BaseMessage):
        raise TypeError(
            f"messages[{index}] is a {name}, not a LangChain message. "
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
            f"messages[{index}] is a {name}, which LangChain could not read back. "
            f"Store one of {', '.join(known.__name__ for known in _STANDARD)}."
        )
    is_chunk = isinstance(message, BaseMessageChunk)
    own = kind.model_fields.keys() - standard.model_fields - (_CHUNK_ONLY if is_chunk else set())
    if not is_chunk and message.type != _STANDARD[standard]:
        own.add("type")
    if own:
        raise ValueError(
            f"messages[{index}] is a {name} with {', '.join(sorted(own))} of its own, which would "
            f"be read back as a {standard.__name__}. Put them in additional_kwargs of a "
            f"{standard.__name__}."
        )
    if not is_chunk:
        return message, standard
    fields = {k: v for k, v in message.__dict__.items() if k not in _CHUNK_ONLY}
    try:
        return standard(**fields, **(message.model_extra or {})), standard
    except _NO_MESSAGE as error:
        raise ValueError(
            f"messages[{index}] cannot be made a whole {standard.__name__} ({_why(error)})"
        ) from None


def _data(message: BaseMessage, kind: type[BaseMessage], index: int) -> bytes:
    """The JSON of a message's fields, of which LangChain makes the message again."""
    try:
        text = _ADAPTERS[kind].serializer.to_json(message, warnings=False)
        if _is_plain(message):
            return text
        # Read one level deeper, as it will stand in its element.
        back = _message(kind, from_json(b"[%b]" % text)[0])
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
    if plain is None or not fields.items() >= plain or message.__pydantic_extra__:
        return False
    metadata, usage = fields["response_metadata"], fields.get("usage_metadata")
    return (
        type(fields["content"]) is str
        and type(fields["name"]) in _TEXT
        and type(fields["id"]) in _TEXT
        and (not metadata or _is_flat(metadata, _ATOMS))
        and (usage is None or (_is_flat(usage, _INT) and usage.keys() == _COUNTS))
    )


def _is_flat(value: object, kinds: frozenset[type]) -> bool:
    """Whether it is a dict of such values; an int has no more digits than Python reads."""
    return type(value) is dict and all(
        type(key) is str and type(v) in kinds and (type(v) is not int or v.bit_length() < 64)
        for key, v in value.items()
    )


def _odd_data(message: BaseMessage, kind: type[BaseMessage], index: int) -> bytes:
    """`_data` of a message with something out of the ordinary; says what cannot be stored."""
    try:
        sent = message.model_dump(warnings=False, exclude=set(_UNSENT))
    except ValueError as error:
        raise ValueError(f"messages[{index}] cannot be serialized: {error}") from error
    for name, value in sent.items():
        _refuse(value, f"messages[{index}].{name}")
    left_out: list[str] = []
    for name in _UNSENT & message.__dict__.keys():
        value = message.__dict__[name]
        try:
            _refuse(value, name)
            sent[name] = value
        except ValueError:
            sent[name] = _form(value, name, left_out)
    fields = {**message.__dict__, **sent}
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
        _logger.warning(
            "A message (%s, name %r) is stored without %s, which has no JSON form. No model is "
            "sent it; what your program needs of it, make text, a number, a list or a dict.",
            message.type,
            message.name,
            ", ".join(dict.fromkeys(left_out)),
        )
    return text.encode()


def _tree(text: str) -> Any:
    """Parsed JSON in which NaN equals itself."""
    return json.loads(text, parse_constant=str)


def _holds(back: Any, written: Any) -> bool:
    """Whether nothing of ``written`` is lost or changed; LangChain may add defaults in dicts."""
    if type(back) is not type(written):
        return False
    if isinstance(written, dict):
        return all(key in back and _holds(back[key], value) for key, value in written.items())
    if isinstance(written, list):
        return len(back) == len(written) and all(map(_holds, back, written))
    return bool(back == written)


def _refuse(value: object, place: str, depth: int = MAX_DEPTH) -> None:
    """Raise a ValueError that names the first place in a value that JSON cannot hold."""
    why, inner = "", list[tuple[str, Any]]()
    if isinstance(value, str):
        if _SPLIT_CHARACTER.search(value):
            why = "has a character in two surrogate halves, which JSON would join to one"
    elif isinstance(value, dict):
        odd = [key for key in value if not (key is None or isinstance(key, str | int | float))]
        keys = [key if isinstance(key, str) else json.dumps(key) for key in value if not odd]
        if odd:
            why = f"has a {type_name(odd[0])} as key, which JSON cannot hold"
        elif len({*keys}) < len(keys):
            why = "has two keys that JSON writes alike"
        inner = [(f"a key of {place}", key) for key in keys]
        inner += [(f"{place}[{key!r}]", item) for key, item in value.items()]
    elif isinstance(value, list | tuple):
        inner = [(f"{place}[{position}]", item) for position, item in enumerate(value)]
    elif not (value is None or isinstance(value, int | float)):
        why = (
            f"is a {type_name(value)}, which JSON cannot hold, so nothing was stored. Make it "
            "text, a number, a list or a dict first"
        )
    if inner and depth == 0:
        why = f"is nested more than {MAX_DEPTH} levels deep"
    if why:
        raise ValueError(f"{place[:80]} {why}.")
    for there, item in inner:
        _refuse(item, there, depth - 1)


def _form(value: object, name: str, left_out: list[str]) -> Any:
    """A value in pydantic's JSON form; what has none becomes None and is noted.

    Bytes become base64, and numpy's scalars their values. Of keys that become one, the last stays.
    """

    def fallback(found: object) -> Any:
        numpy = sys.modules.get("numpy")
        if numpy is not None and isinstance(found, numpy.generic):
            item = found.item()
            if not isinstance(item, numpy.generic):
                return to_jsonable_python(item)
        left_out.append(f"{name} (a {type_name(found)} in it)")
        return None

    try:
        form = to_jsonable_python(
            value, bytes_mode="base64", inf_nan_mode="constants", fallback=fallback
        )
        _refuse(form, name)
    except (ValueError, TypeError, RecursionError):
        left_out.append(f"{name} (a {type_name(value)})")
        return {} if isinstance(value, dict) else None
    return form
