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
CONVERSATION: list[BaseMessage] = [
    HumanMessage("What is the weather in Paris?\nI have $50.", name="ada"),
    AIMessage("", tool_calls=[{"name": "get_weather", "args": {"city": "Paris"}, "id": "1"}]),
    ToolMessage("18 °C, rain. " * 20, tool_call_id="1", status="error"),
    AIMessage("Paris is a city. " * 20),
]


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
