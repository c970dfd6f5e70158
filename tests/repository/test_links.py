"""tools/links.py: what is generated, that the committed files have it, and what a fork gets."""

import re
import subprocess
from pathlib import Path

import nbformat
import pytest

import links

ROOT = Path(__file__).resolve().parents[2]
PYPROJECT = """\
[project]
name = "memorystore-chat"

[project.urls]
Documentation = "https://your-org.github.io/memorystore-chat/"
Repository = "https://github.com/your-org/memorystore-chat"

[tool.memorystore-chat]
branch = "main"
install = "git"
"""
README = """\
# Read me

| notebook | open |
|---|---|
| one | <!-- badge 01_setup.ipynb --><!-- /badge --> |

<!-- install embedded -->
<!-- /install -->

    git clone https://github.com/your-org/memorystore-chat.git

[another project](https://github.com/your-org/memorystore-chat-extras) and
[one more](https://github.com/langchain-ai/langchain)
"""
TITLES = {"01_setup.ipynb": "1. Set up", "02_basic_usage.ipynb": "2. Basic usage"}


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A small project: pyproject.toml, README.md and two notebooks with empty blocks."""
    (tmp_path / "pyproject.toml").write_text(PYPROJECT)
    (tmp_path / "README.md").write_text(README)
    (tmp_path / "notebooks").mkdir()
    for name, title in TITLES.items():
        head = f"# {title}\n\n<!-- badges -->\n<!-- /badges -->"
        cells = [
            nbformat.v4.new_markdown_cell(head, id="a"),
            nbformat.v4.new_code_cell("pass", metadata={"tags": ["links-install"]}, id="b"),
            nbformat.v4.new_markdown_cell("<!-- navigation --><!-- /navigation -->", id="c"),
        ]
        book = nbformat.v4.new_notebook(cells=cells)
        (tmp_path / "notebooks" / name).write_text(nbformat.writes(book) + "\n")
    return tmp_path


def cells(project: Path, name: str) -> list[str]:
    book = nbformat.read(project / "notebooks" / name, as_version=4)
    return [str(cell.source) for cell in book.cells]


def test_committed_links_are_current() -> None:
    """Every committed file has the links of pyproject.toml's repository: else run `make links`."""
    assert list(links.rewrite_all(ROOT, links.read_links(ROOT))) == []


def test_blocks_are_filled(project: Path) -> None:
    assert links.main([], project) == 0
    head, install, way = cells(project, "01_setup.ipynb")
    assert head.count("\n") == 4
    assert "workbench/deploy-notebook?download_url=https://raw." in head
    assert "colab.research.google.com/github/your-org/memorystore-chat/blob/main" in head
    assert "Next: [2. Basic usage](02_basic_usage.ipynb) ([in Colab](https://colab" in way
    assert "Previous" not in way
    assert "Previous: [1. Set up](01_setup.ipynb)" in cells(project, "02_basic_usage.ipynb")[2]
    readme = (project / "README.md").read_text()
    assert '```sh\npip install "memorystore-chat[embedded] @ git+https://github.com/your' in readme
    assert "| one | <!-- badge 01_setup.ipynb -->[![Open in Colab]" in readme
    assert links.main([], project) == 0
    assert cells(project, "01_setup.ipynb") == [head, install, way]


def test_fork_gets_all_links(project: Path) -> None:
    assert links.main(["--repository", "ada/chat", "--branch", "dev"], project) == 0
    text = "\n".join(path.read_text() for path in project.rglob("*.*") if path.is_file())
    assert not re.search(r"your-org(/|%2F|\.github)\S*memorystore-chat(?!-extras)", text)
    assert "ada.github.io/chat" in text
    assert "/ada/chat/blob/dev/notebooks/01_setup.ipynb" in text
    assert "git+https://github.com/ada/chat@dev" in text
    assert "https://github.com/your-org/memorystore-chat-extras" in text
    assert 'branch = "dev"' in (project / "pyproject.toml").read_text()
    # What was committed for one fork can be pointed at the next.
    assert links.main(["--repository", "bob/x", "--branch", "main"], project) == 0
    assert "ada/chat" not in (project / "notebooks" / "01_setup.ipynb").read_text()


def test_ci_says_that_links_lead_to_the_placeholder(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """With --check nothing is written; one notice says so, and none does once a fork has links."""
    assert links.main(["--check"], project) == 1
    assert "::error file=README.md::Run make links" in capsys.readouterr().out
    assert (project / "README.md").read_text() == README
    links.main([], project)
    capsys.readouterr()
    assert links.main(["--check"], project) == 0
    [notice] = capsys.readouterr().out.splitlines()
    assert notice.startswith(
        "::notice::The links lead to the placeholder your-org/memorystore-chat"
    )
    links.main(["--repository", "ada/chat"], project)
    capsys.readouterr()
    assert links.main(["--check"], project) == 0
    assert capsys.readouterr().out == ""


def test_package_index_is_one_setting(project: Path) -> None:
    assert links.main(["--install", "index"], project) == 0
    assert 'pip install -q "memorystore-chat[tutorial]" ||' in cells(project, "01_setup.ipynb")[1]
    assert 'pip install "memorystore-chat[embedded]"' in (project / "README.md").read_text()
    assert 'install = "index"' in (project / "pyproject.toml").read_text()


@pytest.mark.parametrize(
    ("remote", "repository"),
    [
        ("git@github.com:ada/chat.git", "ada/chat"),
        ("https://github.com/ada/my.chat", "ada/my.chat"),
        ("ssh://git@github.com/ada/chat/", "ada/chat"),
        ("https://ada:hunter2@github.com/ada/chat", "ada/chat"),
    ],
)
def test_git_is_asked(project: Path, remote: str, repository: str) -> None:
    author = ["-c", "user.name=a", "-c", "user.email=a@example.com"]
    for words in (
        ["init", "-q", "-b", "trunk"],
        ["remote", "add", "origin", remote],
        [*author, "commit", "-q", "--allow-empty", "-m", "x"],
    ):
        subprocess.run(["git", *words], cwd=project, check=True)
    assert links.main(["--repository", "git"], project) == 0
    assert f"{repository}/blob/trunk/" in cells(project, "01_setup.ipynb")[0]


@pytest.mark.parametrize(
    "text", ["git", "", "chat", "a/b/c", "https://ada:hunter2@example.com/a/b", "a b/c"]
)
def test_what_is_no_repository_is_refused(
    text: str, project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Also where git knows none: the way out is named, a token is not, and nothing is written."""
    assert links.main(["--repository", text], project) == 1
    said = capsys.readouterr().err
    assert "make links REPO=owner/name" in said
    assert "hunter2" not in said
    assert (project / "README.md").read_text() == README


def test_block_for_no_notebook_is_refused(project: Path) -> None:
    text = "<!-- badge 09_none.ipynb --><!-- /badge -->"
    (project / "README.md").write_text(text)
    assert links.main([], project) == 1
    assert (project / "README.md").read_text() == text
