"""Conversations for readers: `transcript`, as safe HTML in a notebook and plain text elsewhere.

What a message holds comes from users, models and tools, so all of it is escaped, nothing is
loaded from anywhere, and characters that reorder or hide text are written as their code points.
The HTML reads in light and dark themes; without its inline styles it is paragraphs that begin
with their role in bold.
"""

import base64
import json
import re
from collections.abc import Iterable, Iterator
from html import escape
from typing import Any, NamedTuple

from langchain_core.messages import AIMessage, BaseMessage, ChatMessage, RemoveMessage, ToolMessage

from memorystore_chat.arguments import type_name
from memorystore_tutorial.text import NO_MATH, columns_of, line, visible, wrapped

_MESSAGES, _PARTS = 200, 20  # shown of a conversation (the newest), and of a message
_SHOWN, _SHOWN_TOOL, _SHOWN_LINES = 1_000, 300, 24  # of a text at once; the rest is folded away
_FOLDED = 4_000  # characters that unfold; what is beyond is counted
_IMAGE_LIMIT = 200_000  # bytes
_WIDTH = 88  # columns of plain text
_IMAGE = re.compile(
    rb"(?P<png>\x89PNG\r\n\x1a\n)|(?P<jpeg>\xff\xd8\xff)|(?P<gif>GIF8[79]a)"
    rb"|(?P<webp>RIFF.{4}WEBP)",
    re.DOTALL,
)
# How providers repeat, inside the content, the calls that `tool_calls` holds already.
_CALL_BLOCKS = {"tool_use", "tool_call", "tool_call_chunk", "function_call", "input_json_delta"}
# How models end an answer that is whole; any other reason is shown.
_WHOLE = {"", "stop", "end_turn", "stop_sequence", "tool_use", "tool_calls", "function_call"}
_WHOLE |= {"completed", "finish_reason_unspecified"}

_ROLES = {each.lower(): each for each in ["Human", "AI", "System", "Tool", "Function", "Remove"]}
# Role -> its bubble. Translucent, so that the page's own color shows through in either theme.
_LEFT = "border-radius:.2em .9em .9em;"
_BUBBLES = {
    "Human": "align-self:flex-end;border-radius:.9em .2em .9em .9em;"
    "background:rgba(66,133,244,.16)",
    "AI": f"{_LEFT}background:rgba(128,128,128,.14)",
    "System": f"{_LEFT}border:1px dashed rgba(128,128,128,.7)",
}
_OTHER_BUBBLE = f"{_LEFT}border:1px solid rgba(128,128,128,.5)"
_BUBBLE = "margin:.25em 0;padding:.4em .8em .5em;max-width:85%"
# Items of a column shrink to what they hold, in viewers too that allow no width:fit-content.
_COLUMN = "display:flex;flex-direction:column;align-items:flex-start"
_PRE = (
    "margin:.3em 0;padding:0;background:none;color:inherit;white-space:pre-wrap;"
    "font-size:.92em;line-height:1.4"
)


class Part(NamedTuple):
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


class Transcript:
    """A conversation that shows itself as HTML or plain text. Made by `transcript`."""

    def __init__(self, messages: Iterable[BaseMessage], *, title: str = "") -> None:
        self._title = line(title)
        self._entries: list[tuple[str, str, list[Part]]] = []
        tools: dict[str | None, str] = {}
        for message in messages:
            if isinstance(message, AIMessage):
                tools |= {call["id"]: call["name"] for call in message.tool_calls}
            name = message.name or ""
            if isinstance(message, ToolMessage):
                name = name or tools.get(message.tool_call_id, "")
                name += " failed" * (message.status == "error")
            self._entries.append((_role(message), line(name.strip()), parts(message)))

    def __str__(self) -> str:
        shown = self._entries[-_MESSAGES:]
        indent = min(max((columns_of(role) for role, _, _ in shown), default=0), 20) + 2
        lines = [self._title, ""] if self._title else []
        lines += [*self._omitted(), *(_plain(*entry, indent) for entry in shown)]
        return "\n".join(lines if shown else [*lines, "No messages yet."])

    __repr__ = __str__

    def _repr_html_(self) -> str:
        caption = escape(self._title or "Conversation")
        title = f"<div><b>{caption}</b></div>" if self._title else ""
        if not self._entries:
            return f"<div {NO_MATH}>{title}<i>No messages yet.</i></div>"
        items = "".join(_html(*entry) for entry in self._entries[-_MESSAGES:])
        note = "".join(f"<div><i>{line}</i></div>" for line in self._omitted())
        return (
            f'<div {NO_MATH} role="group" aria-label="{caption}" style="max-width:48em;'
            f'line-height:1.5;white-space:pre-wrap;overflow-wrap:anywhere">{title}{note}'
            f'<div role="list" style="{_COLUMN}">{items}</div></div>'
        )

    def _omitted(self) -> list[str]:
        hidden = len(self._entries) - _MESSAGES
        return [f"{hidden:,} earlier messages are not shown."] if hidden > 0 else []


def transcript(messages: Iterable[BaseMessage], *, title: str | None = None) -> Transcript:
    """Show a conversation: bubbles in a notebook, aligned text in a terminal.

    All content is escaped. Tool calls, reasoning and long texts are folded; the newest 200 messages
    are shown, and of a text the first 5,000 characters. Images are shown when they are PNG, JPEG,
    GIF or WebP data of at most 200 kB inside the message; an address is never loaded, only named.

    Args:
        messages: LangChain messages, oldest first, such as ``message_history.messages``.
        title: A heading above the conversation.

    Returns:
        An object that shows itself; `print` and `str` give the plain text.

    Raises:
        TypeError: ``messages`` is not a list of LangChain messages, or ``title`` not a string.

    Example:
        >>> from langchain_core.messages import AIMessage, HumanMessage
        >>> transcript([HumanMessage("I am Ada."), AIMessage("Nice to meet you, Ada.")])
        Human  I am Ada.
        AI     Nice to meet you, Ada.
    """
    # A message and a str can be iterated too, into things that are not messages.
    if isinstance(messages, BaseMessage | str | bytes) or not isinstance(messages, Iterable):
        raise TypeError(
            "transcript() takes a list of LangChain messages, such as history.messages, "
            f"not a {type_name(messages)}"
        )
    messages = list(messages)
    for index, message in enumerate(messages):
        if not isinstance(message, BaseMessage):
            given = f"element {index} is a {type_name(message)}"
            raise TypeError(f"transcript() takes LangChain messages; {given}")
    if not isinstance(title, str | None):
        raise TypeError(f"title must be a string or None, not a {type_name(title)}")
    return Transcript(messages, title=title or "")


def parts(message: BaseMessage) -> list[Part]:
    """Return the pieces of a message in order, and how it ended if not as usual; at least one."""
    found = [*_parts(message)]
    if len(found) > _PARTS:
        found = [*found[:_PARTS], Part(label="more parts are not shown")]
    ending = _ending(message.response_metadata)
    if not found:
        return [Part(label=f"empty, {ending}" if ending else "empty")]
    return [*found, Part(label=ending)] if ending else found


def summary(message: BaseMessage) -> str:
    """Return a message in a few words, on one line."""
    first = parts(message)[0]
    return line(first.text if first.text and not first.folded else first.label, 60)


def _parts(message: BaseMessage) -> Iterator[Part]:
    try:
        blocks: list[Any] = list(message.content_blocks)
    except (AttributeError, KeyError, TypeError, ValueError):  # malformed for its provider
        blocks = [{"type": "text", "text": str(message.content)}]
    invalid = message.invalid_tool_calls if isinstance(message, AIMessage) else []
    called = isinstance(message, AIMessage) and (message.tool_calls or invalid)
    for block in blocks:
        value = block.get("value", block) if block.get("type") == "non_standard" else block
        kind = str(value.get("type") or "no type")
        if kind == "tool_call":
            name = line(str(value.get("name")))
            yield Part(_json(value.get("args")), f"Tool call: {name}", folded=True)
        elif kind in _CALL_BLOCKS and called:
            continue
        elif isinstance(text := value.get("text"), str):
            yield Part(text) if text else Part(label="empty")
        elif isinstance(text := value.get("reasoning", value.get("thinking")), str):
            yield Part(text, "Reasoning", folded=True)
        elif kind in ("image", "audio", "video", "file"):
            yield _media(kind.title(), value)
        else:
            yield Part(_json(value), f"Block: {line(kind)}", folded=True)
    for bad in invalid:
        arguments = f"{bad['args'] or ''}\n{bad['error'] or ''}".strip() or "no arguments"
        name = line(bad["name"] or "without a name")
        yield Part(arguments, f"Invalid tool call: {name}", folded=True)
    if isinstance(refusal := message.additional_kwargs.get("refusal"), str) and refusal:
        yield Part(refusal, "Refusal")
    if isinstance(message, RemoveMessage):
        yield Part(label=f"removes message {line(str(message.id))}")


def _ending(told: dict[str, Any]) -> str:
    """Say why an answer ended, if it was cut off or held back."""
    inner = told.get("prompt_feedback"), told.get("incomplete_details")  # Gemini's, OpenAI's
    for fields in (*(each for each in inner if isinstance(each, dict)), told):
        for key in ("block_reason", "reason", "finish_reason", "stop_reason", "done_reason"):
            reason = fields.get(key)
            if isinstance(reason, str | int) and str(reason).lower() not in _WHOLE:
                return f"{key.replace('_', ' ')}: {line(str(reason))}"
    return ""


def _media(name: str, block: dict[str, Any]) -> Part:
    """Show an image if its bytes are here and are an image; name all else."""
    extras = block.get("extras")
    named = (extras if isinstance(extras, dict) else {}).get("filename"), block.get("mime_type")
    label = [name, *(each for each in named if isinstance(each, str))]
    if isinstance(url := block.get("url"), str):
        return Part(label=line(f"{', '.join(label)}, not loaded: {url}"))
    image = ""
    if isinstance(data := block.get("base64"), str):
        size = len(data.rstrip("=")) * 3 // 4
        label.append(f"{size:,} bytes")
        if name == "Image" and size > _IMAGE_LIMIT:
            label.append("too large to show here")
        elif name == "Image":
            image = _image(data)
            label += [] if image else ["not shown: no PNG, JPEG, GIF or WebP data"]
    return Part(label=line(", ".join(label)), image=image)


def _image(data: str) -> str:
    """Build a data URI anew from bytes that begin like an image, or return nothing.

    SVG is left out: it is a document that can hold scripts and addresses.
    """
    try:
        raw = base64.b64decode(data, validate=True)
    except ValueError:
        return ""
    match = _IMAGE.match(raw)
    return f"data:image/{match.lastgroup};base64,{base64.b64encode(raw).decode()}" if match else ""


def _json(value: object) -> str:
    """Write arguments for reading: on one line if short, else indented."""

    def named(other: object) -> object:
        # The same in every run: no order of a set, no memory address.
        return sorted(map(str, other)) if isinstance(other, set) else f"<{type(other).__name__}>"

    try:
        one = json.dumps(value, ensure_ascii=False, default=named)
        return (
            one
            if len(one) <= 60
            else json.dumps(value, ensure_ascii=False, default=named, indent=2)
        )
    except (TypeError, ValueError, RecursionError):
        return f"{type(value).__name__} that cannot be written as JSON"


def _role(message: BaseMessage) -> str:
    if isinstance(message, ChatMessage):
        return line(message.role, 40) or "Chat"
    name = message.type.removesuffix("MessageChunk")  # a streamed one's type is its class
    return _ROLES.get(name.lower()) or line(name, 40) or "Message"


def _head(text: str, limit: int) -> str:
    """Return the beginning of a text that is shown at once."""
    head = "\n".join(text[:limit].split("\n", _SHOWN_LINES)[:_SHOWN_LINES])
    space = head.rfind(" ", limit - 40)  # not in the middle of a word, where words are short
    return head[:space] if len(text) > limit and space > 0 else head


def _html(role: str, name: str, pieces: list[Part]) -> str:
    limit = _SHOWN_TOOL if role == "Tool" else _SHOWN
    # The space parts the role from the text if both are on one line, without styles.
    heading = (
        f'<span style="display:block;font-size:.85em">'
        f"<b>{escape(f'{role} {name}'.rstrip())}</b> </span>"
    )
    shown = (_part_html(piece, limit, heading * (n == 0)) for n, piece in enumerate(pieces))
    bubble = f"{_BUBBLES.get(role, _OTHER_BUBBLE)};{_BUBBLE}"
    return f'<div role="listitem" style="{bubble}">{"".join(shown)}</div>'


def _part_html(part: Part, limit: int, heading: str) -> str:
    label = escape(part.label)
    if part.folded:
        start = f'<p style="margin:0">{heading}</p>' if heading else ""
        body = f'<pre style="{_PRE}">{_lines_html(part.text)}</pre>'
        return start + _details(label, body, part.text)
    head = _head(part.text, limit)
    inner = heading
    if part.image:
        style = "max-width:16em;max-height:12em;border-radius:.4em"
        inner += f'<img src="{part.image}" alt="{label}" style="{style}">'
    elif label:
        inner += f"<i>{label}{' ' if part.text else ''}</i>"
    if part.text:
        inner += f'<span dir="auto" style="display:block">{_lines_html(head)}</span>'
    html = f'<p style="margin:0">{inner}</p>'
    if rest := part.text[len(head) :]:
        more = f"{len(rest):,} more of {len(part.text):,} characters"
        html += _details(more, f'<div dir="auto">{_lines_html(rest)}</div>', rest)
    return html


def _details(title: str, body: str, text: str) -> str:
    hidden = len(text) - _FOLDED
    note = f"<i>{hidden:,} more characters are not shown.</i>" if hidden > 0 else ""
    return f'<details><summary style="cursor:pointer">{title}</summary>{body}{note}</details>'


def _lines_html(text: str) -> str:
    """Escape a text; line breaks are elements, so that they stay where styles are dropped."""
    return escape(visible(text[:_FOLDED])).replace("\n", "<br>")


def _plain(role: str, name: str, pieces: list[Part], indent: int) -> str:
    """Write the role, and the text wrapped beside it, so that no text can pose as a role."""
    texts = []
    for part in pieces:
        head = _head(part.text, _SHOWN_TOOL if part.folded or role == "Tool" else _SHOWN)
        hidden = len(part.text) - len(head)
        more = f"\n[{hidden:,} more characters]" if hidden else ""
        label = f"[{part.label}] " if part.label else ""
        texts.append(f"{label}{visible(head)}{more}".rstrip(" "))
    text = f"[{name}] " * bool(name) + "\n".join(texts)
    rows = [f"{'':{indent}}{row}".rstrip() for row in wrapped(text, _WIDTH - indent).split("\n")]
    gap = indent - columns_of(role)
    if gap < 2:
        return "\n".join([role, *rows])
    return "\n".join([f"{role}{'':{gap}}{rows[0][indent:]}".rstrip(), *rows[1:]])
