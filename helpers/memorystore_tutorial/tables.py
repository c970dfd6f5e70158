"""Records as tables, safe HTML in a notebook and aligned text elsewhere: `table`, `sessions_table`.

One grid of cells is made of the rows, and both forms are written from it.
"""

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


class Table(list[Row]):
    """A list of records that shows itself as HTML or aligned text. Made by `table`."""

    def __init__(
        self,
        rows: Iterable[Row],
        columns: Mapping[str, tuple[str, Callable[[Any], str]]],
        *,
        title: str = "",
        empty: str = "No rows.",
    ) -> None:
        super().__init__(rows)
        self._columns = columns  # field -> its heading, and how to write a value
        self._title, self._empty = line(title), empty

    def __str__(self) -> str:
        lines = [self._title, ""] if self._title else []
        if not self:
            return "\n".join([*lines, self._empty])
        cells, sides = self._grid()
        widths = [max(map(columns_of, column)) for column in zip(*cells, strict=True)]
        cells.insert(1, ["-" * width for width in widths])
        for row in cells:
            padded = []
            for cell, width, side in zip(row, widths, sides, strict=True):
                gap = " " * (width - columns_of(cell))
                padded.append(cell + gap if side == "left" else gap + cell)
            lines.append("  ".join(padded).rstrip())
        return "\n".join([*lines, self._more()]).rstrip("\n")

    __repr__ = __str__

    def _repr_html_(self) -> str:
        title = escape(self._title)
        if not self:
            heading = f"<div><b>{title}</b></div>" if title else ""
            return f"<div {NO_MATH}>{heading}<i>{escape(self._empty)}</i></div>"
        cells, sides = self._grid()
        head, *body = (
            f"<tr>{''.join(map(_cell_html, sides, row, range(len(row)), [n] * len(row)))}</tr>"
            for n, row in enumerate(cells)
        )
        title = f"{_TITLE}{title}</caption>" if title else ""
        more = f"<div><i>{self._more()}</i></div>" if self._more() else ""
        return (
            f'<div {NO_MATH} style="line-height:1.5">'
            '<table style="border-collapse:collapse;margin:.3em 0;color:inherit">'
            f"{title}<thead>{head}</thead><tbody>{''.join(body)}</tbody></table>{more}</div>"
        )

    def _grid(self) -> tuple[list[list[str]], list[str]]:
        """Return rows of cells, the headings first, and the side at which each column is flush."""
        cells, sides = [], []
        for key, (heading, write) in self._columns.items():
            values = [
                r.get(key) if isinstance(r, Mapping) else getattr(r, key) for r in self[:_ROWS]
            ]
            cells.append([line(heading), *(line(write(value)) for value in values)])
            words = [
                v for v in values if isinstance(v, bool) or not isinstance(v, int | float | None)
            ]
            sides.append("left" if words else "right")
        return [list(row) for row in zip(*cells, strict=True)], sides

    def _more(self) -> str:
        return f"{len(self) - _ROWS:,} more rows are not shown." if len(self) > _ROWS else ""


def _cell_html(side: str, text: str, column: int, row: int) -> str:
    style = f"{_CELL}{side};{'font-weight:normal' if row else _HEADING}"
    if not row:
        return f'<th scope="col" style="{style}">{escape(text)}</th>'
    start, end = ("td", "td") if column else ('th scope="row"', "th")
    return f'<{start} style="{style}"><bdi>{escape(text)}</bdi></{end}>'


def _text(value: object) -> str:
    if value is None or isinstance(value, bool):
        return {None: "-", True: "yes", False: "no"}[value]
    if isinstance(value, datetime):
        return value.isoformat(sep=" ", timespec="seconds")
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def table(rows: Iterable[Mapping[str, Any]]) -> Table[Mapping[str, Any]]:
    """Show records as a table: HTML in a notebook, aligned text in a terminal.

    The fields of the first row are the columns, and the first of them names its row. Columns of
    numbers are set flush right; None is written as "-", booleans as "yes" and "no", floats with
    six digits, times to the second. Of many rows 200 are shown, of a cell 200 characters.

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
    if isinstance(rows, Mapping) or not all(isinstance(row, Mapping) and row for row in listed):
        raise TypeError(
            f"table() takes a list of mappings with fields, not this {type_name(rows)}."
        )
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
        # Clocks differ: what another machine did just now may lie ahead.
        seconds = (now - last).total_seconds() if last else None
        if seconds is None:
            return "unknown"
        return f"{span(seconds)} ago" if seconds >= 60 else "just now"

    columns: dict[str, tuple[str, Callable[[Any], str]]] = {
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
    step = 3 if size >= 999.5e6 else 2 if size >= 999.5e3 else 1
    value, unit = size / 1000**step, ("kB", "MB", "GB")[step - 1]
    return f"{value:.1f} {unit}" if value < 9.95 else f"{value:,.0f} {unit}"
