"""What every notebook keeps to. Style is ruff's business, links are those of tools/links.py.

A check takes the name and the content of a notebook and returns what is wrong with it. `SPOILED`
has at least one way to spoil a good notebook for each, and a test shows that the check notices.
"""

import ast
import re
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import nbformat
import pytest

import run_notebooks
import series
from series import Book, Cell

TITLES = {
    "01_setup": "1. Meet a bot that remembers",
    "02_basic_usage": "2. Store and read conversations",
    "03_cleanup": "3. Clean up with care",
    "04_chain_integration": "4. Give a chain a memory",
    "05_agent_memory": "5. Give an agent a memory",
    "06_checkpoints": "6. Pause, approve, and rewind",
    "07_long_term_memory": "7. Know a guest who returns",
    "08_google_cloud": "8. Move to Google Cloud",
    "09_production": "9. Survive a bad night",
    "10_web_app": "10. Ship a web app",
}
WORDS = 900  # of prose, which a newcomer reads in fifteen minutes with the code
TAGS = {"links-install", "settings", series.UNCOMPARED}
COLUMNS = 72
LINES = 25

Check = Callable[[str, Book], list[str]]
CHECKS: dict[str, Check] = {}


def check(function: Check) -> Check:
    CHECKS[function.__name__] = function
    return function


def with_tag(book: Book, tag: str) -> list[Cell]:
    return [cell for cell in series.code_cells(book) if tag in series.tags(cell)]


@check
def beginning(name: str, book: Book) -> list[str]:
    """The number and the title, the links, and in one screen what it is about."""
    first = book.cells[0].source
    wanted = {
        "its number and title": rf"\A# {re.escape(TITLES[name])}\n",
        "the links that open it elsewhere": "<!-- badges -->\n.*Open in Colab",
        "what the reader will do": r"\*\*You'll do:\*\*",
        "what the reader will learn": r"\*\*You'll learn:\*\*",
        "what the reader will need": r"\*\*You'll need:\*\* .*\bminutes\b.*\bcost",
    }
    problems = [f"no {what}" for what, text in wanted.items() if not re.search(text, first)]
    if len(first.split("\n\n")) > 5:
        problems.append("more than title, links, hook, and two paragraphs above the first code")
    others = re.findall(r"^# .*$", series.prose(book), re.MULTILINE)[1:]
    return problems + [f"a second title: {title}" for title in others]


@check
def end(_: str, book: Book) -> list[str]:
    """It cleans up, sums up, says where to read on, and leads to its neighbors."""
    last = book.cells[-1].source
    wanted = ("## What you have learned", "**Further reading:**", "<!-- navigation -->")
    problems = [f"no {text} at the end" for text in wanted if text not in last]
    if not re.search(r"^## Clean up$", series.prose(book), re.MULTILINE):
        problems.append("no section Clean up")
    return problems


@check
def install(_: str, book: Book) -> list[str]:
    """The first code cell installs, folded in Colab and JupyterLab; no other has a magic."""
    first = series.code_cells(book)[0]
    if with_tag(book, "links-install") != [first]:
        return ["the first code cell, and no other, is to be tagged links-install"]
    problems = []
    if first.metadata.get("cellView") != "form" or not first.metadata.get("jupyter"):
        problems.append("the install cell is not folded")
    if len([line for line in first.source.splitlines() if not line.startswith("#")]) > 4:
        problems.append("the install cell has more than four lines")
    # nbval and JupyterLab go on when a command of the shell fails.
    rest = [line for cell in series.code_cells(book)[1:] for line in cell.source.splitlines()]
    return problems + [f"not Python: {line}" for line in rest if re.match(r"\s*[%!]", line)]


@check
def settings(_: str, book: Book) -> list[str]:
    """One cell has the form's fields, and nothing else; a later cell uses each."""
    tagged = with_tag(book, "settings")
    if not tagged and "@param" not in series.source(book):
        return []
    fields = [cell for cell in series.code_cells(book) if "@param" in cell.source]
    if len(tagged) != 1 or fields != tagged:
        return ["the fields (@param) are to be in one cell tagged settings"]
    cells = series.code_cells(book)
    later = "\n".join(cell.source for cell in cells[cells.index(tagged[0]) + 1 :])
    problems = []
    for line in tagged[0].source.splitlines():
        field = re.fullmatch(r"(\w+) = (.+?)  # @param [\[{].*[]}]", line)
        if field is None:
            problems.append(f"not a field: {line}")
        elif not re.search(rf"\b{field[1]}\b", later):
            problems.append(f"no later cell uses {field[1]}")
        else:
            ast.literal_eval(field[2])
    return problems


@check
def size(_: str, book: Book) -> list[str]:
    """Code fits beside JupyterLab's side bar, and on a screen."""
    problems = []
    for number, cell in enumerate(series.code_cells(book)[1:], 2):
        lines = cell.source.splitlines()
        problems += [f"code cell {number}: over {COLUMNS} columns: {line}" for line in lines
                     if len(line) > COLUMNS]  # fmt: skip
        if not 0 < len(lines) <= LINES:
            problems.append(f"code cell {number} has {len(lines)} lines, not 1 to {LINES}")
    if (words := series.words(book)) > WORDS:
        problems.append(f"{words} words of prose, over {WORDS}")
    return problems


@check
def tables(_: str, book: Book) -> list[str]:
    """Tables of prose have two columns: a third is cut off at 900 pixels."""
    rows = re.findall(r"^\|(?:-+\|)+$", series.prose(book).replace(" ", ""), re.MULTILINE)
    return [f"a table of {row.count('|') - 1} columns" for row in rows if row.count("|") != 3]


@check
def pictures(_: str, book: Book) -> list[str]:
    """Pictures are outputs, which show everywhere, and say in words what they show."""
    problems = [f"attached to a cell: {sorted(c.attachments)}" for c in book.cells
                if c.get("attachments")]  # fmt: skip
    problems += [f"not an output: {text}" for text in re.findall(r"!\[[^]]*\]\((?!https:).*?\)",
                 series.prose(book))]  # fmt: skip
    found = 0
    for cell in series.code_cells(book):
        for output in cell.outputs:
            if "image/png" in output.get("data", {}):
                found += 1
                if not output.metadata.get("image/png", {}).get("alt"):
                    problems.append(f"no alternative text: {cell.source}")
        images = re.findall(r"<img\b[^>]*>", series.text_of(cell))
        problems += [f"no alternative text: {i[:80]}" for i in images
                     if not re.search(r"\balt=(['\"])(?!\1)", i)]  # fmt: skip
    return problems if found else [*problems, "no picture (image/png)"]


@check
def learning(_: str, book: Book) -> list[str]:
    """Exercises, unsolved as committed, the first within the first half; a question to predict."""
    found = series.exercises(book)
    problems = []
    if len(found) < 2:
        problems.append("fewer than two exercises (heading, task, check, folded solution)")
    headings = re.findall(r"^#+ Exercise: (.+)$", series.prose(book), re.MULTILINE)
    if headings != [exercise.title for exercise in found]:
        problems.append(f"of the exercises {headings} some lack a task, check, or solution")
    if found and found[0].task > len(book.cells) / 2:
        problems.append("no exercise in the first half")
    for exercise in found:
        ast.parse(exercise.solution)
        verdict = series.text_of(book.cells[exercise.task + 1])
        if not verdict.strip().startswith("Not solved yet"):
            problems.append(f"{exercise.title}: committed with {verdict!r}")
    asked = [n for n, cell in enumerate(book.cells) if "<summary>Predict first:" in cell.source]
    if not asked:
        problems.append("no question to predict first")
    problems += [
        "a question to predict, and its answer not in the next cell"
        for n in asked
        if book.cells[n + 1].cell_type != "code"
    ]
    return problems


@check
def reader_only(_: str, book: Book) -> list[str]:
    """No word about how the notebooks are tested, nor about determinism."""
    words = (
        r"\b(nbval|determinis\w+|reproducib\w+|not compared|test suite|continuous integration)\b"
    )
    texts = [cell.source + series.text_of(cell) for cell in book.cells]
    return [m[0] for text in texts for m in re.finditer(words, text, re.IGNORECASE)]


@check
def clean_run(_: str, book: Book) -> list[str]:
    """The outputs are those of one run: counted 1..n, no errors, no stderr, no widgets."""
    cells = series.code_cells(book)
    counts = [cell.execution_count for cell in cells]
    problems = []
    # nbval does not compare the outputs of a cell without a count.
    if counts != list(range(1, len(counts) + 1)):
        problems.append(f"the execution counts are {counts}")
    for number, cell in enumerate(cells, 1):
        names = [output.get("name") for output in cell.outputs]
        if any(a == b is not None for a, b in pairwise(names)):
            problems.append(f"code cell {number} has split output")
        for output in cell.outputs:
            if output.output_type == "error" or output.get("name") == "stderr":
                problems.append(f"code cell {number} has an error or stderr in its output")
            if output.get("execution_count", cell.execution_count) != cell.execution_count:
                problems.append(f"code cell {number} has a result of another run")
            if any("widget" in kind for kind in output.get("data", {})):
                problems.append(f"code cell {number} has a widget in its output")
    return problems


@check
def stored_form(name: str, book: Book) -> list[str]:
    """Known tags and complete metadata, so that opening a notebook changes nothing in it."""
    problems = []
    if book.metadata != run_notebooks.METADATA:
        problems.append("the notebook's metadata are not those of make notebooks")
    for cell in book.cells:
        if unknown := set(series.tags(cell)) - TAGS:
            problems.append(f"unknown tags {unknown}")
        if unknown := set(cell.metadata) - {"tags", "cellView", "jupyter"}:
            problems.append(f"metadata of one machine: {unknown}")
    if re.search(r"#\s*(NBVAL_|PYTEST_VALIDATE)", series.source(book)):
        problems.append("use a tag instead of an NBVAL comment")
    ids = [cell.get("id") for cell in book.cells]
    if None in ids or len(set(ids)) < len(ids):
        problems.append("every cell needs an id of its own")
    return problems


PRIVATE = {
    "a path of a machine": r"(?<![\w.:/<])/(?:root|work|home|tmp|Users|var|private|opt|usr|mnt)/",
    "an address": r"(?<![\d.])(?:\d{1,3}\.){3}\d{1,3}(?![\d.])|\blocalhost:\d+",
    "an address in memory": r"\b0x[0-9a-f]{6,}",
    "a random id": r"\b[0-9a-f]{8}-(?:[0-9a-f]{4}-){3}[0-9a-f]{12}\b|\b[0-9a-f]{32}\b",
    "a token or key": r"\bya29\.|\bAIza[\w-]{20}|\beyJ[\w-]{10,}\.|-----BEGIN",
    "a time stamp": r"\b\d{4}-\d\d-\d\d[T ]\d\d:\d\d|\b\d\d:\d\d:\d\d\b",
}
FOR_EVERYONE = {"35.235.240.0"}  # where Google's TCP forwarding (IAP) comes from


@check
def private_outputs(_: str, book: Book) -> list[str]:
    """Outputs hold nothing of the machine or the moment, unless the notebook's text says it."""
    said = series.source(book) + series.prose(book)
    return [
        f"code cell {number} shows {what}: {match[0]!r}"
        for number, cell in enumerate(series.code_cells(book), 1)
        for what, pattern in PRIVATE.items()
        for match in re.finditer(pattern, series.text_of(cell))
        if match[0] not in said and match[0] not in FOR_EVERYONE
    ]


# A good notebook, and ways to spoil it

GOOD = series.FOLDER / "02_basic_usage.ipynb"
Spoil = Callable[[Book], Any]


def replace(old: str, new: str) -> Spoil:
    def spoil(book: Book) -> None:
        cell = next(cell for cell in book.cells if old in cell.source)
        cell.source = cell.source.replace(old, new)

    return spoil


def code(text: str, **metadata: Any) -> Spoil:
    return lambda book: book.cells.insert(
        4, nbformat.v4.new_code_cell(text, metadata=metadata, execution_count=3)
    )


def prose(text: str) -> Spoil:
    return lambda book: book.cells.insert(4, nbformat.v4.new_markdown_cell(text))


def output(kind: str = "stream", **content: Any) -> Spoil:
    return lambda book: series.code_cells(book)[3].outputs.append(
        nbformat.v4.new_output(kind, **content)
    )


def prints(text: str) -> Spoil:
    return output(text=text)


def change(**values: Any) -> Spoil:
    return lambda book: series.code_cells(book)[0].update(nbformat.from_dict(values))


def solved(book: Book) -> None:
    check = book.cells[series.exercises(book)[0].task + 1]
    check.outputs = [nbformat.v4.new_output("stream", text="Solved.")]


SPOILED: list[tuple[str, Spoil]] = [
    ("beginning", replace("# 2. ", "# ")),
    ("beginning", replace("<!-- badges -->", "")),
    ("beginning", replace("**You'll do:**", "**Do:**")),
    ("beginning", replace("**You'll learn:**", "**Learn:**")),
    ("beginning", replace("**You'll learn:**", "**You'll learn:**\n\nMore.\n\nAnd more.")),
    ("beginning", prose("# Another title")),
    ("end", replace("## Clean up", "## The end")),
    ("end", replace("**Further reading:**", "")),
    ("end", replace("<!-- navigation -->", "")),
    ("install", change(metadata={"tags": ["links-install"]})),
    ("install", change(source="x = 1\n" * 5)),
    ("install", code("%pip install numpy")),
    ("settings", code('# @title Settings\nX = ""  # @param {type:"string"}')),
    ("settings", code('X = ""  # @param {type:"string"}')),
    ("settings", replace('ENDPOINT = ""', 'UNUSED = ""  # @param {type:"string"}\nENDPOINT = ""')),
    ("settings", replace('ENDPOINT = ""', 'import os\nENDPOINT = ""')),
    ("size", code("x = '" + 72 * "-" + "'")),
    ("size", code("x = 1\n" * 26)),
    ("size", code("")),
    ("size", prose("word " * 901)),
    ("tables", prose("| a | b | c |\n|---|---|---|\n| 1 | 2 | 3 |")),
    ("pictures", prose("![a dot](attachment:dot.png)")),
    ("pictures", prose("![a dot](images/dot.png)")),
    ("pictures", output("display_data", data={"image/png": "aGk="})),
    ("pictures", output("display_data", data={"text/html": '<img src="data:," alt="">'})),
    ("pictures", lambda book: [cell.update(outputs=[]) for cell in series.code_cells(book)]),
    ("learning", replace("### Exercise: a turn", "### Task: a turn")),
    ("learning", replace("<summary>Solution</summary>", "")),
    ("learning", lambda book: [book.cells.insert(1, nbformat.v4.new_markdown_cell("More."))
                               for _ in range(40)]),
    ("learning", lambda book: [c.update(source=c.source.replace("Predict first", "Guess"))
                               for c in book.cells]),
    ("learning", solved),
    ("reader_only", prose("The output is not compared.")),
    ("reader_only", prints("The answers are deterministic.")),
    ("clean_run", change(execution_count=None)),
    ("clean_run", change(execution_count=9)),
    ("clean_run", output(name="stderr", text="warning")),
    ("clean_run", lambda book: [prints("more")(book), prints("and more")(book)]),
    ("clean_run", output("error", ename="E", evalue="", traceback=[])),
    ("clean_run", output("execute_result", execution_count=99)),
    ("clean_run", output("display_data", data={"application/vnd.jupyter.widget-view+json": {}})),
    ("stored_form", code("x = 1", tags=["nbval-skip"])),
    ("stored_form", code("# NBVAL_IGNORE_OUTPUT\nx = 1")),
    ("stored_form", lambda book: book.cells[3].update(id=book.cells[2].id)),
    ("stored_form", lambda book: book.metadata.kernelspec.update(name="my-venv")),
    ("private_outputs", prints("see /home/ada/x")),
    ("private_outputs", prints("connected to 10.0.0.3")),
    ("private_outputs", prints("<object at 0x7f00aa11bb22>")),
    ("private_outputs", prints("4f0c1f1e-93a5-4b5a-8f3c-2b1f0a9d8c7e")),
    ("private_outputs", prints("token ya29.a0AfH6SMB")),
    ("private_outputs", prints("written 2026-01-31 12:30")),
]  # fmt: skip


@pytest.mark.parametrize("name", CHECKS)
@pytest.mark.parametrize("path", series.PATHS, ids=lambda path: path.stem)
def test_notebook(path: Any, name: str) -> None:
    """A notebook keeps a convention."""
    assert CHECKS[name](path.stem, series.load(path)) == []


@pytest.mark.parametrize(("name", "spoil"), SPOILED)
def test_check_notices(name: str, spoil: Spoil) -> None:
    book = series.load(GOOD)
    before = CHECKS[name](GOOD.stem, book)
    spoil(book)
    assert len(CHECKS[name](GOOD.stem, book)) > len(before)


def test_every_check_is_shown_to_notice() -> None:
    assert {name for name, _ in SPOILED} == set(CHECKS)


def test_series() -> None:
    assert [path.stem for path in series.PATHS] == list(TITLES)


@pytest.mark.parametrize("path", series.PATHS, ids=lambda path: path.stem)
def test_notebook_is_stored_as_it_is_written(path: Any) -> None:
    assert nbformat.writes(run_notebooks.read(path)) + "\n" == path.read_text(encoding="utf-8")
