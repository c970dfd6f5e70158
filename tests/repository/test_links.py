"""Links to the repository: what is generated, and that the committed files have it."""

import re
import shutil
from pathlib import Path

import nbformat
import pytest

import links

ROOT = Path(__file__).resolve().parents[2]
SERIES = ["01_setup.ipynb", "02_basic_usage.ipynb", "03_cleanup.ipynb"]
PYPROJECT = """\
[project]
name = "memorystore-chat"

[project.urls]
Repository = "https://github.com/your-org/memorystore-chat"
Issues = "https://github.com/your-org/memorystore-chat/issues"
"""
README = """\
# Read me

<!-- badges 01_setup.ipynb -->
<!-- /badges -->

| notebook | open |
|---|---|
| one | <!-- badges 02_basic_usage.ipynb --><!-- /badges --> |

    git clone https://github.com/your-org/memorystore-chat.git

[another project](https://github.com/your-org/memorystore-chat-extras) and
[one more](https://github.com/langchain-ai/langchain)
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A small project: pyproject.toml, README.md and three notebooks with empty blocks."""
    (tmp_path / "pyproject.toml").write_text(PYPROJECT)
    (tmp_path / "README.md").write_text(README)
    (tmp_path / "notebooks").mkdir()
    for name in SERIES:
        cells = [
            nbformat.v4.new_markdown_cell("# Title\n\n<!-- badges -->\n<!-- /badges -->", id="a"),
            nbformat.v4.new_code_cell("pass", metadata={"tags": ["links-install"]}, id="b"),
            nbformat.v4.new_markdown_cell("<!-- navigation --><!-- /navigation -->", id="c"),
            nbformat.v4.new_code_cell(
                'print("https://github.com/your-org/memorystore-chat")', id="d"
            ),
        ]
        book = nbformat.v4.new_notebook(cells=cells)
        (tmp_path / "notebooks" / name).write_text(nbformat.writes(book) + "\n")
    return tmp_path


def read_all(project: Path) -> str:
    paths = [*project.glob("*.*"), *project.glob("notebooks/*.ipynb")]
    return "\n".join(path.read_text() for path in paths)


def test_committed_links_are_current() -> None:
    """Every committed file has the links of pyproject.toml's repository: else run `make links`."""
    repository = links.repository_of((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    assert list(links.rewrite_all(ROOT, repository)) == []


def test_badges_open_the_notebook_everywhere() -> None:
    """The four badges have the addresses that each place expects."""
    row = links.header("01_setup.ipynb", "ada/chat")
    assert re.findall(r"\[([^][!]+)\]", row) == [
        "Open in Colab",
        "Open in Colab Enterprise",
        "Open in Workbench",
        "View on GitHub",
    ]
    assert re.findall(r"\]\((\S+?)\)", row)[1:] == [
        "https://colab.research.google.com/github/ada/chat/blob/main/notebooks/01_setup.ipynb",
        "https://console.cloud.google.com/agent-platform/colab/import/https:%2F%2F"
        "raw.githubusercontent.com%2Fada%2Fchat%2Fmain%2Fnotebooks%2F01_setup.ipynb",
        "https://console.cloud.google.com/agent-platform/workbench/instances?download_url="
        "https://raw.githubusercontent.com/ada/chat/main/notebooks/01_setup.ipynb",
        "https://github.com/ada/chat/blob/main/notebooks/01_setup.ipynb",
    ]


@pytest.mark.parametrize(
    ("name", "labels"),
    [
        (SERIES[0], ["Next: 2. Basic usage, `02_basic_usage.ipynb`"]),
        (
            SERIES[1],
            ["Previous: 1. Setup, `01_setup.ipynb`", "Next: 3. Cleanup, `03_cleanup.ipynb`"],
        ),
        (SERIES[2], ["Previous: 2. Basic usage, `02_basic_usage.ipynb`"]),
    ],
)
def test_navigation(name: str, labels: list[str]) -> None:
    """A notebook names its neighbors and links to them in Colab; the ends have one each."""
    way = links.navigation(name, SERIES, "ada/chat")
    assert re.findall(r"\w+: [^(]+`", way) == labels
    assert way.count("https://colab.research.google.com/github/ada/chat/") == len(labels)


def test_install_cell_does_nothing_where_the_package_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the package installed, the cell runs no command."""
    monkeypatch.setattr("subprocess.run", lambda *_, **__: pytest.fail("pip was called"))
    exec(links.install_cell("ada/chat"), {})


def test_install_cell_installs_from_the_repository(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the package, pip installs it with its extras and keeps what the kernel relies on."""
    calls: list[tuple[list[str], bool]] = []
    installed = "ipython==7.34.0\nprotobuf==5.29.6\nprotobuf-distillation==0.1\nredis==5.0\n"
    monkeypatch.setattr("subprocess.check_output", lambda command, text: installed)
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    monkeypatch.setattr("subprocess.run", lambda command, check: calls.append((command, check)))
    exec(links.install_cell("ada/chat"), {})
    [(command, check)] = calls
    assert check
    assert command[1:] == [
        *("-m", "pip", "install", "--quiet"),
        f"memorystore-chat[{links.EXTRAS}] @ git+https://github.com/ada/chat",
        *("ipython==7.34.0", "protobuf==5.29.6"),
    ]


def test_install_cell_names_extras_that_exist() -> None:
    """Each extra of the install cell is one of pyproject.toml's."""
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    extras = links.tomllib.loads(text)["project"]["optional-dependencies"]
    assert set(links.EXTRAS.split(",")) <= set(extras)


def test_everything_moves_to_another_repository(project: Path) -> None:
    """`make links REPO=` changes every link of this repository, and no other."""
    assert links.main([], project) == 0
    assert links.main(["--repository", "ada/chat"], project) == 0
    text = read_all(project)
    remaining = re.findall(r"your-org\S{1,3}memorystore-chat[\w-]*", text)
    assert remaining == ["your-org/memorystore-chat-extras"]
    assert "github.com/langchain-ai/langchain" in text
    assert "git clone https://github.com/ada/chat.git" in text
    assert 'print(\\"https://github.com/ada/chat\\")' in text
    assert "%2Fada%2Fchat%2Fmain%2F" in text
    assert 'Issues = "https://github.com/ada/chat/issues"' in text


def test_there_and_back_again(project: Path) -> None:
    """Moving to another repository and back leaves every byte as it was."""
    links.main([], project)
    before = read_all(project)
    links.main(["--repository", "https://github.com/ada/chat.git"], project)
    assert read_all(project) != before
    links.main(["--repository", "your-org/memorystore-chat"], project)
    assert read_all(project) == before


def test_second_run_changes_nothing(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Once written, the links are left alone."""
    links.main([], project)
    capsys.readouterr()
    assert links.main([], project) == 0
    assert capsys.readouterr().out == "Every link leads to your-org/memorystore-chat already.\n"


def test_pyproject_alone_moves_the_files(project: Path) -> None:
    """When someone edits pyproject.toml, `make links` brings the other files along."""
    links.main([], project)
    pyproject = project / "pyproject.toml"
    pyproject.write_text(pyproject.read_text().replace("your-org/memorystore-chat", "ada/chat"))
    links.main([], project)
    assert "git clone https://github.com/ada/chat.git" in (project / "README.md").read_text()


def test_block_in_a_table_stays_on_its_line(project: Path) -> None:
    """A block inside a line is written into that line; one that begins a line gets its own."""
    links.main([], project)
    text = (project / "README.md").read_text()
    row = links.header(SERIES[1], "your-org/memorystore-chat")
    assert f"| one | <!-- badges {SERIES[1]} -->{row}<!-- /badges --> |\n" in text
    assert f"<!-- badges {SERIES[0]} -->\n[![Open in Colab]" in text


def test_a_new_notebook_joins_the_series(project: Path) -> None:
    """A fourth notebook becomes the third one's next."""
    links.main([], project)
    shutil.copy(project / "notebooks" / SERIES[2], project / "notebooks" / "04_more.ipynb")
    links.main([], project)
    assert "Next: 4. More, `04_more.ipynb`" in (project / "notebooks" / SERIES[2]).read_text()


def test_block_without_a_notebook_is_refused(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A block that names no existing notebook is an error that quotes it; nothing is written."""
    readme = project / "README.md"
    readme.write_text(readme.read_text().replace(SERIES[1], "09_absent.ipynb"))
    before = read_all(project)
    assert links.main([], project) == 1
    assert "<!-- badges 09_absent.ipynb -->: no notebook '09_absent.ipynb'" in (
        capsys.readouterr().err
    )
    assert read_all(project) == before


@pytest.mark.parametrize("bad", ["", "ada", "ada/chat/x", "https://gitlab.com/ada/chat", "a b/c"])
def test_bad_repository_is_refused(
    bad: str, project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Something that is no GitHub repository is refused with what is accepted."""
    assert links.main(["--repository", bad], project) == 1
    assert f"expected owner/name or https://github.com/owner/name, not {bad!r}" in (
        capsys.readouterr().err
    )


def test_attached_pictures_are_those_of_the_folder(tmp_path: Path) -> None:
    """A picture that a cell shows is attached to it, as it is in the folder now."""
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "dot.png").write_bytes(b"new")
    cell = nbformat.v4.new_markdown_cell("# Look\n\n![A dot](attachment:dot.png)")
    cell.attachments = {"dot.png": {"image/png": "b2xk"}}
    path = tmp_path / "01_look.ipynb"
    nbformat.write(nbformat.v4.new_notebook(cells=[cell]), path)
    text = links.rewrite_notebook(path, "ada/kit", [path.name])
    book = nbformat.reads(text, as_version=4)
    assert book.cells[0].attachments == {"dot.png": {"image/png": "bmV3"}}
