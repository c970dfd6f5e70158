"""Write every link to the repository anew from its one source, pyproject.toml's Repository URL.

``make links`` calls this; ``make links REPO=owner/name`` sets the URL first. What is generated:

- in a notebook's first cell and in README.md, the row of badges between ``<!-- badges -->`` and
  ``<!-- /badges -->`` (README.md names the notebook: ``<!-- badges 01_setup.ipynb -->``);
- a notebook's previous and next links between ``<!-- navigation -->`` and
  ``<!-- /navigation -->``;
- the whole source of the cell tagged ``links-install``;
- the pictures in notebooks/images that a cell shows as ``![...](attachment:NAME.png)``;
- the owner and name in every other link to the repository in these files.
"""

import argparse
import base64
import re
import sys
import tomllib
from collections.abc import Sequence
from pathlib import Path

import nbformat

ROOT = Path(__file__).resolve().parent.parent
BRANCH = "main"
INSTALL_TAG = "links-install"
EXTRAS = "tutorial"

_BLOCK = re.compile(
    r"<!-- (?P<kind>badges|navigation)(?: (?P<name>\S+))? -->(?P<body>.*?)<!-- /(?P=kind) -->",
    re.DOTALL,
)
_PICTURE = re.compile(r"\(attachment:([\w.-]+\.png)\)")
_COLAB = re.compile(r"colab\.research\.google\.com/github/([\w.-]+/[\w.-]+)/blob/")
_SLUG = re.compile(r"(?:https://github\.com/)?([\w-]+/[\w.-]+?)(?:\.git)?/?")


def parse_repository(text: str) -> str:
    """The ``owner/name`` in a GitHub URL or in ``owner/name`` itself.

    Raises:
        ValueError: If it is neither.

    Example:
        >>> parse_repository("https://github.com/your-org/memorystore-chat")
        'your-org/memorystore-chat'
    """
    match = _SLUG.fullmatch(text)
    if match is None:
        raise ValueError(f"expected owner/name or https://github.com/owner/name, not {text!r}")
    return match[1]


def repository_of(pyproject: str) -> str:
    """The ``owner/name`` that the text of a pyproject.toml declares."""
    return parse_repository(tomllib.loads(pyproject)["project"]["urls"]["Repository"])


def colab_url(notebook: str, repository: str) -> str:
    """Address that opens ``notebook`` (a file name) in Colab."""
    return (
        f"https://colab.research.google.com/github/{repository}/blob/{BRANCH}/notebooks/{notebook}"
    )


def header(notebook: str, repository: str) -> str:
    """The row of badges that open ``notebook`` (a file name): one line of Markdown."""
    raw = f"raw.githubusercontent.com/{repository}/{BRANCH}/notebooks/{notebook}"
    console = "https://console.cloud.google.com/agent-platform"
    badge = "https://colab.research.google.com/assets/colab-badge.svg"
    enterprise = f"{console}/colab/import/https:%2F%2F{raw.replace('/', '%2F')}"
    workbench = f"{console}/workbench/instances?download_url=https://{raw}"
    source = f"https://github.com/{repository}/blob/{BRANCH}/notebooks/{notebook}"
    return " · ".join(
        [
            f"[![Open in Colab]({badge})]({colab_url(notebook, repository)})",
            f"[Open in Colab Enterprise]({enterprise})",
            f"[Open in Workbench]({workbench})",
            f"[View on GitHub]({source})",
        ]
    )


def install_cell(repository: str) -> str:
    """Source of the install cell: it does nothing where the package is there already.

    pip leaves an installed version alone only where the newest of what it adds agrees: without the
    versions to keep, google-cloud-memorystore 0.5.6 would take Colab's protobuf from 5.29 to 7.36.
    """
    return f"""\
import importlib.util
import subprocess
import sys

package = "memorystore-chat[{EXTRAS}]"
source = "git+https://github.com/{repository}"
# The kernel and Colab's other packages rely on these, so their versions stay.
kept = ["ipykernel", "ipython", "notebook", "numpy", "pandas", "protobuf", "requests", "tornado"]
if importlib.util.find_spec("memorystore_chat") is None:
    pip = [sys.executable, "-m", "pip"]
    listed = subprocess.check_output([*pip, "list", "--format=freeze"], text=True)
    versions = [line for line in listed.split() if line.partition("==")[0] in kept]
    subprocess.run([*pip, "install", "--quiet", f"{{package}} @ {{source}}", *versions], check=True)
    importlib.invalidate_caches()"""


def navigation(notebook: str, notebooks: Sequence[str], repository: str) -> str:
    """Links to the notebooks before and after ``notebook``, as one line of Markdown.

    Args:
        notebook: File name, such as ``02_basic_usage.ipynb``.
        notebooks: File names of the whole series.
        repository: ``owner/name``.
    """
    series = sorted(notebooks)
    place = series.index(notebook)
    links = []
    if place > 0:
        links.append(f"Previous: {_link(series[place - 1], repository)}")
    if place + 1 < len(series):
        links.append(f"Next: {_link(series[place + 1], repository)}")
    return " · ".join(links)


def _link(notebook: str, repository: str) -> str:
    number, _, name = notebook.removesuffix(".ipynb").partition("_")
    title = name.replace("_", " ").capitalize()
    # The file's name is for those who read in JupyterLab.
    return (
        f"{int(number)}. {title}, `{notebook}` ([open in Colab]({colab_url(notebook, repository)}))"
    )


def rewrite_text(
    text: str, repository: str, notebooks: Sequence[str], notebook: str | None = None
) -> str:
    """Markdown with its generated blocks written anew.

    Args:
        text: Markdown of a cell or of README.md.
        repository: ``owner/name``.
        notebooks: File names of the whole series.
        notebook: The notebook that a block without a name is about.

    Raises:
        ValueError: If a block names no notebook, or one that does not exist.
    """

    def generate(match: re.Match[str]) -> str:
        name = match["name"] or notebook
        if name not in notebooks:
            raise ValueError(f"{match[0].partition('-->')[0]}-->: no notebook {name!r}")
        badges = match["kind"] == "badges"
        line = header(name, repository) if badges else navigation(name, notebooks, repository)
        opening = match["kind"] + (f" {match['name']}" if match["name"] else "")
        # A comment that begins a line makes the rest of that line HTML, not Markdown.
        begins_line = match.start() == 0 or text[match.start() - 1] == "\n"
        edge = "\n" if begins_line else ""
        return f"<!-- {opening} -->{edge}{line}{edge}<!-- /{match['kind']} -->"

    return _BLOCK.sub(generate, text)


def former_repositories(text: str) -> set[str]:
    """Each ``owner/name`` that the generated blocks of ``text`` link to."""
    return {slug for block in _BLOCK.finditer(text) for slug in _COLAB.findall(block["body"])}


def replace_repository(text: str, former: set[str], repository: str) -> str:
    """``text`` with every GitHub link to one of ``former`` leading to ``repository`` instead."""
    for owner, name in (slug.split("/") for slug in sorted(former)):
        pattern = (
            r"(github(?:usercontent)?\.com|google\.com/github)(/|%2F)"
            rf"{re.escape(owner)}(?:/|%2F){re.escape(name)}(?![\w-])"
        )
        text = re.sub(
            pattern, lambda m: m[1] + m[2] + repository.replace("/", m[2]), text, flags=re.ASCII
        )
    return text


def picture(path: Path) -> dict[str, str]:
    """A picture as an attachment of a cell, which shows wherever the notebook is opened."""
    return {"image/png": base64.b64encode(path.read_bytes()).decode()}


def rewrite_notebook(path: Path, repository: str, notebooks: Sequence[str]) -> str:
    """The text of the notebook at ``path`` with its links written anew."""
    book = nbformat.read(path, as_version=4)
    former = set().union(*(former_repositories(cell.source) for cell in book.cells))
    for cell in book.cells:
        if INSTALL_TAG in cell.metadata.get("tags", []):
            cell.source = install_cell(repository)
            continue
        if cell.cell_type == "markdown":
            cell.source = rewrite_text(cell.source, repository, notebooks, path.name)
            if names := _PICTURE.findall(cell.source):
                cell.attachments = {name: picture(path.parent / "images" / name) for name in names}
        cell.source = replace_repository(cell.source, former, repository)
    return nbformat.writes(book) + "\n"


def rewrite_all(root: Path, repository: str) -> dict[Path, str]:
    """The new text of every file under ``root`` whose links are not those of ``repository``."""
    paths = sorted((root / "notebooks").glob("*.ipynb"))
    names = [path.name for path in paths]
    texts = {path: rewrite_notebook(path, repository, names) for path in paths}
    readme = root / "README.md"
    text = readme.read_text(encoding="utf-8")
    former = former_repositories(text)
    texts[readme] = replace_repository(rewrite_text(text, repository, names), former, repository)
    pyproject = root / "pyproject.toml"
    text = pyproject.read_text(encoding="utf-8")
    texts[pyproject] = replace_repository(text, {repository_of(text)}, repository)
    return {path: text for path, text in texts.items() if text != path.read_text(encoding="utf-8")}


def main(arguments: Sequence[str] | None = None, root: Path = ROOT) -> int:
    """Write the links under ``root``; returns the exit status."""
    parser = argparse.ArgumentParser(description="Write every link to the repository anew.")
    parser.add_argument("--repository", help="owner/name; without it, pyproject.toml's")
    options = parser.parse_args(arguments)
    try:
        if options.repository is None:
            repository = repository_of((root / "pyproject.toml").read_text(encoding="utf-8"))
        else:
            repository = parse_repository(options.repository)
        changed = rewrite_all(root, repository)
    except ValueError as error:
        print(f"links: {error}", file=sys.stderr)
        return 1
    for path, text in changed.items():
        path.write_text(text, encoding="utf-8")
        print(f"{path.relative_to(root)}: links to {repository}")
    if not changed:
        print(f"Every link leads to {repository} already.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
