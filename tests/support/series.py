"""The notebooks of the series, as the tests read, change, and run them."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nbformat

from run_notebooks import ROOT, UNCOMPARED

FOLDER = ROOT / "notebooks"
PATHS = sorted(FOLDER.glob("*.ipynb"))
SANITIZE = ROOT / "tests/notebooks/sanitize.cfg"

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


def differences(book: Book, committed: Book) -> Iterator[str]:
    """Where a run shows a reader something else than the committed one, as nbval compares."""
    sanitizers = re.findall(r"^regex: (.*)\nreplace: (.*)$", SANITIZE.read_text(), re.MULTILINE)

    def plain(cell: Cell) -> str:
        text = repr(shown(cell))
        for pattern, replacement in sanitizers:
            text = re.sub(pattern, replacement, text)
        return text

    pairs = zip(code_cells(book), code_cells(committed), strict=True)
    for number, (cell, before) in enumerate(pairs, 1):
        if any(output.get("name") == "stderr" for output in cell.outputs):
            yield f"code cell {number} wrote to stderr: {text_of(cell)}"
        elif UNCOMPARED not in tags(cell) and plain(cell) != plain(before):
            yield f"code cell {number}: {plain(cell)}, not {plain(before)}"
