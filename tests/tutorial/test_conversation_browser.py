"""What transcript() and table() become in a real browser.

Needs Playwright and a Chromium or Chrome that the machine has; Playwright's own is not used.
"""

import base64
import struct
import zlib
from collections.abc import Iterator
from typing import Any

import pytest
from langchain_core.messages import (
    AIMessage,
    BaseMessage,
    HumanMessage,
    SystemMessage,
    ToolMessage,
)

from memorystore_tutorial import Table, table, transcript

pytestmark = pytest.mark.browser

# Background and text color of the places where notebooks are read.
THEMES = {
    "JupyterLab light": ("#ffffff", "rgba(0, 0, 0, 0.87)"),
    "JupyterLab dark": ("#111111", "#ffffff"),
    "Colab light": ("#ffffff", "#212121"),
    "Colab dark": ("#383838", "#d5d5d5"),
    "VS Code light": ("#ffffff", "#3b3b3b"),
    "VS Code dark": ("#1f1f1f", "#cccccc"),
    "GitHub light": ("#ffffff", "#1f2328"),
    "GitHub dark": ("#0d1117", "#f0f6fc"),
}
# Each sets `window.ran` or asks for an address, if it is obeyed.
PAYLOADS = [
    "<script>window.ran = 1</script>",
    "<img src=http://127.0.0.1:9/a onerror='window.ran = 1'>",
    '"><img src=x onerror="window.ran = 1">',
    "'><svg onload='window.ran = 1'>",
    "<iframe srcdoc='<script>parent.ran = 1</script>'></iframe>",
    "<details open ontoggle='window.ran = 1'>x</details>",
    "<a id=link href='javascript:window.ran = 1'>x</a>",
    "<style>@import 'http://127.0.0.1:9/b';</style>",
    "<link rel=stylesheet href=http://127.0.0.1:9/c>",
    "</div></li></ol></details><video src=http://127.0.0.1:9/d autoplay></video>",
    "http://127.0.0.1:9/e.png",
    "javascript:window.ran = 1",
    "[x](javascript:window.ran=1) ![y](http://127.0.0.1:9/f.png)",
]
# The least contrast between any text and what lies behind it, translucent layers mixed as the
# browser mixes them; WCAG 2.2, "relative luminance" and "contrast ratio".
CONTRAST = """() => {
    const canvas = document.createElement("canvas").getContext("2d", {willReadFrequently: true});
    const luminance = (layers) => {
        canvas.clearRect(0, 0, 1, 1);
        for (const layer of layers) { canvas.fillStyle = layer; canvas.fillRect(0, 0, 1, 1); }
        const [r, g, b] = [...canvas.getImageData(0, 0, 1, 1).data.slice(0, 3)].map(
            (v) => (v /= 255) <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
        return 0.2126 * r + 0.7152 * g + 0.0722 * b;
    };
    const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
    const found = [];
    while (walker.nextNode()) {
        if (!walker.currentNode.data.trim()) continue;
        const behind = [];
        let opacity = 1;
        for (let e = walker.currentNode.parentElement; e; e = e.parentElement) {
            behind.unshift(getComputedStyle(e).backgroundColor);
            opacity *= getComputedStyle(e).opacity;
        }
        const color = getComputedStyle(walker.currentNode.parentElement).color;
        const [a, b] = [luminance(behind), luminance([...behind, color])].sort((x, y) => x - y);
        found.push(opacity < 1 ? 0 : (b + 0.05) / (a + 0.05));
    }
    return found;
}"""


def png(width: int, height: int) -> str:
    """A picture of one color, as base64."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        checksum = struct.pack(">I", zlib.crc32(kind + data))
        return struct.pack(">I", len(data)) + kind + data + checksum

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    rows = zlib.compress((b"\0" + b"\x40\x80\xf0" * width) * height)
    parts = [chunk(b"IHDR", header), chunk(b"IDAT", rows), chunk(b"IEND", b"")]
    return base64.b64encode(b"\x89PNG\r\n\x1a\n" + b"".join(parts)).decode()


PNG = png(1_200, 800)
CONVERSATION: list[BaseMessage] = [
    SystemMessage("You are a travel assistant."),
    HumanMessage("What is the weather in Paris?\nI have $50.", name="ada"),
    AIMessage(
        [
            {"type": "reasoning", "reasoning": "I call the tool."},
            {"type": "text", "text": "Let me see."},
        ],
        tool_calls=[{"name": "get_weather", "args": {"city": "Paris"}, "id": "1"}],
    ),
    ToolMessage("18 °C, rain. " * 60, tool_call_id="1", status="error"),
    HumanMessage([{"type": "image", "base64": PNG, "mime_type": "image/png"}]),
    AIMessage([{"type": "image_url", "image_url": {"url": "https://example.com/cat.png"}}]),
    AIMessage("Paris is a city. " * 2_000),
]
ROWS = [
    {"session": "ada", "messages": 4, "ttl": None},
    {"session": "bob", "messages": 12, "ttl": 9},
]
HEADINGS = {field: field for field in ROWS[0]}


@pytest.fixture
def page(browser: Any) -> Iterator[Any]:
    """An empty page that notes every address asked for, in `page.asked`."""
    page = browser.new_page(viewport={"width": 900, "height": 700})
    page.asked = []
    page.on("request", lambda request: page.asked.append(request.url))
    page.on("dialog", lambda dialog: dialog.dismiss())
    yield page
    page.close()


def show(page: Any, *shown: Any, theme: str = "JupyterLab light") -> None:
    back, text = THEMES[theme]
    page.set_content(
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>Notebook</title>'
        f'<body style="background:{back};color:{text};font:14px sans-serif">'
        + "".join(each if isinstance(each, str) else each._repr_html_() for each in shown)
    )


def everything(text: str) -> list[Any]:
    """The text in every field that is shown."""
    image = {"url": text, "base64": text}
    messages = [
        HumanMessage(text, name=text),
        SystemMessage([text, {"type": text, "x": text}, {"type": "image", **image}]),
        AIMessage(
            [
                {"type": "image_url", "image_url": {"url": text}},
                {"type": "image", "base64": text, "mime_type": text},
                {"type": "reasoning", "reasoning": text},
                {"type": "file", "filename": text, "mime_type": text, "url": text},
            ],
            tool_calls=[{"name": text, "args": {text: text}, "id": "1"}],
        ),
        ToolMessage(text, tool_call_id="1"),
        HumanMessage("x" * 1_001 + text),
    ]
    return [
        transcript(messages, title=text),
        Table([{text: text, "b": text}], {text: text, "b": "b"}, title=text),
    ]


def obeyed(page: Any) -> bool:
    """Whether anything ran, waits for an event or was asked for, after all is unfolded."""
    page.evaluate("document.querySelectorAll('details').forEach((e) => { e.open = true; })")
    page.evaluate("document.querySelectorAll('a').forEach((e) => e.click())")
    page.wait_for_timeout(50)
    handlers = page.evaluate(
        "[...document.body.querySelectorAll('*')].flatMap((e) => e.getAttributeNames())"
        ".filter((name) => name.startsWith('on'))"
    )
    foreign = [url for url in page.asked if not url.startswith("data:image/png;base64,")]
    return page.evaluate("window.ran === 1") or bool(handlers or foreign)


@pytest.mark.parametrize("payload", PAYLOADS[:10])
def test_the_payloads_work_when_not_escaped(page: Any, payload: str) -> None:
    """The check below would notice: each payload by itself runs or loads something."""
    # An inserted <script> is inert, so the page holds it from the start, as a notebook's would.
    show(page, payload)
    page.wait_for_timeout(50)
    page.evaluate("document.querySelectorAll('a').forEach((e) => e.click())")
    page.wait_for_timeout(50)
    assert page.evaluate("window.ran === 1") or page.asked


@pytest.mark.parametrize("payload", PAYLOADS)
def test_nothing_runs_and_nothing_is_loaded(page: Any, payload: str) -> None:
    show(page, *everything(payload))
    assert not obeyed(page)
    assert page.locator("a, script, style, iframe, video, svg, link, img").count() == 0
    shown = page.locator("body").inner_text()
    assert shown.count(" ".join(payload.split())) >= 10


def test_the_picture_in_a_message_is_shown_small(page: Any) -> None:
    show(page, transcript(CONVERSATION))
    image = page.get_by_role("img", name="Image, image/png")
    assert image.evaluate("(e) => [e.naturalWidth, e.naturalHeight]") == [1_200, 800]
    box = image.bounding_box()
    assert box["width"] <= 224
    assert box["height"] <= 168
    assert box["width"] / box["height"] == pytest.approx(1.5, abs=0.02)
    assert not obeyed(page)


@pytest.mark.parametrize("theme", THEMES)
def test_contrast(page: Any, theme: str) -> None:
    show(
        page,
        transcript(CONVERSATION, title="Ada"),
        Table(ROWS, HEADINGS, title="Sessions"),
        theme=theme,
    )
    ratios = page.evaluate(CONTRAST)
    assert len(ratios) > 30
    assert min(ratios) >= 4.5, f"{min(ratios):.2f} in {theme}"


def test_the_contrast_check_sees_poor_contrast(page: Any) -> None:
    """Known pairs give WCAG's figures: #777 on white 4.48, black on white 21."""
    show(page, '<p style="color:#777">x</p><p style="color:#000">x</p>')
    assert page.evaluate(CONTRAST) == pytest.approx([4.48, 21.0], abs=0.01)


def test_a_keyboard_is_enough(page: Any) -> None:
    show(page, transcript(CONVERSATION))
    folds = page.locator("details").count()
    assert folds == 4
    seen = []
    for _ in range(folds):
        page.keyboard.press("Tab")
        focus = page.locator("summary:focus-visible")
        seen.append(focus.inner_text())
        assert focus.evaluate("(e) => getComputedStyle(e).outlineStyle") != "none"
        body = focus.locator("xpath=following-sibling::*[1]")
        assert not body.is_visible()
        page.keyboard.press("Enter")
        assert body.is_visible()
        page.keyboard.press("Space")
        assert not body.is_visible()
    assert seen[:2] == ["Reasoning", "Tool call: get_weather"]
    assert seen[2].endswith("more of 780 characters")
    assert seen[3].endswith("more of 34,000 characters")


def test_what_a_screen_reader_is_told(page: Any) -> None:
    show(
        page, transcript(CONVERSATION, title="Ada's trip"), Table(ROWS, HEADINGS, title="Sessions")
    )
    conversation = page.get_by_role("group", name="Ada's trip")
    items = conversation.get_by_role("list").get_by_role("listitem")
    roles = [text.split("\n")[0].strip() for text in items.all_inner_texts()]
    assert roles == ["System", "Human ada", "AI", "Tool get_weather failed", "Human", "AI", "AI"]
    sessions = page.get_by_role("table", name="Sessions")
    assert sessions.get_by_role("columnheader").all_inner_texts() == ["session", "messages", "ttl"]
    assert sessions.get_by_role("rowheader").all_inner_texts() == ["ada", "bob"]


def test_it_reads_without_styles(page: Any) -> None:
    show(page, transcript(CONVERSATION[:3]))
    page.evaluate(
        "document.querySelectorAll('*').forEach((e) => {"
        " e.removeAttribute('style'); e.removeAttribute('role'); })"
    )
    paragraphs = page.locator("p")
    assert paragraphs.all_inner_texts() == [
        "System You are a travel assistant.",
        "Human ada What is the weather in Paris?\nI have $50.",
        "AI",
        "Let me see.",
    ]
    assert page.locator("ol, ul, li").count() == 0
    boxes = [paragraphs.nth(n).bounding_box() for n in range(2)]
    assert boxes[1]["y"] > boxes[0]["y"] + boxes[0]["height"] + 8  # a gap between the messages
    assert boxes[0]["x"] == boxes[1]["x"]


def test_bubbles_are_as_wide_as_their_text(page: Any) -> None:
    show(page, transcript([HumanMessage("Hi"), AIMessage("Hello"), AIMessage("word " * 100)]))
    human, short, long = (item.bounding_box() for item in page.get_by_role("listitem").all())
    column = page.get_by_role("list").bounding_box()
    assert human["width"] < 90
    assert short["width"] < 90
    assert human["x"] + human["width"] == pytest.approx(column["x"] + column["width"], abs=1)
    assert short["x"] == long["x"] == column["x"]
    assert long["width"] <= 0.9 * column["width"]


def test_it_fits_a_narrow_window(page: Any) -> None:
    page.set_viewport_size({"width": 320, "height": 700})
    long = "x" * 300
    show(
        page,
        transcript([*CONVERSATION, HumanMessage(long), AIMessage([{"type": long}])], title=long),
        table([{"session": long, "messages": 1}]),
    )
    page.evaluate("document.querySelectorAll('details').forEach((e) => { e.open = true; })")
    assert page.evaluate("document.scrollingElement.scrollWidth") <= 320


def test_overrides_do_not_reach_the_neighbors(page: Any) -> None:
    hebrew = "שלום"
    show(page, transcript([HumanMessage(hebrew)]), table([{"a": f"{hebrew} 1", "b": "2"}]))
    text = page.locator("p > span[dir]")
    assert text.evaluate("(e) => getComputedStyle(e).direction") == "rtl"
    assert page.locator("[role=listitem]").evaluate("(e) => getComputedStyle(e).direction") == "ltr"
    first, second = page.locator("bdi").all()
    assert first.bounding_box()["x"] < second.bounding_box()["x"]
