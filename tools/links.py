"""Write every link to the repository anew from its one source, pyproject.toml.

``make links`` takes the repository and the branch from ``git remote`` and the branch that is
checked out; ``REPO=owner/name`` and ``BRANCH=name`` say otherwise. With ``INSTALL=index`` the
package is installed by its name from the package index, with ``INSTALL=git`` from the repository.
It writes:

- the line of links in a notebook's first cell, between ``<!-- badges -->`` and
  ``<!-- /badges -->``; in README.md, Colab's badge after ``<!-- badge 01_setup.ipynb -->``;
- a notebook's previous and next links, after ``<!-- navigation -->``;
- the cell tagged ``links-install``, and in README.md what follows ``<!-- install EXTRA -->``;
- the title of a notebook in each link that begins with its number, from the notebook's first line;
- the owner and name in every other link to the repository, in the files that have any.
"""

import argparse
import re
import subprocess
import sys
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import nbformat

ROOT = Path(__file__).resolve().parent.parent
PLACEHOLDER = "your-org/memorystore-chat"
INSTALL_TAG = "links-install"
# Files that have links to the repository or to notebooks, beside the notebooks.
TEXTS = (
    "README.md",
    "pyproject.toml",
    "app/README.md",
    "app/requirements.txt",
    "docs/conf.py",
    "docs/how_to/connect.md",
    "docs/index.md",
    "docs/llms.txt",
    "docs/tutorial.md",
    ".github/CODEOWNERS",
    ".github/ISSUE_TEMPLATE/config.yml",
)

_BLOCK = re.compile(
    r"(?P<opening><!-- (?P<kind>badges?|navigation|install)(?: (?P<name>\S+))? -->)"
    r".*?<!-- /(?P=kind) -->",
    re.DOTALL,
)
_TITLE = re.compile(
    r"\[\d+\. [^]]*\]\((?P<path>(?:[\w.:/-]*/)?(?P<name>\d\d_\w+)\.(?:ipynb|html))\)"
)
# The logos of Google's notebook template; the words beside them say what they show.
_LOGOS = (
    "https://www.gstatic.com/pantheon/images/bigquery/welcome_page/colab-logo.svg",
    "https://lh3.googleusercontent.com/JmcxdQi-qOpctIvWKgPtrzZdJJK-J3sWE1RsfjZNwshCFgE_9fULcNpuXYTilIR2hjwN",
    "https://www.gstatic.com/images/branding/gcpiconscolors/vertexai/v1/32px.svg",
    "https://raw.githubusercontent.com/primer/octicons/refs/heads/main/icons/mark-github-24.svg",
)
_SLUG = re.compile(r"(?:\S*\bgithub\.com[:/])?([\w-]+/[\w.-]+?)(?:\.git)?/?")


def parse_repository(text: str) -> str:
    """Return the ``owner/name`` in the address of a repository on GitHub, or in itself.

    Raises:
        ValueError: It is neither. The text, in which a token may stand, is not repeated.

    Example:
        >>> parse_repository("git@github.com:your-org/memorystore-chat.git")
        'your-org/memorystore-chat'
    """
    match = _SLUG.fullmatch(text)
    if match is None:
        raise ValueError("no repository on GitHub is named; name it: make links REPO=owner/name")
    return match[1]


@dataclass(frozen=True)
class Links:
    """Where the links lead.

    Attributes:
        repository: ``owner/name`` on GitHub.
        branch: The branch that the links show.
        install: Whether the package is installed from ``"git"`` or from the ``"index"``.
        titles: For each notebook's file name its title, such as ``"1. Set up"``.
    """

    repository: str
    branch: str
    install: str
    titles: Mapping[str, str]

    def colab(self, notebook: str) -> str:
        """Return the address that opens a notebook in Colab."""
        return f"https://colab.research.google.com/github/{self.repository}/blob/{self.branch}/notebooks/{notebook}"

    def badge(self, notebook: str) -> str:
        """Return Colab's badge."""
        picture = "https://colab.research.google.com/assets/colab-badge.svg"
        return f"[![Open in Colab]({picture})]({self.colab(notebook)})"

    def badges(self, notebook: str) -> str:
        """Return the table of links that opens a notebook, as in Google's notebook template."""
        raw = f"raw.githubusercontent.com/{self.repository}/{self.branch}/notebooks/{notebook}"
        console = "https://console.cloud.google.com/agent-platform"
        quoted = raw.replace("/", "%2F")
        places = (
            ("Open in Colab", self.colab(notebook)),
            ("Open in Colab Enterprise", f"{console}/colab/import/https:%2F%2F{quoted}"),
            (
                "Open in Workbench",
                f"{console}/workbench/deploy-notebook?download_url=https://{raw}",
            ),
            (
                "View on GitHub",
                f"https://github.com/{self.repository}/blob/{self.branch}/notebooks/{notebook}",
            ),
        )
        cells = (
            f'<td style="text-align: center"><a href="{link}"><img src="{logo}" alt="" '
            f'width="32" height="32"><br>{words}</a></td>'
            for (words, link), logo in zip(places, _LOGOS, strict=True)
        )
        return f"<table><tr>{''.join(cells)}</tr></table>"

    def requirement(self, extra: str) -> str:
        """Return what pip installs, such as ``memorystore-chat[tutorial] @ git+https://...``."""
        if self.install == "index":
            return f"memorystore-chat[{extra}]"
        branch = "" if self.branch == "main" else f"@{self.branch}"
        return f"memorystore-chat[{extra}] @ git+https://github.com/{self.repository}{branch}"

    def install_cell(self) -> str:
        """Return the source of the install cell; it does nothing if the package is there."""
        way_out = (
            "Not installed: choose a kernel with Python 3.11 or newer, and make sure that "
            f"https://github.com/{self.repository} is a repository you can open "
            "(in a fork, make links writes its address here)."
        )
        return (
            "# @title Install the tutorial, unless it is there already\n"
            "# Copyright 2026 the Memorystore Chat contributors.\n"
            "# Licensed under the Apache License, Version 2.0:\n"
            "# https://www.apache.org/licenses/LICENSE-2.0\n"
            "from importlib.util import find_spec\n"
            'if not find_spec("memorystore_tutorial"):\n'
            f'    %pip install -q "{self.requirement("tutorial")}" || echo "{way_out}"'
        )

    def navigation(self, notebook: str) -> str:
        """Return links to the notebooks before and after one."""
        series = ["", *sorted(self.titles), ""]
        place = series.index(notebook)
        around = (("Previous", series[place - 1]), ("Next", series[place + 1]))
        return " · ".join(
            f"{word}: [{self.titles[name]}]({name}) ([in Colab]({self.colab(name)}))"
            for word, name in around
            if name
        )

    def rewrite(self, text: str, former: str, notebook: str | None = None) -> str:
        """Write the generated parts of a text anew.

        Args:
            text: Markdown of a cell, or of a file.
            former: The repository to which its other links lead.
            notebook: The notebook that a block without a name is about.

        Raises:
            ValueError: A block or a link names no notebook, or one that does not exist.
        """

        def known(name: str | None) -> str:
            if name is None or name not in self.titles:
                raise ValueError(f"no notebook {name!r}")
            return name

        def generate(match: re.Match[str]) -> str:
            kind, name = match["kind"], match["name"]
            if kind == "install":
                line = f'```sh\npip install "{self.requirement(name or "embedded")}"\n```'
            else:
                line = getattr(self, kind)(known(name or notebook))
            # A comment that begins a line makes the rest of that line HTML, not Markdown.
            begins_line = match.start() == 0 or text[match.start() - 1] == "\n"
            edge = "\n" if begins_line else ""
            return f"{match['opening']}{edge}{line}{edge}<!-- /{kind} -->"

        def title(match: re.Match[str]) -> str:
            return f"[{self.titles[known(match['name'] + '.ipynb')]}]({match['path']})"

        text = _TITLE.sub(title, _BLOCK.sub(generate, text))
        (owner, name), (new_owner, new_name) = former.split("/"), self.repository.split("/")
        own = (
            r"(github(?:usercontent)?\.com|google\.com/github)(/|%2F)"
            rf"{re.escape(owner)}(?:/|%2F){re.escape(name)}(?![\w-])"
        )
        text = re.sub(own, lambda m: f"{m[1]}{m[2]}{new_owner}{m[2]}{new_name}", text)
        text = text.replace(f"{owner}.github.io/{name}", f"{new_owner}.github.io/{new_name}")
        return text.replace(f"@{owner}/maintainers", f"@{new_owner}/maintainers")


def read_links(root: Path) -> Links:
    """Read where the links lead in pyproject.toml, and the titles in the notebooks."""
    pyproject = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))
    settings = pyproject["tool"]["memorystore-chat"]
    titles = {
        path.name: nbformat.read(path, as_version=4).cells[0].source.partition("\n")[0].lstrip("# ")
        for path in (root / "notebooks").glob("*.ipynb")
    }
    repository = parse_repository(pyproject["project"]["urls"]["Repository"])
    return Links(repository, settings["branch"], settings["install"], titles)


def rewrite_all(root: Path, links: Links) -> dict[Path, str]:
    """Return the new text of every file under ``root`` whose links are not ``links``."""
    former = read_links(root).repository
    texts: dict[Path, str] = {}
    for path in sorted((root / "notebooks").glob("*.ipynb")):
        book = nbformat.read(path, as_version=4)
        for cell in book.cells:
            if INSTALL_TAG in cell.metadata.get("tags", []):
                cell.source = links.install_cell()
            else:
                cell.source = links.rewrite(cell.source, former, path.name)
        texts[path] = f"{nbformat.writes(book)}\n"
    for path in (root / name for name in TEXTS if (root / name).exists()):
        text = links.rewrite(path.read_text(encoding="utf-8"), former)
        if path.name == "pyproject.toml":
            text = re.sub(r'(?m)^branch = ".*"$', f'branch = "{links.branch}"', text)
            text = re.sub(r'(?m)^install = ".*"$', f'install = "{links.install}"', text)
        texts[path] = text
    return {path: text for path, text in texts.items() if text != path.read_text(encoding="utf-8")}


def git(root: Path, *words: str) -> str:
    """Return what git says, or nothing."""
    return subprocess.run(["git", *words], cwd=root, capture_output=True, text=True).stdout.strip()


def main(arguments: list[str] | None = None, root: Path = ROOT) -> int:
    """Write the links under ``root``; returns the exit status."""
    parser = argparse.ArgumentParser(description="Write every link to the repository anew.")
    parser.add_argument("--repository", help="owner/name, or 'git' to ask git")
    parser.add_argument("--branch", help="the branch that the links show")
    parser.add_argument("--install", choices=("git", "index"), help="where pip finds the package")
    parser.add_argument("--check", action="store_true", help="write nothing; for GitHub's summary")
    options = parser.parse_args(arguments)
    repository, branch = options.repository, options.branch
    if repository == "git":
        repository = git(root, "remote", "get-url", "origin")
        branch = branch or git(root, "branch", "--show-current")
    try:
        links = read_links(root)
        links = replace(
            links,
            repository=links.repository if repository is None else parse_repository(repository),
            branch=branch or links.branch,
            install=options.install or links.install,
        )
        changed = rewrite_all(root, links)
    except ValueError as error:
        print(f"links: {error}", file=sys.stderr)
        return 1
    if options.check:
        if links.repository == PLACEHOLDER:
            print(
                f"::notice::The links lead to the placeholder {PLACEHOLDER}: "
                "run make links, commit, and push, or Colab finds no notebook."
            )
        for path in changed:
            print(f"::error file={path.relative_to(root)}::Run make links: a link is out of date.")
        return 1 if changed else 0
    for path, text in changed.items():
        path.write_text(text, encoding="utf-8")
    lead = f"lead to {links.repository}, branch {links.branch}"
    print(f"The links of {len(changed)} files now {lead}." if changed else f"All links {lead}.")
    if changed and links.repository != PLACEHOLDER:
        print("Now commit, push, and make it public: Colab, Workbench, and pip can open no other.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
