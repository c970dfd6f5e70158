"""What transcript() and table() write, as HTML and as plain text."""

import base64
import dataclasses
import os
import subprocess
import sys
from collections import Counter
from datetime import UTC, datetime
from decimal import Decimal
from html.parser import HTMLParser
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

from memorystore_chat.tutorial import display
from memorystore_chat.tutorial.display import Table, Transcript, table, transcript

PNG = (
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5E"
    "rkJggg=="
)
GIF = base64.b64encode(b"GIF89a\x01\x00\x01\x00\x00\x00\x00;").decode()
JPEG = base64.b64encode(b"\xff\xd8\xff\xe0 and so on").decode()
WEBP = base64.b64encode(b"RIFF\x10\x00\x00\x00WEBPVP8 ").decode()
SVG = base64.b64encode(b'<svg xmlns="http://www.w3.org/2000/svg" onload="alert(1)"/>').decode()

ALLOWED = {
    "div": {"class", "role", "aria-label", "style", "dir"},
    "ol": {"role", "style", "start"},
    "li": {"style"},
    "span": {"style"},
    "pre": {"style"},
    "summary": {"style"},
    "img": {"src", "alt", "style"},
    "table": {"style"},
    "caption": {"style"},
    "th": {"scope", "style"},
    "td": {"style"},
    **{tag: set() for tag in ("b", "i", "br", "bdi", "details", "thead", "tbody", "tr")},
}
OVERRIDE = "\N{RIGHT-TO-LEFT OVERRIDE}"


class Page(HTMLParser):
    """The elements and the text of a piece of HTML, as a browser would find them."""

    def __init__(self, shown: Any) -> None:
        super().__init__()
        self.html = shown._repr_html_()
        self.tags: Counter[str] = Counter()
        self.images: list[dict[str, str]] = []
        self.text = ""
        self.open: list[str] = []
        self.folded = ""  # text inside <details>, summaries apart
        self.summaries: list[str] = []
        self.feed(self.html)
        self.close()
        assert self.open == [], "every element is closed"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert tag in ALLOWED, f"<{tag}> is not ours"
        assert {name for name, _ in attrs} <= ALLOWED[tag], f"{attrs} on <{tag}>"
        self.tags[tag] += 1
        if tag == "img":
            self.images.append({name: value or "" for name, value in attrs})
            assert self.images[-1]["src"].startswith("data:image/")
        elif tag == "br":
            self.handle_data("\n")
        else:
            self.open.append(tag)
        if tag == "summary":
            self.summaries.append("")

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data
        if "summary" in self.open:
            self.summaries[-1] += data
        elif "details" in self.open:
            self.folded += data


def plain(*messages: BaseMessage) -> str:
    return str(transcript(messages))


def page(*messages: BaseMessage) -> Page:
    return Page(transcript(messages))


# Reading


def test_a_conversation_in_a_terminal() -> None:
    """Plain text has one column of roles, and the texts wrapped beside it."""
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
    """HTML names the same roles in the same order, one list item a message."""
    found = page(
        SystemMessage("Be brief."),
        HumanMessage("Hi", name="ada"),
        AIMessage("Hello"),
        ToolMessage("18", tool_call_id="1", name="get_weather"),
    )
    assert found.tags["li"] == 4
    assert found.text == "SystemBe brief.Human adaHiAIHelloTool get_weather18"


def test_ipython_shows_both_forms() -> None:
    """A notebook front end is offered HTML and text, and nothing else."""
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
        (AIMessageChunk("x"), "AI"),
        (SystemMessage("x"), "System"),
        (ToolMessage("x", tool_call_id="1"), "Tool"),
        (FunctionMessage("x", name=""), "Function"),
        (ChatMessage("x", role="critic"), "critic"),
        (BaseMessage("x", type="note"), "note"),
    ],
)
def test_each_kind_names_its_role(message: BaseMessage, role: str) -> None:
    """The role is there in words, not by color or side alone."""
    assert plain(message) == f"{role}  x"
    assert page(message).text == f"{role}x"


def test_a_removal_says_what_it_removes() -> None:
    """A RemoveMessage has no content, so it names its target."""
    assert plain(RemoveMessage(id="m1")) == "Remove  [removes message m1]"


def test_no_messages_yet() -> None:
    """An empty conversation says so."""
    assert str(transcript([])) == "No messages yet."
    assert Page(transcript([], title="Ada")).text == "AdaNo messages yet."


def test_an_empty_message_is_not_an_empty_bubble() -> None:
    """A message without content says so."""
    assert plain(AIMessage("")) == "AI  [empty]"
    assert page(AIMessage([])).text == "AIempty"


def test_a_tool_result_is_named_after_its_call() -> None:
    """The name comes from the newest call of that id before the result."""
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
    """A role of a caller's own does not push all texts to the right."""
    shown = plain(ChatMessage("x", role="a-very-long-role-name-indeed"), HumanMessage("y"))
    assert shown.split("\n") == [
        "a-very-long-role-name-indeed",
        " " * 22 + "x",
        "Human" + " " * 17 + "y",
    ]


def test_text_cannot_pose_as_another_message() -> None:
    """In plain text only a label stands at the left margin."""
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
    """Markup in any field of a message is shown, not obeyed."""
    messages = [
        HumanMessage(text, name=text),
        ChatMessage(text, role=text),
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
    assert found.tags["li"] == len(messages)
    assert found.images == []
    assert found.text.count(text) >= 7
    rows = Page(table([{text: text, "b": 1}], title=text))
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
    ],
)
def test_characters_that_deceive_are_written_out(character: str, name: str) -> None:
    """Overrides, controls, hidden and unencodable characters appear as code points."""
    text = f"a{character}b"
    shown = transcript(
        [
            HumanMessage(text, name=text),
            AIMessage("", tool_calls=[{"name": text, "args": {"x": text}, "id": "1"}]),
            ToolMessage(text, tool_call_id="1"),
        ],
        title=text,
    )
    rows = table([{text: text}], title=text)
    for output in (str(shown), shown._repr_html_(), str(rows), rows._repr_html_()):
        assert character not in output
        assert output.encode()
        assert f"a{name}b" in output or (character in "\x00\x1b\r\x9b" and "\\u00" in output)
    assert shown._repr_html_().count(f"a{name}b") >= 4


def test_text_that_needs_joiners_keeps_them() -> None:
    """Persian, Hebrew and emoji read as written, and CRLF is one line break."""
    text = "می\N{ZERO WIDTH NON-JOINER}خواهم שלום 👩\N{ZERO WIDTH JOINER}🚀\tok\r\nline"
    found = page(HumanMessage(text))
    assert text.replace("\r\n", "\n") in found.text
    assert 'dir="auto"' in found.html


@settings(max_examples=150, deadline=None)
@given(text=st.text(min_size=1, max_size=300))
def test_any_text_stays_text(text: str) -> None:
    """Whatever the text, the elements are the same and the text is all there."""
    found = page(HumanMessage(text))
    assert set(found.tags) <= {"div", "ol", "li", "span", "b", "br", "details", "summary"}
    assert found.tags["li"] == 1
    assert found.tags["br"] == display._visible(text).count("\n")
    if not found.tags["details"]:
        assert found.text == "Human" + display._visible(text)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=6,
)
BLOCKS = st.fixed_dictionaries(
    {},
    optional={
        "type": st.sampled_from(["text", "thinking", "tool_use", *display._MEDIA]) | JSON,
        **dict.fromkeys(["text", "url", "data", "base64", "source", "mime_type", "extras"], JSON),
        **dict.fromkeys(["image_url", "input_audio", "file", "reasoning"], JSON),
    },
)


@settings(max_examples=150, deadline=None)
@given(content=st.lists(st.text(max_size=20) | BLOCKS, max_size=4))
def test_any_content_block_can_be_shown(content: list[Any]) -> None:
    """Blocks of any shape, known or not, are shown and never raise."""
    assert plain(AIMessage(content))
    assert page(AIMessage(content)).text.startswith("AI")


# Size


def test_a_megabyte_is_folded_and_cut() -> None:
    """The start is shown, more unfolds, the rest is counted; nothing is written uncut."""
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
    """A thousand characters are shown as they are; one more folds."""
    assert page(HumanMessage("x" * 1_000)).summaries == []
    assert page(HumanMessage("x" * 1_001)).summaries == ["1 more of 1,001 characters"]
    assert page(HumanMessage("\n" * 23)).summaries == []
    assert page(HumanMessage("\n" * 24)).summaries == ["1 more of 24 characters"]


def test_a_long_tool_result_is_folded_early() -> None:
    """Tool results are for looking up: they fold after 300 characters."""
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
    """However much is given, the notebook stays small and says what is missing."""
    shown = transcript(messages)
    assert len(shown._repr_html_()) < 1_020_000
    assert len(str(shown)) < 320_000
    for text in (Page(shown).text, str(shown)):
        assert " are not shown" in text or "more characters]" in text


def test_of_many_messages_the_newest_are_shown() -> None:
    """The end of a conversation is what one wants to see; list numbers stay true."""
    messages = [HumanMessage(f"message {n} " + "x" * 900) for n in range(2_000)]
    found = page(*messages)
    hidden = 2_000 - found.tags["li"]
    assert 0 < hidden < 2_000
    assert f"{hidden:,} earlier messages are not shown." in found.text
    assert f'start="{hidden + 1}"' in found.html
    assert f"message {hidden} " in found.text
    assert "message 1999 " in found.text
    assert f"message {hidden - 1} " not in found.text
    assert "earlier messages are not shown." in plain(*messages)


def test_six_messages_are_compact() -> None:
    """A usual conversation costs the notebook less than 4 KB."""
    messages = [HumanMessage("I am Ada, and I like tea."), AIMessage("Nice to meet you, Ada!")] * 3
    assert len(page(*messages).html) < 2_000
    call = {"name": "get_weather", "args": {"city": "Paris"}, "id": "1"}
    rich = [
        *messages[:2],
        SystemMessage("Be brief."),
        AIMessage("", tool_calls=[call]),
        ToolMessage("18 °C", tool_call_id="1"),
        AIMessage("x" * 500),
    ]
    assert len(page(*rich).html) < 4_000


# Parts


def test_tool_calls_are_folded_with_their_arguments() -> None:
    """A call shows its name; unfolded, its arguments as JSON, indented when long."""
    found = page(
        AIMessage(
            "",
            tool_calls=[
                {"name": "short", "args": {"city": "Köln"}, "id": "1"},
                {"name": "long", "args": {"query": "q" * 60, "limit": 3}, "id": "2"},
            ],
        )
    )
    assert found.summaries == ["Tool call: short", "Tool call: long"]
    assert found.folded == (
        '{"city": "Köln"}' + '{\n  "query": "' + "q" * 60 + '",\n  "limit": 3\n}'
    )


def test_a_broken_tool_call_shows_what_the_model_wrote() -> None:
    """Arguments that were no JSON are shown with the parser's complaint."""
    bad = {"name": "t", "args": '{"city', "id": "1", "error": "cut", "type": "invalid_tool_call"}
    found = page(AIMessage("", invalid_tool_calls=[bad]))
    assert found.summaries == ["Invalid tool call: t"]
    assert found.folded == '{"city\ncut'


def test_a_call_is_shown_once() -> None:
    """Anthropic repeats calls inside the content; without tool_calls they are all there is."""
    block = {"type": "tool_use", "id": "1", "name": "t", "input": {}}
    call = {"name": "t", "args": {}, "id": "1"}
    assert page(AIMessage(["Hm.", block], tool_calls=[call])).summaries == ["Tool call: t"]
    assert page(HumanMessage([block])).summaries == ["Block: tool_use"]


def test_arguments_that_json_cannot_hold() -> None:
    """Objects are named without their address, sets sorted, loops admitted."""
    loop: dict[str, Any] = {}
    loop["self"] = loop
    args = [{"a": object()}, {"b": {"y", "x"}}, {"c": Decimal("1.5")}, {"d": {(1, 2): 3}}, loop]
    message = AIMessage("", tool_calls=[{"name": "t", "args": {}, "id": str(n)} for n in range(5)])
    for call, value in zip(message.tool_calls, args, strict=True):
        call["args"] = value
    assert page(message).folded == (
        """{"a": "<object>"}{"b": ["x", "y"]}{"c": "Decimal('1.5')"}"""
        "dict that cannot be written as JSON"
        "dict that cannot be written as JSON"
    )


def test_reasoning_is_folded() -> None:
    """What a model thought is there for those who look."""
    found = page(
        AIMessage(
            [
                {"type": "reasoning", "reasoning": "so"},
                {"type": "thinking", "thinking": "hm", "signature": "s"},
                {"type": "reasoning", "summary": []},
                {"type": "text", "text": "Yes."},
            ]
        )
    )
    assert found.summaries == ["Reasoning"] * 3
    assert found.folded == 'sohm{"type": "reasoning", "summary": []}'


@pytest.mark.parametrize("kind", ["png", "gif", "jpeg", "webp"])
@pytest.mark.parametrize("shape", ["openai", "langchain", "anthropic", "genai", "bytes"])
def test_images_inside_the_message_are_shown(kind: str, shape: str) -> None:
    """PNG, GIF, JPEG and WebP data are shown, whichever provider's block holds them."""
    data = {"png": PNG, "gif": GIF, "jpeg": JPEG, "webp": WEBP}[kind]
    mime = f"image/{kind}"
    block = {
        "openai": {"type": "image_url", "image_url": {"url": f"data:{mime};base64,{data}"}},
        "langchain": {"type": "image", "base64": data, "mime_type": mime},
        "anthropic": {
            "type": "image",
            "source": {"type": "base64", "media_type": mime, "data": data},
        },
        "genai": {"type": "media", "mime_type": mime, "data": data},
        "bytes": {"type": "media", "mime_type": mime, "data": base64.b64decode(data)},
    }[shape]
    found = page(HumanMessage([block]))
    size = len(base64.b64decode(data))
    assert found.images == [
        {
            "src": f"data:{mime};base64,{data}",
            "alt": f"Image, {mime}, {size} bytes",
            "style": "max-width:16em;max-height:12em;border-radius:.4em",
        }
    ]
    assert plain(HumanMessage([block])) == f"Human  [Image, {mime}, {size} bytes]"


@pytest.mark.parametrize(
    ("block", "label"),
    [
        (
            {"type": "image_url", "image_url": {"url": "https://example.com/a.png"}},
            "Image, not loaded: https://example.com/a.png",
        ),
        (
            {"type": "image_url", "image_url": "//example.com/a.png"},
            "Image, not loaded: //example.com/a.png",
        ),
        (
            {"type": "image", "base64": SVG, "mime_type": "image/svg+xml"},
            "Image, image/svg+xml, 59 bytes, not shown: no PNG, JPEG, GIF or WebP data",
        ),
        (
            {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{SVG}"}},
            "Image, image/png, 59 bytes, not shown: no PNG, JPEG, GIF or WebP data",
        ),
        (
            {"type": "image_url", "image_url": {"url": "data:image/svg+xml,<svg onload=a()>"}},
            "Image, not loaded: data:image/svg+xml,<svg onload=a()>",
        ),
        (
            {"type": "image", "base64": f'{PNG}" onerror="alert(1)', "mime_type": "image/png"},
            "Image, image/png, 86 bytes, not shown: no PNG, JPEG, GIF or WebP data",
        ),
        (
            {"type": "image", "base64": PNG + "A" * 400_000, "mime_type": "image/png"},
            "Image, image/png, 300,072 bytes, too large to show here",
        ),
        ({"type": "image", "file_id": "f1"}, "Image"),
    ],
)
def test_other_images_are_named(block: dict[str, Any], label: str) -> None:
    """Addresses are not loaded; SVG, disguises, broken and large data are not shown."""
    found = page(HumanMessage([block]))
    assert found.images == []
    assert found.text == f"Human{label}"


@pytest.mark.parametrize(
    ("block", "label"),
    [
        (
            {"type": "input_audio", "input_audio": {"data": "AAAA", "format": "wav"}},
            "Audio, wav, 3 bytes",
        ),
        ({"type": "media", "mime_type": "video/mp4", "data": "AAAA"}, "Video, video/mp4, 3 bytes"),
        (
            {
                "type": "file",
                "file": {"filename": "a.pdf", "file_data": "data:application/pdf;base64,AAA="},
            },
            "File, a.pdf, application/pdf, 2 bytes",
        ),
        (
            {"type": "file", "url": "https://example.com/a", "extras": {"filename": "a.pdf"}},
            "File, a.pdf, not loaded: https://example.com/a",
        ),
    ],
)
def test_audio_video_and_files_are_named(block: dict[str, Any], label: str) -> None:
    """What cannot be read here says what it is and how large."""
    assert plain(HumanMessage([block])) == f"Human  [{label}]"


def test_unknown_blocks_are_folded() -> None:
    """A block of a kind nobody has heard of is shown as its JSON."""
    found = page(HumanMessage([{"type": "hologram", "z": 1}, {"z": 2}]))
    assert found.summaries == ["Block: hologram", "Block: no type"]
    assert found.folded == '{"type": "hologram", "z": 1}{"z": 2}'


# Determinism


def test_output_is_the_same_in_every_process() -> None:
    """Outputs are compared by nbval, so nothing in them depends on time, chance or hashing."""
    code = (
        "from langchain_core.messages import *; from memorystore_chat.tutorial.display import *\n"
        "m = AIMessage([{'type': 'image', 'base64': 'AA=='}, 'x' * 2000])\n"
        "m.tool_calls = [dict(name='t', args={'s': set('abcdef'), 'o': object()}, id='1')]\n"
        "t = transcript([m]); r = table([{'a': 1.5, 'b': None}])\n"
        "print(t, t._repr_html_(), r, r._repr_html_())"
    )
    first, second = (
        subprocess.Popen(
            [sys.executable, "-c", code],
            env={**os.environ, "PYTHONHASHSEED": seed},
            stdout=subprocess.PIPE,
            text=True,
        )
        for seed in ("1", "2")
    )
    output = first.communicate()[0]
    assert "Tool call: t" in output
    assert output == second.communicate()[0]


def test_a_transcript_is_a_snapshot() -> None:
    """Messages appended to the list later do not appear in what was made before."""
    messages: list[BaseMessage] = [HumanMessage("one")]
    shown = transcript(messages)
    messages.append(AIMessage("two"))
    assert str(shown) == "Human  one"


# Wrong input


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("hello", "takes a list of LangChain messages, such as history.messages, not str"),
        (HumanMessage("x"), "such as history.messages, not HumanMessage"),
        (None, "such as history.messages, not None"),
        (7, "such as history.messages, not int"),
        (["hello"], "element 0 is str"),
        ([HumanMessage("x"), {"role": "user"}], "element 1 is dict"),
        ([HumanMessage], "element 0 is the class HumanMessage"),
        ([None], "element 0 is None"),
    ],
)
def test_what_is_not_a_conversation_is_refused(given: Any, message: str) -> None:
    """A TypeError names what was given and what is wanted."""
    with pytest.raises(TypeError, match=r"transcript\(\) takes") as error:
        transcript(given)
    assert str(error.value).endswith(message)


def test_a_title_is_a_string() -> None:
    """A title of another type is refused by both."""
    for make in (lambda: transcript([], title=3), lambda: table([], title=3)):  # type: ignore[arg-type]
        with pytest.raises(TypeError, match=r"^title must be a string or None, not int$"):
            make()


# Tables


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
        (lambda: table(3), TypeError, "takes a list of mappings or dataclasses, not int"),
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


def test_the_objects_are_named_for_type_hints() -> None:
    """transcript() and table() return the public classes."""
    assert isinstance(transcript([]), Transcript)
    assert isinstance(table([]), Table)
