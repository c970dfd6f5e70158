"""tools/links.py: what is generated, that the committed files have it, and what a fork gets."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

import links

ROOT = Path(__file__).resolve().parents[2]
README = "README.md"


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A copy of all files that have links."""
    names = [*links.TEXTS, *(f"notebooks/{path.name}" for path in ROOT.glob("notebooks/*.ipynb"))]
    for name in names:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    return tmp_path


def contents(project: Path) -> dict[str, str]:
    files = [path for path in project.rglob("*") if path.is_file()]
    return {str(path.relative_to(project)): path.read_text(encoding="utf-8") for path in files}


def test_committed_links_are_current() -> None:
    """Every committed file has the links of pyproject.toml's repository: else run `make links`."""
    assert list(links.rewrite_all(ROOT, links.read_links(ROOT))) == []


def test_fork_gets_all_links_and_gives_them_back(project: Path) -> None:
    """All that led to one repository leads to the other; the way back makes the same files."""
    before = contents(project)
    former = links.read_links(project).repository
    others = "see https://github.com/your-org/memorystore-chat-extras"
    (project / "app/README.md").write_text(f"{before['app/README.md']}\n{others}")
    new = ["--repository", "ada/x.y", "--branch", "dev", "--install", "index"]
    assert links.main(new, project) == 0
    after = contents(project)
    assert after["app/README.md"].endswith(others)
    owner, name = former.split("/")
    left = re.compile(rf"{owner}(?:/|%2F|\.github\.io/){name}(?!-extras|[\w-])|@{owner}/")
    assert [file for file, text in after.items() if left.search(text)] == []
    for file, part in (
        ("pyproject.toml", "https://ada.github.io/x.y/"),
        (README, "[![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)]("
         "https://colab.research.google.com/github/ada/x.y/blob/dev/notebooks/01_setup.ipynb)"),
        (README, '```sh\npip install "memorystore-chat[embedded]"'),
        ("pyproject.toml", 'branch = "dev"'),
        ("pyproject.toml", 'install = "index"'),
        ("notebooks/01_setup.ipynb", "workbench/deploy-notebook?download_url=https://raw."),
        ("notebooks/01_setup.ipynb", "https:%2F%2Fraw.githubusercontent.com%2Fada%2Fx.y%2Fdev"),
        ("notebooks/01_setup.ipynb", r'pip install -q \"memorystore-chat[tutorial]\" ||'),
    ):  # fmt: skip
        assert part in after[file], file
    assert links.main(["--install", "git"], project) == 0
    assert "[embedded] @ git+https://github.com/ada/x.y@dev" in contents(project)[README]
    assert links.main(["--repository", former, "--branch", "main"], project) == 0
    assert contents(project) == before | {"app/README.md": f"{before['app/README.md']}\n{others}"}


def test_a_new_title_reaches_every_link(project: Path) -> None:
    """Those of the neighbors, of README, and of the site."""
    path = project / "notebooks/02_basic_usage.ipynb"
    path.write_text(path.read_text().replace('"# 2. Store', '"# 2. Keep', 1))
    assert links.main([], project) == 0
    changed = [file for file, text in contents(project).items() if "[2. Keep and read" in text]
    assert {README, "notebooks/01_setup.ipynb", "notebooks/03_cleanup.ipynb"} <= set(changed)


def test_check_writes_nothing(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What is out of date is an error; a placeholder is a notice, until a fork has its links."""
    assert links.main(["--check"], project) == 0
    assert capsys.readouterr().out.startswith("::notice::The links lead to the placeholder")
    before = contents(project)
    assert links.main(["--check", "--repository", "ada/chat"], project) == 1
    assert f"::error file={README}::Run make links" in capsys.readouterr().out
    assert contents(project) == before
    links.main(["--repository", "ada/chat"], project)
    capsys.readouterr()
    assert links.main(["--check"], project) == 0
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("remote", "repository"),
    [
        ("git@github.com:ada/chat.git", "ada/chat"),
        ("https://ada:hunter2@github.com/ada/my.chat", "ada/my.chat"),
        ("ssh://git@github.com/ada/chat/", "ada/chat"),
    ],
)
def test_git_is_asked(project: Path, remote: str, repository: str) -> None:
    for words in (["init", "-q", "-b", "trunk"], ["remote", "add", "origin", remote]):
        subprocess.run(["git", *words], cwd=project, check=True)
    assert links.main(["--repository", "git"], project) == 0
    assert f"{repository}/blob/trunk/" in (project / README).read_text()
    assert links.main(["--repository", "git", "--branch", "other"], project) == 0
    assert f"{repository}/blob/other/" in (project / README).read_text()


@pytest.mark.parametrize("text", ["git", "", "a/b/c", "https://ada:hunter2@example.com/a/b"])
def test_what_is_no_repository_is_refused(
    text: str, project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Also where git knows none: the way out is named, a token is not, and nothing is written."""
    before = contents(project)
    assert links.main(["--repository", text], project) == 1
    said = capsys.readouterr().err
    assert "make links REPO=owner/name" in said
    assert "hunter2" not in said
    assert contents(project) == before


def test_block_for_no_notebook_is_refused(project: Path) -> None:
    (project / README).write_text("<!-- badge 09_none.ipynb --><!-- /badge -->")
    before = contents(project)
    assert links.main([], project) == 1
    assert contents(project) == before
