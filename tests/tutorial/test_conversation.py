"""What transcript() writes, as HTML and as plain text."""

import subprocess
import sys
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from IPython.core.formatters import DisplayFormatter
from langchain_core.messages import (
    AIMessage,
    AIMessageChunk,
    BaseMessage,
    ChatMessage,
    FunctionMessage,
    HumanMessage,
    RemoveMessage,
    SystemMessage,
    ToolMessage,
)

from html_page import Page
from memorystore_tutorial import Table, table, transcript
from memorystore_tutorial._text import visible

OVERRIDE = "\N{RIGHT-TO-LEFT OVERRIDE}"


def plain(*messages: BaseMessage) -> str:
    return str(transcript(messages))


def page(*messages: BaseMessage) -> Page:
    return Page(transcript(messages))


# Reading


def test_a_conversation_in_a_terminal() -> None:
    shown = transcript(
        [
            SystemMessage("Be brief."),
            HumanMessage(
                "What is the weather in Paris?\nAnd is it worth a trip? " + "Really? " * 9
            ),
            AIMessage(
                "Let me see.",
                tool_calls=[{"name": "get_weather", "args": {"city": "Paris"}, "id": "c1"}],
            ),
            ToolMessage("18 °C", tool_call_id="c1"),
            AIMessage("It is 18 °C."),
        ],
        title="Session ada-42",
    )
    assert str(shown) == repr(shown)
    assert str(shown).split("\n") == [
        "Session ada-42",
        "",
        "System  Be brief.",
        "Human   What is the weather in Paris?",
        "        And is it worth a trip? Really? Really? Really? Really? Really? Really? Really?",
        "        Really? Really?",
        "AI      Let me see.",
        '        [Tool call: get_weather] {"city": "Paris"}',
        "Tool    [get_weather] 18 °C",
        "AI      It is 18 °C.",
    ]


def test_the_same_conversation_in_a_notebook() -> None:
    found = page(
        SystemMessage("Be brief."),
        HumanMessage("Hi", name="ada"),
        AIMessage("Hello"),
        ToolMessage("18", tool_call_id="1", name="get_weather"),
    )
    assert found.messages == 4
    assert found.text == "System Be brief.Human ada HiAI HelloTool get_weather 18"


def test_ipython_shows_both_forms() -> None:
    for shown in (transcript([HumanMessage("Hi")]), table([{"a": 1}])):
        data, metadata = DisplayFormatter().format(shown)
        assert set(data) == {"text/html", "text/plain"}
        assert data["text/plain"] == str(shown)
        assert metadata == {}


@pytest.mark.parametrize(
    ("message", "role"),
    [
        (HumanMessage("x"), "Human"),
        (AIMessage("x"), "AI"),
        (AIMessageChunk(content="x"), "AI"),
        (SystemMessage("x"), "System"),
        (ToolMessage("x", tool_call_id="1"), "Tool"),
        (FunctionMessage(content="x", name=""), "Function"),
        (ChatMessage(content="x", role="critic"), "critic"),
        (BaseMessage("x", type="note"), "note"),
    ],
)
def test_each_kind_names_its_role(message: BaseMessage, role: str) -> None:
    assert plain(message) == f"{role}  x"
    assert page(message).text == f"{role} x"


def test_a_removal_says_what_it_removes() -> None:
    assert plain(RemoveMessage(id="m1")) == "Remove  [removes message m1]"


def test_no_messages_yet() -> None:
    assert str(transcript([])) == "No messages yet."
    assert Page(transcript([], title="Ada")).text == "AdaNo messages yet."


def test_a_tool_result_is_named_after_its_call() -> None:
    call = {"args": {}, "id": "1"}
    shown = plain(
        AIMessage("", tool_calls=[{"name": "first", **call}]),
        ToolMessage("a", tool_call_id="1"),
        AIMessage("", tool_calls=[{"name": "second", **call}]),
        ToolMessage("b", tool_call_id="1", status="error"),
    )
    assert "Tool  [first] a" in shown
    assert "Tool  [second failed] b" in shown


def test_a_long_role_stands_above_its_text() -> None:
    shown = plain(ChatMessage(content="x", role="a-very-long-role-name-indeed"), HumanMessage("y"))
    assert shown.split("\n") == [
        "a-very-long-role-name-indeed",
        " " * 22 + "x",
        "Human" + " " * 17 + "y",
    ]


def test_text_cannot_pose_as_another_message() -> None:
    shown = plain(HumanMessage("Hi\nSystem  obey\n\nAI  yes"), AIMessage("Hello"))
    margins = [line.split()[0] for line in shown.split("\n") if not line.startswith(" ") and line]
    assert margins == ["Human", "AI"]


def test_dollars_are_not_formulas() -> None:
    """JupyterLab and Colab typeset $...$ in HTML unless these classes are there."""
    assert 'class="tex2jax_ignore mathjax_ignore"' in page(HumanMessage("$5 and $6")).html
    assert 'class="tex2jax_ignore mathjax_ignore"' in Page(table([{"a": "$5 and $6"}])).html


# Safety


HOSTILE = [
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "</div></li></ol><style>*{display:none}</style>",
    "<a href='javascript:alert(1)'>x</a> [x](javascript:alert(1))",
    "<!-- <details open ontoggle=alert(1)> ]]> &lt;script&gt; &#60;b&#62;",
    "# Title\n* **bold** `code`",
]


@pytest.mark.parametrize("text", HOSTILE)
def test_content_is_text_wherever_it_stands(text: str) -> None:
    messages = [
        HumanMessage(text, name=text),
        ChatMessage(content=text, role=text),
        SystemMessage([text, {"type": "text", "text": text}, {"type": text, "x": text}]),
        AIMessage(
            [
                {"type": "reasoning", "reasoning": text},
                {"type": "image_url", "image_url": {"url": text}},
                {"type": "file", "base64": "AA", "filename": text, "mime_type": text},
            ],
            tool_calls=[{"name": text, "args": {text: text}, "id": text}],
            invalid_tool_calls=[
                {"name": text, "args": text, "id": text, "error": text, "type": "invalid_tool_call"}
            ],
        ),
        ToolMessage(text, tool_call_id=text),
        RemoveMessage(id=text),
    ]
    found = Page(transcript(messages, title=text))
    assert found.messages == len(messages)
    assert found.images == []
    assert found.text.count(text) >= 7
    rows = Page(Table([{text: text, "b": 1}], {text: text, "b": "b"}, title=text))
    assert rows.tags == {
        **dict.fromkeys(["div", "table", "caption", "thead", "tbody", "td"], 1),
        "th": 3,
        "tr": 2,
        "bdi": 2,
    }


@pytest.mark.parametrize(
    ("character", "name"),
    [
        (OVERRIDE, "[U+202E]"),
        ("\N{POP DIRECTIONAL ISOLATE}", "[U+2069]"),
        ("\x1b", "[U+001B]"),
        ("\x00", "[U+0000]"),
        ("\r", "[U+000D]"),
        ("\x9b", "[U+009B]"),
        ("\N{ZERO WIDTH SPACE}", "[U+200B]"),
        ("\N{LINE SEPARATOR}", "[U+2028]"),
        ("\N{TAG LATIN SMALL LETTER A}", "[U+E0061]"),
        ("\ud800", "[U+D800]"),
        ("\N{SOFT HYPHEN}", "[U+00AD]"),
        ("\N{COMBINING GRAPHEME JOINER}", "[U+034F]"),
        ("\N{HANGUL FILLER}", "[U+3164]"),
        ("\N{MONGOLIAN FREE VARIATION SELECTOR ONE}", "[U+180B]"),
        ("\N{MONGOLIAN VOWEL SEPARATOR}", "[U+180E]"),
        ("\N{VARIATION SELECTOR-1}", "[U+FE00]"),
        ("\N{VARIATION SELECTOR-15}", "[U+FE0E]"),
        ("\N{VARIATION SELECTOR-17}", "[U+E0100]"),
        ("\N{VARIATION SELECTOR-256}", "[U+E01EF]"),
        ("\N{MUSICAL SYMBOL BEGIN BEAM}", "[U+1D173]"),
        ("\N{MUSICAL SYMBOL END PHRASE}", "[U+1D17A]"),
    ],
)
def test_characters_that_deceive_are_written_out(character: str, name: str) -> None:
    text = f"a{character}b"
    shown = transcript(
        [
            HumanMessage(text, name=text),
            AIMessage("", tool_calls=[{"name": text, "args": {"x": text}, "id": "1"}]),
            ToolMessage(text, tool_call_id="1"),
        ],
        title=text,
    )
    rows = Table([{text: text}], {text: text}, title=text)
    for output in (str(shown), shown._repr_html_(), str(rows), rows._repr_html_()):
        assert character not in output
        assert output.encode()
        assert f"a{name}b" in output or (character in "\x00\x1b\r\x9b" and "\\u00" in output)
    assert shown._repr_html_().count(f"a{name}b") >= 4


def test_text_that_needs_joiners_keeps_them() -> None:
    text = "می\N{ZERO WIDTH NON-JOINER}خواهم שלום 👩\N{ZERO WIDTH JOINER}🚀 ❤\ufe0f\tok\r\nline"
    found = page(HumanMessage(text))
    assert text.replace("\r\n", "\n") in found.text
    assert 'dir="auto"' in found.html


@settings(max_examples=150, deadline=None)
@given(text=st.text(min_size=1, max_size=300))
def test_any_text_stays_text(text: str) -> None:
    found = page(HumanMessage(text))
    assert set(found.tags) <= {"div", "p", "span", "b", "br", "details", "summary"}
    assert found.messages == 1
    assert found.tags["br"] == visible(text).count("\n")
    if not found.tags["details"]:
        assert found.text == "Human " + visible(text)


# Size


def test_a_megabyte_is_folded_and_cut() -> None:
    text = "word " * 200_000
    found = page(HumanMessage(text))
    assert len(found.html) < 12_000
    assert found.summaries == ["999,001 more of 1,000,000 characters"]
    assert found.folded.endswith("991,001 more characters are not shown.")
    assert found.text.count("word") == 200 + 1_600
    shown = plain(HumanMessage(text))
    assert len(shown) < 1_300
    assert shown.endswith("[999,001 more characters]")


def test_a_text_that_fits_is_not_folded() -> None:
    assert page(HumanMessage("x" * 1_000)).summaries == []
    assert page(HumanMessage("x" * 1_001)).summaries == ["1 more of 1,001 characters"]
    assert page(HumanMessage("\n" * 23)).summaries == []
    assert page(HumanMessage("\n" * 24)).summaries == ["1 more of 24 characters"]


def test_a_long_tool_result_is_folded_early() -> None:
    found = page(ToolMessage("x" * 301, tool_call_id="1"))
    assert found.summaries == ["1 more of 301 characters"]
    assert found.folded == "x"


@pytest.mark.parametrize(
    "messages",
    [
        [HumanMessage(f"message {n} " + "x" * 9_000) for n in range(300)],
        [HumanMessage("last"), AIMessage([{"type": "text", "text": "y" * 9_000}] * 300)],
        [AIMessage("", tool_calls=[{"name": "t", "args": {"x": "z" * 2_000_000}, "id": "1"}])],
    ],
    ids=["many messages", "many parts", "huge arguments"],
)
def test_a_transcript_has_a_limit(messages: list[BaseMessage]) -> None:
    shown = transcript(messages)
    assert len(shown._repr_html_()) < 1_020_000
    assert len(str(shown)) < 320_000
    for text in (Page(shown).text, str(shown)):
        assert " are not shown" in text or "more characters]" in text


def test_of_many_messages_the_newest_are_shown() -> None:
    messages = [HumanMessage(f"message {n} " + "x" * 900) for n in range(2_000)]
    found = page(*messages)
    hidden = 2_000 - found.messages
    assert 0 < hidden < 2_000
    assert f"{hidden:,} earlier messages are not shown." in found.text
    assert f"message {hidden} " in found.text
    assert "message 1999 " in found.text
    assert f"message {hidden - 1} " not in found.text
    assert "earlier messages are not shown." in plain(*messages)


def test_six_messages_are_compact() -> None:
    messages = [HumanMessage("I am Ada, and I like tea."), AIMessage("Nice to meet you, Ada!")] * 3
    assert len(page(*messages).html) < 2_500
    call = {"name": "get_weather", "args": {"city": "Paris"}, "id": "1"}
    rich = [
        *messages[:2],
        SystemMessage("Be brief."),
        AIMessage("", tool_calls=[call]),
        ToolMessage("18 °C", tool_call_id="1"),
        AIMessage("x" * 500),
    ]
    assert len(page(*rich).html) < 5_000


# Determinism


def test_output_is_the_same_in_every_process(capsys: pytest.CaptureFixture[str]) -> None:
    """Outputs are compared by nbval, so nothing in them depends on time, chance or hashing."""
    code = (
        "from langchain_core.messages import *; from memorystore_tutorial import *\n"
        "m = AIMessage([{'type': 'image', 'base64': 'AA=='}, 'x' * 2000])\n"
        "m.tool_calls = [dict(name='t', args={'s': set('abcdef'), 'o': object()}, id='1')]\n"
        "t = transcript([m]); r = table([{'a': 1.5, 'b': None}])\n"
        "print(t, t._repr_html_(), r, r._repr_html_())"
    )
    other = subprocess.check_output([sys.executable, "-c", code], text=True)
    exec(code)
    assert "Tool call: t" in other
    assert other == capsys.readouterr().out


def test_a_transcript_is_a_snapshot() -> None:
    messages: list[BaseMessage] = [HumanMessage("one")]
    shown = transcript(messages)
    messages.append(AIMessage("two"))
    assert str(shown) == "Human  one"


# Wrong input


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("hello", "takes a list of LangChain messages, such as history.messages, not a str"),
        (HumanMessage("x"), "not a langchain_core.messages.human.HumanMessage"),
        (None, "such as history.messages, not a NoneType"),
        (7, "such as history.messages, not a int"),
        (["hello"], "element 0 is a str"),
        ([HumanMessage("x"), {"role": "user"}], "element 1 is a dict"),
        ([None], "element 0 is a NoneType"),
    ],
)
def test_what_is_not_a_conversation_is_refused(given: Any, message: str) -> None:
    with pytest.raises(TypeError, match=r"transcript\(\) takes") as error:
        transcript(given)
    assert str(error.value).endswith(message)


def test_a_title_is_a_string() -> None:
    title: Any = 3
    with pytest.raises(TypeError, match=r"^title must be a string or None, not a int$"):
        transcript([], title=title)
