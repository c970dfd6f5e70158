"""Records as tables: safe HTML in a notebook, aligned text in a terminal.

All cells are escaped. The HTML needs no style sheet and no ids, and colors are the page's own.
"""

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from html import escape
from typing import Any, TypeVar, overload

from memorystore_chat.tutorial._text import (
    NO_MATH,
    checked_title,
    fitting,
    kind,
    line,
    titled,
)
from memorystore_chat.tutorial._text import (
    columns as width_of,
)

_ROWS = 200
_COLUMNS = 30
_HTML_LIMIT = 1_000_000
_PLAIN_LIMIT = 200_000
_WORD = 24  # characters of a word that a cell does not break
_CELL = (
    "padding:.3em .9em .3em .2em;vertical-align:top;background:none;"
    "border:0;border-bottom:1px solid rgba(128,128,128,.3);text-align:"
)
_HEAD_RULE = "border-bottom:2px solid rgba(128,128,128,.7)"

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
        self._title = checked_title(title)
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
            return titled(self._title, self._empty)
        right = self._numeric()
        lines = [self._headings(), *self._cells()]
        widths = [max(map(width_of, column)) for column in zip(*lines, strict=True)]
        lines.insert(1, ["-" * width for width in widths])
        text = (
            "  ".join(
                f"{'':{width - width_of(cell)}}{cell}" if key in right
                else f"{cell}{'':{width - width_of(cell)}}"
                for key, cell, width in zip(self._shown, cells, widths, strict=True)
            ).rstrip()
            for cells in lines
        )  # fmt: skip
        shown = fitting(text, _PLAIN_LIMIT)
        return titled(self._title, *shown, *self._more(len(shown) - 2))

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
            return f"<div {NO_MATH}>{title}<i>{escape(self._empty)}</i></div>"
        right = self._numeric()
        styles = [_CELL + ("right" if key in right else "left") for key in self._shown]
        head = "".join(
            f'<th scope="col" style="{style};{_HEAD_RULE}">{escape(heading)}</th>'
            for style, heading in zip(styles, self._headings(), strict=True)
        )
        rows = (f"<tr>{_row_html(cells, styles)}</tr>" for cells in self._cells())
        shown = fitting(rows, _HTML_LIMIT)
        more = "".join(f"<div><i>{note}</i></div>" for note in self._more(len(shown)))
        return (
            f'<div {NO_MATH} style="line-height:1.5">'
            f'<table style="border-collapse:collapse;margin:.3em 0;color:inherit">'
            f"{caption}<thead><tr>{head}</tr></thead>"
            f"<tbody>{''.join(shown)}</tbody></table>{more}</div>"
        )

    @property
    def _shown(self) -> list[str]:
        return list(self._columns)[:_COLUMNS]

    def _headings(self) -> list[str]:
        return [line(self._columns[key]) for key in self._shown]

    def _cells(self) -> list[list[str]]:
        return [
            [line(self._formats.get(key, _cell)(_field(row, key))) for key in self._shown]
            for row in self._rows[:_ROWS]
        ]

    def _numeric(self) -> set[str]:
        """Columns of numbers only (and gaps): they are set flush right."""
        return {
            key
            for key in self._shown
            if all(
                isinstance(value, int | float) and not isinstance(value, bool)
                for row in self._rows[:_ROWS]
                if (value := _field(row, key)) is not None
            )
        }

    def _more(self, shown: int) -> list[str]:
        hidden = {"rows": len(self._rows) - shown, "columns": len(self._columns) - _COLUMNS}
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
    its row.
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


def _checked_rows(rows: Iterable[Row]) -> tuple[Row, ...]:
    if not isinstance(rows, Iterable):
        raise TypeError(f"table() takes a list of mappings or dataclasses, not {kind(rows)}")
    checked = tuple(rows)
    for index, row in enumerate(checked):
        if isinstance(row, type) or not (isinstance(row, Mapping) or dataclasses.is_dataclass(row)):
            raise TypeError(
                f"table() takes mappings or dataclass instances; row {index} is {kind(row)}"
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
