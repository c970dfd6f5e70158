"""Conversations and tables for people: safe HTML in a notebook, plain text in a terminal.

What a message holds comes from users, models and tools, so all of it is escaped, nothing is
loaded from anywhere, and characters that reorder or hide text are written as their code points.
The HTML needs no style sheet, no script and no ids: colors are translucent and text takes the
color of the page, so it reads in light and dark themes, and where a viewer drops the inline
styles a numbered list with the roles in words remains. The same input always gives the same
output, which nbval compares.
"""

import base64
import binascii
import dataclasses
import json
import re
import textwrap
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from html import escape
from typing import Any, TypeVar, overload

from langchain_core.messages import (
    AIMessage,
    BaseMessage,
    ChatMessage,
    FunctionMessage,
    HumanMessage,
    RemoveMessage,
    SystemMessage,
    ToolMessage,
)

# Characters of a text shown at once; the rest is folded away.
_SHOWN = 1_000
_SHOWN_TOOL = 300
_SHOWN_LINES = 24
# Characters that unfold; what is beyond is counted, not written into the notebook.
_FOLDED = 8_000
# Characters of a whole transcript; older messages beyond it are counted.
_HTML_LIMIT = 1_000_000
_PLAIN_LIMIT = 200_000
_IMAGE_LIMIT = 200_000  # bytes of one image
_LABEL_LIMIT = 200  # characters of a name, a URL or a table cell
_TABLE_ROWS = 200
_WIDTH = 88  # columns of plain text
_WORD = 24  # characters of a word that a cell does not break

# Controls, line separators, bidi overrides and isolates, invisible spaces, tag characters (they
# smuggle hidden instructions) and lone surrogates, which no UTF-8 file can hold. Joiners and
# direction marks stay: Persian, Arabic, Hebrew and emoji need them.
_UNSAFE = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u200b\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb"
    "\ud800-\udfff\U000e0000-\U000e007f]"
)
_BASE64_URL = re.compile(r"data:([\w.+-]+/[\w.+-]+)?[^,]*;base64,", re.ASCII | re.IGNORECASE)

_ROLES: tuple[tuple[type[BaseMessage], str], ...] = (
    (HumanMessage, "Human"),
    (AIMessage, "AI"),
    (SystemMessage, "System"),
    (ToolMessage, "Tool"),
    (FunctionMessage, "Function"),
    (RemoveMessage, "Remove"),
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

# Role -> its bubble. Translucent, so that the page's own color shows through in either theme.
_LEFT = "margin:.5em 0;border-radius:.2em .9em .9em;"
_BUBBLES = {
    "Human": "margin:.5em 0 .5em auto;border-radius:.9em .2em .9em .9em;"
    "background:rgba(66,133,244,.16)",
    "AI": f"{_LEFT}background:rgba(128,128,128,.14)",
    "System": f"{_LEFT}border:1px dashed rgba(128,128,128,.7)",
}
_OTHER_BUBBLE = f"{_LEFT}border:1px solid rgba(128,128,128,.5)"
_BUBBLE = "padding:.4em .8em .5em;width:fit-content;max-width:85%"
_PRE = (
    "margin:.3em 0;padding:0;background:none;color:inherit;white-space:pre-wrap;"
    "font-size:.92em;line-height:1.4"
)
_CELL = (
    "padding:.3em .9em .3em .2em;vertical-align:top;background:none;"
    "border:0;border-bottom:1px solid rgba(128,128,128,.3);text-align:"
)
_HEAD_RULE = "border-bottom:2px solid rgba(128,128,128,.7)"
# Both names keep MathJax from reading "$5 and $6" as a formula (version 2, then 3 and later).
_NO_MATH = 'class="tex2jax_ignore mathjax_ignore"'


class Transcript:
    """A conversation that shows itself. Made by `transcript`.

    In a notebook it is HTML, elsewhere plain text; `print` and `str` give the plain text.
    """

    def __init__(self, messages: Iterable[BaseMessage], *, title: str | None = None) -> None:
        self._messages = _checked_messages(messages)
        self._title = _checked_title(title)

    def __str__(self) -> str:
        if not self._messages:
            return _titled(self._title, "No messages yet.")
        entries = self._entries()
        indent = min(max(_columns(role) for role, _, _ in entries), 20) + 2
        texts = (_message_plain(*entry, indent) for entry in reversed(entries))
        shown = _fitting(texts, _PLAIN_LIMIT)[::-1]
        return _titled(self._title, *_omitted(len(entries) - len(shown)), *shown)

    __repr__ = __str__

    def _repr_html_(self) -> str:
        caption = self._title or "Conversation"
        title = f"<div><b>{escape(caption)}</b></div>" if self._title else ""
        if not self._messages:
            return f"<div {_NO_MATH}>{title}<i>No messages yet.</i></div>"
        items = (_message_html(*entry) for entry in reversed(self._entries()))
        shown = _fitting(items, _HTML_LIMIT)[::-1]
        hidden = len(self._messages) - len(shown)
        note = "".join(f"<div><i>{line}</i></div>" for line in _omitted(hidden))
        start = f' start="{hidden + 1}"' if hidden else ""
        # role="list": Safari drops the list semantics of list-style:none.
        return (
            f'<div {_NO_MATH} role="group" aria-label="{escape(caption)}" style="max-width:48em;'
            f'line-height:1.5;white-space:pre-wrap;overflow-wrap:anywhere">{title}{note}'
            f'<ol role="list"{start} style="list-style:none;margin:0;padding:0">'
            f"{''.join(shown)}</ol></div>"
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
            entries.append((_role(message), _line(name or ""), message))
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


Row = TypeVar("Row")


class Table(Sequence[Row]):
    """Records that show themselves as a table and stay what they are. Made by `table`.

    It is a sequence of the records given: ``len(t)``, ``t[0]``, ``for row in t``. In a notebook it
    is an HTML table, elsewhere aligned text; `print` and `str` give the text.
    """

    def __init__(
        self,
        rows: Iterable[Row],
        columns: Sequence[str] | Mapping[str, str] | None = None,
        *,
        title: str | None = None,
        formats: Mapping[str, Callable[[Any], str]] | None = None,
        empty: str = "No rows.",
    ) -> None:
        self._rows = _checked_rows(rows)
        self._title = _checked_title(title)
        self._columns = _checked_columns(columns, self._rows)
        self._formats = dict(formats or {})
        self._empty = empty
        if unknown := [key for key in self._formats if key not in self._columns]:
            raise ValueError(
                f"formats names {unknown[0]!r}, which is not a column; the columns are "
                f"{', '.join(map(repr, self._columns)) or 'none'}"
            )

    def __len__(self) -> int:
        return len(self._rows)

    @overload
    def __getitem__(self, index: int) -> Row: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Row]: ...
    def __getitem__(self, index: int | slice) -> Row | Sequence[Row]:
        return self._rows[index]

    def __str__(self) -> str:
        if not self._rows:
            return _titled(self._title, self._empty)
        headings = [_line(heading) for heading in self._columns.values()]
        right = self._numeric()
        lines = [headings, *self._cells()]
        widths = [max(map(_columns, column)) for column in zip(*lines, strict=True)]
        lines.insert(1, ["-" * width for width in widths])
        text = [
            "  ".join(
                (" " * (width - _columns(cell)) + cell)
                if key in right
                else (cell + " " * (width - _columns(cell)))
                for key, cell, width in zip(self._columns, line, widths, strict=True)
            ).rstrip()
            for line in lines
        ]
        return _titled(self._title, *text, *self._more())

    __repr__ = __str__

    def _repr_html_(self) -> str:
        caption = (
            f'<caption style="text-align:left;font-weight:bold;padding:.3em 0;color:inherit">'
            f"{escape(self._title)}</caption>"
            if self._title
            else ""
        )
        if not self._rows:
            title = f"<div><b>{escape(self._title)}</b></div>" if self._title else ""
            return f"<div {_NO_MATH}>{title}<i>{escape(self._empty)}</i></div>"
        right = self._numeric()
        styles = [_CELL + ("right" if key in right else "left") for key in self._columns]
        head = "".join(
            f'<th scope="col" style="{style};{_HEAD_RULE}">{escape(_line(heading))}</th>'
            for style, heading in zip(styles, self._columns.values(), strict=True)
        )
        body = "".join(f"<tr>{_row_html(cells, styles)}</tr>" for cells in self._cells())
        more = "".join(f"<div><i>{line}</i></div>" for line in self._more())
        return (
            f'<div {_NO_MATH} style="line-height:1.5">'
            f'<table style="border-collapse:collapse;margin:.3em 0;color:inherit">'
            f"{caption}<thead><tr>{head}</tr></thead>"
            f"<tbody>{body}</tbody></table>{more}</div>"
        )

    def _cells(self) -> list[list[str]]:
        return [
            [_line(self._formats.get(key, _cell)(_field(row, key))) for key in self._columns]
            for row in self._rows[:_TABLE_ROWS]
        ]

    def _numeric(self) -> set[str]:
        """Columns of numbers only (and gaps): they are set flush right."""
        return {
            key
            for key in self._columns
            if all(
                isinstance(value, int | float) and not isinstance(value, bool)
                for row in self._rows
                if (value := _field(row, key)) is not None
            )
        }

    def _more(self) -> list[str]:
        hidden = len(self._rows) - _TABLE_ROWS
        return [f"{hidden:,} more rows are not shown."] if hidden > 0 else []


def table(
    rows: Iterable[Row],
    columns: Sequence[str] | Mapping[str, str] | None = None,
    *,
    title: str | None = None,
    formats: Mapping[str, Callable[[Any], str]] | None = None,
    empty: str = "No rows.",
) -> Table[Row]:
    """Show records as a table: HTML in a notebook, aligned text in a terminal.

    The first 200 rows are shown, 200 characters of a cell. The first column names its row.
    Columns of numbers are set flush right.

    Args:
        rows: Mappings or dataclass instances.
        columns: Which fields to show, in order; a mapping gives each its heading. By default
            the fields of the first row.
        title: A heading above the table.
        formats: Field -> how to write its value; without one, None is written as "-", booleans
            as "yes" and "no", floats with six digits, times to the second.
        empty: What to show when there are no rows.

    Returns:
        A sequence of the given rows that shows itself; `print` and `str` give the plain text.

    Raises:
        TypeError: A row is neither a mapping nor a dataclass instance.
        ValueError: A column that no row has, or a format for a field that is not a column.

    Example:
        >>> table([{"session": "a", "messages": 4}, {"session": "b", "messages": 12}])
        session  messages
        -------  --------
        a               4
        b              12
    """
    return Table(rows, columns, title=title, formats=formats, empty=empty)


# One message


@dataclasses.dataclass(frozen=True)
class _Part:
    """One piece of a message, the same for both forms."""

    text: str = ""
    label: str = ""  # what it is, where the text does not say so itself
    image: str = ""  # a data URI of a checked image

    @property
    def folded(self) -> bool:
        return bool(self.label and self.text)


def _parts(message: BaseMessage) -> Iterator[_Part]:
    calls = message.tool_calls if isinstance(message, AIMessage) else []
    invalid = message.invalid_tool_calls if isinstance(message, AIMessage) else []
    content = [message.content] if isinstance(message.content, str) else message.content
    for block in content:
        if isinstance(block, str):
            if block:
                yield _Part(block)
        elif not (_type(block) in _CALL_BLOCKS and (calls or invalid)):
            yield _block(block)
    for call in calls:
        yield _Part(_json(call["args"]), f"Tool call: {_line(call['name'])}")
    for bad in invalid:
        arguments = f"{bad['args'] or ''}\n{bad['error'] or ''}".strip() or "no arguments"
        yield _Part(arguments, f"Invalid tool call: {_line(bad['name'] or 'without a name')}")
    if isinstance(message, RemoveMessage):
        yield _Part(label=f"removes message {_line(str(message.id))}")


def _type(block: dict[str, Any]) -> str:
    kind = block.get("type")
    return kind if isinstance(kind, str) and kind else "no type"


def _block(block: dict[str, Any]) -> _Part:
    kind = _type(block)
    if isinstance(text := block.get("text"), str):
        return _Part(text) if text else _Part(label="empty")
    if kind in {"reasoning", "thinking"}:
        text = block.get(kind)
        return _Part(text if isinstance(text, str) and text else _json(block), "Reasoning")
    if kind in _MEDIA:
        return _media(kind, block)
    return _Part(_json(block), f"Block: {_line(kind)}")


def _media(kind: str, block: dict[str, Any]) -> _Part:
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
        return _Part(label=_line(f"{', '.join(label)}, not loaded: {url}"))
    image = ""
    if isinstance(data, str | bytes):
        size = len(data) if isinstance(data, bytes) else len(data.rstrip("=")) * 3 // 4
        label.append(f"{size:,} bytes")
        if name == "Image" and size > _IMAGE_LIMIT:
            label.append("too large to show here")
        elif name == "Image":
            image = _image(data)
            label += [] if image else ["not shown: no PNG, JPEG, GIF or WebP data"]
    return _Part(label=_line(", ".join(label)), image=image)


def _image(data: str | bytes) -> str:
    """A data URI built anew from bytes that begin like an image, or nothing.

    SVG is left out: it is a document that can hold scripts and addresses.
    """
    try:
        raw = data if isinstance(data, bytes) else base64.b64decode(data, validate=True)
    except (binascii.Error, ValueError):
        return ""
    if raw.startswith(b"\x89PNG\r\n\x1a\n"):
        kind = "png"
    elif raw.startswith(b"\xff\xd8\xff"):
        kind = "jpeg"
    elif raw.startswith((b"GIF87a", b"GIF89a")):
        kind = "gif"
    elif raw[:4] == b"RIFF" and raw[8:12] == b"WEBP":
        kind = "webp"
    else:
        return ""
    return f"data:image/{kind};base64,{base64.b64encode(raw).decode()}"


def _role(message: BaseMessage) -> str:
    if isinstance(message, ChatMessage):
        return _line(message.role, 40) or "Chat"
    for kind, role in _ROLES:
        if isinstance(message, kind):
            return role
    return _line(message.type, 40) or "Message"


def _message_html(role: str, name: str, message: BaseMessage) -> str:
    parts = list(_parts(message)) or [_Part(label="empty")]
    limit = _SHOWN_TOOL if role == "Tool" else _SHOWN
    shown = _fitting((_part_html(part, limit) for part in parts), _HTML_LIMIT)
    hidden = len(parts) - len(shown)
    more = f"<div><i>{hidden:,} more parts are not shown.</i></div>" if hidden else ""
    heading = f"<b>{escape(role)}</b> {escape(name)}".rstrip()
    return (
        f'<li style="{_BUBBLES.get(role, _OTHER_BUBBLE)};{_BUBBLE}">'
        f'<span style="font-size:.85em">{heading}</span>{"".join(shown)}{more}</li>'
    )


def _part_html(part: _Part, limit: int) -> str:
    label = escape(part.label)
    if part.image:
        return (
            f'<div><img src="{part.image}" alt="{label}" '
            f'style="max-width:16em;max-height:12em;border-radius:.4em"></div>'
        )
    if part.folded:
        return _details(label, f'<pre style="{_PRE}">{_lines_html(part.text)}</pre>', part.text)
    if label:
        return f"<div><i>{label}</i></div>"
    head = _head(part.text, limit)
    html = f'<div dir="auto">{_lines_html(head)}</div>'
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
    return escape(_visible(text[:_FOLDED])).replace("\n", "<br>")


def _message_plain(role: str, name: str, message: BaseMessage, indent: int) -> str:
    parts = list(_parts(message)) or [_Part(label="empty")]
    limit = _SHOWN_TOOL if role == "Tool" else _SHOWN
    shown = _fitting((_part_plain(part, limit) for part in parts), _PLAIN_LIMIT)
    if hidden := len(parts) - len(shown):
        shown.append(f"[{hidden:,} more parts are not shown]")
    text = "\n".join(shown)
    return _hanging(role, f"[{name}] {text}" if name else text, indent)


def _part_plain(part: _Part, limit: int) -> str:
    if not part.text:
        return f"[{part.label}]"
    head = _head(part.text, _SHOWN_TOOL if part.folded else limit)
    hidden = len(part.text) - len(head)
    text = _visible(head) + (f"\n[{hidden:,} more characters]" if hidden else "")
    return f"[{part.label}] {text}" if part.folded else text


# Text


def _visible(text: str) -> str:
    """Text in which nothing can reorder, hide or control its surroundings."""
    return _UNSAFE.sub(lambda m: f"[U+{ord(m[0]):04X}]", text.replace("\r\n", "\n"))


def _line(text: str, limit: int = _LABEL_LIMIT) -> str:
    """Text as one line of at most ``limit`` characters."""
    line = " ".join(_visible(text[: limit + 1]).split())
    return line if len(text) <= limit else f"{line[: limit - 1]}\N{HORIZONTAL ELLIPSIS}"


def _head(text: str, limit: int) -> str:
    """The beginning of a text that is shown at once."""
    head = "\n".join(text[:limit].split("\n", _SHOWN_LINES)[:_SHOWN_LINES])
    space = head.rfind(" ", limit - 40)  # not in the middle of a word, where words are short
    return head[:space] if len(text) > limit and space > 0 else head


def _json(value: object) -> str:
    """Arguments for reading: on one line if short, else indented."""
    try:
        line = json.dumps(value, ensure_ascii=False, default=_named)
        return (
            line
            if len(line) <= 60
            else json.dumps(value, ensure_ascii=False, default=_named, indent=2)
        )
    except (TypeError, ValueError, RecursionError):
        return f"{type(value).__name__} that cannot be written as JSON"


def _named(value: object) -> str | list[str]:
    """What JSON cannot hold, without the memory address a plain object's repr has."""
    if isinstance(value, set | frozenset):
        return sorted(map(str, value))  # the order of a set changes from run to run
    if type(value).__repr__ is object.__repr__:
        return f"<{type(value).__name__}>"
    return repr(value)


def _columns(text: str) -> int:
    """Columns a terminal needs for the text: two for wide characters, none for combining ones."""
    return sum(
        0
        if unicodedata.category(c) in {"Mn", "Me", "Cf"}
        else 2
        if unicodedata.east_asian_width(c) in "WF"
        else 1
        for c in text
    )


def _hanging(label: str, text: str, indent: int) -> str:
    """The label, then the text wrapped beside it, so that no text can pose as a label."""
    wrap = textwrap.TextWrapper(
        width=_WIDTH - indent,
        expand_tabs=False,
        replace_whitespace=False,
        break_long_words=False,
        break_on_hyphens=False,
    )
    lines = [row for line in text.split("\n") for row in wrap.wrap(line) or [""]]
    gap = indent - _columns(label)
    if gap < 2:
        return "\n".join([label, *(f"{'':{indent}}{line}".rstrip() for line in lines)])
    lines[0] = f"{label}{'':{gap}}{lines[0]}"
    return "\n".join([lines[0].rstrip(), *(f"{'':{indent}}{x}".rstrip() for x in lines[1:])])


def _fitting(pieces: Iterable[str], limit: int) -> list[str]:
    """The leading pieces that fit into ``limit`` characters, and always the first."""
    fitting: list[str] = []
    for piece in pieces:
        limit -= len(piece)
        if fitting and limit < 0:
            break
        fitting.append(piece)
    return fitting


def _omitted(hidden: int) -> list[str]:
    return [f"{hidden:,} earlier messages are not shown."] if hidden else []


def _titled(title: str | None, *lines: str) -> str:
    return "\n".join([title, "", *lines] if title else lines)


# Tables


def _row_html(cells: Sequence[str], styles: Sequence[str]) -> str:
    # Only a word that no window may hold is broken; "anywhere" for all would break short ones too.
    first, *rest = (
        f'style="{style};font-weight:normal{";overflow-wrap:anywhere" * _has_long_word(cell)}">'
        f"<bdi>{escape(cell)}</bdi>"
        for cell, style in zip(cells, styles, strict=True)
    )
    return f'<th scope="row" {first}</th>' + "".join(f"<td {cell}</td>" for cell in rest)


def _has_long_word(cell: str) -> bool:
    return max(map(len, cell.split()), default=0) > _WORD


def _field(row: object, key: str) -> Any:
    return row.get(key) if isinstance(row, Mapping) else getattr(row, key, None)


def _cell(value: object) -> str:
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, datetime):
        return value.isoformat(sep=" ", timespec="seconds")
    return str(value)


# What the caller gave


def _checked_messages(messages: Iterable[BaseMessage]) -> tuple[BaseMessage, ...]:
    # A message and a str can be iterated too, into things that are not messages.
    if isinstance(messages, BaseMessage | str | bytes) or not isinstance(messages, Iterable):
        raise TypeError(
            "transcript() takes a list of LangChain messages, such as history.messages, "
            f"not {_kind(messages)}"
        )
    checked = tuple(messages)
    for index, message in enumerate(checked):
        if not isinstance(message, BaseMessage):
            raise TypeError(
                f"transcript() takes LangChain messages; element {index} is {_kind(message)}"
            )
    return checked


def _checked_title(title: str | None) -> str | None:
    if title is not None and not isinstance(title, str):
        raise TypeError(f"title must be a string or None, not {_kind(title)}")
    return _line(title) or None if title else None


def _checked_rows(rows: Iterable[Row]) -> tuple[Row, ...]:
    if not isinstance(rows, Iterable):
        raise TypeError(f"table() takes a list of mappings or dataclasses, not {_kind(rows)}")
    checked = tuple(rows)
    for index, row in enumerate(checked):
        if isinstance(row, type) or not (isinstance(row, Mapping) or dataclasses.is_dataclass(row)):
            raise TypeError(
                f"table() takes mappings or dataclass instances; row {index} is {_kind(row)}"
            )
    return checked


def _checked_columns(
    columns: Sequence[str] | Mapping[str, str] | None, rows: Sequence[object]
) -> dict[str, str]:
    """Field -> heading."""
    if columns is None:
        columns = _fields(rows[0]) if rows else []
    elif isinstance(columns, str):
        raise TypeError(f"columns must be a list of field names, not the string {columns!r}")
    if not isinstance(columns, Mapping):
        columns = {key: str(key).replace("_", " ") for key in columns}
    if rows and not columns:
        raise ValueError("columns is empty; name at least one field, or leave it out")
    for key in columns:
        if rows and not any(
            key in row if isinstance(row, Mapping) else hasattr(row, key) for row in rows
        ):
            raise ValueError(
                f"columns names {key!r}, which no row has; the first row has "
                f"{', '.join(map(repr, _fields(rows[0])))}"
            )
    return dict(columns)


def _fields(row: Any) -> list[str]:
    if isinstance(row, Mapping):
        return list(row)
    return [field.name for field in dataclasses.fields(row)]


def _kind(value: object) -> str:
    if isinstance(value, type):
        return f"the class {value.__name__}"
    return "None" if value is None else type(value).__name__
