"""Records as tables: safe HTML in a notebook, aligned text in a terminal."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from html import escape
from typing import Any, TypeVar

from memorystore_chat.arguments import type_name
from memorystore_tutorial._text import (
    HTML_LIMIT,
    NO_MATH,
    PLAIN_LIMIT,
    columns_of,
    fitting,
    line,
    titled,
)

_ROWS = 200
_WORD = 24  # characters of a word that a cell does not break
_CELL = (
    "padding:.3em .9em .3em .2em;vertical-align:top;background:none;"
    "border:0;border-bottom:1px solid rgba(128,128,128,.3);text-align:"
)
_HEAD_RULE = "border-bottom:2px solid rgba(128,128,128,.7)"

Row = TypeVar("Row")


class Table(list[Row]):
    """A list of records that shows itself as HTML or aligned text. Made by `table`."""

    # Columns are fields and their headings; formats say how to write a field's value.
    def __init__(
        self,
        rows: Iterable[Row],
        columns: Mapping[str, str],
        *,
        title: str = "",
        formats: Mapping[str, Callable[[Any], str]] | None = None,
        empty: str = "No rows.",
    ) -> None:
        super().__init__(rows)
        self._columns = columns
        self._title = line(title)
        self._formats = formats or {}
        self._empty = empty

    def __str__(self) -> str:
        if not self:
            return titled(self._title, self._empty)
        headings, cells, right = self._grid()
        widths = [max(map(columns_of, column)) for column in zip(headings, *cells, strict=True)]
        text = (
            "  ".join(
                f"{'':{width - columns_of(cell)}}{cell}" if flush_right
                else f"{cell}{'':{width - columns_of(cell)}}"
                for cell, width, flush_right in zip(row, widths, right, strict=True)
            ).rstrip()
            for row in (headings, ["-" * width for width in widths], *cells)
        )  # fmt: skip
        shown = fitting(text, PLAIN_LIMIT)
        return titled(self._title, *shown, *self._more(len(shown) - 2))

    __repr__ = __str__

    def _repr_html_(self) -> str:
        title = escape(self._title)
        if not self:
            heading = f"<div><b>{title}</b></div>" if title else ""
            return f"<div {NO_MATH}>{heading}<i>{escape(self._empty)}</i></div>"
        headings, cells, right = self._grid()
        styles = [_CELL + ("right" if flush_right else "left") for flush_right in right]
        head = "".join(
            f'<th scope="col" style="{style};{_HEAD_RULE}">{escape(heading)}</th>'
            for style, heading in zip(styles, headings, strict=True)
        )
        shown = fitting((f"<tr>{_row_html(row, styles)}</tr>" for row in cells), HTML_LIMIT)
        caption = '<caption style="text-align:left;font-weight:bold;padding:.3em 0;color:inherit">'
        caption = f"{caption}{title}</caption>" if title else ""
        more = "".join(f"<div><i>{note}</i></div>" for note in self._more(len(shown)))
        return (
            f'<div {NO_MATH} style="line-height:1.5">'
            f'<table style="border-collapse:collapse;margin:.3em 0;color:inherit">'
            f"{caption}<thead><tr>{head}</tr></thead>"
            f"<tbody>{''.join(shown)}</tbody></table>{more}</div>"
        )

    def _grid(self) -> tuple[list[str], list[list[str]], list[bool]]:
        """Headings, cells, and which columns hold numbers (and gaps) only: they go flush right."""
        values = [[_field(row, key) for key in self._columns] for row in self[:_ROWS]]
        formats = [self._formats.get(key, _cell) for key in self._columns]
        cells = [
            [line(write(value)) for write, value in zip(formats, row, strict=True)]
            for row in values
        ]
        right = [all(map(_is_number_or_gap, column)) for column in zip(*values, strict=True)]
        return [*map(line, self._columns.values())], cells, right

    def _more(self, shown: int) -> list[str]:
        hidden = len(self) - shown
        return [f"{hidden:,} more rows are not shown."] if hidden else []


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
        TypeError: A row is not a mapping, or an empty one.

    Example:
        >>> table([{"session": "a", "messages": 4}, {"session": "b", "messages": 12}])
        session  messages
        -------  --------
        a               4
        b              12
    """
    if not isinstance(rows, Iterable):
        raise TypeError(f"table() takes a list of mappings, not a {type_name(rows)}")
    rows = list(rows)
    for index, row in enumerate(rows):
        if not isinstance(row, Mapping) or not row:
            given = type_name(row)
            raise TypeError(f"table() takes mappings with fields; row {index} is a {given}")
    return Table(rows, {key: str(key).replace("_", " ") for key in (rows or [{}])[0]})


def _row_html(cells: Sequence[str], styles: Sequence[str]) -> str:
    first, *rest = (
        f'style="{style};font-weight:normal{_breaks(cell)}"><bdi>{escape(cell)}</bdi>'
        for cell, style in zip(cells, styles, strict=True)
    )
    return f'<th scope="row" {first}</th>' + "".join(f"<td {cell}</td>" for cell in rest)


def _breaks(cell: str) -> str:
    """Only a word that a narrow window may not hold is broken."""
    long = max(map(len, cell.split()), default=0) > _WORD
    return ";overflow-wrap:anywhere;min-width:10em" if long else ""


def _field(row: object, key: str) -> Any:
    return row.get(key) if isinstance(row, Mapping) else getattr(row, key)


def _is_number_or_gap(value: object) -> bool:
    return value is None or (isinstance(value, int | float) and not isinstance(value, bool))


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
