"""Execute the notebooks on the server in ``$MEMORYSTORE_ENDPOINT`` and write their outputs back.

``make notebooks`` calls this. The bytes are the same each time, on each machine: outputs that are
not compared, such as measured times, stay as they are unless ``--refresh`` asks for new ones. A
notebook that fails, writes to stderr or leaves keys on the server stays as it was.
"""

import argparse
import json
import os
import re
import sys
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError

ROOT = Path(__file__).resolve().parents[1]
CELL_TIMEOUT = 60
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
    """Read a notebook; cells without an id get one that is the same each time."""
    content = json.loads(path.read_text(encoding="utf-8"))
    for number, cell in enumerate(content["cells"]):
        cell.setdefault("id", f"cell-{number:02d}")
    content["nbformat_minor"] = 5
    book: nbformat.NotebookNode = nbformat.reads(json.dumps(content), as_version=4)
    return book


def execute(path: Path, endpoint: str, *, refresh: bool = False) -> list[str]:
    """Run a notebook in a fresh kernel and write its outputs back.

    Args:
        path: The notebook.
        endpoint: The server whose keys are watched; the kernel finds it in its environment.
        refresh: Whether to write new outputs also where they are not compared.

    Returns:
        What went wrong. If anything did, the file stays as it was.
    """
    book = read(path)
    code = [cell for cell in book.cells if cell.cell_type == "code"]
    kept: dict[str, list[nbformat.NotebookNode]] = {}
    for cell in code:
        if not refresh and UNCOMPARED in cell.metadata.get("tags", []):
            kept[cell.id] = cell.outputs
        cell.update(execution_count=None, outputs=[])
    begun = [0]
    runner = NotebookClient(
        book,
        timeout=CELL_TIMEOUT,
        kernel_name="python3",
        extra_arguments=["--log-level=ERROR"],
        resources={"metadata": {"path": str(path.parent)}},
        coalesce_streams=True,
        record_timing=False,
        store_widget_state=False,
        on_cell_start=lambda cell_index, **_: begun.append(cell_index),
    )
    try:
        with unchanged_keys(endpoint) as problems:
            runner.execute()
    except (CellExecutionError, CellTimeoutError, DeadKernelError) as error:
        number = sum(cell.cell_type == "code" for cell in book.cells[: begun[-1] + 1])
        return [f"code cell {number}: {_COLOR.sub('', str(error))}"]
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
        cell.outputs = [output for output in cell.outputs if _WIDGET not in output.get("data", {})]
        for output in kept.get(cell.id, []):
            if output.output_type == "execute_result":
                output.execution_count = cell.execution_count
        cell.outputs = kept.get(cell.id) or cell.outputs
    if not problems:
        path.write_text(nbformat.writes(book) + "\n", encoding="utf-8")
    return problems


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the notebooks named on the command line, or all; returns the exit status."""
    from redis import RedisError

    from memorystore_chat import MemorystoreChatError

    parser = argparse.ArgumentParser(description="Execute notebooks and write their outputs back.")
    parser.add_argument("notebooks", nargs="*", type=Path, metavar="NOTEBOOK")
    parser.add_argument(
        "--refresh", action="store_true", help="write new outputs also where they are not compared"
    )
    options = parser.parse_args(arguments)
    endpoint = os.environ.get("MEMORYSTORE_ENDPOINT")
    if not endpoint:
        parser.error("set MEMORYSTORE_ENDPOINT to the server to run on, or use: make notebooks")
    for path in options.notebooks:
        if not path.is_file():
            parser.error(f"there is no notebook {path}")
    os.environ.pop("GOOGLE_CLOUD_PROJECT", None)  # the outputs to commit are the offline ones
    status = 0
    for path in options.notebooks or sorted((ROOT / "notebooks").glob("*.ipynb")):
        try:
            problems = execute(path, endpoint, refresh=options.refresh)
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
