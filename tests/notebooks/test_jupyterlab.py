"""`make tutorial` in a real browser: Run All, what fits on a screen, a restart in the first one."""

import json
import os
import signal
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import servers

pytestmark = [pytest.mark.browser, pytest.mark.timeout(400)]

ROOT = Path(__file__).resolve().parents[2]
NOTEBOOKS = sorted(path.name for path in (ROOT / "notebooks").glob("*.ipynb"))
TOKEN = "only-for-this-test"
# Cells of the notebook in front, read from JupyterLab's own model, as the page shows only some.
CELLS = """() => {
  const panel = window.jupyterapp.shell.currentWidget;
  const cells = panel.content.model.sharedModel.cells.map(cell => cell.toJSON());
  return {status: panel.sessionContext.session?.kernel?.status ?? 'none',
          cells: cells.filter(cell => cell.cell_type === 'code')};
}"""


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
      if (getComputedStyle(node).display !== 'inline' && !node.closest('svg, .jp-ThemedContainer'))
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
# Where the first code that is not folded begins, from the top of the page.
FIRST_CODE = """() => window.jupyterapp.shell.currentWidget.content.widgets
  .find(cell => cell.model.type === 'code' && !cell.inputHidden)
  .node.getBoundingClientRect().top"""


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of JupyterLab as `make tutorial` starts it, with a data folder of its own."""
    port = servers.free_port()
    environment = os.environ | {"MEMORYSTORE_EMBEDDED_DIR": str(tmp_path_factory.mktemp("data"))}
    for name in ("MEMORYSTORE_ENDPOINT", "GOOGLE_CLOUD_PROJECT", "DISPLAY", "WAYLAND_DISPLAY"):
        environment.pop(name, None)
    log = tmp_path_factory.mktemp("lab") / "log"
    copy = tmp_path_factory.mktemp("copy")
    options = f"--no-browser --IdentityProvider.token={TOKEN} --LabApp.expose_app_in_browser=True"
    with log.open("w") as output:
        process = subprocess.Popen(
            ["make", "tutorial", f"PORT={port}", f"FOLDER={copy}", f"JUPYTER_ARGS={options}"],
            cwd=ROOT,
            env=environment,
            stdout=output,
            stderr=output,
            start_new_session=True,
            preexec_fn=servers.as_a_shell_would,
        )
    address = f"http://127.0.0.1:{port}"
    try:
        servers.wait_until(lambda: answers(f"{address}/api?token={TOKEN}"), "JupyterLab", 60)
        yield address
    finally:
        # What Ctrl-C in a terminal does.
        os.killpg(process.pid, signal.SIGINT)
        try:
            status = process.wait(timeout=90)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGTERM)
            raise
    assert address.removeprefix("http://127.0.0.1") in log.read_text()
    assert status in (0, 2, -signal.SIGINT), log.read_text()


def answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=2) as response:
            return bool(response.status == 200)
    except OSError:
        return False


@pytest.fixture
def page(browser: Any) -> Iterator[Any]:
    context = browser.new_context(viewport={"width": 1200, "height": 860})
    opened = context.new_page()
    yield opened
    context.close()


def open_notebook(page: Any, lab: str, name: str) -> None:
    page.goto(f"{lab}/lab/tree/{name}?reset&token={TOKEN}")
    page.wait_for_selector(".jp-NotebookPanel:not(.lm-mod-hidden) .jp-Cell", timeout=60_000)
    page.evaluate("() => window.jupyterapp.restored")
    wait_for(page, lambda state: state["status"] == "idle")


def command(page: Any, name: str) -> None:
    page.evaluate("name => { window.jupyterapp.commands.execute(name); }", name)


def wait_for(page: Any, condition: Any, seconds: float = 120) -> list[dict[str, Any]]:
    """Wait until the notebook's kernel and code cells are as said, and return the cells."""
    end = time.monotonic() + seconds
    while True:
        state = page.evaluate(CELLS)
        if condition(state):
            return list(state["cells"])
        assert time.monotonic() < end, json.dumps(state)[:3000]
        page.wait_for_timeout(200)


def run_all(page: Any) -> list[dict[str, Any]]:
    command(page, "notebook:clear-all-cell-outputs")
    wait_for(page, lambda state: not any(cell["execution_count"] for cell in state["cells"]), 20)
    command(page, "notebook:run-all-cells")
    return wait_for(
        page,
        lambda state: (
            state["status"] == "idle" and all(cell["execution_count"] for cell in state["cells"])
        ),
    )


def problems(cells: list[dict[str, Any]]) -> list[str]:
    return [
        f"{output.get('ename', 'stderr')}: {''.join(output.get('text', []))}"
        for cell in cells
        for output in cell["outputs"]
        if output["output_type"] == "error" or output.get("name") == "stderr"
    ]


def shoot(page: Any, name: str) -> None:
    """Keep a picture of the first rich output, or the middle, where $SCREENSHOTS says."""
    if not (folder := os.environ.get("SCREENSHOTS")):
        return
    Path(folder).mkdir(parents=True, exist_ok=True)
    page.evaluate(
        """async () => {
          const notebook = window.jupyterapp.shell.currentWidget.content;
          const rich = cell => cell.model.type === 'code' &&
            cell.model.sharedModel.outputs.some(output => output.data?.['text/html']);
          const middle = notebook.widgets[Math.floor(notebook.widgets.length / 2)];
          await notebook.scrollToCell(notebook.widgets.find(rich) ?? middle, 'center');
        }"""
    )
    page.wait_for_timeout(1000)
    page.screenshot(path=Path(folder) / f"{name}.png")


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_run_all(name: str, lab: str, page: Any) -> None:
    """Run All ends without an error or a warning, with every cell run and nothing too wide."""
    open_notebook(page, lab, name)
    assert page.evaluate(FIRST_CODE) < page.viewport_size["height"]
    cells = run_all(page)
    assert problems(cells) == []
    too_wide = []
    command(page, "application:toggle-left-area")  # it takes a third of a narrow window
    for width in (1280, 900):
        page.set_viewport_size({"width": width, "height": 860})
        page.wait_for_timeout(1000)
        too_wide += [f"at {width} px, {problem}" for problem in page.evaluate(TOO_WIDE)]
        shoot(page, f"{name.removesuffix('.ipynb')}_{width}")
    assert too_wide == []


def test_first_page(lab: str, page: Any) -> None:
    """The address that `make tutorial` opens shows the first notebook."""
    page.goto(f"{lab}/?token={TOKEN}")
    heading = '.jp-NotebookPanel:not(.lm-mod-hidden) h1:has-text("1. Set up")'
    page.wait_for_selector(heading, timeout=60_000)


def test_restart_finds_the_conversation(lab: str, page: Any) -> None:
    """In the first notebook, after a restart of the kernel one cell knows the reader's name."""
    open_notebook(page, lab, "01_setup.ipynb")
    sources = ["".join(cell["source"]) for cell in page.evaluate(CELLS)["cells"]]
    again = next(i for i, source in enumerate(sources) if "DemoChatModel().invoke" in source)
    command(page, "notebook:clear-all-cell-outputs")
    for index in range(again):
        run_cell(page, index)
    page.evaluate(
        "() => window.jupyterapp.shell.currentWidget.sessionContext.session.kernel.restart()"
    )
    wait_for(page, lambda state: state["status"] == "idle")
    cell = run_cell(page, again)[again]
    assert problems([cell]) == []
    assert "Ada" in "".join(cell["outputs"][0]["text"])


def run_cell(page: Any, index: int) -> list[dict[str, Any]]:
    """Run one code cell and wait for its kernel."""
    page.evaluate(
        """async index => {
          const notebook = window.jupyterapp.shell.currentWidget.content;
          const code = notebook.widgets.filter(cell => cell.model.type === 'code');
          notebook.activeCellIndex = notebook.widgets.indexOf(code[index]);
          await window.jupyterapp.commands.execute('notebook:run-cell');
        }""",
        index,
    )
    return wait_for(page, lambda state: state["status"] == "idle")
