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
    "docs/conf.py",
    "docs/how_to/connect.md",
    "docs/index.md",
    "docs/llms.txt",
    "docs/tutorial.md",
    ".github/CODEOWNERS",
    ".github/ISSUE_TEMPLATE/config.yml",
)
_SLUG = re.compile(r"(?:\S*\bgithub\.com[:/])?([\w-]+/[\w.-]+?)(?:\.git)?/?")


def parse_repository(text: str) -> str:
    """Return the ``owner/name`` in the address of a repository on GitHub, or in itself.

    The error does not repeat the text, in which a token may stand.

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
    """Where the links lead."""

    repository: str  # owner/name on GitHub
    branch: str
    install: str  # where pip finds the package: "git" or "index"

    @property
    def source(self) -> str:
        """What follows the package's name for pip, such as `` @ git+https://...``."""
        branch = "" if self.branch == "main" else f"@{self.branch}"
        git = f" @ git+https://github.com/{self.repository}{branch}"
        return git if self.install == "git" else ""

    def beginnings(self) -> list[str]:
        """How links to the repository begin; those that show the branch come first."""
        owner, name = self.repository.split("/")
        links = [
            f"github.com/{self.repository}/blob/{self.branch}",
            f"google.com/github/{self.repository}/blob/{self.branch}",
            f"githubusercontent.com/{self.repository}/{self.branch}",
            f"github.com/{self.repository}",
        ]
        quoted = [quote(link, safe="") for link in links]  # as a part of another address
        return [*links, *quoted, f"{owner}.github.io/{name}", f"@{owner}/maintainers"]

    def lead_to(self, new: "Links", text: str) -> str:
        """Return a text with these links as one with the new ones."""
        other = dict(zip(self.beginnings(), new.beginnings(), strict=True))
        own = rf"(?:{'|'.join(map(re.escape, other))})(?![\w-])"
        text = re.sub(own, lambda match: other[match[0]], text)
        # What brings the package; a sentence that only adds an extra to it names no source.
        pip = r'(?m)((?:^pip install |%pip install -q )\\?"memorystore-chat\[[\w,-]+\])[^"\\]*'
        return re.sub(pip, lambda match: match[1] + new.source, text)


def read_links(root: Path) -> Links:
    """Read where the links lead in pyproject.toml."""
    pyproject = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))
    repository = parse_repository(pyproject["project"]["urls"]["Repository"])
    return Links(repository, **pyproject["tool"]["memorystore-chat"])


def rewrite_all(root: Path, new: Links) -> int:
    """Write the new links into every file under ``root``; returns how many files are others."""
    former, changed = read_links(root), 0
    for path in (path for pattern in FILES for path in root.glob(pattern)):
        text = path.read_text(encoding="utf-8")
        written = former.lead_to(new, text)
        if path.name == "pyproject.toml":
            written = re.sub(r'(?m)^branch = ".*"$', f'branch = "{new.branch}"', written)
            written = re.sub(r'(?m)^install = ".*"$', f'install = "{new.install}"', written)
        if written != text:
            path.write_text(written, encoding="utf-8")
            changed += 1
    return changed


def git(root: Path, *words: str) -> str:
    """Return what git says, or nothing."""
    return subprocess.run(["git", *words], cwd=root, capture_output=True, text=True).stdout.strip()


def main(arguments: list[str] | None = None, root: Path = ROOT) -> int:
    """Write the links under ``root``; returns the exit status."""
    parser = argparse.ArgumentParser(description="Point every link to the repository elsewhere.")
    parser.add_argument("--repository", default="git", help="owner/name; without it, git is asked")
    parser.add_argument("--branch", help="the branch that the links show")
    parser.add_argument("--install", choices=("git", "index"), help="where pip finds the package")
    options = parser.parse_args(arguments)
    now = read_links(root)
    repository, branch = options.repository, options.branch
    if repository == "git":
        repository = git(root, "remote", "get-url", "origin")
        branch = branch or git(root, "branch", "--show-current")
    try:
        repository = parse_repository(repository)
    except ValueError as error:
        print(f"links: {error}", file=sys.stderr)
        return 1
    new = Links(repository, branch or now.branch, options.install or now.install)
    changed = rewrite_all(root, new)
    lead = f"lead to {new.repository}, branch {new.branch}"
    print(f"The links of {changed} files now {lead}." if changed else f"All links {lead}.")
    if changed:
        print("Now commit, push, and make it public: Colab, Workbench, and pip can open no other.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
