"""Conversations for people: safe HTML in a notebook, plain text in a terminal.

What a message holds comes from users, models and tools, so all of it is escaped, nothing is
loaded from anywhere, and characters that reorder or hide text are written as their code points.
The HTML reads in light and dark themes; without its inline styles it is paragraphs that begin
with their role in bold.
"""

from collections.abc import Iterable
from html import escape

from langchain_core.messages import AIMessage, BaseMessage, ChatMessage, ToolMessage

from memorystore_chat.arguments import type_name
from memorystore_tutorial._parts import Part, parts
from memorystore_tutorial._text import (
    HTML_LIMIT,
    NO_MATH,
    PLAIN_LIMIT,
    columns_of,
    fitting,
    line,
    titled,
    visible,
    wrapped,
)

# Characters of a text shown at once; the rest is folded away.
_SHOWN = 1_000
_SHOWN_TOOL = 300
_SHOWN_LINES = 24
# Characters that unfold; what is beyond is counted, not written into the notebook.
_FOLDED = 8_000
_WIDTH = 88  # columns of plain text

_ROLES = {
    "human": "Human",
    "ai": "AI",
    "system": "System",
    "tool": "Tool",
    "function": "Function",
    "remove": "Remove",
}
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


class Transcript:
    """A conversation that shows itself as HTML or plain text. Made by `transcript`."""

    def __init__(self, messages: Iterable[BaseMessage], *, title: str | None = None) -> None:
        # A message and a str can be iterated too, into things that are not messages.
        if isinstance(messages, BaseMessage | str | bytes) or not isinstance(messages, Iterable):
            raise TypeError(
                "transcript() takes a list of LangChain messages, such as history.messages, "
                f"not a {type_name(messages)}"
            )
        self._messages = tuple(messages)
        for index, message in enumerate(self._messages):
            if not isinstance(message, BaseMessage):
                given = f"element {index} is a {type_name(message)}"
                raise TypeError(f"transcript() takes LangChain messages; {given}")
        if title is not None and not isinstance(title, str):
            raise TypeError(f"title must be a string or None, not a {type_name(title)}")
        self._title = line(title or "")

    def __str__(self) -> str:
        if not self._messages:
            return titled(self._title, "No messages yet.")
        entries = self._entries()
        indent = min(max(columns_of(role) for role, _, _ in entries), 20) + 2
        texts = (_message_plain(*entry, indent) for entry in reversed(entries))
        shown = fitting(texts, PLAIN_LIMIT)[::-1]
        return titled(self._title, *_omitted(len(entries) - len(shown)), *shown)

    __repr__ = __str__

    def _repr_html_(self) -> str:
        caption = self._title or "Conversation"
        title = f"<div><b>{escape(caption)}</b></div>" if self._title else ""
        if not self._messages:
            return f"<div {NO_MATH}>{title}<i>No messages yet.</i></div>"
        items = (_message_html(*entry) for entry in reversed(self._entries()))
        shown = fitting(items, HTML_LIMIT)[::-1]
        hidden = len(self._messages) - len(shown)
        note = "".join(f"<div><i>{line}</i></div>" for line in _omitted(hidden))
        return (
            f'<div {NO_MATH} role="group" aria-label="{escape(caption)}" style="max-width:48em;'
            f'line-height:1.5;white-space:pre-wrap;overflow-wrap:anywhere">{title}{note}'
            f'<div role="list" style="{_COLUMN}">{"".join(shown)}</div></div>'
        )

    def _entries(self) -> list[tuple[str, str, BaseMessage]]:
        """Role, name (with a tool's failure) and message, in order."""
        entries = []
        tools: dict[str, str] = {}
        for message in self._messages:
            if isinstance(message, AIMessage):
                tools.update(
                    {call["id"]: call["name"] for call in message.tool_calls if call["id"]}
                )
            name = message.name
            if isinstance(message, ToolMessage):
                name = name or tools.get(message.tool_call_id)
                name = f"{name or ''} failed".strip() if message.status == "error" else name
            entries.append((_role(message), line(name or ""), message))
        return entries


def transcript(messages: Iterable[BaseMessage], *, title: str | None = None) -> Transcript:
    """Show a conversation: bubbles in a notebook, aligned text in a terminal.

    All content is escaped. Tool calls, reasoning and long texts are folded; of a text only the
    first 9,000 characters are written out. Images are shown when they are PNG, JPEG, GIF or WebP
    data of at most 200 kB inside the message; an address is never loaded, only named.

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
    return Transcript(messages, title=title)


def _role(message: BaseMessage) -> str:
    if isinstance(message, ChatMessage):
        return line(message.role, 40) or "Chat"
    name = message.type.removesuffix("MessageChunk")  # a streamed one's type is its class
    return _ROLES.get(name.lower()) or line(name, 40) or "Message"


def _message_html(role: str, name: str, message: BaseMessage) -> str:
    limit = _SHOWN_TOOL if role == "Tool" else _SHOWN
    # The space parts the role from the text if both are on one line, without styles.
    heading = (
        f'<span style="display:block;font-size:.85em">'
        f"<b>{escape(f'{role} {name}'.rstrip())}</b> </span>"
    )
    pieces = (_part_html(p, limit, heading * (n == 0)) for n, p in enumerate(parts(message)))
    shown = fitting(pieces, HTML_LIMIT, "<div><i>More parts are not shown.</i></div>")
    bubble = f"{_BUBBLES.get(role, _OTHER_BUBBLE)};{_BUBBLE}"
    return f'<div role="listitem" style="{bubble}">{"".join(shown)}</div>'


def _part_html(part: Part, limit: int, heading: str) -> str:
    label = escape(part.label)
    if part.folded:
        body = f'<pre style="{_PRE}">{_lines_html(part.text)}</pre>'
        start = f'<p style="margin:0">{heading}</p>' if heading else ""
        return start + _details(label, body, part.text)
    head = _head(part.text, limit)
    inner = [heading]
    if part.image:
        inner.append(
            f'<img src="{part.image}" alt="{label}" '
            f'style="max-width:16em;max-height:12em;border-radius:.4em">'
        )
    elif label:
        inner.append(f"<i>{label}{' ' if part.text else ''}</i>")
    if part.text:
        inner.append(f'<span dir="auto" style="display:block">{_lines_html(head)}</span>')
    html = f'<p style="margin:0">{"".join(inner)}</p>'
    if rest := part.text[len(head) :]:
        summary = f"{len(rest):,} more of {len(part.text):,} characters"
        html += _details(summary, f'<div dir="auto">{_lines_html(rest)}</div>', rest)
    return html


def _details(summary: str, body: str, text: str) -> str:
    hidden = len(text) - _FOLDED
    note = f"<i>{hidden:,} more characters are not shown.</i>" if hidden > 0 else ""
    return f'<details><summary style="cursor:pointer">{summary}</summary>{body}{note}</details>'


def _lines_html(text: str) -> str:
    """Escaped text; line breaks are elements, so that they stay where styles are dropped."""
    return escape(visible(text[:_FOLDED])).replace("\n", "<br>")


def _message_plain(role: str, name: str, message: BaseMessage, indent: int) -> str:
    limit = _SHOWN_TOOL if role == "Tool" else _SHOWN
    pieces = (_part_plain(part, limit) for part in parts(message))
    text = "\n".join(fitting(pieces, PLAIN_LIMIT, "[More parts are not shown]"))
    return _hanging(role, f"[{name}] {text}" if name else text, indent)


def _part_plain(part: Part, limit: int) -> str:
    label = f"[{part.label}] " if part.label else ""
    head = _head(part.text, _SHOWN_TOOL if part.folded else limit)
    hidden = len(part.text) - len(head)
    more = f"\n[{hidden:,} more characters]" if hidden else ""
    return f"{label}{visible(head)}{more}".rstrip(" ")


def _head(text: str, limit: int) -> str:
    """The beginning of a text that is shown at once."""
    head = "\n".join(text[:limit].split("\n", _SHOWN_LINES)[:_SHOWN_LINES])
    space = head.rfind(" ", limit - 40)  # not in the middle of a word, where words are short
    return head[:space] if len(text) > limit and space > 0 else head


def _hanging(label: str, text: str, indent: int) -> str:
    """The label, then the text wrapped beside it, so that no text can pose as a label."""
    rows = [f"{'':{indent}}{row}".rstrip() for row in wrapped(text, _WIDTH - indent).split("\n")]
    gap = indent - columns_of(label)
    if gap < 2:
        return "\n".join([label, *rows])
    rows[0] = f"{label}{'':{gap}}{rows[0][indent:]}".rstrip()
    return "\n".join(rows)


def _omitted(hidden: int) -> list[str]:
    return [f"{hidden:,} earlier messages are not shown."] if hidden else []
