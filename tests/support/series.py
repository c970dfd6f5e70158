"""The notebooks of the series, as the tests read, change, and run them."""

import asyncio
import copy
import os
import re
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nbformat
from jupyter_core.utils import ensure_async
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, CellTimeoutError

from run_notebooks import ROOT, UNCOMPARED

FOLDER = ROOT / "notebooks"
PATHS = sorted(FOLDER.glob("*.ipynb"))
SANITIZE = ROOT / "tests/notebooks/sanitize.cfg"
CELL_TIMEOUT = 90

Cell = nbformat.NotebookNode
Book = nbformat.NotebookNode

_SOLUTION = re.compile(
    r"\A<details>\s*<summary>Solution</summary>\s+```python\n(.*?)\n```\s.*?</details>", re.DOTALL
)


def load(path: Path) -> Book:
    """Read a notebook."""
    book: Book = nbformat.read(path, as_version=4)
    return book


def tags(cell: Cell) -> list[str]:
    """The tags of a cell."""
    return list(cell.metadata.get("tags", []))


def code_cells(book: Book) -> list[Cell]:
    """The code cells, in order."""
    return [cell for cell in book.cells if cell.cell_type == "code"]


def text_of(cell: Cell) -> str:
    """What the outputs of a cell say, without pictures."""
    texts = []
    for output in cell.get("outputs", []):
        texts.append(output.get("text", ""))
        texts += [str(v) for k, v in output.get("data", {}).items() if not k.startswith("image/")]
    return "\n".join(texts)


@dataclass(frozen=True)
class Exercise:
    """A task for the reader."""

    title: str
    task: int  # the place of the reader's cell among all cells; the check comes next
    solution: str  # the code, which replaces the reader's cell


def exercises(book: Book) -> list[Exercise]:
    """The exercises: a heading, the reader's cell, the check, the folded solution."""
    found = []
    for place, cell in enumerate(book.cells[1:-2], 1):
        title = re.findall(r"^#{2,3} Exercise: (.+)$", book.cells[place - 1].source, re.MULTILINE)
        solution = _SOLUTION.match(book.cells[place + 2].source)
        check = book.cells[place + 1]
        if cell.cell_type == check.cell_type == "code" and title and solution:
            found.append(Exercise(title[-1], place, solution[1]))
    return found


class Kernel:
    """A notebook in front of a kernel, as a reader has it."""

    def __init__(self, book: Book, runner: NotebookClient) -> None:
        self.book = book
        self._runner = runner

    async def run(self, place: int) -> None:
        """Run one cell.

        Raises:
            CellExecutionError: The cell ended in an error.
        """
        cell = self.book.cells[place]
        if cell.cell_type == "code":
            cell.outputs = []
        await self._runner.async_execute_cell(cell, place)

    async def run_all(self) -> None:
        """Run all cells from the top."""
        for place in range(len(self.book.cells)):
            await self.run(place)

    async def interrupted(self, after: float) -> bool:
        """Run all cells, and interrupt the kernel after some seconds; whether that stopped it.

        ipykernel loses the reply of a cell if the interrupt comes just before or after its code
        runs. If instead the code hangs, so does what is run next.
        """
        task = asyncio.create_task(self.run_all())
        await asyncio.wait([task], timeout=after)
        assert self._runner.km is not None
        await ensure_async(self._runner.km.interrupt_kernel())
        try:
            await task
        except CellExecutionError:
            return True
        except CellTimeoutError:
            pass
        return False


@asynccontextmanager
async def kernel(book: Book, endpoint: str) -> AsyncIterator[Kernel]:
    """Open a copy of a notebook with a kernel of its own."""
    book = copy.deepcopy(book)
    runner = NotebookClient(
        book,
        timeout=CELL_TIMEOUT,
        kernel_name="python3",
        coalesce_streams=True,
        record_timing=False,
        resources={"metadata": {"path": str(FOLDER)}},
    )
    environment = {k: v for k, v in os.environ.items() if not k.startswith("GOOGLE_")}
    environment["MEMORYSTORE_ENDPOINT"] = endpoint
    async with runner.async_setup_kernel(env=environment):
        yield Kernel(book, runner)


def shown(cell: Cell) -> list[Any]:
    """What a reader sees of a cell's outputs; pictures and widgets by their kind alone."""

    def seen(kind: str, data: Any) -> Any:
        return "..." if kind.startswith(("image/", "application/vnd.jupyter.w")) else data

    return [
        {kind: seen(kind, data) for kind, data in sorted(output.data.items())}
        if "data" in output
        else f"{output.get('name', output.output_type)}: {output.get('text', '')}"
        for output in cell.get("outputs", [])
    ]


def differences(
    book: Book, committed: Book, *, again: bool = False, alone: bool = True
) -> Iterator[str]:
    """Where a run shows a reader something else than the committed one, as nbval compares.

    Args:
        book: The notebook after a run.
        committed: The notebook as it is committed.
        again: Whether its kernel had run some of it before. Then the first cell says what it has
            found and deleted, and an exercise's check gives the next hint.
        alone: Whether no other kernel ran it at the same time. One beside another has a key prefix
            of its own, and its keys lie on other nodes of a cluster.
    """
    sanitizers = re.findall(r"^regex: (.*)\nreplace: (.*)$", SANITIZE.read_text(), re.MULTILINE)

    def plain(cell: Cell) -> str:
        text = repr(shown(cell))
        if again:
            text = text.partition("\\nHint: ")[0]
        for pattern, replacement in sanitizers:
            text = re.sub(pattern, replacement, text)
        return text

    pairs = zip(code_cells(book), code_cells(committed), strict=True)
    for number, (cell, before) in enumerate(pairs, 1):
        ignored = UNCOMPARED in tags(cell) or (again and "key_prefix(" in cell.source)
        ignored |= not alone and "primary_of(" in cell.source
        if any(output.get("name") == "stderr" for output in cell.outputs):
            yield f"code cell {number} wrote to stderr: {text_of(cell)}"
        elif not ignored and plain(cell) != plain(before):
            yield f"code cell {number}: {plain(cell)}, not {plain(before)}"
