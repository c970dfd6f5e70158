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

import jupyter_page
import servers

pytestmark = [pytest.mark.browser, pytest.mark.timeout(400)]

CELL = """
from langchain_core.messages import HumanMessage
from memorystore_chat import MemorystoreChatMessageHistory, connect
from memorystore_tutorial import DemoChatModel, chat_box
history = MemorystoreChatMessageHistory(connect({address!r}), "ada", key_prefix={prefix!r})

def ask(text):
    question = HumanMessage(text)
    reply = DemoChatModel().invoke([*history.messages, question])
    history.add_messages([question, reply])
    return reply

chat_box(ask, history)
"""


@pytest.fixture
def lab(valkey_server: servers.Server, key_prefix: str, tmp_path: Path) -> Iterator[str]:
    """The address of a JupyterLab with a notebook that shows a box."""
    port = servers.free_port()
    cell = new_code_cell(CELL.format(address=valkey_server.url, prefix=key_prefix))
    kernel = {"kernelspec": {"display_name": "Python 3", "name": "python3"}}
    (tmp_path / "box.ipynb").write_text(json.dumps(new_notebook(cells=[cell], metadata=kernel)))
    options = ["--no-browser", "--allow-root", "--LabApp.expose_app_in_browser=True"]
    options += [f"--port={port}", f"--IdentityProvider.token={jupyter_page.TOKEN}"]
    lab = subprocess.Popen(
        [sys.executable, "-m", "jupyterlab", *options],
        cwd=tmp_path,
        env=os.environ | {"JUPYTER_RUNTIME_DIR": str(tmp_path)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        address = f"http://127.0.0.1:{port}"
        servers.wait_until(lambda: _answers(address), "Jupyter", 60)
        yield address
    finally:
        # A kernel that is just starting can hold up the end of its server.
        lab.kill()
        lab.wait()


def _answers(address: str) -> bool:
    try:
        with urllib.request.urlopen(f"{address}/api?token={jupyter_page.TOKEN}", timeout=2):
            return True
    except OSError:
        return False


def test_a_reader_chats_and_keeps_the_conversation(browser: Any, lab: str) -> None:
    """Enter and a click each are one question.

    Saved and opened without its kernel, the notebook shows what was said and stored.
    """
    page = browser.new_page(viewport={"width": 900, "height": 900})
    jupyter_page.open_notebook(page, lab, "box.ipynb")
    jupyter_page.command(page, "notebook:run-all-cells")
    field = page.get_by_placeholder("Type here, then press Enter")
    conversation = page.locator(".jupyter-widgets [role=group]")
    field.press_sequentially("Hi! My name is Ada.")
    page.get_by_role("button", name="Send").click()
    conversation.get_by_text("Nice to meet you, Ada.").wait_for()
    field.press_sequentially("What is my name?")
    field.press("Enter")
    conversation.get_by_text("Your name is Ada.").wait_for()
    assert field.input_value() == ""
    page.get_by_role("rowheader", name="3").wait_for()
    assert page.get_by_role("row").count() == 5  # four elements under the headings
    assert page.locator("[class^=chat-box-]").is_hidden()  # the form to keep

    page.evaluate("() => window.jupyterapp.commands.execute('docmanager:save')")
    page.evaluate("() => window.jupyterapp.shell.currentWidget.sessionContext.shutdown()")
    page.reload()
    page.locator("[class^=chat-box-]").get_by_text("Your name is Ada.").first.wait_for()
    page.close()
