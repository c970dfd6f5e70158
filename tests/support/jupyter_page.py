"""JupyterLab as `make tutorial` starts it, and Chromium to drive it."""

import json
import os
import shutil
import signal
import subprocess
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping
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
Cells = list[dict[str, Any]]


@contextmanager
def chromium() -> Iterator[Any]:
    """The machine's Chromium, headless and without calls home.

    Raises:
        ModuleNotFoundError: The playwright package is missing.
        FileNotFoundError: Chromium is missing.
    """
    from playwright.sync_api import sync_playwright

    names = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
    executable = next(filter(None, map(shutil.which, names)), None)
    if executable is None:
        raise FileNotFoundError("there is no Chromium and no Chrome")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=executable,
            args=[
                "--no-sandbox",
                "--disable-gpu",
                "--disable-quic",
                "--no-first-run",
                "--disable-background-networking",
                "--disable-component-update",
                "--disable-sync",
            ],
        )
        yield browser
        browser.close()


@contextmanager
def tutorial() -> Iterator[str]:
    """The address of JupyterLab on new notebooks, with a server of its own."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with started(folder, {"MEMORYSTORE_EMBEDDED_DIR": str(folder / "data")}) as address:
            yield address


@contextmanager
def started(folder: Path, settings: Mapping[str, str]) -> Iterator[str]:
    port, log = servers.free_port(), folder / "log"
    away = ("MEMORYSTORE_ENDPOINT", "GOOGLE_CLOUD_PROJECT", "DISPLAY", "WAYLAND_DISPLAY")
    environment = {k: v for k, v in os.environ.items() if k not in away} | dict(settings)
    options = f"--no-browser --IdentityProvider.token={TOKEN} --LabApp.expose_app_in_browser=True"
    targets = ["tutorial", f"PORT={port}", f"FOLDER={folder / 'copy'}", f"JUPYTER_ARGS={options}"]
    with log.open("w") as output:
        process = subprocess.Popen(
            ["make", *targets],
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
    """Whether something answers there."""
    try:
        with urllib.request.urlopen(url, timeout=2) as response:
            return bool(response.status == 200)
    except OSError:
        return False


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
