"""`make tutorial` in a real browser: what fits on a screen, Run All, a restart in the first one."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from nbformat.v4 import new_code_cell, new_notebook, new_output

import jupyter_page
from jupyter_page import CELLS, command, open_notebook, run_cell, wait_for
from series import PATHS, Book, code_cells, load

pytestmark = pytest.mark.browser

# Show a notebook with its outputs, as trusted as if they had just been made, without a kernel.
SHOW = """async ([path, content]) => {
  const {commands, serviceManager} = window.jupyterapp;
  await serviceManager.contents.save(path, {type: 'notebook', format: 'json', content});
  const kernelPreference = {shouldStart: false, canStart: false};
  const panel = await commands.execute('docmanager:open', {path, kernelPreference});
  await panel.revealed;
  panel.content.widgets.forEach(cell => { cell.model.trusted = true; });
  panel.context.model.dirty = false;
}"""
CLOSE = "() => window.jupyterapp.shell.currentWidget.close()"
# What is too wide in the notebook in front: code or an output with a scroll bar, a word in an
# output that goes on in the next line, a table of more than two columns of prose.
TOO_WIDE = r"""async () => {
  const notebook = window.jupyterapp.shell.currentWidget.content;
  const found = [];
  for (const [index, cell] of notebook.widgets.entries()) {
    await notebook.scrollToItem(index, 'center');
    await new Promise(resolve => setTimeout(resolve, 50));
    const wide = selector => [...cell.node.querySelectorAll(selector)].filter(
      node => node.offsetWidth && node.scrollWidth > node.clientWidth + 1);
    for (const node of wide('.jp-InputArea-editor .cm-scroller, .jp-OutputArea-output, ' +
                            '.jp-OutputArea-output *, .jp-RenderedMarkdown table')) {
      if (getComputedStyle(node).display !== 'inline' && !node.closest('svg'))
        found.push(`cell ${index}: ${node.scrollWidth} px in ${node.clientWidth}: ` +
                   `${node.className} ${node.textContent.slice(0, 60)}`);
    }
    const outputs = cell.node.querySelectorAll('.jp-OutputArea-output');
    for (const output of outputs) {
      const walker = document.createTreeWalker(output, NodeFilter.SHOW_TEXT);
      while (walker.nextNode()) {
        const text = walker.currentNode.data;
        for (const word of text.matchAll(/[\p{L}\p{N}_]{2,}/gu)) {
          const before = text.slice(0, word.index).match(/\S*$/)[0].length;
          if (before + text.slice(word.index).match(/^\S*/)[0].length > 56) continue;  // a path
          const range = document.createRange();
          range.setStart(walker.currentNode, word.index);
          range.setEnd(walker.currentNode, word.index + word[0].length);
          if (new Set([...range.getClientRects()].map(line => Math.round(line.top))).size > 1)
            found.push(`cell ${index}: ${word[0]} is broken`);
        }
      }
    }
  }
  return found;
}"""
DIRTY = "() => window.jupyterapp.shell.currentWidget.context.model.dirty"
# Where the first code that is not folded begins, from the top of the page.
FIRST_CODE = """() => window.jupyterapp.shell.currentWidget.content.widgets
  .find(cell => cell.model.type === 'code' && !cell.inputHidden)
  .node.getBoundingClientRect().top"""
# The widgets that show that they have lost their kernel.
MARKS = """() => [...document.querySelectorAll('.jupyter-widgets-disconnected')]
  .filter(node => getComputedStyle(node, '::before').display !== 'none')
  .flatMap(node => [...node.classList].filter(name => name.startsWith('widget-')
    && !name.startsWith('widget-inline')))"""


@pytest.fixture(scope="module")
def lab() -> Iterator[str]:
    """The address of JupyterLab as `make tutorial` starts it, with a data folder of its own."""
    with jupyter_page.tutorial() as address:
        yield address


@pytest.fixture
def page(browser: Any, lab: str) -> Iterator[Any]:
    """A window of JupyterLab on the first page that a reader sees."""
    with browser.new_context(viewport={"width": 1200, "height": 860}) as context:
        opened = context.new_page()
        open_notebook(opened, lab, "01_setup.ipynb")
        yield opened


def narrow(page: Any) -> None:
    """Make a notebook 900 pixels wide or less."""
    command(page, "application:toggle-left-area")  # it takes a third of a narrow window
    page.set_viewport_size({"width": 900, "height": 860})


def problems(cells: list[dict[str, Any]]) -> list[str]:
    return [
        f"{output.get('ename', 'stderr')}: {''.join(output.get('text', []))}"
        for cell in cells
        for output in cell["outputs"]
        if output["output_type"] == "error" or output.get("name") == "stderr"
    ]


def wide_notebook() -> Book:
    """A line of code, a word, and an output, none of which fits."""
    outputs = [
        new_output("stream", text=" ".join(50 * letter for letter in "abcdef")),
        new_output("display_data", {"text/html": '<div style="width:3000px">wide</div>'}),
    ]
    book: Book = new_notebook(cells=[new_code_cell(40 * "and so on ", outputs=outputs)])
    return book


def test_nothing_is_too_wide(page: Any) -> None:
    """In no notebook as committed, and code begins on its first screen."""
    narrow(page)
    found = {}
    books = {"wide": wide_notebook()} | {path.stem: load(path) for path in PATHS}
    for name, book in books.items():
        page.evaluate(SHOW, [f"shown_{name}.ipynb", book])
        assert len(page.evaluate(CELLS)["cells"]) == len(code_cells(book))
        assert page.evaluate(FIRST_CODE) < 860, name
        if folder := os.environ.get("SCREENSHOTS"):
            page.screenshot(path=Path(folder, f"{name}_900.png"))
        found[name] = page.evaluate(TOO_WIDE)
        page.evaluate(CLOSE)
    wide = found.pop("wide")
    for problem in ("cm-scroller", "jp-RenderedHTML", "b is broken"):
        assert any(problem in each for each in wide), problem
    assert {name: wide for name, wide in found.items() if wide} == {}


def test_a_reader_runs_all_chats_and_restarts(lab: str, page: Any) -> None:
    """The first notebook opens without outputs and with nothing to save; Run All ends well.

    In its chat box, Enter and a click each are one question. After a restart of the kernel one cell
    knows the reader's name. The box, which has lost its kernel, says so at one place. Saved and
    opened again, it shows what was said and stored.
    """
    page.wait_for_timeout(1000)  # until the kernel has said what it is
    assert page.evaluate(DIRTY) is False
    cells = page.evaluate(CELLS)["cells"]
    assert [cell["outputs"] for cell in cells if cell["outputs"]] == []
    ends = ["".join(cell["source"]).endswith("chat_box(ask, history)") for cell in cells]
    again = 1 + ends.index(True)
    narrow(page)
    command(page, "notebook:run-all-cells")
    cells = wait_for(
        page,
        lambda state: (
            state["status"] == "idle" and all(cell["execution_count"] for cell in state["cells"])
        ),
    )
    assert problems(cells) == []
    assert page.evaluate(TOO_WIDE) == []
    assert page.locator(".Toastify__toast").all_inner_texts() == []
    for index in range(again):
        run_cell(page, index)
    field = page.get_by_placeholder("Type here, then press Enter")
    said = page.locator(".jupyter-widgets [role=listitem]")
    turns = said.count()
    field.press_sequentially("My cat is called Tom.")
    field.blur()  # which sends nothing
    page.wait_for_timeout(500)
    assert said.count() == turns
    page.get_by_role("button", name="Send").click()
    said.nth(turns + 1).wait_for()
    field.press_sequentially("What is my cat called?")
    field.press("Enter")
    said.nth(turns + 3).get_by_text("Tom").wait_for()
    assert (said.count(), field.input_value()) == (turns + 4, "")
    kept = page.locator("[class^=chat-box-]")
    assert kept.is_hidden()
    page.evaluate(
        "() => window.jupyterapp.shell.currentWidget.sessionContext.session.kernel.restart()"
    )
    page.wait_for_selector(".widget-text.jupyter-widgets-disconnected", state="attached")
    wait_for(page, lambda state: state["status"] == "idle")
    assert page.evaluate(MARKS) == ["widget-text"]
    assert field.is_hidden()
    cell = run_cell(page, again)[again]
    assert problems([cell]) == []
    assert "Ada" in str(cell["outputs"])
    page.evaluate("() => window.jupyterapp.commands.execute('docmanager:save')")
    page.evaluate("() => window.jupyterapp.shell.currentWidget.sessionContext.shutdown()")
    page.reload()
    kept.get_by_text("What is my cat called?").first.wait_for()
    wait_for(page, lambda state: state["status"] == "idle")  # before JupyterLab is stopped
