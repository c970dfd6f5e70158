"""Conversations for readers: `transcript`, as safe HTML in a notebook and plain text elsewhere.

What a message holds comes from users, models and tools: characters that reorder or hide text are
written as their code points. The HTML reads in light and dark themes; without its inline styles it
is paragraphs that begin with their role in bold.
"""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from html import escape
from typing import Any

from langchain_core.messages import BaseMessage, ToolMessage

from memorystore_chat.arguments import type_name
from memorystore_tutorial.text import NO_MATH, columns_of, line, visible, wrapped

_MESSAGES = 200  # shown of a conversation, the newest
_SHOWN = 1_000  # characters of a text
_WIDTH = 88  # columns of plain text
_ROLES = {"human": "Human", "ai": "AI", "system": "System", "tool": "Tool"}

# Role -> its bubble. Translucent, so that the page's own color shows through in either theme.
_BUBBLES = {
    "Human": "align-self:flex-end;border-radius:.9em .2em .9em .9em;"
    "background:rgba(66,133,244,.16)",
    "AI": "border-radius:.2em .9em .9em;background:rgba(128,128,128,.14)",
    "System": "border-radius:.2em .9em .9em;border:1px dashed rgba(128,128,128,.7)",
}
_OTHER_BUBBLE = "border-radius:.2em .9em .9em;border:1px solid rgba(128,128,128,.5)"
_BUBBLE = "margin:.25em 0;padding:.4em .8em .5em;max-width:85%"
# Items of a column shrink to what they hold, in viewers too that allow no width:fit-content.
_COLUMN = "display:flex;flex-direction:column;align-items:flex-start"
_PRE = "margin:.3em 0;padding:0;background:none;color:inherit;white-space:pre-wrap;"
_PRE += "font-size:.92em;line-height:1.4"


# A piece of a message: its text, what it is, and whether it is for those who look.
Part = tuple[str, str, bool]


@dataclass(frozen=True, repr=False)
class Transcript:
    """A conversation that shows itself as HTML or plain text. Made by `transcript`."""

    html: str
    text: str

    def __repr__(self) -> str:
        return self.text

    def _repr_html_(self) -> str:
        return self.html


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
    if not all(isinstance(message, BaseMessage) for message in listed):
        raise TypeError(
            "transcript() takes a list of LangChain messages, such as history.messages, "
            f"not this {type_name(messages)}."
        )
    if not listed:
        return Transcript(f"<div {NO_MATH}><i>No messages yet.</i></div>", "No messages yet.")
    tools = {call["id"]: call["name"] for m in listed for call in getattr(m, "tool_calls", ())}
    entries = [(*_who(message, tools), _parts(message)) for message in listed[-_MESSAGES:]]
    indent = max(columns_of(role) for role, _, _ in entries) + 2
    items, rows = zip(*(_forms(*entry, indent) for entry in entries), strict=True)
    hidden = len(listed) - len(entries)
    note = f"{hidden:,} earlier messages are not shown." if hidden else ""
    html = (
        f'<div {NO_MATH} role="group" aria-label="Conversation" style="max-width:48em;'
        'line-height:1.5;white-space:pre-wrap;overflow-wrap:anywhere">'
        + (f"<div><i>{note}</i></div>" if note else "")
        + f'<div role="list" style="{_COLUMN}">{"".join(items)}</div></div>'
    )
    return Transcript(html, "\n".join([note, *rows]).lstrip("\n"))


def summary(message: BaseMessage) -> str:
    """Return a message in a few words, on one line."""
    text, label, folded = _parts(message)[0]
    return line(label if folded else text or label, 60)


def _parts(message: BaseMessage) -> list[Part]:
    """Return the pieces of a message in order, each as long as it is shown; at least one."""
    try:
        blocks: list[Any] = list(message.content_blocks)
    except (AttributeError, KeyError, TypeError, ValueError):  # malformed for its provider
        blocks = [{"type": "text", "text": str(message.content)}]
    found = [_part(block) for block in blocks] or [("", "empty", False)]
    return [(_cut(text), label, folded) for text, label, folded in found]


def _part(block: dict[str, Any]) -> Part:
    inner = block.get("value") if block.get("type") == "non_standard" else None
    value = inner if isinstance(inner, dict) else block
    kind = str(value.get("type") or "no type")
    if kind == "tool_call":
        return _json(value.get("args")), f"Tool call: {line(str(value.get('name')))}", True
    if isinstance(text := value.get("text"), str):
        return text, "" if text else "empty", False
    if isinstance(text := value.get("reasoning"), str):
        return text, "Reasoning", True
    if kind in ("image", "audio", "video", "file"):
        named = [value.get("mime_type"), value.get("url")]
        return "", line(", ".join([kind.title(), *map(str, filter(None, named))])), False
    return _json(value), f"Block: {line(kind)}", True


def _json(value: object) -> str:
    """Write arguments for reading: on one line if short, else indented."""
    short = len(one := json.dumps(value, ensure_ascii=False, default=str)) <= 60
    return one if short else json.dumps(value, ensure_ascii=False, default=str, indent=2)


def _cut(text: str) -> str:
    more = f"\n[{len(text) - _SHOWN:,} more characters]" if len(text) > _SHOWN else ""
    return visible(text[:_SHOWN]) + more


def _who(message: BaseMessage, tools: dict[str, str]) -> tuple[str, str]:
    """Return a message's role, and its name or that of the tool it comes from."""
    # A streamed message's type is its class.
    role = getattr(message, "role", "") or message.type.removesuffix("MessageChunk")
    name = message.name or ""
    if isinstance(message, ToolMessage):
        name = name or tools.get(message.tool_call_id, "")
        name += " failed" * (message.status == "error")
    return _ROLES.get(role.lower()) or line(role, 40) or "Message", line(name.strip())


def _forms(role: str, name: str, pieces: list[Part], indent: int) -> tuple[str, str]:
    """Return a message as HTML, and as text beside its role so that no text can pose as one."""
    # The space parts the role from the text if both are on one line, without styles.
    heading = (
        f'<span style="display:block;font-size:.85em">'
        f"<b>{escape(f'{role} {name}'.rstrip())}</b> </span>"
    )
    html, texts = "", []
    for text, label, folded in pieces:
        texts.append((f"[{label}] {text}" if label else text).rstrip())
        # Line breaks are elements, so that they stay where styles are dropped.
        safe, title = escape(text).replace("\n", "<br>"), escape(label)
        if folded:
            html += f'<p style="margin:0">{heading}</p>' if heading else ""
            html += f'<details><summary style="cursor:pointer">{title}</summary>'
            html += f'<pre style="{_PRE}">{safe}</pre></details>'
        else:
            title = f"<i>{title}</i>" if label else ""
            safe = f'<span dir="auto" style="display:block">{safe}</span>' if text else ""
            html += f'<p style="margin:0">{heading}{title}{safe}</p>'
        heading = ""
    bubble = f"{_BUBBLES.get(role, _OTHER_BUBBLE)};{_BUBBLE}"
    told = wrapped(f"[{name}] " * bool(name) + "\n".join(texts), max(_WIDTH - indent, 20))
    beside = f"{role}{'':{indent - columns_of(role)}}{told}".replace("\n", f"\n{'':{indent}}")
    rows = [row.rstrip() for row in beside.split("\n")]
    return f'<div role="listitem" style="{bubble}">{html}</div>', "\n".join(rows)
