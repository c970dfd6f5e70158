"""Records as tables, safe HTML in a notebook and aligned text elsewhere."""

from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from html import escape
from typing import Any, TypeVar

from memorystore_chat import sessions
from memorystore_chat.arguments import type_name
from memorystore_chat.commands import Client
from memorystore_chat.sessions.report import counted
from memorystore_chat.sessions.scanning import Session
from memorystore_tutorial.text import NO_MATH, columns_of, line

_ROWS = 200  # shown at most
_CELL = (
    "padding:.3em .9em .3em .2em;vertical-align:top;background:none;"
    "border:0;border-bottom:1px solid rgba(128,128,128,.3);text-align:"
)
_HEADING = "border-bottom:2px solid rgba(128,128,128,.7)"
_TITLE = '<caption style="text-align:left;font-weight:bold;padding:.3em 0;color:inherit">'

Row = TypeVar("Row")
# Field -> its heading, and how to write a value.
Columns = Mapping[Any, tuple[str, Callable[[Any], str]]]


class Table(list[Row]):
    """A list of records that shows itself as HTML or aligned text. Made by `table`."""

    def __init__(
        self, rows: Iterable[Row], columns: Columns, *, title: str = "", empty: str = "No rows."
    ) -> None:
        super().__init__(rows)
        self._columns, self._title, self._empty = columns, line(title), empty

    def __repr__(self) -> str:
        return self._forms()[1]

    def _repr_html_(self) -> str:
        return self._forms()[0]

    def _forms(self) -> tuple[str, str]:
        """Return the table as HTML and as text."""
        title = escape(self._title)
        above = f"{self._title}\n\n" if title else ""
        if not self:
            heading = f"<div><b>{title}</b></div>" if title else ""
            html = f"<div {NO_MATH}>{heading}<i>{escape(self._empty)}</i></div>"
            return html, above + self._empty
        marked: list[list[str]] = []
        padded: list[list[str]] = []
        for key, (heading, write) in self._columns.items():
            shown = self[:_ROWS]
            values = [r.get(key) if isinstance(r, Mapping) else getattr(r, key) for r in shown]
            head, *cells = [line(heading), *(line(write(value)) for value in values)]
            numbers = all(type(value) in (int, float, type(None)) for value in values)
            side, flush = ("right", ">") if numbers else ("left", "<")
            style = f'style="{_CELL}{side};'
            start, end = ("td", "td") if marked else ('th scope="row"', "th")
            start += f' {style}font-weight:normal"'
            column = [f"<{start}><bdi>{escape(cell)}</bdi></{end}>" for cell in cells]
            marked.append([f'<th scope="col" {style}{_HEADING}">{escape(head)}</th>', *column])
            width = max(map(columns_of, [head, *cells]))
            lines = [head, "-" * width, *cells]
            padded.append([f"{x:{flush}{width + len(x) - columns_of(x)}}" for x in lines])
        thead, *tbody = (f"<tr>{''.join(row)}</tr>" for row in zip(*marked, strict=True))
        text = "\n".join("  ".join(row).rstrip() for row in zip(*padded, strict=True))
        more = f"{len(self) - _ROWS:,} more rows are not shown." if len(self) > _ROWS else ""
        html = (
            f'<div {NO_MATH} style="line-height:1.5">'
            '<table style="border-collapse:collapse;margin:.3em 0;color:inherit">'
            + (f"{_TITLE}{title}</caption>" if title else "")
            + f"<thead>{thead}</thead><tbody>{''.join(tbody)}</tbody></table>"
            + (f"<div><i>{more}</i></div>" if more else "")
            + "</div>"
        )
        return html, f"{above}{text}\n{more}".rstrip("\n")


def _text(value: object) -> str:
    if isinstance(value, datetime):
        return value.isoformat(sep=" ", timespec="seconds")
    if isinstance(value, float):
        return f"{value:.6g}"
    return {"None": "-", "True": "yes", "False": "no"}.get(repr(value), str(value))


def table(rows: Iterable[Mapping[str, Any]]) -> Table[Mapping[str, Any]]:
    """Show records as a table: HTML in a notebook, aligned text in a terminal.

    The fields of the first row are the columns, and the first of them names its row. Columns of
    numbers are set flush right; None is written as "-", booleans as "yes" and "no", floats with six
    digits, times to the second. The first 200 rows are shown, and 200 characters of a cell.

    Args:
        rows: Mappings.

    Returns:
        A list of the given rows that shows itself; `print` and `str` give the plain text.

    Raises:
        TypeError: A row is not a mapping.

    Example:
        >>> table([{"session": "a", "messages": 4}, {"session": "b", "messages": 12}])
        session  messages
        -------  --------
        a               4
        b              12
    """
    listed = list(rows)
    if not all(isinstance(row, Mapping) and row for row in listed):
        given = type_name(rows)
        raise TypeError(f"table() takes a list of mappings with fields, not this {given}.")
    fields = (listed or [{}])[0]
    return Table(listed, {key: (str(key).replace("_", " "), _text) for key in fields})


def sessions_table(client: Client, *, key_prefix: str = "") -> Table[Session]:
    """Show sessions, those that were used last first: a table in a notebook, text elsewhere.

    Args:
        client: A connected client.
        key_prefix: What the keys begin with, literally.

    Returns:
        A list of `Session` that shows itself, with times as of now; those without a known time
        come last.

    Raises:
        TypeError: An argument is not acceptable.
        MemorystoreChatError: The server cannot be reached, or refused.

    Example:
        >>> from memorystore_chat import connect
        >>> sessions_table(connect("embedded"), key_prefix="nothing-here:")
        No sessions.
    """
    now = datetime.now(UTC)
    found = list(sessions.scan(client, key_prefix=key_prefix))
    found.sort(key=lambda one: (one.last is None, now - (one.last or now), one.id))

    def ago(last: datetime | None) -> str:
        if last is None:
            return "unknown"
        # Clocks differ: what another machine did just now may lie ahead.
        seconds = (now - last).total_seconds()
        return f"{span(seconds)} ago" if seconds >= 60 else "just now"

    columns: Columns = {
        "id": ("session", str),
        "messages": ("messages", "{:,}".format),
        "last": ("last activity", ago),
        "ttl": ("expires in", lambda ttl: "never" if ttl is None else span(ttl)),
        "bytes": ("size", size),
    }
    title = counted(len(found), "session") if found else ""
    return Table(found, columns, title=title, empty="No sessions.")


def span(seconds: float) -> str:
    """Write a duration in the largest unit that says it well: "30 days", "25 hours"."""
    for unit, length in (("day", 86_400), ("hour", 3_600), ("minute", 60)):
        count = seconds / length
        if count >= 1.95 or 0.98 < count < 1.02:
            return counted(round(count), unit)
    return counted(round(seconds), "second")


def size(size: int) -> str:
    """Write bytes with two digits: "1.2 kB", "56 MB". Below, MEMORY USAGE varies by some bytes."""
    if size < 1000:
        return "under 1 kB"
    value, unit = (size / 1e6, "MB") if size >= 999.5e3 else (size / 1e3, "kB")
    return f"{value:.1f} {unit}" if value < 9.95 else f"{value:,.0f} {unit}"
