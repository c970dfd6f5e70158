"""The package as a whole: what importing it brings, its types, its wheel, its pins."""

import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from itertools import chain
from pathlib import Path

from packaging.requirements import Requirement

from memorystore_chat import embedded

ROOT = Path(__file__).resolve().parents[2]
# What importing loads that its two dependencies have not loaded.
IMPORT = """
import sys, redis, redis.asyncio, langchain_core.messages, langchain_core.chat_history
import langchain_core.load, pydantic
before = set(sys.modules)
import memorystore_chat
print(*set(sys.modules) - before)
"""


def test_import_is_light_and_silent(tmp_path: Path) -> None:
    """It starts no server, writes no file, and loads no optional library."""
    own = {"HOME": str(tmp_path), "PYTHONPATH": str(ROOT / "helpers")}
    command = [sys.executable, "-c", IMPORT]
    loaded = set(subprocess.check_output(command, env=own, text=True).split())
    assert list(tmp_path.iterdir()) == []
    foreign = {name.partition(".")[0] for name in loaded} - sys.stdlib_module_names
    assert foreign <= {"memorystore_chat", "pydantic"}
    assert not loaded & {"memorystore_chat.agents", "memorystore_chat.embedded.launcher"}


def test_user_code_passes_another_type_checker(tmp_path: Path) -> None:
    """An agent with a memory, in the strictest mode without an ignore; `make lint` has mypy."""
    code = shutil.copy(Path(__file__).with_name("typing_user.py"), tmp_path)
    options = ["--level", "error", "--pythonpath", sys.executable]
    command = [sys.executable, "-m", "basedpyright", *options, code]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr


def test_wheel(tmp_path: Path) -> None:
    """Built without the network, it has two packages, and the app, which notebook 10 copies.

    README on the package index has no relative link. The application in it runs as printed, with
    the embedded server; `make release-check` installs the wheel alone.
    """
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", f"--outdir={tmp_path}"]
    subprocess.run([*build, ROOT], check=True, capture_output=True)
    [path] = tmp_path.glob("*.whl")
    wheel = tmp_path / "all"
    with zipfile.ZipFile(path) as archive:
        archive.extractall(wheel)
    command = ["git", "ls-files", "app", "helpers/memorystore_*"]
    listed = subprocess.check_output(command, cwd=ROOT, text=True)
    listed = re.sub("^app/", "memorystore_tutorial/app/", listed, flags=re.MULTILINE)
    expected = {name.removeprefix("helpers/") for name in listed.splitlines()}
    packed = {str(path.relative_to(wheel)) for path in wheel.rglob("*") if path.is_file()}
    assert {name for name in packed if ".dist-info/" not in name} == expected

    [metadata] = wheel.glob("*.dist-info/METADATA")
    text = metadata.read_text(encoding="utf-8").partition("\n\n")[2]
    targets = ["".join(pair) for pair in re.findall(r"\]\(([^)]+)\)|src=\"([^\"]+)\"", text)]
    assert targets
    assert [target for target in targets if not target.startswith(("https://", "#"))] == []

    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    [script] = re.findall(r"^```python\n(.+?)^```$", readme, re.MULTILINE | re.DOTALL)
    where = "import memorystore_chat; print(memorystore_chat.__file__)"
    # PYTHONPATH comes before the editable install.
    own = {"PYTHONPATH": str(wheel), "MEMORYSTORE_EMBEDDED_DIR": str(tmp_path / "data")}
    command = [sys.executable, "-c", f"{where}\n{script}"]
    try:
        printed = subprocess.check_output(command, env=own, cwd=wheel, text=True).splitlines()
    finally:
        embedded.stop(tmp_path / "data")
    assert printed[0] == str(wheel / "memorystore_chat/__init__.py")
    assert printed[-1] == "['My name is Ada.', 'Nice to meet you, Ada.']"


def test_pins_satisfy_pyproject() -> None:
    """Each requirement in pyproject.toml is pinned to versions that satisfy it: `make lock`."""
    lines = (ROOT / "requirements.txt").read_text(encoding="utf-8").splitlines()
    pins = [Requirement(line) for line in lines if not line.startswith("#")]
    assert [pin for pin in pins if not str(pin.specifier).startswith("==")] == []
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    texts = [*project["dependencies"], *chain(*project["optional-dependencies"].values())]
    for asked in map(Requirement, texts):
        found = [str(pin.specifier).strip("=") for pin in pins if pin.name == asked.name]
        assert found or asked.name == project["name"], asked
        assert all(version in asked.specifier for version in found), asked
