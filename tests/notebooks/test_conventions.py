"""What every notebook keeps to. Style is ruff's business, links are test_links.py's."""

import ast
import re
from itertools import pairwise
from pathlib import Path

import nbformat
import pytest

import run_notebooks
import series
from series import Book, code_cells, tags, text_of

TAGS = {"links-install", "settings", run_notebooks.UNCOMPARED}
COLUMNS = 72
LINES = 25
# A path of a machine, a token, or a key.
PRIVATE = re.compile(
    r"(?<![\w.:/<])/(?:root|work|home|tmp|Users|var|private|opt|usr|mnt)/"
    r"|\bya29\.|\bAIza[\w-]{20}|\beyJ[\w-]{10,}\.|-----BEGIN"
)


@pytest.fixture(params=series.PATHS, ids=lambda path: path.stem)
def path(request: pytest.FixtureRequest) -> Path:
    return Path(request.param)


@pytest.fixture
def book(path: Path) -> Book:
    return series.load(path)


def test_the_first_code_installs_and_is_folded(book: Book) -> None:
    """No other cell has a magic, as notebooks go on when a command of the shell fails."""
    first, *others = code_cells(book)
    folded = {"cellView": "form", "jupyter": {"source_hidden": True}, "tags": ["links-install"]}
    assert first.metadata == folded
    lines = [line for cell in others for line in cell.source.splitlines()]
    assert [line for line in lines if re.match(r"\s*[%!]", line)] == []


def test_settings_are_in_one_cell_and_used(book: Book) -> None:
    """It has the form's fields, and nothing else."""
    form = [cell for cell in code_cells(book) if "@param" in cell.source]
    assert form == [cell for cell in code_cells(book) if "settings" in tags(cell)]
    assert len(form) <= 1
    code = "\n".join(cell.source for cell in code_cells(book))
    for line in "".join(cell.source for cell in form).splitlines():
        field = re.fullmatch(r"(\w+) = .+?  # @param [\[{].*[]}]", line)
        assert field, line
        assert len(re.findall(rf"\b{field[1]}\b", code)) > 1, line


def test_code_fits_beside_a_side_bar_and_on_a_screen(book: Book) -> None:
    for cell in code_cells(book)[1:]:
        lines = cell.source.splitlines()
        assert 0 < len(lines) <= LINES
        assert max(map(len, lines)) <= COLUMNS


def test_pictures_are_outputs_and_say_what_they_show(book: Book) -> None:
    outputs = [output for cell in code_cells(book) for output in cell.outputs]
    drawn = [output.metadata for output in outputs if "image/png" in output.get("data", {})]
    assert drawn
    assert all(metadata["image/png"]["alt"] for metadata in drawn)
    prose = "\n".join(cell.source for cell in book.cells if cell.cell_type == "markdown")
    assert re.findall(r"!\[[^]]*\]\((?!https:).*?\)", prose) == []
    images = re.findall(r"<img\b[^>]*>", "\n".join(map(text_of, book.cells)))
    assert [image for image in images if not re.search(r"\balt=(['\"])(?!\1)", image)] == []


def test_exercises_are_whole_and_not_solved(book: Book) -> None:
    """Each has a heading, the reader's cell, a check, and a solution; there are two or more."""
    prose = "\n\n".join(cell.source for cell in book.cells if cell.cell_type == "markdown")
    found = series.exercises(book)
    assert len(found) >= 2
    titles = [exercise.title for exercise in found]
    assert titles == re.findall(r"^#+ Exercise: (.+)$", prose, re.MULTILINE)
    for exercise in found:
        ast.parse(exercise.solution)
        assert text_of(book.cells[exercise.task + 1]).strip().startswith("Not solved yet")


def test_outputs_are_those_of_one_run(book: Book) -> None:
    """They are counted 1..n, without stderr and widgets; a stream is in one piece."""
    for number, cell in enumerate(code_cells(book), 1):
        # nbval does not compare the outputs of a cell without a count.
        assert cell.execution_count == number
        names = [output.get("name") for output in cell.outputs]
        assert "stderr" not in names
        assert not [a for a, b in pairwise(names) if a == b is not None]
        for output in cell.outputs:
            assert output.get("execution_count", number) == number
            assert "widget" not in repr([*output.get("data", {})])


def test_file_is_as_make_notebooks_writes_it(path: Path, book: Book) -> None:
    """Known tags and complete metadata, so that opening a notebook changes nothing in it."""
    assert book.metadata == run_notebooks.METADATA
    for cell in book.cells:
        assert set(tags(cell)) <= TAGS
        assert set(cell.metadata) <= {"tags", "cellView", "jupyter"}
        assert not re.search(r"#\s*(NBVAL_|PYTEST_VALIDATE)", cell.source), "use a tag instead"
    assert nbformat.writes(run_notebooks.read(path)) + "\n" == path.read_text(encoding="utf-8")


def test_outputs_hold_nothing_private(book: Book) -> None:
    """Nothing of the author's machine; what is another in each run, nbval finds."""
    assert [cell.source for cell in code_cells(book) if PRIVATE.search(text_of(cell))] == []
