"""Links lead somewhere and agree with the notebooks, and tools/links.py leads them away."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

import links
import screenshots
import series

ROOT = Path(__file__).resolve().parents[2]
README = "README.md"
TITLES = {
    path.name: series.load(path).cells[0].source.partition("\n")[0].lstrip("# ")
    for path in series.PATHS
}


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A copy of all files that have links."""
    for path in (path for pattern in links.FILES for path in ROOT.glob(pattern)):
        copy = tmp_path / path.relative_to(ROOT)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, copy)
    return tmp_path


def contents(project: Path) -> dict[str, str]:
    files = [path for path in project.rglob("*") if path.is_file()]
    return {str(path.relative_to(project)): path.read_text(encoding="utf-8") for path in files}


@pytest.mark.parametrize("name", TITLES)
def test_a_notebook_leads_to_itself_and_to_its_neighbors(name: str) -> None:
    """Its first cell opens it in four places; its last one has the links to both sides."""
    names = [*TITLES]
    place = names.index(name)
    first, *_, last = series.load(series.FOLDER / name).cells
    assert re.findall(r"notebooks(?:/|%2F)(\w+\.ipynb)", first.source) == [name] * 4
    around = re.findall(r"\]\((\w+\.ipynb)\) \(\[in Colab\]\(\S+/(\w+\.ipynb)\)", last.source)
    neighbors = names[max(0, place - 1) : place] + names[place + 1 : place + 2]
    assert around == [(each, each) for each in neighbors]


def test_readmes_links_and_pictures() -> None:
    """Each link leads to a heading or a file, each picture has words; a notebook has row and badge.

    The pictures were made from the cells that the first notebook has now: `make screenshots`.
    """
    text = (ROOT / README).read_text(encoding="utf-8")
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    anchors = {"#" + re.sub(r"[^\w\- ]", "", each.lower()).replace(" ", "-") for each in headings}
    found = re.findall(r"\]\(([^)\s]+)\)|(?:href|src)=\"([^\"]+)\"", text)
    own = [a or b for a, b in found if not re.match(r"https?:|mailto:", a or b)]
    assert len(own) > 10
    lost = [target for target in own if not (ROOT / target.partition("#")[0]).is_file()]
    assert set(lost) <= anchors
    images = re.findall(r"<img\b[^>]*>|!\[[^]]*\]", text)
    assert [image for image in images if image == "![]" or re.search(r'alt=""', image)] == []
    assert re.findall(r"^\| \[.+\]\(notebooks/(\w+\.ipynb)\) \|.+$", text, re.M) == [*TITLES]
    assert re.findall(r"<!-- badge (\S+) -->\[!\[Open in Colab\]", text) == [*TITLES]
    made = (ROOT / "docs/_static/tutorial.sha256").read_text().strip()
    assert made == screenshots.shown_code()


def test_links_say_the_title_of_the_notebook_they_lead_to(project: Path) -> None:
    link = re.compile(r"\[(\d+\. [^]]*)\]\([\w.:/-]*?(\d\d_\w+)\.(?:ipynb|html)")
    found = [pair for text in contents(project).values() for pair in link.findall(text)]
    assert len(found) > 30
    assert [(title, n) for title, n in found if TITLES.get(f"{n}.ipynb") != title] == []


def test_fork_gets_all_links_and_gives_them_back(project: Path) -> None:
    """All that led to one repository leads to the other; the way back makes the same files."""
    former = links.read_links(project)
    others = f"https://github.com/{former.repository}-extras"
    with (project / "app/README.md").open("a") as readme:
        readme.write(others)
    before = contents(project)
    new = ["--repository", "ada/x.y", "--branch", "my/dev", "--install", "index"]
    assert links.main(new, project) == 0
    after = contents(project)
    owner, name = former.repository.split("/")
    left = re.compile(rf"{owner}(?:/|%2F|\.github\.io/){name}(?!-extras|[\w-])|@{owner}/")
    assert [file for file, text in after.items() if left.search(text)] == []
    for file, part in (
        ("app/README.md", others),
        ("app/requirements.txt", "\nmemorystore-chat[app,google,google-genai]\n"),
        ("notebooks/10_web_app.ipynb", "github.com/ada/x.y/tree/my/dev/app"),
        ("docs/index.md", 'pip install "memorystore-chat[embedded]"\n'),
        ("docs/llms.txt", "https://ada.github.io/x.y/api"),
        (README, "https://colab.research.google.com/github/ada/x.y/blob/my/dev/notebooks/01_setup"),
        ("notebooks/01_setup.ipynb", "https://raw.githubusercontent.com/ada/x.y/my/dev/notebooks"),
        ("notebooks/01_setup.ipynb", ":%2F%2Fraw.githubusercontent.com%2Fada%2Fx.y%2Fmy%2Fdev%2F"),
        ("notebooks/01_setup.ipynb", r"pip install -q \"memorystore-chat[tutorial]\" ||"),
    ):
        assert part in after[file], file
    assert links.main(["--repository", "ada/x.y", "--install", "git"], project) == 0
    for file, extras in ((README, "embedded"), ("app/requirements.txt", "google-genai")):
        assert f"{extras}] @ git+https://github.com/ada/x.y@my/dev" in contents(project)[file]
    assert links.main(["--repository", former.repository, "--branch", former.branch], project) == 0
    assert contents(project) == before


def test_git_is_asked(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Where it knows no repository on GitHub, the way out is named, and a token is not."""
    subprocess.run(["git", "init", "-q", "-b", "trunk"], cwd=project, check=True)
    for remote, repository in (
        ("https://ada:hunter2@example.com/a/b", None),
        ("git@github.com:ada/chat.git", "ada/chat"),
        ("https://ada:hunter2@github.com/ada/my.chat", "ada/my.chat"),
        ("ssh://git@github.com/ada/one/", "ada/one"),
    ):
        subprocess.run(["git", "config", "remote.origin.url", remote], cwd=project, check=True)
        assert links.main([], project) == (repository is None)
        assert (f"{repository}/blob/trunk/" in (project / README).read_text()) == bool(repository)
        said = capsys.readouterr()
        assert ("make links REPO=owner/name" in said.err) == (repository is None)
        assert "hunter2" not in said.out + said.err
    assert links.main(["--branch", "other"], project) == 0
    assert "ada/one/blob/other/" in (project / README).read_text()
