"""The box to chat in, in a real JupyterLab in Chromium."""

import json
import os
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from nbformat.v4 import new_code_cell, new_notebook

import servers

pytestmark = [pytest.mark.browser, pytest.mark.timeout(400)]

CELLS = """
from langchain_core.messages import HumanMessage
from memorystore_chat import MemorystoreChatMessageHistory, connect
from memorystore_tutorial import DemoChatModel
from memorystore_tutorial import chat_box
history = MemorystoreChatMessageHistory(connect({address!r}), "ada", key_prefix={prefix!r})
---
def ask(text):
    question = HumanMessage(text)
    reply = DemoChatModel().invoke([*history.messages, question])
    history.add_messages([question, reply])
    return reply
chat_box(ask, history)
"""


@pytest.fixture
def page(
    browser: Any, valkey_server: servers.Server, key_prefix: str, tmp_path: Path
) -> Iterator[Any]:
    """A notebook with a box, run in JupyterLab; the page has its file in `page.file`."""
    port, source = servers.free_port(), CELLS.format(address=valkey_server.url, prefix=key_prefix)
    book = new_notebook(cells=[new_code_cell(cell) for cell in source.split("---\n")])
    book.metadata.kernelspec = {"display_name": "Python 3", "name": "python3"}
    file = tmp_path / "box.ipynb"
    file.write_text(json.dumps(book))
    options = ["--no-browser", "--allow-root", "--IdentityProvider.token=t", f"--port={port}"]
    lab = subprocess.Popen(
        [sys.executable, "-m", "jupyterlab", *options, "--LabApp.expose_app_in_browser=True"],
        cwd=tmp_path,
        env=os.environ | {"JUPYTER_RUNTIME_DIR": str(tmp_path)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        servers.wait_until(lambda: _answers(f"http://127.0.0.1:{port}/api?token=t"), "Jupyter", 60)
        opened = browser.new_page(viewport={"width": 900, "height": 900})
        opened.goto(f"http://127.0.0.1:{port}/lab/tree/box.ipynb?reset&token=t")
        opened.wait_for_selector(".jp-Cell", timeout=60_000)
        opened.wait_for_function(
            "() => window.jupyterapp.shell.currentWidget?.sessionContext?.session?.kernel?.status"
            " === 'idle'"
        )
        opened.evaluate("() => { window.jupyterapp.commands.execute('notebook:run-all-cells'); }")
        opened.file = file
        yield opened
        opened.close()
    finally:
        # A kernel that is just starting can hold up the end of its server.
        lab.kill()
        lab.wait()


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=2):
            return True
    except OSError:
        return False


def test_a_reader_chats_and_keeps_the_conversation(page: Any) -> None:
    """Enter and a click each are one question.

    Saved and opened without its kernel, the notebook shows what was said and stored.
    """
    field = page.get_by_placeholder("Type here, then press Enter")
    conversation = page.locator(".jupyter-widgets [role=group]")
    field.press_sequentially("Hi! My name is Ada.")
    page.get_by_role("button", name="Send").click()
    conversation.get_by_text("Nice to meet you, Ada.").wait_for()
    field.press_sequentially("What is my name?")
    field.press("Enter")
    conversation.get_by_text("Your name is Ada.").wait_for()
    assert field.input_value() == ""
    field.press_sequentially("Thanks!")
    page.get_by_role("button", name="Send").click()
    page.get_by_role("rowheader", name="5").wait_for()
    assert page.get_by_role("row").count() == 7  # six elements under the headings
    assert page.locator("[class^=chat-box-]").is_hidden()  # the form to keep

    page.evaluate("() => window.jupyterapp.commands.execute('docmanager:save')")
    assert "Your name is Ada." in page.file.read_text()
    page.evaluate("() => window.jupyterapp.shell.currentWidget.sessionContext.shutdown()")
    page.reload()
    page.locator("[class^=chat-box-]").get_by_text("Your name is Ada.").first.wait_for()
