"""Records as tables: safe HTML in a notebook, aligned text in a terminal."""

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from html import escape
from typing import Any, TypeVar

from memorystore_chat.tutorial._text import (
    HTML_LIMIT,
    NO_MATH,
    PLAIN_LIMIT,
    checked_title,
    columns_of,
    fitting,
    kind,
    line,
    titled,
)

_ROWS = 200
_COLUMNS = 30
_WORD = 24  # characters of a word that a cell does not break
_CELL = (
    "padding:.3em .9em .3em .2em;vertical-align:top;background:none;"
    "border:0;border-bottom:1px solid rgba(128,128,128,.3);text-align:"
)
_HEAD_RULE = "border-bottom:2px solid rgba(128,128,128,.7)"

Row = TypeVar("Row")


class Table(list[Row]):
    """A list of records that shows itself as HTML or aligned text. Made by `table`."""

    def __init__(
        self,
        rows: Iterable[Row],
        columns: Mapping[str, str],
        title: str | None,
        formats: Mapping[str, Callable[[Any], str]],
        empty: str,
    ) -> None:
        super().__init__(rows)
        self._columns = columns
        self._title = title
        self._formats = formats
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
        title = escape(self._title or "")
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
        keys = list(self._columns)[:_COLUMNS]
        values = [[_field(row, key) for key in keys] for row in self[:_ROWS]]
        formats = [self._formats.get(key, _cell) for key in keys]
        cells = [
            [line(write(value)) for write, value in zip(formats, row, strict=True)]
            for row in values
        ]
        right = [all(map(_is_number_or_gap, column)) for column in zip(*values, strict=True)]
        return [line(self._columns[key]) for key in keys], cells, right

    def _more(self, shown: int) -> list[str]:
        hidden = {"rows": len(self) - shown, "columns": len(self._columns) - _COLUMNS}
        return [f"{n:,} more {what} are not shown." for what, n in hidden.items() if n > 0]


def table(
    rows: Iterable[Row],
    columns: Sequence[str] | Mapping[str, str] | None = None,
    *,
    title: str | None = None,
    formats: Mapping[str, Callable[[Any], str]] | None = None,
    empty: str = "No rows.",
) -> Table[Row]:
    """Show records as a table: HTML in a notebook, aligned text in a terminal.

    The first 200 rows and 30 columns are shown, 200 characters of a cell. The first column names
    its row, columns of numbers are set flush right.

    Args:
        rows: Mappings or dataclass instances.
        columns: Which fields to show, in order; a mapping gives each its heading. By default
            the fields of the first row.
        title: A heading above the table.
        formats: Field -> how to write its value; without one, None is written as "-", booleans
            as "yes" and "no", floats with six digits, times to the second.
        empty: What to show when there are no rows.

    Returns:
        A list of the given rows that shows itself; `print` and `str` give the plain text.

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
    if not isinstance(rows, Iterable):
        raise TypeError(f"table() takes a list of mappings or dataclasses, not {kind(rows)}")
    rows = list(rows)
    for index, row in enumerate(rows):
        if isinstance(row, type) or not (isinstance(row, Mapping) or dataclasses.is_dataclass(row)):
            raise TypeError(
                f"table() takes mappings or dataclass instances; row {index} is {kind(row)}"
            )
    headings = _headings(columns, rows)
    if unknown := (formats or {}).keys() - headings.keys():
        raise ValueError(
            f"formats names {min(unknown)!r}, which is not a column; the columns are "
            f"{', '.join(map(repr, headings)) or 'none'}"
        )
    return Table(rows, headings, checked_title(title), formats or {}, empty)


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
    return row.get(key) if isinstance(row, Mapping) else getattr(row, key, None)


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


def _headings(
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
    for key in columns if rows else ():
        if not any(key in row if isinstance(row, Mapping) else hasattr(row, key) for row in rows):
            raise ValueError(
                f"columns names {key!r}, which no row has; the first row has "
                f"{', '.join(map(repr, _fields(rows[0])))}"
            )
    return dict(columns)


def _fields(row: Any) -> list[str]:
    if isinstance(row, Mapping):
        return list(row)
    return [field.name for field in dataclasses.fields(row)]
