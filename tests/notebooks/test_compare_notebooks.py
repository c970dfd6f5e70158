"""tools/compare_notebooks.py: outputs and keys are compared, and counted."""

import json
import os
import subprocess
import sys
from pathlib import Path

import nbformat

from counting import Counts
from servers import Server

ROOT = Path(__file__).resolve().parents[2]
STORE = "from memorystore_chat import connect\nclient = connect()\n_ = client.set('left', 1)"


def write(path: Path, *cells: tuple[str, str]) -> Path:
    """Store a notebook of code cells, each with what it printed when it ran."""
    book = nbformat.v4.new_notebook()
    for number, (source, printed) in enumerate(cells, 1):
        outputs = [nbformat.v4.new_output("stream", text=printed)] if printed else []
        book.cells.append(nbformat.v4.new_code_cell(source, outputs=outputs))
        book.cells[-1].execution_count = number
    nbformat.write(book, path)
    return path


def compare(path: Path, server: Server) -> tuple[int, Counts]:
    """Exit status and counts of a comparison."""
    report = path.with_suffix(".json")
    script = str(ROOT / "tools/compare_notebooks.py")
    command = [sys.executable, script, "--counts", str(report), str(path)]
    environment = dict(os.environ, MEMORYSTORE_ENDPOINT=server.url, GOOGLE_CLOUD_PROJECT="mine")
    status = subprocess.run(command, env=environment, check=False, capture_output=True).returncode
    return status, Counts(**json.loads(report.read_text()))


def test_notebook_that_is_right_passes(tmp_path: Path, valkey_server: Server) -> None:
    """Each code cell is a check, and the server's keys are one more."""
    cells = [("print('as ever')", "as ever\n"), ("x = 1", "")]
    assert compare(write(tmp_path / "a.ipynb", *cells), valkey_server) == (0, Counts(passed=3))


def test_what_differs_fails(tmp_path: Path, valkey_server: Server) -> None:
    """Another output is a failure, a key left behind is one; the cells have no cloud project."""
    project = "import os\nprint(os.environ.get('GOOGLE_CLOUD_PROJECT'))"
    path = write(tmp_path / "a.ipynb", ("print('new')", "old\n"), (STORE, ""), (project, "None\n"))
    try:
        assert compare(path, valkey_server) == (1, Counts(passed=2, failed=2))
    finally:
        valkey_server.client().delete("left")
