"""What transcript(), tables and pictures show, as HTML and as plain text."""

import re
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

import pytest
import redis
from hypothesis import example, given, settings
from hypothesis import strategies as st
from IPython.core.formatters import DisplayFormatter
from langchain_core.messages import AIMessage, ChatMessage, HumanMessage, ToolMessage
from langchain_core.messages.ai import AIMessageChunk
from langchain_core.messages.tool import tool_call

from html_page import Page
from memorystore_chat import MemorystoreChatMessageHistory, sessions
from memorystore_tutorial import (
    checkpoint_chain,
    failover,
    picture,
    sessions_table,
    table,
    transcript,
)
from memorystore_tutorial.tables import Table
from memorystore_tutorial.text import line, visible
from stored import UNTIMED, element


def test_a_conversation_in_a_terminal_and_in_a_notebook() -> None:
    question = "What is the weather in Paris?\nAnd is it worth a trip? " + "Really? " * 9
    shown = transcript(
        [
            HumanMessage(question, name="ada"),
            AIMessage("Let me see.", tool_calls=[tool_call(name="get", args={"a": "b"}, id="c1")]),
            ToolMessage("18 °C", tool_call_id="c1"),
            ToolMessage("gone", tool_call_id="c1", status="error"),
        ]
    )
    assert str(shown).split("\n") == [
        "Human  [ada] What is the weather in Paris?",
        "       And is it worth a trip? Really? Really? Really? Really? Really? Really? Really?",
        "       Really? Really?",
        "AI     Let me see.",
        '       [Tool call: get] {"a": "b"}',
        "Tool   [get] 18 °C",
        "Tool   [get failed] gone",
    ]
    found = Page(shown)
    assert (found.tags["listitem"], found.tags["details"]) == (4, 1)
    assert found.text.startswith("Human ada What is the weather in Paris?\nAnd")
    calls = 'AI Let me see.Tool call: get{"a": "b"}Tool get 18 °CTool get failed gone'
    assert found.text.endswith(calls)


@pytest.mark.parametrize(
    ("message", "text"),
    [
        (AIMessageChunk(content="x"), "AI  x"),
        (ChatMessage(content="x", role="critic"), "critic  x"),
        (AIMessage(""), "AI  [empty]"),
        (AIMessage([{"type": "reasoning", "reasoning": "so"}, "A."]), "AI  [Reasoning] so\n    A."),
        (
            HumanMessage([{"type": "image_url", "image_url": {"url": "https://x.org/a.png"}}]),
            "Human  [Image, https://x.org/a.png]",
        ),
        (
            HumanMessage([{"type": "file", "base64": "AAAA", "mime_type": "application/pdf"}]),
            "Human  [File, application/pdf]",
        ),
        (HumanMessage([{"type": "odd", "x": 1}]), 'Human  [Block: odd] {"type": "odd", "x": 1}'),
        (HumanMessage("Hi\nAI  yes"), "Human  Hi\n       AI  yes"),
    ],
)
def test_every_kind_of_content_is_named(message: Any, text: str) -> None:
    assert str(transcript([message])) == text
    assert Page(transcript([message])).tags["listitem"] == 1


# Names of fields and kinds of blocks, which stand in the wrong places too.
WORDS = st.from_regex(
    "base64|data|extras|file|image|image_url|mime_type|non_standard|reasoning|source|text|thinking"
    "|tool_call|tool_use|type|url|value",
    fullmatch=True,
)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=20) | WORDS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(WORDS | st.text(), inner),
    max_leaves=6,
)
BLOCKS = st.tuples(st.fixed_dictionaries({"type": WORDS}), st.dictionaries(WORDS, JSON))
CONTENT = st.lists(st.text(max_size=20) | BLOCKS.map(lambda pair: pair[0] | pair[1]), max_size=4)


@settings(max_examples=60)
@given(content=CONTENT, provider=st.sampled_from(["", "anthropic", "google_genai", "openai"]))
@example(content=[{"type": "non_standard", "value": 1}], provider="openai")
def test_any_content_can_be_shown(content: list[Any], provider: str) -> None:
    shown = transcript([AIMessage(content, response_metadata={"model_provider": provider})])
    assert str(shown)
    assert Page(shown).text.startswith("AI")


@settings(max_examples=60)
@given(text=st.text(min_size=1, max_size=300))
@example("\x1f" * 20)
@example("</div></li></ol><style>*{display:none}</style>")
@example('"><!-- <details open ontoggle=alert(1)> ]]> &lt;script&gt; &#60;b&#62;')
def test_any_text_stays_text_wherever_it_stands(text: str) -> None:
    messages = [
        HumanMessage(text),
        ChatMessage(content="x", role=text, name=text),
        AIMessage(
            [{"type": text, "x": text}, {"type": "image_url", "image_url": {"url": text}}],
            tool_calls=[tool_call(name=text, args={text: text}, id=text)],
        ),
        ToolMessage(text, tool_call_id=text),
    ]
    found = Page(transcript(messages))  # it refuses elements that are not ours
    rows = Page(Table([{text: text}], {text: (text, str)}, title=text))
    assert found.tags["listitem"] == 4
    assert found.text.startswith(f"Human {visible(text)}")
    if text == line(text, 180):
        assert found.text.count(text) >= 7
        assert rows.text == text * 3


def test_characters_that_deceive_are_written_out() -> None:
    for character in ("\u202e", "\x1b", "\u200b", "\ud800", "\ufe00"):
        text = f"a{character}b"
        shown = transcript([HumanMessage(text, name=text)])
        for output in (str(shown), shown._repr_html_(), str(table([{text: text}]))):
            assert output.count(f"a[U+{ord(character):04X}]b") == 2
            assert character not in output
    joined = "می\N{ZERO WIDTH NON-JOINER}خواهم שלום 👩\N{ZERO WIDTH JOINER}🚀 ❤\ufe0f"
    assert joined in Page(transcript([HumanMessage(joined)])).text


def test_whatever_is_shown_is_bounded() -> None:
    many = transcript([HumanMessage(f"message {n} " + "x" * 9_000) for n in range(300)])
    assert str(many).startswith("100 earlier messages are not shown.\nHuman  message 100\n")
    assert str(many).endswith("[8,012 more characters]")
    assert Page(many).tags["listitem"] == 200
    assert "100 earlier" in Page(many).text
    assert str(transcript([HumanMessage("x" * 1_000)])).endswith("x")
    rows = table([{"n": n} for n in range(1_234)])
    assert Page(rows).tags["tr"] == 201
    assert Page(rows).text.endswith("1991,034 more rows are not shown.")
    assert str(rows).endswith("199\n1,034 more rows are not shown.")
    assert rows[1_233] == {"n": 1_233}
    assert str(table([{"n": 1}] * 200)).endswith("1")


def test_what_cannot_be_shown_is_refused() -> None:
    given: Any
    for given in ("hello", HumanMessage("x"), [None]):
        with pytest.raises(TypeError, match="LangChain messages"):
            transcript(given)
    for given in ({"a": 1}, [{"a": 1}, int], [{}]):
        with pytest.raises(TypeError, match="mappings"):
            table(given)
    with pytest.raises(ValueError, match=r"there are .*turn"):
        picture("map")


def test_values_are_written_for_readers() -> None:
    when = datetime(2026, 1, 2, 3, 4, 5, 678, tzinfo=UTC)
    values = [None, "None", True, False, 0.1 + 0.2, when, "x" * 201, "two\nlines"]
    cells = str(table([{"v": value} for value in values])).split("\n")[2:]
    assert cells[:4] == ["-", "None", "yes", "no"]
    assert cells[4:] == ["0.3", "2026-01-02 03:04:05+00:00", "x" * 199 + "…", "two lines"]
    shown = str(table([{"a_b": 1, "b": "東京"}, {"a_b": 33}]))
    assert shown == "a b  b\n---  ----\n  1  東京\n 33  -"
    assert str(table([])) == Page(table([])).text == "No rows."
    titled: Table[Any] = Table([], {}, title="A list", empty="None yet.")
    assert (str(titled), Page(titled).text) == ("A list\n\nNone yet.", "A listNone yet.")


def test_the_table_shows_the_sessions_used_last(client: redis.Redis, key_prefix: str) -> None:
    """Newest first, in words for people, and a sequence of the sessions themselves."""
    day, minute = timedelta(days=1), timedelta(minutes=1)
    client.rpush(f"{key_prefix}old", *[element("x" * 1000, ago=3 * day)] * 1200)
    client.rpush(f"{key_prefix}new", element())
    client.expire(f"{key_prefix}new", day * 1000)
    client.rpush(f"{key_prefix}mid", element(ago=90 * minute), element(ago=2 * minute))
    client.expire(f"{key_prefix}mid", 60 * minute)
    client.rpush(f"{key_prefix}undated", UNTIMED)
    shown = sessions_table(client, key_prefix=key_prefix)
    assert all(isinstance(session, sessions.Session) for session in shown)
    title, _, heading, _, *lines = (re.split(r" {2,}", row) for row in str(shown).splitlines())
    assert title == ["4 sessions"]
    assert heading == ["session", "messages", "last activity", "expires in", "size"]
    assert lines == [
        ["new", "1", "just now", "1,000 days", "under 1 kB"],
        ["mid", "2", "2 minutes ago", "1 hour", "under 1 kB"],
        ["old", "1,200", "3 days ago", "never", lines[2][-1]],
        ["undated", "1", "unknown", "never", "under 1 kB"],
    ]
    assert re.fullmatch(r"1\.\d MB", lines[2][-1])
    assert str(sessions_table(client, key_prefix="nobody's:")) == "No sessions."


def test_a_chain_of_checkpoints_is_told_in_words(monkeypatch: pytest.MonkeyPatch) -> None:
    def state(own: int, parent: int, messages: Any = (), then: Any = (), stops: Any = ()) -> Any:
        config, before = ({"configurable": {"checkpoint_id": each}} for each in (own, parent))
        return SimpleNamespace(
            config=config, parent_config=before if parent else None, next=then,
            values={"messages": messages}, interrupts=stops,
        )  # fmt: skip

    asked = [HumanMessage("x"), AIMessage("", tool_calls=[tool_call(name="a", args={}, id="1")])]
    chain = [
        state(1, 0, then=("__start__",)),
        state(2, 1, asked, then=("tools.before",), stops=(1,)),
        state(3, 2, [*asked, ToolMessage("y", tool_call_id="1"), AIMessage("z")]),
    ]
    fork = state(4, 2, asked[:1])
    drawn: list[Any] = []
    monkeypatch.setattr("matplotlib.axes.Axes.plot", lambda _, *what, **__: drawn.append(what))
    _, metadata = DisplayFormatter().format(checkpoint_chain([fork, *chain[::-1]]))
    assert [at for *at, mark in drawn if at[1:]] == [[0, 0], [0, 1], [0, 2], [1, 3]]
    assert drawn[-2] == ([0, 1, 1], [1, 2, 3])  # the line to the fork
    assert metadata["image/png"]["alt"] == (
        "Checkpoints, the oldest first. next: start · 0 messages; pauses for a yes · 2 messages, "
        "the last a call; end of the turn · 4 messages, the last an answer; end of the turn · "
        "1 message, the last a question."
    )
    with pytest.raises(ValueError, match="no checkpoints"):
        checkpoint_chain([])


def test_a_failover_is_counted_and_plotted(valkey_server: Any, key_prefix: str) -> None:
    """Here one message is lost, and another is there twice; the plot has words."""
    client = valkey_server.client()
    ada = MemorystoreChatMessageHistory(client, "ada", key_prefix=key_prefix)

    def kill(node: int) -> None:
        assert client.lpop(ada.key), node
        ada.add_ai_message("answer 1")

    cluster: Any = SimpleNamespace(primary_of=lambda _: 3, kill=kill)
    run = failover(ada, cluster, turns=9, kill_at=4)
    account = "18 messages attempted, 18 stored, 1 doubled, 1 lost"
    assert repr(run).startswith(f"{account}; the longest of 9 turns took ")
    data, metadata = DisplayFormatter().format(run)
    assert data["image/png"].startswith("iVBORw0KGgo")  # PNG in base64
    assert account in metadata["image/png"]["alt"]
    assert data["text/plain"] == repr(run)
    for kill_at, wrong in ((10, "1 to 9"), (9, "not empty")):
        with pytest.raises(ValueError, match=wrong):
            failover(ada, cluster, turns=9, kill_at=kill_at)


# Background and text color of the places where notebooks are read.
THEMES = {
    "JupyterLab light": ("#ffffff", "rgba(0, 0, 0, 0.87)"),
    "Colab dark": ("#383838", "#d5d5d5"),
    "VS Code light": ("#ffffff", "#3b3b3b"),
    "GitHub dark": ("#0d1117", "#f0f6fc"),
}
CONVERSATION = [
    HumanMessage("What is the weather in Paris?\nI have $50.", name="ada"),
    AIMessage("", tool_calls=[{"name": "get_weather", "args": {"city": "Paris"}, "id": "1"}]),
    ToolMessage("18 °C, rain. " * 20, tool_call_id="1", status="error"),
    AIMessage("Paris is a city. " * 20),
]


@pytest.mark.browser
@pytest.mark.parametrize("theme", THEMES)
def test_text_can_be_read_in_every_theme_and_a_narrow_window(browser: Any, theme: str) -> None:
    from axe_playwright_python.sync_playwright import Axe

    page = browser.new_page(viewport={"width": 400, "height": 700})
    background, color = THEMES[theme]
    shown = transcript(CONVERSATION)._repr_html_() + table([{"session": "ada"}])._repr_html_()
    shown = shown.replace("<details>", "<details open>")
    page.set_content(f'<body style="background:{background};color:{color}">{shown}</body>')
    found = Axe().run(page, options={"runOnly": ["color-contrast"]}).response
    assert found["violations"] == []
    assert sum(len(rule["nodes"]) for rule in found["passes"]) > 8
    assert page.evaluate("document.documentElement.scrollWidth") <= 400
    page.close()
