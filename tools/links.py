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

ROOT = Path(__file__).resolve().parent.parent
PLACEHOLDER = "your-org/memorystore-chat"
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
        branch: The branch that they show.
        install: Whether pip takes the package from ``"git"`` or from the ``"index"``.
    """

    repository: str
    branch: str
    install: str

    @property
    def source(self) -> str:
        """What follows the package's name for pip, such as `` @ git+https://...``."""
        branch = "" if self.branch == "main" else f"@{self.branch}"
        git = f" @ git+https://github.com/{self.repository}{branch}"
        return git if self.install == "git" else ""

    def lead_to(self, new: "Links", text: str) -> str:
        """Return a text with these links as one with the new ones."""
        (owner, name), (new_owner, new_name) = self.repository.split("/"), new.repository.split("/")
        branch = re.escape(self.branch).replace("/", "(?:/|%2F)")

        def own(match: re.Match[str]) -> str:
            words = [match["site"], new_owner, new_name]
            if match["branch"]:
                words += [*match["blob"].split(match["slash"])[1:-1], *new.branch.split("/")]
            return match["slash"].join(words)

        text = re.sub(
            # A slash is %2F where the address is a part of another one.
            r"(?P<site>github(?:usercontent)?\.com|google\.com/github)(?P<slash>/|%2F)"
            rf"{re.escape(owner)}(?P=slash){re.escape(name)}(?![\w-])"
            rf"(?:(?P<blob>(?:(?P=slash)blob)?(?P=slash))(?P<branch>{branch})(?=/|%2F))?",
            own,
            text,
        )
        text = text.replace(f"{owner}.github.io/{name}", f"{new_owner}.github.io/{new_name}")
        text = text.replace(f"@{owner}/maintainers", f"@{new_owner}/maintainers")
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
    parser.add_argument("--check", action="store_true", help="write nothing; for GitHub's summary")
    options = parser.parse_args(arguments)
    now = read_links(root)
    if options.check:
        if now.repository == PLACEHOLDER:
            print(
                f"::notice::The links lead to the placeholder {PLACEHOLDER}: "
                "run make links, commit, and push, or Colab finds no notebook."
            )
        return 0
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
    if changed and new.repository != PLACEHOLDER:
        print("Now commit, push, and make it public: Colab, Workbench, and pip can open no other.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
