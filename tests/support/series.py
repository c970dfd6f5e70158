"""The notebooks of the series, as the tests read, change, and run them."""

import re
from dataclasses import dataclass
from pathlib import Path

import nbformat

from run_notebooks import ROOT

FOLDER = ROOT / "notebooks"
PATHS = sorted(FOLDER.glob("*.ipynb"))

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
