"""Static checks of the notebooks and README.md, and the exercises' solutions run for real.

A check takes a `Notebook` and returns what is wrong with it. Each has at least one way to spoil a
good notebook in `SPOILED`, and a test shows that the check notices.
"""

import ast
import copy
import os
import re
import statistics
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import nbformat
import pytest
from nbclient import NotebookClient

import links
import run_notebooks
from compare_notebooks import CELL_TIMEOUT
from servers import Server

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "notebooks"
PATHS = sorted(FOLDER.glob("*.ipynb"))
REPOSITORY = links.repository_of((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
FIRST_FOUR = ["01_setup", "02_basic_usage", "03_cleanup", "04_chain_integration"]
TAGS = {"links-install", "nbval-ignore-output"}
VERBS = re.compile(
    r"(?:Add|Ask|Build|Chat|Check|Choose|Clean|Clear|Connect|Delete|Export|Find|Get|Give|Harden|Hold"
    r"|Keep|Let|Limit|Make|Manage|Measure|Move|Operate|Prepare|Protect|Put|Read|Remember|Remove|Run"
    r"|Save|Set|Share|Start|Store|Stream|Survive|Take|Talk|Try|Use|Watch|Wire|Work|Write)\b"
)
LONGEST_CELL = 25
MEDIAN_CELL = 10

Cell = nbformat.NotebookNode


@dataclass(frozen=True)
class Notebook:
    """A notebook with the views of it that the checks need."""

    name: str
    book: nbformat.NotebookNode

    @property
    def cells(self) -> list[Cell]:
        return list(self.book.cells)

    @property
    def code(self) -> list[Cell]:
        return [cell for cell in self.cells if cell.cell_type == "code"]

    @property
    def source(self) -> str:
        """All code."""
        return "\n".join(cell.source for cell in self.code)

    @property
    def prose(self) -> str:
        """All Markdown."""
        return "\n\n".join(c.source for c in self.cells if c.cell_type == "markdown")

    @property
    def before_code(self) -> str:
        """The Markdown above the first code cell."""
        texts = []
        for cell in self.cells:
            if cell.cell_type == "code":
                break
            texts.append(cell.source)
        return "\n".join(texts).replace("\N{RIGHT SINGLE QUOTATION MARK}", "'")

    def nodes(self) -> Iterator[tuple[int, ast.AST]]:
        """Every syntax node of the code, with the number of its code cell."""
        for number, cell in enumerate(self.code, 1):
            for node in ast.walk(parse(cell.source) or ast.Module([], [])):
                yield number, node


Check = Callable[[Notebook], list[str]]
CHECKS: dict[str, Check] = {}


def check(function: Check) -> Check:
    CHECKS[function.__name__] = function
    return function


def parse(source: str) -> ast.Module | None:
    """The syntax tree of plain Python with top-level await; None for anything else."""
    flags = ast.PyCF_ONLY_AST | ast.PyCF_ALLOW_TOP_LEVEL_AWAIT
    try:
        tree = compile(source, "cell", "exec", flags)
    except SyntaxError:
        return None
    assert isinstance(tree, ast.Module)
    return tree


def tags(cell: Cell) -> list[str]:
    return list(cell.metadata.get("tags", []))


def lines(cell: Cell) -> int:
    return sum(1 for line in cell.source.splitlines() if line.strip())


def output_text(cell: Cell) -> str:
    """What a code cell's outputs say, without pictures."""
    texts = []
    for output in cell.get("outputs", []):
        texts.append(output.get("text", ""))
        texts += [
            str(value)
            for kind, value in output.get("data", {}).items()
            if kind == "image/svg+xml" or not kind.startswith("image/")
        ]
    return "\n".join(texts)


def without_fences(markdown: str) -> str:
    return re.sub(r"^ *(```|~~~).*?^ *\1", "", markdown, flags=re.MULTILINE | re.DOTALL)


def headings(markdown: str) -> list[tuple[int, str]]:
    """(level, text) of the headings outside code blocks."""
    found = re.findall(r"^(#{1,6}) +(.+?) *#*$", without_fences(markdown), re.MULTILINE)
    return [(len(marks), text) for marks, text in found]


@check
def title(notebook: Notebook) -> list[str]:
    """One H1, in the first cell, that begins with a verb."""
    titles = [text for level, text in headings(notebook.prose) if level == 1]
    first = notebook.cells[0]
    if len(titles) != 1 or first.cell_type != "markdown" or not first.source.startswith("# "):
        return [f"one H1 is wanted, at the top of the first cell; found {titles}"]
    return [] if VERBS.match(titles[0]) else [f"{titles[0]!r} begins with none of VERBS"]


@check
def introduction(notebook: Notebook) -> list[str]:
    """What the reader will do, learn and need, how long it takes and what it costs."""
    wanted = {
        "What you'll do": r"What you'll do",
        "What you'll learn": r"What you'll learn",
        "What you'll need": r"What you'll need",
        "the minutes it takes": r"\d+ minutes",
        "what it costs": r"\b(?i:costs?|free)\b",
    }
    text = notebook.before_code
    return [
        f"the introduction lacks {what}"
        for what, pattern in wanted.items()
        if not re.search(pattern, text)
    ]


@check
def generated_links(notebook: Notebook) -> list[str]:
    """Badges under the title and a navigation, both as `make links` writes them."""
    series = sorted({notebook.name, *(path.name for path in PATHS)})
    row = links.header(notebook.name, REPOSITORY)
    problems = []
    if f"<!-- badges -->\n{row}\n<!-- /badges -->" not in notebook.cells[0].source:
        problems.append("the first cell lacks the badges: make links")
    way = links.navigation(notebook.name, series, REPOSITORY)
    if f"<!-- navigation -->\n{way}\n<!-- /navigation -->" not in notebook.prose:
        problems.append("the previous and next links are not those of the series: make links")
    return problems


@check
def install(notebook: Notebook) -> list[str]:
    """The one install cell comes first and is the generated one."""
    tagged = [cell for cell in notebook.code if "links-install" in tags(cell)]
    if len(tagged) != 1 or tagged[0] is not notebook.code[0]:
        return ["the first code cell, and no other, is to be tagged links-install"]
    if tagged[0].source != links.install_cell(REPOSITORY):
        return ["the install cell is not the generated one: make links"]
    others = [cell.source for cell in notebook.code[1:] if re.search(r"\bpip\b", cell.source)]
    return [f"another cell installs something: {source!r}" for source in others]


@check
def parameters(notebook: Notebook) -> list[str]:
    """One cell of literal parameters; the environment fills them in, and later cells use each."""
    places = [i for i, cell in enumerate(notebook.code) if "@param" in cell.source]
    if len(places) != 1:
        return [f"one cell with # @param is wanted, found {len(places)}"]
    cell = notebook.code[places[0]]
    later = "\n".join(c.source for c in notebook.code[places[0] + 1 :])
    problems = []
    for line in cell.source.splitlines():
        if "@param" not in line:
            continue
        match = re.fullmatch(r"(\w+) = (.+?) *# @param\b.*", line)
        if match is None:
            problems.append(f"not a line of the form NAME = literal  # @param: {line!r}")
            continue
        name, literal = match.groups()
        try:
            value = ast.literal_eval(literal)
        except (ValueError, SyntaxError):
            problems.append(f"Colab's form needs a literal, not {literal!r}")
            continue
        default, filled = rf"os\.environ\.get\(.*, {name}\)", rf"{name} or os\.environ\.get\("
        override = rf"^{name} = ({default}|{filled})"
        if not isinstance(value, bool) and not re.search(override, cell.source, re.MULTILINE):
            problems.append(f"{name} is not taken from the environment in its cell")
        if not any(
            isinstance(node, ast.Name) and node.id == name and isinstance(node.ctx, ast.Load)
            for node in ast.walk(parse(later) or ast.Module([], []))
        ):
            problems.append(f"no later cell uses {name}")
    return problems


@check
def plain_python(notebook: Notebook) -> list[str]:
    """No magics and no shell commands: nbval passes those that fail."""
    return [
        f"code cell {number} is not plain Python: {cell.source!r}"
        for number, cell in enumerate(notebook.code, 1)
        if parse(cell.source) is None
    ]


FORBIDDEN_NAMES = {"input", "getpass", "get_ipython", "exit", "quit"}
FORBIDDEN_ATTRIBUTES = {
    ("os", "_exit"), ("os", "kill"), ("sys", "exit"), ("getpass", "getpass")
}  # fmt: skip


@check
def forbidden_names(notebook: Notebook) -> list[str]:
    """Nothing that waits for a person, ends the kernel or needs IPython."""
    problems = []
    for number, node in notebook.nodes():
        name = None
        if isinstance(node, ast.Name) and node.id in FORBIDDEN_NAMES:
            name = node.id
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            pair = (node.value.id, node.attr)
            name = ".".join(pair) if pair in FORBIDDEN_ATTRIBUTES else None
        elif isinstance(node, ast.ImportFrom):
            pairs = [(node.module or "", alias.name) for alias in node.names]
            name = next((".".join(p) for p in pairs if p in FORBIDDEN_ATTRIBUTES), None)
        if name:
            problems.append(f"code cell {number} uses {name}")
    return problems


@check
def guarded_colab(notebook: Notebook) -> list[str]:
    """google.colab, which exists only in Colab, is imported only under a condition."""
    guards = (ast.If, ast.Try, ast.FunctionDef, ast.AsyncFunctionDef, ast.With)

    def bare(nodes: list[Any]) -> Iterator[str]:
        for node in nodes:
            if isinstance(node, ast.Import):
                yield from (alias.name for alias in node.names)
            elif isinstance(node, ast.ImportFrom):
                yield from (f"{node.module}.{alias.name}" for alias in node.names)
            elif not isinstance(node, guards):
                yield from bare(list(ast.iter_child_nodes(node)))

    return [
        f"code cell {number} imports {name} without a guard"
        for number, cell in enumerate(notebook.code, 1)
        for name in bare([parse(cell.source) or ast.Module([], [])])
        if name.startswith("google.colab")
    ]


@check
def whole_server_commands(notebook: Notebook) -> list[str]:
    """No command that reads or deletes other people's keys: FLUSHDB, FLUSHALL, KEYS."""
    problems = []
    for number, node in notebook.nodes():
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            if re.search(r"\bFLUSH(DB|ALL)\b", node.value, re.IGNORECASE):
                problems.append(f"code cell {number} says {node.value!r}")
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            call = node.func
            first = node.args[0] if node.args else None
            keys = call.attr == "keys" and "client" in ast.unparse(call.value).lower()
            raw = (
                call.attr == "execute_command"
                and isinstance(first, ast.Constant)
                and str(first.value).upper().split()[:1] == ["KEYS"]
            )
            if keys or raw or call.attr in {"flushdb", "flushall"}:
                problems.append(f"code cell {number} calls {ast.unparse(node)}")
    return problems


def prefixes(notebook: Notebook) -> list[str]:
    """The text that each literal or f-string assigned to KEY_PREFIX begins with."""
    found = []
    for _, node in notebook.nodes():
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "KEY_PREFIX":
            value = node.value.values[0] if isinstance(node.value, ast.JoinedStr) else node.value
            if isinstance(value, ast.Constant):
                found.append(str(value.value))
    return found


@check
def key_prefix_named(notebook: Notebook) -> list[str]:
    """Sessions live under one key prefix, named once."""
    found = prefixes(notebook)
    return [] if len(found) == 1 and found[0] else [f"KEY_PREFIX is to be set once: {found}"]


@check
def prose_first(notebook: Notebook) -> list[str]:
    """Markdown stands above every code cell."""
    return [
        f"no prose above the code cell {cell.source!r}"
        for above, cell in zip([None, *notebook.cells], notebook.cells, strict=False)
        if cell.cell_type == "code"
        and (above is None or above.cell_type != "markdown" or not above.source.strip())
    ]


@check
def cell_lengths(notebook: Notebook) -> list[str]:
    """Code cells are short."""
    lengths = [lines(cell) for cell in notebook.code]
    problems = [
        f"code cell {number} has {length} lines; {LONGEST_CELL} at most"
        for number, length in enumerate(lengths, 1)
        if length > LONGEST_CELL
    ]
    if lengths and statistics.median(lengths) > MEDIAN_CELL:
        problems.append(f"the median code cell has over {MEDIAN_CELL} lines: {lengths}")
    problems += [f"code cell {number} is empty" for number, n in enumerate(lengths, 1) if not n]
    return problems


@check
def known_tags(notebook: Notebook) -> list[str]:
    """Only known tags, and no comment that tells nbval something."""
    problems = [
        f"unknown tag {tag!r}" for cell in notebook.cells for tag in tags(cell) if tag not in TAGS
    ]
    if re.search(r"#\s*(NBVAL_|PYTEST_VALIDATE)", notebook.source):
        problems.append("use a tag instead of an NBVAL comment")
    return problems


@check
def uncompared_outputs(notebook: Notebook) -> list[str]:
    """At most two outputs are not compared, and the prose above says why."""
    problems = []
    ignored = 0
    for above, cell in zip([None, *notebook.cells], notebook.cells, strict=False):
        if "nbval-ignore-output" not in tags(cell):
            continue
        ignored += 1
        if above is None or "not compared" not in above.source:
            problems.append(f"the prose above {cell.source!r} does not say what is not compared")
    if ignored > 2:
        problems.append(f"{ignored} cells are tagged nbval-ignore-output; two at most")
    return problems


@check
def clean_run(notebook: Notebook) -> list[str]:
    """The outputs are those of one clean run: counted 1..n, no errors, no stderr, no widgets."""
    counts = [cell.execution_count for cell in notebook.code]
    problems = []
    if counts != list(range(1, len(counts) + 1)):
        problems.append(f"the execution counts are {counts}: make notebooks")
    for number, cell in enumerate(notebook.code, 1):
        names = [output.get("name") for output in cell.outputs]
        if any(a == b is not None for a, b in pairwise(names)):
            problems.append(f"code cell {number} has split output: make notebooks")
        for output in cell.outputs:
            if output.output_type == "error" or output.get("name") == "stderr":
                problems.append(f"code cell {number} has an error or stderr in its output")
            if output.get("execution_count", cell.execution_count) != cell.execution_count:
                problems.append(f"code cell {number} has a result of another run")
            if any("widget" in kind for kind in output.get("data", {})):
                problems.append(f"code cell {number} has a widget in its output")
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
def private_outputs(notebook: Notebook) -> list[str]:
    """Outputs hold nothing of the machine or the moment, unless the notebook's text says it."""
    return [
        f"code cell {number} shows {what}: {match[0]!r}"
        for number, cell in enumerate(notebook.code, 1)
        for what, pattern in PRIVATE.items()
        for match in re.finditer(pattern, output_text(cell))
        if match[0] not in notebook.source + notebook.prose
    ]


@check
def canonical(notebook: Notebook) -> list[str]:
    """Metadata and cell ids are as `make notebooks` leaves them."""
    problems = []
    if notebook.book.metadata != run_notebooks.METADATA:
        problems.append("the notebook's metadata are not the plain ones: make notebooks")
    extra = {key for cell in notebook.cells for key in cell.metadata} - {"tags"}
    if extra:
        problems.append(f"cell metadata besides tags: {sorted(extra)}: make notebooks")
    ids = [cell.get("id") for cell in notebook.cells]
    if None in ids or len(set(ids)) < len(ids) or notebook.book.nbformat_minor < 5:
        problems.append("every cell needs an id of its own: make notebooks")
    return problems


def image_problems(text: str) -> list[str]:
    """Pictures in Markdown or HTML without alternative text."""
    html = [
        tag
        for tag in re.findall(r"<img\b[^>]*>", text)
        if not re.search(r"\balt=(['\"])(?!\1)", tag)
    ]
    return [f"no alt text: {found}" for found in [*re.findall(r"!\[\s*\]\([^)]*\)", text), *html]]


@check
def alt_texts(notebook: Notebook) -> list[str]:
    """Pictures have alt texts, in prose and in outputs."""
    outputs = "\n".join(output_text(cell) for cell in notebook.code)
    return image_problems(without_fences(notebook.prose)) + image_problems(outputs)


def link_targets(markdown: str) -> list[str]:
    """Where the links and pictures of Markdown lead."""
    text = without_fences(markdown)
    found = re.findall(r"\]\(\s*<?([^)\s>]+)", text) + re.findall(
        r"(?:href|src)=\"([^\"]+)\"", text
    )
    return found + re.findall(r"^\[[^\]]+\]:\s+(\S+)", text, re.MULTILINE)


def own_file(url: str) -> str | None:
    """The path in this repository that an absolute URL names."""
    pattern = (
        r"(?:github\.com|google\.com/github|raw\.githubusercontent\.com)/"
        rf"{re.escape(REPOSITORY)}/(?:(?:blob|tree|raw)/)?{links.BRANCH}/([^#?]+)"
    )
    match = re.search(pattern, unquote(url))
    return match[1] if match else None


def missing_files(markdown: str, names: set[str]) -> list[str]:
    """Absolute links into this repository whose file does not exist."""
    return [
        f"there is no {path}: {url}"
        for url in link_targets(markdown)
        if (path := own_file(url)) and path not in names and not (ROOT / path).exists()
    ]


@check
def links_resolve(notebook: Notebook) -> list[str]:
    """Links lead to a heading of the notebook or, in full, to a file that exists."""
    anchors = {"#" + text.replace(" ", "-") for _, text in headings(notebook.prose)}
    problems = missing_files(notebook.prose, {f"notebooks/{notebook.name}"})
    for target in map(unquote, link_targets(notebook.prose)):
        if target.startswith("#"):
            if target not in anchors:
                problems.append(f"no heading for {target}")
        elif not target.startswith(("https://", "attachment:", "data:")):
            problems.append(
                f"from Colab, {target!r} leads nowhere; write the whole https:// address"
            )
    return problems


EXERCISE = re.compile(r"exercise|on your own|your turn", re.IGNORECASE)
FOLDED = re.compile(
    r"<details>\s*<summary>[^<]*[Ss]olution[^<]*</summary>\n\n(.*?)\n\n</details>", re.DOTALL
)


def folded_solution(markdown: str) -> str | None:
    """The one block of Python in a folded solution."""
    folded = FOLDED.search(markdown)
    pattern = re.compile(r"^```python\n(.*?)\n```$", re.MULTILINE | re.DOTALL)
    blocks = pattern.findall(folded[1]) if folded else []
    return blocks[0] if len(blocks) == 1 else None


def exercises(notebook: Notebook) -> list[tuple[int, str]]:
    """(place of the reader's cell, its solution) of each exercise.

    The cells of an exercise: Markdown with a heading, the reader's cell, Markdown, the check,
    Markdown with the folded solution, which replaces the reader's cell.
    """
    found = []
    cells = notebook.cells
    for place in range(1, len(cells) - 3):
        parts = cells[place - 1 : place + 4]
        solution = folded_solution(parts[4].source)
        if (
            [cell.cell_type for cell in parts] == ["markdown", "code"] * 2 + ["markdown"]
            and any(EXERCISE.search(text) for _, text in headings(parts[0].source))
            and solution is not None
        ):
            found.append((place, solution))
    return found


@check
def has_exercise(notebook: Notebook) -> list[str]:
    """An exercise with a check and a folded solution; unsolved as committed."""
    found = exercises(notebook)
    titles = [text for _, text in headings(notebook.prose) if EXERCISE.search(text)]
    if not found or len(found) != len(titles):
        return [
            f"{titles}: an exercise is a heading with the task, the reader's cell, Markdown, "
            "the check, Markdown with the folded solution"
        ]
    problems = ["a solution is not Python" for _, text in found if parse(text) is None]
    problems += [
        "an unsolved exercise's check is to print 'Not solved yet'"
        for place, _ in found
        if "Not solved yet" not in output_text(notebook.cells[place + 2])
    ]
    return problems


@check
def sections_show_something(notebook: Notebook) -> list[str]:
    """The last code cell of a section shows or asserts something."""
    problems = []
    section, last = "", None
    for cell in [*notebook.cells, None]:
        new = [] if cell is None else headings(cell.source) if cell.cell_type == "markdown" else []
        if cell is None or any(level <= 2 for level, _ in new):
            shows = last is None or output_text(last).strip() or last.outputs
            asserts = last is not None and re.search(r"^\s*assert\b", last.source, re.MULTILINE)
            set_up = last is not None and ("links-install" in tags(last) or "@param" in last.source)
            if not (shows or asserts or set_up):
                problems.append(f"the section {section!r} ends in nothing to look at")
            last = None
            section = new[-1][1] if new else section
        if cell is not None and cell.cell_type == "code":
            last = cell
    return problems


@check
def cleans_up(notebook: Notebook) -> list[str]:
    """A section cleans up."""
    found = any(re.match(r"Clean(ing)?[ -]?up", text) for _, text in headings(notebook.prose))
    return [] if found else ["there is no section 'Clean up'"]


def numbering_problems(names: list[str]) -> list[str]:
    """File names are NN_snake_case.ipynb, numbered from 01 without a gap."""
    problems = [
        f"{name} is not NN_snake_case.ipynb"
        for name in names
        if not re.fullmatch(r"\d\d_[a-z]+(_[a-z]+)*\.ipynb", name)
    ]
    # 06 is the place of the notebook on checkpoints.
    wanted = [f"{number:02d}" for number in range(1, len(names) + 2) if number != 6]
    if [name[:2] for name in sorted(names)] != wanted:
        problems.append(f"the numbers are not contiguous: {sorted(names)}")
    return problems


def load(path: Path) -> Notebook:
    return Notebook(path.name, nbformat.read(path, as_version=4))


# A good notebook, and ways to spoil it


def markdown(text: str) -> Cell:
    return nbformat.v4.new_markdown_cell(text)


def code(text: str, printed: str = "", *names: str) -> Cell:
    outputs = [nbformat.v4.new_output("stream", name="stdout", text=printed)] if printed else []
    return nbformat.v4.new_code_cell(text, outputs=outputs, metadata={"tags": [*names]})


GOOD_NAME = "02_basic_usage.ipynb"


def good_notebook() -> Notebook:
    series = sorted({GOOD_NAME, *(path.name for path in PATHS)})
    cells = [
        markdown(
            f"# Store a conversation\n\n<!-- badges -->\n{links.header(GOOD_NAME, REPOSITORY)}\n"
            "<!-- /badges -->\n\n**What you'll do**, **What you\N{RIGHT SINGLE QUOTATION MARK}ll "
            "learn** and **What you'll need**: see [below](#Clean-up).\n\n"
            "About 10 minutes, free of charge."
        ),
        markdown("## Set up\n\nInstall."),
        code(links.install_cell(REPOSITORY), "", "links-install"),
        markdown("Choose."),
        code(
            'import os\n\nENDPOINT = ""  # @param {type:"string"}\n'
            'SHOW = True  # @param {type:"boolean"}\n'
            'ENDPOINT = os.environ.get("MEMORYSTORE_ENDPOINT", ENDPOINT)'
        ),
        markdown("Connect. The round-trip time differs, so it is not compared."),
        code(
            'KEY_PREFIX = "tutorial:02:"\nif SHOW:\n    print(ENDPOINT, KEY_PREFIX)',
            "tutorial:02:\n",
            "nbval-ignore-output",
        ),
        markdown("## Exercise: add\n\nPut the sum of 1 and 2 into `total`."),
        code("total = None"),
        markdown("The check looks at `total`."),
        code('print("Solved" if total == 3 else "Not solved yet")', "Not solved yet\n"),
        markdown(
            "<details><summary>Solution</summary>\n\n```python\ntotal = 1 + 2\n```\n\n</details>"
        ),
        markdown("## Clean up\n\nSee that nothing is left."),
        code("assert not []"),
        markdown(
            "<!-- navigation -->\n"
            f"{links.navigation(GOOD_NAME, series, REPOSITORY)}\n<!-- /navigation -->"
        ),
    ]
    book = nbformat.v4.new_notebook(cells=cells, metadata=run_notebooks.METADATA)
    counted = (cell for cell in cells if cell.cell_type == "code")
    for number, cell in enumerate(counted, 1):
        cell.execution_count = number
        if not cell.metadata.tags:
            del cell.metadata["tags"]
    return Notebook(GOOD_NAME, book)


def replace(place: int, old: str, new: str) -> Callable[[list[Cell]], None]:
    """Replace text in the source of a cell."""

    def spoil(cells: list[Cell]) -> None:
        assert old in cells[place].source
        cells[place].source = cells[place].source.replace(old, new)

    return spoil


def append(source: str, place: int = 6) -> Callable[[list[Cell]], None]:
    """Add lines of code to a cell."""

    def spoil(cells: list[Cell]) -> None:
        cells[place].source += f"\n{source}"

    return spoil


def prints(text: str, place: int = 6) -> Callable[[list[Cell]], None]:
    """Let a cell have printed something."""

    def spoil(cells: list[Cell]) -> None:
        cells[place].outputs[0].text = text

    return spoil


def updates(place: int, **values: Any) -> Callable[[list[Cell]], None]:
    """Set fields of a cell."""
    return lambda cells: cells[place].update(nbformat.from_dict(values))


def shows(place: int, **data: Any) -> Callable[[list[Cell]], None]:
    """Give a cell another output."""
    return lambda cells: cells[place].outputs.append(nbformat.from_dict(data))


SPOILED: list[tuple[str, Callable[[list[Cell]], Any]]] = [
    ("title", replace(0, "# Store", "# The store of")),
    ("title", replace(7, "## Exercise", "# Exercise")),
    ("title", replace(0, "# Store", "<br>\n\n# Store")),
    ("introduction", replace(0, "What you'll do", "What we do")),
    ("introduction", replace(0, "What you\N{RIGHT SINGLE QUOTATION MARK}ll learn", "Learn")),
    ("introduction", replace(0, "What you'll need", "Needed")),
    ("introduction", replace(0, "10 minutes", "a while")),
    ("introduction", replace(0, "free of charge", "nothing")),
    ("generated_links", replace(0, "View on GitHub", "Source")),
    ("generated_links", lambda cells: cells.pop()),
    ("install", replace(2, "--quiet", "--upgrade")),
    ("install", lambda cells: cells.insert(2, code("x = 1"))),
    ("install", append('run(["pip", "install", "numpy"])')),
    ("parameters", replace(4, "@param", "param")),
    ("parameters", replace(4, '""  # @param', 'os.name  # @param')),
    ("parameters", replace(4, "SHOW = True", "if SHOW := True")),
    ("parameters", replace(4, ', ENDPOINT)', ')')),
    ("parameters", replace(6, "ENDPOINT, ", "")),
    ("plain_python", append("%pip install redis")),
    ("plain_python", append("!ls")),
    ("plain_python", append("# A cell magic below a comment\n%%bash\nls")),
    ("forbidden_names", append("name = input()")),
    ("forbidden_names", append("import getpass\nsecret = getpass.getpass()")),
    ("forbidden_names", append("from getpass import getpass")),
    ("forbidden_names", append("get_ipython().run_line_magic('store', 'x')")),
    ("forbidden_names", append("os._exit(0)")),
    ("guarded_colab", append("import google.colab")),
    ("guarded_colab", append("from google.colab import auth")),
    ("guarded_colab", append("from google import colab")),
    ("whole_server_commands", append("client.flushdb()")),
    ("whole_server_commands", append("client.keys('*')")),
    ("whole_server_commands", append("client.execute_command('keys *')")),
    ("whole_server_commands", append("run(['redis-cli', 'flushall'])")),
    ("key_prefix_named", replace(6, "KEY_PREFIX = ", "PREFIX = ")),
    ("key_prefix_named", replace(6, '"tutorial:02:"', "ENDPOINT")),
    ("prose_first", lambda cells: cells.pop(5)),
    ("prose_first", replace(3, "Choose.", " ")),
    ("cell_lengths", append("x = 1\n" * 25)),
    ("cell_lengths", lambda cells: [append("x = 1\n" * 10, n)(cells) for n in (4, 6, 8, 10, 13)]),
    ("cell_lengths", updates(13, source="")),
    ("known_tags", updates(6, metadata={"tags": ["nbval-skip"]})),
    ("known_tags", append("# NBVAL_IGNORE_OUTPUT")),
    ("uncompared_outputs", replace(5, "so it is not compared", "as you see")),
    (
        "uncompared_outputs",
        lambda cells: [cells.extend([markdown("Is not compared."), copy.deepcopy(cells[6])])
                       for _ in range(2)],
    ),
    ("clean_run", updates(6, execution_count=None)),
    ("clean_run", updates(6, execution_count=9)),
    ("clean_run", shows(6, output_type="stream", name="stderr", text="warning")),
    ("clean_run", shows(6, output_type="stream", name="stdout", text="more")),
    ("clean_run", shows(6, output_type="error", ename="E", evalue="", traceback=[])),
    ("clean_run", shows(6, output_type="execute_result", execution_count=7, data={}, metadata={})),
    (
        "clean_run",
        shows(6, output_type="display_data", metadata={},
              data={"application/vnd.jupyter.widget-view+json": {}}),
    ),
    ("private_outputs", prints("see /home/ada/x")),
    ("private_outputs", prints("connected to 10.0.0.3")),
    ("private_outputs", prints("redis://localhost:6379")),
    ("private_outputs", prints("<object at 0x7f00aa11bb22>")),
    ("private_outputs", prints("4f0c1f1e-93a5-4b5a-8f3c-2b1f0a9d8c7e")),
    ("private_outputs", prints("token ya29.a0AfH6SMB")),
    ("private_outputs", prints("written 2026-01-31 12:30")),
    ("private_outputs", prints("it is 12:30:59")),
    ("canonical", updates(6, metadata={"tags": [], "collapsed": True})),
    ("canonical", lambda cells: cells[6].pop("id")),
    ("canonical", lambda cells: updates(6, id=cells[4]["id"])(cells)),
    ("alt_texts", replace(3, "Choose.", "![](https://example.com/x.png)")),
    ("alt_texts", replace(3, "Choose.", '<img src="https://example.com/x.png">')),
    ("alt_texts", prints('<img src="data:," alt="">')),
    ("links_resolve", replace(0, "#Clean-up", "#Clean-out")),
    ("links_resolve", replace(3, "Choose.", "[next](03_cleanup.ipynb)")),
    ("links_resolve", replace(0, "blob/main/notebooks/02_basic", "blob/main/notebooks/02_absent")),
    ("has_exercise", replace(7, "## Exercise", "## Task")),
    ("has_exercise", replace(3, "Choose.", "### On your own")),
    ("has_exercise", replace(11, "<details>", "")),
    ("has_exercise", replace(11, "1 + 2", "1 +")),
    ("has_exercise", lambda cells: cells.pop(9)),
    ("has_exercise", prints("Solved", 10)),
    ("sections_show_something", replace(13, "assert not []", "x = []")),
    ("cleans_up", replace(12, "Clean up", "The end")),
]  # fmt: skip


@pytest.mark.parametrize("name", CHECKS)
def test_check_passes_a_good_notebook(name: str) -> None:
    """No check complains about a notebook that has everything."""
    assert CHECKS[name](good_notebook()) == []


@pytest.mark.parametrize(
    ("name", "spoil"), SPOILED, ids=[f"{n}-{name}" for n, (name, _) in enumerate(SPOILED)]
)
def test_check_notices(name: str, spoil: Callable[[list[Cell]], Any]) -> None:
    """Each check complains about a notebook that lacks what it looks for."""
    notebook = good_notebook()
    spoil(notebook.book.cells)
    assert CHECKS[name](notebook)


def test_every_check_is_shown_to_notice() -> None:
    """No check is without a notebook that it refuses."""
    assert {name for name, _ in SPOILED} == set(CHECKS)


def test_metadata_of_another_kernel_are_noticed() -> None:
    """A kernel's name and a language version of one machine are refused."""
    notebook = good_notebook()
    notebook.book.metadata["kernelspec"]["name"] = "my-venv"
    assert CHECKS["canonical"](notebook)


def test_guarded_colab_import_is_accepted() -> None:
    """Under a condition, google.colab may be imported."""
    notebook = good_notebook()
    append('if "google.colab" in sys.modules:\n    from google.colab import auth')(notebook.cells)
    assert CHECKS["guarded_colab"](notebook) == []


def test_what_the_code_says_is_no_leak() -> None:
    """An address that stands in the code may stand in the output."""
    notebook = good_notebook()
    append('print("192.0.2.1")')(notebook.cells)
    prints("192.0.2.1")(notebook.cells)
    assert CHECKS["private_outputs"](notebook) == []


@pytest.mark.parametrize(
    "names",
    [["02_b.ipynb"], ["01_a.ipynb", "03_c.ipynb"], ["01_a.ipynb", "01_b.ipynb"], ["01_Up.ipynb"]],
)
def test_bad_numbering_is_noticed(names: list[str]) -> None:
    """Gaps, doubles and other spellings are refused."""
    assert numbering_problems(names)


def test_series() -> None:
    """The series begins with the four notebooks of the tutorial and is numbered without a gap."""
    names = [path.stem for path in PATHS]
    assert names[: len(FIRST_FOUR)] == FIRST_FOUR
    assert numbering_problems([path.name for path in PATHS]) == []


def test_key_prefixes_differ() -> None:
    """No two notebooks keep their sessions under the same prefix."""
    found = [prefixes(load(path)) for path in PATHS]
    assert len({str(each) for each in found}) == len(PATHS)


@pytest.mark.parametrize("name", CHECKS)
@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)
def test_notebook(path: Path, name: str) -> None:
    """A notebook keeps a convention."""
    assert CHECKS[name](load(path)) == []


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)
def test_notebook_is_stored_as_it_is_written(path: Path) -> None:
    """Writing a notebook that did not change leaves its bytes alone."""
    assert nbformat.writes(run_notebooks.read(path)) + "\n" == path.read_text(encoding="utf-8")


def run_solved(notebook: Notebook, endpoint: str) -> list[str]:
    """Run a notebook with its solutions in place; what its exercises' checks print."""
    solved = copy.deepcopy(notebook.book)
    places = []
    for place, solution in exercises(notebook):
        solved.cells[place].source = solution
        places.append(place)
    environment = dict(os.environ, MEMORYSTORE_ENDPOINT=endpoint)
    environment.pop("GOOGLE_CLOUD_PROJECT", None)
    runner = NotebookClient(
        solved,
        timeout=CELL_TIMEOUT,
        kernel_name="python3",
        resources={"metadata": {"path": str(FOLDER)}},
    )
    runner.execute(env=environment)
    return [output_text(solved.cells[place + 2]) for place in places]


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)
def test_solutions_solve_their_exercises(path: Path, valkey_server: Server) -> None:
    """With the folded solutions in place, every exercise's check says so."""
    verdicts = run_solved(load(path), valkey_server.url)
    assert verdicts
    assert all("Solved" in verdict and "Not solved" not in verdict for verdict in verdicts)


def test_wrong_solution_is_noticed(valkey_server: Server) -> None:
    """A solution that does not solve its exercise is told from one that does."""
    notebook = good_notebook()
    assert run_solved(notebook, valkey_server.url) == ["Solved\n"]
    replace(11, "1 + 2", "1 + 1")(notebook.cells)
    assert run_solved(notebook, valkey_server.url) == ["Not solved yet\n"]


# README.md


def readme_problems(text: str, folder: Path = ROOT) -> list[str]:
    """Links to headings or files that do not exist, and pictures without alt text."""
    anchors = {
        "#" + re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")
        for _, heading in headings(text)
    }
    problems = missing_files(text, set()) + image_problems(without_fences(text))
    for target in link_targets(text):
        if target.startswith("#"):
            if target not in anchors:
                problems.append(f"no heading for {target}")
        elif "://" in target or target.startswith("mailto:"):
            continue
        elif not (folder / unquote(target.partition("#")[0])).exists():
            problems.append(f"no file {target}")
    return problems


def test_readme() -> None:
    """The links of README.md lead somewhere, and its pictures have alt texts."""
    assert readme_problems((ROOT / "README.md").read_text(encoding="utf-8")) == []


def test_readme_opens_every_notebook() -> None:
    """README.md has the badges of each notebook, as `make links` writes them."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert [path.name for path in PATHS if links.header(path.name, REPOSITORY) not in text] == []


@pytest.mark.parametrize(
    "bad",
    [
        "[x](#nowhere)",
        "[x](absent.md)",
        "![](LICENSE)",
        "[x]: absent.md",
        f"[x](https://github.com/{REPOSITORY}/blob/main/absent.md)",
    ],
)
def test_bad_readme_is_noticed(bad: str) -> None:
    """A dead link in README.md is noticed; good ones are not complained about."""
    good = "# Read me\n\n[top](#read-me) [license](LICENSE) [out](https://example.com)"
    assert readme_problems(good) == []
    assert readme_problems(f"{good}\n\n{bad}")
