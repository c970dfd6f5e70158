"""What table() writes, as HTML and as plain text."""

import dataclasses
from datetime import UTC, datetime
from typing import Any

import pytest

from html_page import Page
from memorystore_tutorial import Table, table


@dataclasses.dataclass
class Session:
    session_id: str
    messages: int
    ttl: float | None = None


SESSIONS = [Session("ada", 4, 86400.0), Session("東京", 1200)]
ROWS = [dataclasses.asdict(session) for session in SESSIONS]
HEADINGS = {"session_id": "session id", "messages": "messages", "ttl": "ttl"}


def test_a_table_in_a_terminal() -> None:
    assert str(Table(SESSIONS, HEADINGS, title="Sessions")).split("\n") == [
        "Sessions",
        "",
        "session id  messages    ttl",
        "----------  --------  -----",
        "ada                4  86400",
        "東京            1200      -",
    ]


def test_a_table_in_a_notebook() -> None:
    found = Page(Table(SESSIONS, HEADINGS, title="Sessions"))
    assert found.text == "Sessionssession idmessagesttlada486400東京1200-"
    assert found.tags["caption"] == 1
    assert found.html.count('<th scope="col"') == 3
    assert found.html.count('<th scope="row"') == 2
    assert found.tags["td"] == 4


def test_a_table_is_its_rows() -> None:
    shown = table(iter(ROWS))
    assert isinstance(shown, Table)
    assert shown == ROWS
    assert str(shown) == str(Table(SESSIONS, HEADINGS))


def test_columns_are_chosen_named_and_formatted() -> None:
    shown = Table(
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


def test_values_are_written_for_people() -> None:
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
    assert str(table([{"a": 1, "b": 2}, {"a": 3}])).split("\n")[2:] == ["1  2", "3  -"]


def test_an_empty_table_says_so() -> None:
    assert str(table([])) == "No rows."
    named: Table[object] = Table([], {}, title="Sessions", empty="None <yet>.")
    assert str(named) == "Sessions\n\nNone <yet>."
    assert Page(named).text == "SessionsNone <yet>."


def test_a_large_table_is_cut_in_sight_only() -> None:
    shown = table([{"n": n} for n in range(1_234)])
    found = Page(shown)
    assert found.tags["tr"] == 201
    assert found.text.endswith("1991,034 more rows are not shown.")
    assert str(shown).endswith("199\n1,034 more rows are not shown.")
    assert shown[1_233] == {"n": 1_233}


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (3, "takes a list of mappings, not a int"),
        ({"a": 1}, "takes mappings with fields; row 0 is a str"),
        ([{"a": 1}, Session], "row 1 is a type"),
        ([{}], "row 0 is a dict"),
    ],
)
def test_what_is_not_a_table_is_refused(given: Any, message: str) -> None:
    with pytest.raises(TypeError, match=message):
        table(given)


def test_a_wide_table_is_bounded() -> None:
    rows = [{f"column {n}": "<" * 200 for n in range(40)}] * 200
    shown = table(rows)
    assert len(shown._repr_html_()) < 1_020_000
    assert len(str(shown)) < 220_000
    for text in (Page(shown).text, str(shown)):
        assert "more rows are not shown." in text


def test_only_long_words_may_break() -> None:
    html = table([{"a": "x" * 24, "b": "x" * 25}])._repr_html_()
    assert html.count("overflow-wrap:anywhere") == 1
