"""`make tutorial` in a real browser: Run All, what fits on a screen, a restart in the first one."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import jupyter_page
from jupyter_page import CELLS, TOKEN, command, open_notebook, run_cell, wait_for
from series import PATHS

pytestmark = [pytest.mark.browser, pytest.mark.timeout(400)]

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
# The first rich output, or the middle, for a picture of the notebook.
SHOW = """async () => {
  const notebook = window.jupyterapp.shell.currentWidget.content;
  const rich = cell => cell.model.type === 'code' &&
    cell.model.sharedModel.outputs.some(output => output.data?.['text/html']);
  const middle = notebook.widgets[Math.floor(notebook.widgets.length / 2)];
  await notebook.scrollToCell(notebook.widgets.find(rich) ?? middle, 'center');
}"""


@pytest.fixture(scope="module")
def lab() -> Iterator[str]:
    """The address of JupyterLab as `make tutorial` starts it, with a data folder of its own."""
    with jupyter_page.tutorial() as address:
        yield address


@pytest.fixture
def page(browser: Any) -> Iterator[Any]:
    """A window in which a notebook is 900 pixels wide or less."""
    context = browser.new_context(viewport={"width": 900, "height": 860})
    opened = context.new_page()
    yield opened
    context.close()


def problems(cells: list[dict[str, Any]]) -> list[str]:
    return [
        f"{output.get('ename', 'stderr')}: {''.join(output.get('text', []))}"
        for cell in cells
        for output in cell["outputs"]
        if output["output_type"] == "error" or output.get("name") == "stderr"
    ]


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)
def test_opened_and_run(path: Path, lab: str, page: Any) -> None:
    """It opens without outputs and with nothing to save; Run All ends well, nothing is too wide."""
    page.set_viewport_size({"width": 1200, "height": 860})
    open_notebook(page, lab, path.name)
    assert page.evaluate(FIRST_CODE) < 860
    page.wait_for_timeout(1000)  # until the kernel has said what it is
    assert page.evaluate(DIRTY) is False
    assert [cell["outputs"] for cell in page.evaluate(CELLS)["cells"] if cell["outputs"]] == []
    command(page, "application:toggle-left-area")  # it takes a third of a narrow window
    page.set_viewport_size({"width": 900, "height": 860})
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
    if folder := os.environ.get("SCREENSHOTS"):
        Path(folder).mkdir(parents=True, exist_ok=True)
        page.evaluate(SHOW)
        page.wait_for_timeout(1000)
        page.screenshot(path=Path(folder, f"{path.stem}_900.png"))


def test_too_wide_is_noticed(lab: str, page: Any) -> None:
    """On the first page that a reader sees."""
    page.goto(f"{lab}/?token={TOKEN}")
    page.wait_for_selector('.jp-NotebookPanel:not(.lm-mod-hidden) h1:has-text("1. Meet")')
    wait_for(page, lambda state: state["status"] == "idle")
    source = "\n".join(
        [
            "from IPython.display import HTML  # " + 40 * "and so on ",
            "print(*(50 * letter for letter in 'abcdef'))",
            "HTML('<div style=\"width:3000px\">wide</div>')",
        ]
    )
    first = "window.jupyterapp.shell.currentWidget.content.model.sharedModel.cells"
    page.evaluate(
        f"source => {first}.filter(cell => cell.cell_type === 'code')[1].setSource(source)", source
    )
    assert problems(run_cell(page, 1)[1:2]) == []
    found = page.evaluate(TOO_WIDE)
    for problem in ("cm-scroller", "jp-RenderedHTML", "b is broken"):
        assert any(problem in each for each in found), problem


def test_a_reader_chats_and_a_restart_finds_the_conversation(lab: str, page: Any) -> None:
    """In the first notebook's chat box, Enter and a click each are one question.

    After a restart of the kernel one cell knows the reader's name. The box, which has lost its
    kernel, says so at one place. Saved and opened again, it shows what was said and stored.
    """
    open_notebook(page, lab, "01_setup.ipynb")
    sources = ["".join(cell["source"]) for cell in page.evaluate(CELLS)["cells"]]
    ends = [source.endswith("chat_box(ask, history)") for source in sources]
    again = 1 + ends.index(True)
    for index in range(again):
        run_cell(page, index)
    field = page.get_by_placeholder("Type here, then press Enter")
    said = page.locator(".jupyter-widgets [role=listitem]")
    turns = said.count()
    field.press_sequentially("My cat is called Tom.")
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
    cell = run_cell(page, again)[again]
    assert problems([cell]) == []
    assert "Ada" in str(cell["outputs"])
    page.evaluate("() => window.jupyterapp.commands.execute('docmanager:save')")
    page.evaluate("() => window.jupyterapp.shell.currentWidget.sessionContext.shutdown()")
    page.reload()
    kept.get_by_text("What is my cat called?").first.wait_for()
