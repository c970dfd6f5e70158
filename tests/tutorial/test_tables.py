"""What table() writes, as HTML and as plain text."""

import dataclasses
from datetime import UTC, datetime
from typing import Any

import pytest

from html_page import Page
from memorystore_chat.tutorial import Table, table


@dataclasses.dataclass
class Session:
    session_id: str
    messages: int
    ttl: float | None = None


SESSIONS = [Session("ada", 4, 86400.0), Session("東京", 1200)]


def test_a_table_in_a_terminal() -> None:
    """Columns line up, also with wide characters; numbers are flush right."""
    assert str(table(SESSIONS, title="Sessions")).split("\n") == [
        "Sessions",
        "",
        "session id  messages    ttl",
        "----------  --------  -----",
        "ada                4  86400",
        "東京            1200      -",
    ]


def test_a_table_in_a_notebook() -> None:
    """A real table: caption, column headers and row headers that say what they head."""
    found = Page(table(SESSIONS, title="Sessions"))
    assert found.text == "Sessionssession idmessagesttlada486400東京1200-"
    assert found.tags["caption"] == 1
    assert found.html.count('<th scope="col"') == 3
    assert found.html.count('<th scope="row"') == 2
    assert found.tags["td"] == 4


def test_a_table_is_its_rows() -> None:
    """The records stay at hand: indexed, sliced, counted, iterated."""
    shown = table(SESSIONS, formats={"ttl": str})
    assert isinstance(shown, Table)
    assert len(shown) == 2
    assert shown[0] is SESSIONS[0]
    assert list(shown[:1]) == SESSIONS[:1]
    assert [row.messages for row in shown] == [4, 1200]
    assert sum(1 for _ in table(iter(SESSIONS))) == 2


def test_columns_are_chosen_named_and_formatted() -> None:
    """Columns select and order fields, give headings; formats write values."""
    shown = table(
        SESSIONS,
        {"ttl": "expires in", "session_id": "session"},
        formats={"ttl": lambda s: "never" if s is None else f"{s / 3600:.0f} h"},
    )
    assert str(shown).split("\n") == [
        "expires in  session",
        "----------  -------",
        "      24 h  ada",
        "     never  東京",
    ]
    assert str(table(SESSIONS, ["session_id"])).split("\n")[2:] == ["ada", "東京"]


def test_values_are_written_for_people() -> None:
    """None, booleans, floats, times and long texts have one form each."""
    when = datetime(2026, 1, 2, 3, 4, 5, 678, tzinfo=UTC)
    values = [None, True, False, 0.1 + 0.2, when, "x" * 201, "two\nlines", b"raw"]
    cells = str(table([{"v": value} for value in values])).split("\n")[2:]
    assert cells == [
        "-",
        "yes",
        "no",
        "0.3",
        "2026-01-02 03:04:05+00:00",
        "x" * 199 + "…",
        "two lines",
        "b'raw'",
    ]


def test_rows_may_lack_fields() -> None:
    """A field that only some rows have is a gap in the others."""
    assert str(table([{"a": 1}, {"b": 2}], ["a", "b"])).split("\n")[2:] == ["1  -", "-  2"]


def test_an_empty_table_says_so() -> None:
    """No rows is a sentence of the caller's choice."""
    assert str(table([])) == "No rows."
    assert (
        str(table([], ["a"], title="Sessions", empty="No sessions.")) == "Sessions\n\nNo sessions."
    )
    assert Page(table([], title="Sessions", empty="None <yet>.")).text == "SessionsNone <yet>."


def test_a_large_table_is_cut_in_sight_only() -> None:
    """Two hundred rows are shown, the others counted and kept."""
    shown = table([{"n": n} for n in range(1_234)])
    found = Page(shown)
    assert found.tags["tr"] == 201
    assert found.text.endswith("1991,034 more rows are not shown.")
    assert str(shown).endswith("199\n1,034 more rows are not shown.")
    assert shown[1_233] == {"n": 1_233}


@pytest.mark.parametrize(
    ("call", "kind", "message"),
    [
        (
            lambda: table(3),  # type: ignore[arg-type]
            TypeError,
            "takes a list of mappings or dataclasses, not int",
        ),
        (lambda: table({"a": 1}), TypeError, "mappings or dataclass instances; row 0 is str"),
        (lambda: table([Session]), TypeError, "row 0 is the class Session"),
        (lambda: table([{"a": 1}], "a"), TypeError, "not the string 'a'"),
        (
            lambda: table([{"a": 1}], ["b"]),
            ValueError,
            "names 'b', which no row has; the first row has 'a'",
        ),
        (
            lambda: table(SESSIONS, ["id"]),
            ValueError,
            "the first row has 'session_id', 'messages', 'ttl'",
        ),
        (lambda: table([{"a": 1}], []), ValueError, "columns is empty"),
        (lambda: table([{}]), ValueError, "columns is empty"),
        (
            lambda: table([{"a": 1}], formats={"b": str}),
            ValueError,
            "formats names 'b', which is not a column; the columns are 'a'",
        ),
    ],
)
def test_what_is_not_a_table_is_refused(call: Any, kind: type[Exception], message: str) -> None:
    """The error says what was given and what is accepted."""
    with pytest.raises(kind) as error:
        call()
    assert message in str(error.value)


def test_a_wide_table_is_bounded() -> None:
    """Thirty columns are shown, a megabyte at most, and the rest is counted."""
    rows = [{f"column {n}": "<" * 200 for n in range(300)}] * 200
    shown = table(rows)
    assert len(shown._repr_html_()) < 1_020_000
    assert len(str(shown)) < 220_000
    for text in (Page(shown).text, str(shown)):
        assert "270 more columns are not shown." in text
        assert "more rows are not shown." in text
    assert len(shown[0]) == 300


def test_only_long_words_may_break() -> None:
    """A short word stays whole in a narrow window; one of 25 characters need not."""
    html = table([{"a": "x" * 24, "b": "x" * 25}])._repr_html_()
    assert html.count("overflow-wrap:anywhere") == 1
