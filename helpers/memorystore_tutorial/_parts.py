"""What a message holds, piece by piece, the same for HTML and for plain text."""

import base64
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Any

from langchain_core.messages import AIMessage, BaseMessage, RemoveMessage

from memorystore_tutorial._text import line

_IMAGE_LIMIT = 200_000  # bytes of one image
_JSON_PIECES = 5_000  # words and signs of an argument; more than is ever shown
_BASE64_URL = re.compile(r"data:([\w.+-]+/[\w.+-]+)?[^,]*;base64,", re.ASCII | re.IGNORECASE)

_IMAGE = re.compile(
    rb"(?P<png>\x89PNG\r\n\x1a\n)|(?P<jpeg>\xff\xd8\xff)|(?P<gif>GIF8[79]a)"
    rb"|(?P<webp>RIFF.{4}WEBP)",
    re.DOTALL,
)

_MEDIA = {
    "image": "Image",
    "image_url": "Image",
    "input_image": "Image",
    "audio": "Audio",
    "input_audio": "Audio",
    "video": "Video",
    "file": "File",
    "input_file": "File",
    "document": "File",
    "media": "File",
}
# How providers repeat, inside the content, the calls that `tool_calls` holds already.
_CALL_BLOCKS = {"tool_use", "tool_call", "tool_call_chunk", "function_call", "input_json_delta"}

# How models end an answer that is whole; any other reason is shown.
_WHOLE = {
    "stop", "end_turn", "stop_sequence", "tool_use", "tool_calls", "function_call", "completed",
    "finish_reason_unspecified",
}  # fmt: skip


@dataclass(frozen=True)
class Part:
    """One piece of a message.

    Attributes:
        text: What it says.
        label: What it is, if the text does not say so itself.
        image: A data URI of a checked image.
        folded: Whether the text is for those who look.
    """

    text: str = ""
    label: str = ""
    image: str = ""
    folded: bool = False


def parts(message: BaseMessage) -> Iterator[Part]:
    """The pieces of a message in order, and how it ended if not as usual; at least one."""
    said = None
    for said in _said(message):
        yield said
    ending = _ending(message)
    if said is None:
        yield Part(label=f"empty, {ending}" if ending else "empty")
    elif ending:
        yield Part(label=ending)


def summary(message: BaseMessage) -> str:
    """A message in a few words, on one line."""
    first = next(parts(message))
    return line(first.text if first.text and not first.folded else first.label, 60)


def _said(message: BaseMessage) -> Iterator[Part]:
    calls = message.tool_calls if isinstance(message, AIMessage) else []
    invalid = message.invalid_tool_calls if isinstance(message, AIMessage) else []
    content = [message.content] if isinstance(message.content, str) else message.content
    for block in content:
        if isinstance(block, str):
            if block:
                yield Part(block)
        elif not (_type(block) in _CALL_BLOCKS and (calls or invalid)):
            yield _block(block)
    yield from _beside(message.additional_kwargs, called=bool(calls or invalid))
    for call in calls:
        yield Part(_json(call["args"]), f"Tool call: {line(call['name'])}", folded=True)
    for bad in invalid:
        arguments = f"{bad['args'] or ''}\n{bad['error'] or ''}".strip() or "no arguments"
        name = line(bad["name"] or "without a name")
        yield Part(arguments, f"Invalid tool call: {name}", folded=True)
    if isinstance(message, RemoveMessage):
        yield Part(label=f"removes message {line(str(message.id))}")


def _beside(fields: Mapping[str, Any], *, called: bool) -> Iterator[Part]:
    """What OpenAI's interface, and those made after it, keep beside the content."""
    if isinstance(text := fields.get("reasoning_content"), str) and text:
        yield Part(text, "Reasoning", folded=True)
    if isinstance(text := fields.get("refusal"), str) and text:
        yield Part(text, "Refusal")
    if isinstance(audio := fields.get("audio"), dict):
        yield _media("audio", audio)
    if isinstance(call := fields.get("function_call"), dict) and not called:
        arguments = call.get("arguments")
        text = arguments if isinstance(arguments, str) else _json(arguments)
        yield Part(text or "{}", f"Function call: {line(str(call.get('name')))}", folded=True)


def _ending(message: BaseMessage) -> str:
    """Why an answer ended, if it was cut off or held back."""
    told = message.response_metadata
    inner = [told.get("prompt_feedback"), told.get("incomplete_details")]  # Gemini's, OpenAI's
    nested = [each for each in inner if isinstance(each, dict)]
    for fields in (*nested, told):
        for key in ("block_reason", "reason", "finish_reason", "stop_reason", "done_reason"):
            reason = fields.get(key)
            if isinstance(reason, str | int) and reason and str(reason).lower() not in _WHOLE:
                return f"{key.replace('_', ' ')}: {line(str(reason))}"
    return "blocked" if told.get("is_blocked") is True else ""


def _type(block: dict[str, Any]) -> str:
    kind = block.get("type")
    return kind if isinstance(kind, str) and kind else "no type"


def _block(block: dict[str, Any]) -> Part:
    kind = _type(block)
    if isinstance(text := block.get("text"), str):
        return Part(text) if text else Part(label="empty")
    if kind in {"reasoning", "thinking"}:
        text = block.get(kind)
        text = text if isinstance(text, str) and text else _json(block)
        return Part(text, "Reasoning", folded=True)
    if isinstance(refusal := block.get("refusal"), str) and refusal:
        return Part(refusal, "Refusal")
    if kind in _MEDIA:
        return _media(kind, block)
    return Part(_json(block), f"Block: {line(kind)}", folded=True)


def _media(kind: str, block: dict[str, Any]) -> Part:
    """An image is shown if its bytes are here and are an image; all else is named."""
    name = _MEDIA[kind]
    fields = dict(block)
    for key in (kind, "source", "extras"):  # where OpenAI, Anthropic and LangChain nest them
        if isinstance(inner := block.get(key), dict):
            fields.update(inner)
    url = fields.get("url") or fields.get(kind)
    data = fields.get("base64") or fields.get("data") or fields.get("file_data")
    mime = fields.get("mime_type") or fields.get("media_type") or fields.get("format")
    for value in (url, data):
        if isinstance(value, str) and (match := _BASE64_URL.match(value)):
            url, mime, data = None, match[1] or mime, value[match.end() :]
            break
    if name == "File" and isinstance(mime, str):
        name = _MEDIA.get(mime.split("/")[0], name)
    label = [name, *(v for v in (fields.get("filename"), mime) if isinstance(v, str))]
    if isinstance(url, str):
        return Part(label=line(f"{', '.join(label)}, not loaded: {url}"))
    image = ""
    if isinstance(data, str | bytes):
        size = len(data) if isinstance(data, bytes) else len(data.rstrip("=")) * 3 // 4
        label.append(f"{size:,} bytes")
        if name == "Image" and size > _IMAGE_LIMIT:
            label.append("too large to show here")
        elif name == "Image":
            image = _image(data)
            label += [] if image else ["not shown: no PNG, JPEG, GIF or WebP data"]
    spoken = fields.get("transcript")
    text = spoken if isinstance(spoken, str) else ""
    return Part(text, line(", ".join(label)), image)


def _image(data: str | bytes) -> str:
    """A data URI built anew from bytes that begin like an image, or nothing.

    SVG is left out: it is a document that can hold scripts and addresses.
    """
    try:
        raw = data if isinstance(data, bytes) else base64.b64decode(data, validate=True)
    except ValueError:
        return ""
    match = _IMAGE.match(raw)
    return f"data:image/{match.lastgroup};base64,{base64.b64encode(raw).decode()}" if match else ""


def _json(value: object) -> str:
    """Arguments for reading: on one line if short, else indented; of huge ones the beginning."""
    try:
        one, indented = (_written(value, indent) for indent in (None, 2))
    except (TypeError, ValueError, RecursionError):
        return f"{type(value).__name__} that cannot be written as JSON"
    return one if len(one) <= 60 else indented


def _written(value: object, indent: int | None) -> str:
    encoder = json.JSONEncoder(ensure_ascii=False, default=_named, indent=indent)
    return "".join(islice(encoder.iterencode(value), _JSON_PIECES))


def _named(value: object) -> str | list[str]:
    """What JSON cannot hold, the same in every run: no order of a set, no memory address."""
    if isinstance(value, set | frozenset):
        return sorted(map(str, value))
    if type(value).__repr__ is object.__repr__:
        return f"<{type(value).__name__}>"
    return repr(value)
