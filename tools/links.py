"""Point every link to the repository at another one: ``make links``.

Repository and branch come from ``git remote`` and the branch that is checked out;
``REPO=owner/name`` and ``BRANCH=name`` say otherwise. With ``INSTALL=index`` pip takes the package
by its name from the package index, with ``INSTALL=git`` from the repository. Where the links lead
now stands in pyproject.toml. Nothing else is written: a new notebook's links are its author's.
"""

import argparse
import re
import subprocess
import sys
import tomllib
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

ROOT = Path(__file__).resolve().parent.parent
# What has links to the repository.
FILES = (
    "README.md",
    "notebooks/*.ipynb",
    "pyproject.toml",
    "app/README.md",
    "app/requirements.txt",
    "docs/*.*",
    "docs/how_to/connect.md",
    ".github/CODEOWNERS",
    ".github/ISSUE_TEMPLATE/config.yml",
)
SLUG = re.compile(r"(?:\S*\bgithub\.com[:/])?([\w-]+/[\w.-]+?)(?:\.git)?/?")  # of a remote
# What brings the package; a sentence that only adds an extra to it names no source.
PIP = re.compile(
    r'(?m)((?:^|^pip install "|%pip install -q \\")memorystore-chat\[[\w,-]+\])[^"\\\n]*'
)


@dataclass(frozen=True)
class Links:
    """Where the links lead."""

    repository: str  # owner/name on GitHub
    branch: str
    install: str  # where pip finds the package: "git" or "index"

    def parts(self) -> list[str]:
        """What differs between links to two repositories; those that show the branch come first."""
        owner, name = self.repository.split("/")
        links = [f"{self.repository}{shown}{self.branch}" for shown in ("/blob/", "/tree/", "/")]
        links.append(self.repository)
        quoted = [quote(link, safe="") for link in links]  # as a part of another address
        return [*links, *quoted, f"{owner}.github.io/{name}", f"@{owner}/maintainers"]

    def lead_to(self, new: "Links", text: str) -> str:
        """Return a text with these links as one with the new ones."""
        other = dict(zip(self.parts(), new.parts(), strict=True))
        own = rf"(?:{'|'.join(map(re.escape, other))})(?![\w-])"
        text = re.sub(own, lambda match: other[match[0]], text)
        branch = "" if new.branch == "main" else f"@{new.branch}"
        git = f" @ git+https://github.com/{new.repository}{branch}"
        text = PIP.sub(lambda match: match[1] + (git if new.install == "git" else ""), text)
        text = re.sub(r'(?m)^branch = ".*"$', f'branch = "{new.branch}"', text)
        return re.sub(r'(?m)^install = ".*"$', f'install = "{new.install}"', text)


def read_links(root: Path) -> Links:
    """Read where the links lead in pyproject.toml."""
    pyproject = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))
    repository = pyproject["project"]["urls"]["Repository"].removeprefix("https://github.com/")
    return Links(repository, **pyproject["tool"]["memorystore-chat"])


def git(root: Path, *words: str) -> str:
    """Return what git says, or nothing."""
    return subprocess.run(["git", *words], cwd=root, capture_output=True, text=True).stdout.strip()


def main(arguments: list[str] | None = None, root: Path = ROOT) -> int:
    """Write the links under ``root``; returns the exit status."""
    parser = argparse.ArgumentParser(description="Point every link to the repository elsewhere.")
    parser.add_argument("--repository", help="owner/name; without it, git is asked")
    parser.add_argument("--branch", help="the branch that the links show")
    parser.add_argument("--install", choices=("git", "index"), help="where pip finds the package")
    options = parser.parse_args(arguments)
    now, repository, branch = read_links(root), options.repository, options.branch
    if repository is None:
        repository = git(root, "remote", "get-url", "origin")
        branch = branch or git(root, "branch", "--show-current")
    match = SLUG.fullmatch(repository)
    if match is None:  # the text is not repeated, as a token may stand in it
        print(
            "links: no repository on GitHub is named: make links REPO=owner/name", file=sys.stderr
        )
        return 1
    new = Links(match[1], branch or now.branch, options.install or now.install)
    changed = 0
    for path in (path for pattern in FILES for path in root.glob(pattern)):
        text = path.read_text(encoding="utf-8")
        if (written := now.lead_to(new, text)) != text:
            path.write_text(written, encoding="utf-8")
            changed += 1
    lead = f"lead to {new.repository}, branch {new.branch}"
    print(f"The links of {changed} files now {lead}." if changed else f"All links {lead}.")
    if changed:
        print("Now commit, push, and make it public: Colab, Workbench, and pip can open no other.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
