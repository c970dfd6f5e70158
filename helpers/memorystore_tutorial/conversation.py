"""Conversations for readers: `transcript`, as safe HTML in a notebook and plain text elsewhere.

What a message holds comes from users, models and tools, so all of it is escaped, nothing is
loaded from anywhere, and characters that reorder or hide text are written as their code points.
Pictures and files are named and not shown. The HTML reads in light and dark themes; without its
inline styles it is paragraphs that begin with their role in bold.
"""

import json
from collections.abc import Iterable
from html import escape
from typing import Any, NamedTuple

from langchain_core.messages import AIMessage, BaseMessage, ToolMessage

from memorystore_chat.arguments import type_name
from memorystore_tutorial.text import NO_MATH, columns_of, line, visible, wrapped

_MESSAGES = 200  # shown of a conversation, the newest
_SHOWN = 1_000  # characters of a text
_WIDTH = 88  # columns of plain text

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
_PRE = "margin:.3em 0;padding:0;background:none;color:inherit;white-space:pre-wrap;"
_PRE += "font-size:.92em;line-height:1.4"


class Part(NamedTuple):
    """One piece of a message: its text, what it is, and whether it is for those who look."""

    text: str = ""
    label: str = ""
    folded: bool = False


class Transcript:
    """A conversation that shows itself as HTML or plain text. Made by `transcript`."""

    def __init__(self, messages: list[BaseMessage]) -> None:
        calls = [call for m in messages if isinstance(m, AIMessage) for call in m.tool_calls]
        tools = {call["id"]: call["name"] for call in calls}
        hidden = max(0, len(messages) - _MESSAGES)
        self._note = f"{hidden:,} earlier messages are not shown." if hidden else ""
        self._entries: list[tuple[str, str, list[Part]]] = []
        for message in messages[hidden:]:
            name = message.name or ""
            if isinstance(message, ToolMessage):
                name = name or tools.get(message.tool_call_id, "")
                name += " failed" * (message.status == "error")
            self._entries.append((_role(message), line(name.strip()), parts(message)))

    def __str__(self) -> str:
        indent = max((columns_of(role) for role, _, _ in self._entries), default=0) + 2
        rows = [_plain(*entry, indent) for entry in self._entries] or ["No messages yet."]
        return "\n".join([self._note, *rows]).lstrip("\n")

    __repr__ = __str__

    def _repr_html_(self) -> str:
        if not self._entries:
            return f"<div {NO_MATH}><i>No messages yet.</i></div>"
        items = "".join(_html(*entry) for entry in self._entries)
        note = f"<div><i>{self._note}</i></div>" if self._note else ""
        return (
            f'<div {NO_MATH} role="group" aria-label="Conversation" style="max-width:48em;'
            f'line-height:1.5;white-space:pre-wrap;overflow-wrap:anywhere">{note}'
            f'<div role="list" style="{_COLUMN}">{items}</div></div>'
        )


def transcript(messages: Iterable[BaseMessage]) -> Transcript:
    """Show a conversation: bubbles in a notebook, aligned text in a terminal.

    All content is escaped. Tool calls and reasoning are folded; the newest 200 messages are shown,
    and of a text the first 1,000 characters. An address is never loaded, only named.

    Args:
        messages: LangChain messages, oldest first, such as ``message_history.messages``.

    Returns:
        An object that shows itself; `print` and `str` give the plain text.

    Raises:
        TypeError: ``messages`` is not a list of LangChain messages.

    Example:
        >>> from langchain_core.messages import AIMessage, HumanMessage
        >>> transcript([HumanMessage("I am Ada."), AIMessage("Nice to meet you, Ada.")])
        Human  I am Ada.
        AI     Nice to meet you, Ada.
    """
    listed = list(messages)
    # A message can be iterated too, into things that are not messages.
    if isinstance(messages, BaseMessage) or not all(isinstance(m, BaseMessage) for m in listed):
        raise TypeError(
            "transcript() takes a list of LangChain messages, such as history.messages, "
            f"not this {type_name(messages)}."
        )
    return Transcript(listed)


def parts(message: BaseMessage) -> list[Part]:
    """Return the pieces of a message in order, each as long as it is shown; at least one."""
    try:
        blocks: list[Any] = list(message.content_blocks)
    except (AttributeError, KeyError, TypeError, ValueError):  # malformed for its provider
        blocks = [{"type": "text", "text": str(message.content)}]
    found = [_part(block) for block in blocks] or [Part(label="empty")]
    return [each._replace(text=_cut(each.text)) for each in found]


def summary(message: BaseMessage) -> str:
    """Return a message in a few words, on one line."""
    first = parts(message)[0]
    return line(first.text if first.text and not first.folded else first.label, 60)


def _part(block: dict[str, Any]) -> Part:
    value = block.get("value", block) if block.get("type") == "non_standard" else block
    kind = str(value.get("type") or "no type")
    if kind == "tool_call":
        return Part(_json(value.get("args")), f"Tool call: {line(str(value.get('name')))}", True)
    if isinstance(text := value.get("text"), str):
        return Part(text, "" if text else "empty")
    if isinstance(text := value.get("reasoning"), str):
        return Part(text, "Reasoning", True)
    if kind in ("image", "audio", "video", "file"):
        named = [value.get("mime_type"), value.get("url")]
        return Part(label=line(", ".join([kind.title(), *map(str, filter(None, named))])))
    return Part(_json(value), f"Block: {line(kind)}", True)


def _json(value: object) -> str:
    """Write arguments for reading: on one line if short, else indented."""
    short = len(one := json.dumps(value, ensure_ascii=False, default=str)) <= 60
    return one if short else json.dumps(value, ensure_ascii=False, default=str, indent=2)


def _cut(text: str) -> str:
    more = f"\n[{len(text) - _SHOWN:,} more characters]" if len(text) > _SHOWN else ""
    return visible(text[:_SHOWN]) + more


def _role(message: BaseMessage) -> str:
    # A streamed message's type is its class.
    name = getattr(message, "role", "") or message.type.removesuffix("MessageChunk")
    known = {"human": "Human", "ai": "AI", "system": "System", "tool": "Tool"}
    return known.get(name.lower()) or line(name, 40) or "Message"


def _html(role: str, name: str, pieces: list[Part]) -> str:
    shown = ""
    # The space parts the role from the text if both are on one line, without styles.
    heading = (
        f'<span style="display:block;font-size:.85em">'
        f"<b>{escape(f'{role} {name}'.rstrip())}</b> </span>"
    )
    for part in pieces:
        label = escape(part.label)
        # Line breaks are elements, so that they stay where styles are dropped.
        text = escape(part.text).replace("\n", "<br>")
        if part.folded:
            shown += f'<p style="margin:0">{heading}</p>' if heading else ""
            shown += f'<details><summary style="cursor:pointer">{label}</summary>'
            shown += f'<pre style="{_PRE}">{text}</pre></details>'
        else:
            label = f"<i>{label}</i>" if label else ""
            text = f'<span dir="auto" style="display:block">{text}</span>' if text else ""
            shown += f'<p style="margin:0">{heading}{label}{text}</p>'
        heading = ""
    bubble = f"{_BUBBLES.get(role, _OTHER_BUBBLE)};{_BUBBLE}"
    return f'<div role="listitem" style="{bubble}">{shown}</div>'


def _plain(role: str, name: str, pieces: list[Part], indent: int) -> str:
    """Write the role, and the text wrapped beside it, so that no text can pose as a role."""
    texts = [f"[{part.label}] {part.text}" if part.label else part.text for part in pieces]
    text = f"[{name}] " * bool(name) + "\n".join(map(str.rstrip, texts))
    rows = [f"{'':{indent}}{row}".rstrip() for row in wrapped(text, _WIDTH - indent).split("\n")]
    return "\n".join([f"{role}{rows[0][columns_of(role) :]}".rstrip(), *rows[1:]])
