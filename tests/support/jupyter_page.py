"""JupyterLab as `make tutorial` starts it, and Chromium to drive it."""

import json
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import servers

ROOT = Path(__file__).resolve().parents[2]
TOKEN = "only-for-this-run"
# Cells of the notebook in front, read from JupyterLab's own model, as the page shows only some.
CELLS = """() => {
  const panel = window.jupyterapp.shell.currentWidget;
  const cells = panel.content.model.sharedModel.cells.map(cell => cell.toJSON());
  return {status: panel.sessionContext.session?.kernel?.status ?? 'none',
          cells: cells.filter(cell => cell.cell_type === 'code')};
}"""
RUN = """async index => {
  const notebook = window.jupyterapp.shell.currentWidget.content;
  const code = notebook.widgets.filter(cell => cell.model.type === 'code');
  notebook.activeCellIndex = notebook.widgets.indexOf(code[index]);
  await window.jupyterapp.commands.execute('notebook:run-cell');
}"""
Cells = list[dict[str, Any]]


@contextmanager
def chromium() -> Iterator[Any]:
    """The machine's Chromium, headless and without calls home."""
    from playwright.sync_api import sync_playwright

    names = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
    executable = next(filter(None, map(shutil.which, names)), None) or servers.missing("Chromium")
    away = "background-networking component-update sync quic gpu"
    options = ["--no-sandbox", "--no-first-run", *(f"--disable-{name}" for name in away.split())]
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=executable, args=options)
        yield browser
        browser.close()


@contextmanager
def tutorial() -> Iterator[str]:
    """The address of JupyterLab on new notebooks, with a server of its own."""
    options = f"--no-browser --IdentityProvider.token={TOKEN} --LabApp.expose_app_in_browser=True"
    port = servers.free_port()
    with tempfile.TemporaryDirectory() as name:
        data = {
            "MEMORYSTORE_EMBEDDED_DIR": f"{name}/data",
            "JUPYTERLAB_SETTINGS_DIR": f"{name}/lab",
        }
        with started(Path(name), f"PORT={port}", f"JUPYTER_ARGS={options}", **data) as (_, lines):
            address = lines[1].split()[1]
            assert f":{port}/" in address
            yield address.partition("/lab/")[0]
            assert "WARN" not in Path(name, "log").read_text()  # as of a kernel's transport


@contextmanager
def started(
    folder: Path, *arguments: str, target: str = "tutorial", **settings: str
) -> Iterator[tuple[subprocess.Popen[bytes], list[str]]]:
    """A target of make, such as `make tutorial` with its copy in a folder, once it runs.

    Yields the process and the lines it has said; Ctrl-C ends it.
    """
    away = ("MEMORYSTORE_ENDPOINT", "GOOGLE_CLOUD_PROJECT", "DISPLAY", "WAYLAND_DISPLAY")
    log = folder / "log"
    subprocess.run(["make", "--silent", ".venv/.ready"], cwd=ROOT, check=True, capture_output=True)
    with log.open("w") as output:
        process = subprocess.Popen(
            ["make", "--silent", target, f"FOLDER={folder / 'copy'}", *arguments],
            cwd=ROOT,
            env={k: v for k, v in os.environ.items() if k not in away} | settings,
            stdout=output,
            stderr=output,
            start_new_session=True,
            preexec_fn=servers.as_a_shell_would,
        )
    try:
        servers.wait_until(lambda: "Stop " in log.read_text(), "the start", 100)
        yield process, log.read_text().splitlines()
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGINT)  # as Ctrl-C does
        try:
            status = process.wait(90)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGTERM)
            raise
    assert status in (0, 2, -signal.SIGINT), log.read_text()


def open_notebook(page: Any, lab: str, name: str) -> None:
    """Open a notebook and wait for its kernel."""
    page.goto(f"{lab}/lab/tree/{name}?reset&token={TOKEN}")
    page.wait_for_selector(".jp-NotebookPanel:not(.lm-mod-hidden) .jp-Cell", timeout=60_000)
    page.evaluate("() => window.jupyterapp.restored")
    wait_for(page, lambda state: state["status"] == "idle")


def command(page: Any, name: str) -> None:
    """Start one of JupyterLab's commands."""
    page.evaluate("name => { window.jupyterapp.commands.execute(name); }", name)


def wait_for(page: Any, condition: Callable[[Any], bool], seconds: float = 120) -> Cells:
    """Wait until the notebook's kernel and code cells are as said, and return the cells."""
    end = time.monotonic() + seconds
    while True:
        state = page.evaluate(CELLS)
        if condition(state):
            return list(state["cells"])
        assert time.monotonic() < end, json.dumps(state)[:3000]
        page.wait_for_timeout(200)


def run_cell(page: Any, index: int) -> Cells:
    """Run one code cell and wait for its kernel."""
    page.evaluate(RUN, index)
    return wait_for(page, lambda state: state["status"] == "idle")
