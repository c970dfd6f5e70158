"""What transcript() and table() become in a real browser.

Needs Playwright and a Chromium or Chrome that the machine has; Playwright's own is not used.
"""

from typing import Any

import pytest
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, ToolMessage

from memorystore_tutorial import table, transcript

pytestmark = pytest.mark.browser

# Background and text color of the places where notebooks are read.
THEMES = {
    "JupyterLab light": ("#ffffff", "rgba(0, 0, 0, 0.87)"),
    "Colab dark": ("#383838", "#d5d5d5"),
    "VS Code light": ("#ffffff", "#3b3b3b"),
    "GitHub dark": ("#0d1117", "#f0f6fc"),
}
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
        for (let e = walker.currentNode.parentElement; e; e = e.parentElement) {
            behind.unshift(getComputedStyle(e).backgroundColor);
            if (getComputedStyle(e).opacity < 1) found.push(0);
        }
        const color = getComputedStyle(walker.currentNode.parentElement).color;
        const [a, b] = [luminance(behind), luminance([...behind, color])].sort((x, y) => x - y);
        found.push((b + 0.05) / (a + 0.05));
    }
    return found;
}"""
CONVERSATION: list[BaseMessage] = [
    HumanMessage("What is the weather in Paris?\nI have $50.", name="ada"),
    AIMessage("", tool_calls=[{"name": "get_weather", "args": {"city": "Paris"}, "id": "1"}]),
    ToolMessage("18 °C, rain. " * 60, tool_call_id="1", status="error"),
    AIMessage("Paris is a city. " * 200),
]


@pytest.mark.parametrize("theme", THEMES)
def test_text_can_be_read_in_every_theme_and_a_narrow_window(browser: Any, theme: str) -> None:
    page = browser.new_page(viewport={"width": 400, "height": 700})
    background, color = THEMES[theme]
    shown = transcript(CONVERSATION)._repr_html_() + table([{"session": "ada"}])._repr_html_()
    page.set_content(f'<body style="background:{background};color:{color}">{shown}</body>')
    contrasts = page.evaluate(CONTRAST)
    assert len(contrasts) > 8
    assert min(contrasts) >= 4.5
    assert page.evaluate("document.documentElement.scrollWidth") <= 400
    page.close()
