"""Execute the notebooks on the server in ``$MEMORYSTORE_ENDPOINT`` and write their outputs back.

``make notebooks`` calls this. The bytes are the same each time, on each machine: outputs that are
not compared, such as measured times, stay as they are until somebody clears them. A notebook that
fails, writes to stderr or leaves keys on the server stays as it was.
"""

import argparse
import os
import re
import sys
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import nbclient
import nbformat
from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError

ROOT = Path(__file__).resolve().parents[1]
CELL_TIMEOUT = 200  # seconds, for the slowest machine
UNCOMPARED = "nbval-ignore-output"
# Complete, so that opening a notebook changes nothing in it.
METADATA = {
    "kernelspec": {"display_name": "Python 3 (ipykernel)", "language": "python", "name": "python3"},
    "language_info": {
        "codemirror_mode": {"name": "ipython", "version": 3},
        "file_extension": ".py",
        "mimetype": "text/x-python",
        "name": "python",
        "nbconvert_exporter": "python",
        "pygments_lexer": "ipython3",
        "version": "3.13.0",
    },
}
# Which cells are folded, and how, in Colab and in JupyterLab.
_KEPT = ("cellView", "jupyter", "tags")
_WIDGET = "application/vnd.jupyter.widget-view+json"
_COLOR = re.compile(r"\x1b\[[0-9;]*m")


@contextmanager
def unchanged_keys(endpoint: str) -> Iterator[list[str]]:
    """Watch a server's keys; afterwards the list says which were left behind or are missing."""
    from memorystore_chat import connect  # a second's import, for those that need it

    problems: list[str] = []
    with connect(endpoint, patience=2) as client:
        marker = f"not-the-tutorials:{uuid.uuid4().hex}"
        client.set(marker, "stays", ex=3600)
        before = set(client.scan_iter(count=1000))
        try:
            yield problems
        finally:
            after = set(client.scan_iter(count=1000))
            client.unlink(marker)
    problems += [f"left the key {key!r} behind" for key in sorted(after - before)]
    problems += [f"deleted the key {key!r}, not its own" for key in sorted(before - after)]


def read(path: Path) -> nbformat.NotebookNode:
    """Read a notebook; in the format of an earlier Jupyter or Colab, its cells get ids."""
    book: nbformat.NotebookNode = nbformat.v4.upgrade(nbformat.read(path, as_version=4))
    return book


def execute(path: Path, endpoint: str) -> list[str]:
    """Run a notebook in a fresh kernel and write its outputs back, or return what went wrong.

    The endpoint's keys are watched; the kernel finds it in its environment.
    """
    book = read(path)
    code = [cell for cell in book.cells if cell.cell_type == "code"]
    kept = {cell.id: cell.outputs for cell in code if UNCOMPARED in cell.metadata.get("tags", [])}
    for cell in code:
        cell.update(execution_count=None, outputs=[])
    how: dict[str, Any] = {"timeout": CELL_TIMEOUT, "coalesce_streams": True}
    how |= {"kernel_name": "python3", "extra_arguments": ["--log-level=ERROR"]}
    how |= {"record_timing": False, "store_widget_state": False}
    try:
        with unchanged_keys(endpoint) as problems:
            nbclient.execute(book, cwd=str(path.parent), **how)
    except (CellExecutionError, CellTimeoutError, DeadKernelError) as error:
        return [_COLOR.sub("", str(error))]
    book.metadata = nbformat.from_dict(METADATA)
    for cell in book.cells:
        metadata = {key: cell.metadata[key] for key in _KEPT if cell.metadata.get(key)}
        cell.metadata = nbformat.from_dict(metadata)
    for number, cell in enumerate(code, 1):
        problems += [
            f"code cell {number} wrote to stderr: {output.text}"
            for output in cell.outputs
            if output.get("name") == "stderr"
        ]
        # A widget lives as long as its kernel; what is beside it is what a reader of the file sees.
        made = [output for output in cell.outputs if _WIDGET not in output.get("data", {})]
        cell.outputs = kept.get(cell.id) or made
        for output in cell.outputs:
            if output.output_type == "execute_result":
                output.execution_count = cell.execution_count
    if not problems:
        path.write_text(nbformat.writes(book) + "\n", encoding="utf-8")
    return problems


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the notebooks named on the command line, or all; returns the exit status."""
    from redis import RedisError

    from memorystore_chat import MemorystoreChatError

    parser = argparse.ArgumentParser(description="Execute notebooks and write their outputs back.")
    parser.add_argument("notebooks", nargs="*", type=Path, metavar="NOTEBOOK")
    options = parser.parse_args(arguments)
    endpoint = os.environ.get("MEMORYSTORE_ENDPOINT")
    if not endpoint:
        parser.error("set MEMORYSTORE_ENDPOINT to the server to run on, or use: make notebooks")
    os.environ.pop("GOOGLE_CLOUD_PROJECT", None)  # the outputs to commit are the offline ones
    status = 0
    for path in options.notebooks or sorted((ROOT / "notebooks").glob("*.ipynb")):
        try:
            problems = execute(path, endpoint)
        except (MemorystoreChatError, RedisError) as error:  # the server is away, before or after
            parser.exit(1, f"{path.name}: {error}\n")
        print(f"{path.name}: {'failed' if problems else 'written'}", flush=True)
        for problem in problems:
            print(f"{path.name}, {problem}", file=sys.stderr)
            status = 1
    return status


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
