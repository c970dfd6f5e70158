"""What every notebook keeps to. Style is ruff's business, links are those of tools/links.py.

A check takes a notebook and returns what is wrong with it.
"""

import ast
import re
from collections.abc import Callable, Iterable
from itertools import pairwise
from pathlib import Path

import nbformat
import pytest

import run_notebooks
import series
from series import Book

WORDS = 900  # of prose, which a newcomer reads in fifteen minutes with the code
TAGS = {"links-install", "settings", run_notebooks.UNCOMPARED}
COLUMNS = 72
LINES = 25
PRIVATE = {
    "a path of a machine": r"(?<![\w.:/<])/(?:root|work|home|tmp|Users|var|private|opt|usr|mnt)/",
    "an address": r"(?<![\d.])(?:\d{1,3}\.){3}\d{1,3}(?![\d.])|\blocalhost:\d+",
    "an address in memory": r"\b0x[0-9a-f]{6,}",
    "a random id": r"\b[0-9a-f]{8}-(?:[0-9a-f]{4}-){3}[0-9a-f]{12}\b|\b[0-9a-f]{32}\b",
    "a token or key": r"\bya29\.|\bAIza[\w-]{20}|\beyJ[\w-]{10,}\.|-----BEGIN",
    "a time stamp": r"\b\d{4}-\d\d-\d\d[T ]\d\d:\d\d|\b\d\d:\d\d:\d\d\b",
}
FOR_EVERYONE = {"35.235.240.0"}  # where Google's TCP forwarding (IAP) comes from

Check = Callable[[Book], Iterable[str]]
CHECKS: dict[str, Check] = {}


def check(function: Check) -> Check:
    CHECKS[function.__name__] = function
    return function


def prose(book: Book) -> str:
    return "\n\n".join(cell.source for cell in book.cells if cell.cell_type == "markdown")


def source(book: Book) -> str:
    return "\n".join(cell.source for cell in series.code_cells(book))


def words(book: Book) -> int:
    """How many words of prose a reader reads: no links' targets, badges, or folded solutions."""
    text = re.sub(r"<!-- (badges|navigation) -->.*?<!-- /\1 -->", "", prose(book), flags=re.DOTALL)
    text = re.sub(r"```.*?```", "", text, flags=re.DOTALL)
    text = re.sub(r"\]\([^)]*\)|<[^>]*>|[|#*`>-]", " ", text)
    return len(text.split())


@check
def install(book: Book) -> Iterable[str]:
    """The first code cell installs, folded in Colab and JupyterLab; no other has a magic."""
    first, *others = series.code_cells(book)
    if "links-install" not in series.tags(first):
        yield "the first code cell is to be tagged links-install"
    if first.metadata.get("cellView") != "form" or not first.metadata.get("jupyter"):
        yield "the install cell is not folded"
    # nbval and JupyterLab go on when a command of the shell fails.
    lines = [line for cell in others for line in cell.source.splitlines()]
    yield from (f"not Python: {line}" for line in lines if re.match(r"\s*[%!]", line))


@check
def settings(book: Book) -> Iterable[str]:
    """One cell has the form's fields, and nothing else; a later cell uses each."""
    cells = series.code_cells(book)
    tagged = [cell for cell in cells if "settings" in series.tags(cell)]
    fields = [cell for cell in cells if "@param" in cell.source]
    if len(tagged) > 1 or fields != tagged:
        yield "the fields (@param) are to be in one cell tagged settings"
    for cell in tagged:
        later = "\n".join(each.source for each in cells[cells.index(cell) + 1 :])
        for line in cell.source.splitlines():
            field = re.fullmatch(r"(\w+) = (.+?)  # @param [\[{].*[]}]", line)
            if field is None:
                yield f"not a field: {line}"
            elif not re.search(rf"\b{field[1]}\b", later):
                yield f"no later cell uses {field[1]}"
            else:
                ast.literal_eval(field[2])


@check
def size(book: Book) -> Iterable[str]:
    """Code fits beside JupyterLab's side bar, and on a screen."""
    for number, cell in enumerate(series.code_cells(book)[1:], 2):
        lines = cell.source.splitlines()
        if not 0 < len(lines) <= LINES or max(map(len, lines)) > COLUMNS:
            yield f"code cell {number} has {len(lines)} lines of 1 to {LINES}, or over {COLUMNS}"
    if (count := words(book)) > WORDS:
        yield f"{count} words of prose, over {WORDS}"


@check
def pictures(book: Book) -> Iterable[str]:
    """Pictures are outputs, which show everywhere, and say in words what they show."""
    yield from re.findall(r"!\[[^]]*\]\((?!https:).*?\)", prose(book))
    outputs = [output for cell in series.code_cells(book) for output in cell.outputs]
    drawn = [output for output in outputs if "image/png" in output.get("data", {})]
    for output in drawn:
        if not output.metadata.get("image/png", {}).get("alt"):
            yield "a picture without alternative text"
    images = re.findall(r"<img\b[^>]*>", "\n".join(map(series.text_of, book.cells)))
    yield from (i[:80] for i in images if not re.search(r"\balt=(['\"])(?!\1)", i))
    if not drawn:
        yield "no picture (image/png)"


@check
def learning(book: Book) -> Iterable[str]:
    """Exercises, unsolved as committed, the first within the first half; a question to predict."""
    found = series.exercises(book)
    headings = re.findall(r"^#+ Exercise: (.+)$", prose(book), re.MULTILINE)
    if len(found) < 2 or headings != [exercise.title for exercise in found]:
        yield f"of two exercises or more, {headings}, some lack a task, check, or solution"
    if found and found[0].task > len(book.cells) / 2:
        yield "no exercise in the first half"
    for exercise in found:
        ast.parse(exercise.solution)
        verdict = series.text_of(book.cells[exercise.task + 1])
        if not verdict.strip().startswith("Not solved yet"):
            yield f"{exercise.title}: committed with {verdict!r}"
    asked = [n for n, cell in enumerate(book.cells) if "<summary>Predict first:" in cell.source]
    if not asked or any(book.cells[n + 1].cell_type != "code" for n in asked):
        yield "no question to predict with its answer in the next cell"


@check
def clean_run(book: Book) -> Iterable[str]:
    """The outputs are those of one run: counted 1..n, no errors, no stderr, no widgets."""
    cells = series.code_cells(book)
    counts = [cell.execution_count for cell in cells]
    # nbval does not compare the outputs of a cell without a count.
    if counts != list(range(1, len(counts) + 1)):
        yield f"the execution counts are {counts}"
    for number, cell in enumerate(cells, 1):
        names = [output.get("name") for output in cell.outputs]
        if any(a == b is not None for a, b in pairwise(names)):
            yield f"code cell {number} has split output"
        for output in cell.outputs:
            if output.output_type == "error" or output.get("name") == "stderr":
                yield f"code cell {number} has an error or stderr in its output"
            if output.get("execution_count", cell.execution_count) != cell.execution_count:
                yield f"code cell {number} has a result of another run"
            if any("widget" in kind for kind in output.get("data", {})):
                yield f"code cell {number} has a widget in its output"


@check
def stored_form(book: Book) -> Iterable[str]:
    """Known tags and complete metadata, so that opening a notebook changes nothing in it."""
    if book.metadata != run_notebooks.METADATA:
        yield "the notebook's metadata are not those of make notebooks"
    for cell in book.cells:
        if set(series.tags(cell)) - TAGS or set(cell.metadata) - {"tags", "cellView", "jupyter"}:
            yield f"unknown tags, or metadata of one machine: {cell.metadata}"
    if re.search(r"#\s*(NBVAL_|PYTEST_VALIDATE)", source(book)):
        yield "use a tag instead of an NBVAL comment"
    if len({cell.get("id") for cell in book.cells} - {None}) < len(book.cells):
        yield "every cell needs an id of its own"


@check
def private_outputs(book: Book) -> Iterable[str]:
    """Outputs hold nothing of the machine or the moment, unless the notebook's text says it."""
    said = source(book) + prose(book)
    for number, cell in enumerate(series.code_cells(book), 1):
        for what, pattern in PRIVATE.items():
            for match in re.finditer(pattern, series.text_of(cell)):
                if match[0] not in said and match[0] not in FOR_EVERYONE:
                    yield f"code cell {number} shows {what}: {match[0]!r}"


@pytest.mark.parametrize("path", series.PATHS, ids=lambda path: path.stem)
def test_notebook(path: Path) -> None:
    """It keeps every convention, and is stored as `make notebooks` would write it."""
    book = series.load(path)
    found = {name: list(check(book)) for name, check in CHECKS.items()}
    assert {name: problems for name, problems in found.items() if problems} == {}
    assert nbformat.writes(run_notebooks.read(path)) + "\n" == path.read_text(encoding="utf-8")
