"""The package as a whole: its public names, what importing it brings, its wheel, its pins."""

import json
import os
import re
import subprocess
import sys
import tomllib
import zipfile
from importlib import import_module
from itertools import chain
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from memorystore_chat import embedded

ROOT = Path(__file__).resolve().parents[2]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
PUBLIC = {
    "memorystore_chat": {
        "ConnectError", "CorruptHistoryError", "Endpoint", "EndpointError",
        "MemorystoreChatError", "MemorystoreChatMessageHistory", "connect", "connect_async",
        "sessions",
    },
    "memorystore_chat.agents": {"ChatHistoryMiddleware"},
    "memorystore_chat.checkpoint": {"MemorystoreSaver", "ThreadInfo"},
    "memorystore_chat.connection": {
        "Endpoint", "IamCredentials", "connect", "connect_async", "discover",
    },
    "memorystore_chat.store": {"MemorystoreStore"},
    "memorystore_tutorial": {
        "DemoChatModel", "chat_box", "chat_model", "checkpoint_chain", "checks",
        "detect_environment", "failover", "key_prefix", "new_process", "picture", "practice",
        "sessions_table", "sign_in", "table", "transcript",
    },
}  # fmt: skip
# What importing loads where no connection may be opened.
IMPORT = """
import json, socket, sys
import redis, redis.asyncio, langchain_core.messages, langchain_core.chat_history
import langchain_core.load, pydantic
before = set(sys.modules)
def refuse(*_, **__): raise AssertionError("a connection was opened")
socket.socket.connect = refuse
import memorystore_chat
print(json.dumps(list(set(sys.modules) - before)))
"""


def test_public_names() -> None:
    """The public names are these, sorted, and each is there; a name more is a decision."""
    for module, names in PUBLIC.items():
        imported = import_module(module)
        assert list(imported.__all__) == sorted(names)
        assert all(hasattr(imported, name) for name in names)


def test_import_is_light_and_silent(tmp_path: Path) -> None:
    """It opens no connection, writes no file, and loads no optional library."""
    environment = {"PATH": os.environ["PATH"], "HOME": str(tmp_path)}
    environment["MEMORYSTORE_ENDPOINT"] = "http://not an endpoint:99999"
    environment["PYTHONPATH"] = str(ROOT / "helpers")
    loaded = set(
        json.loads(subprocess.check_output([sys.executable, "-c", IMPORT], env=environment))
    )
    assert list(tmp_path.iterdir()) == []
    foreign = {name.partition(".")[0] for name in loaded} - sys.stdlib_module_names
    assert foreign <= {"memorystore_chat", "pydantic"}
    assert not loaded & {"memorystore_chat.agents", "memorystore_chat.embedded.launcher"}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What is in the wheel, built without the network."""
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder)]
    subprocess.run([*command, str(ROOT)], check=True, capture_output=True, timeout=100)
    [path] = folder.glob("*.whl")
    with zipfile.ZipFile(path) as archive:
        archive.extractall(folder / "all")
    return folder / "all"


def test_wheel_holds_the_packages_and_the_web_app(wheel: Path) -> None:
    """Two packages, and the app, of which notebook 10 takes a copy."""
    listed = subprocess.check_output(["git", "ls-files", "app"], cwd=ROOT, text=True)
    expected = {
        str(path.relative_to(ROOT / "helpers"))
        for path in ROOT.glob("helpers/memorystore_*/**/*")
        if path.suffix in {".py", ".lua", ".typed", ".png", ".txt"}
    } | {f"memorystore_tutorial/{name}" for name in listed.splitlines()}
    packed = {str(path.relative_to(wheel)) for path in wheel.rglob("*") if path.is_file()}
    assert {name for name in packed if ".dist-info/" not in name} == expected


def test_readme_on_the_package_index_has_no_relative_link(wheel: Path) -> None:
    [metadata] = wheel.glob("*.dist-info/METADATA")
    text = metadata.read_text(encoding="utf-8").partition("\n\n")[2]
    targets = ["".join(pair) for pair in re.findall(r"\]\(([^)]+)\)|src=\"([^\"]+)\"", text)]
    assert targets
    assert [target for target in targets if not target.startswith(("https://", "#"))] == []


@pytest.mark.parametrize(
    ("file", "said"),
    [
        ("README.md", "['My name is Ada.', 'Nice to meet you, Ada.']"),
        ("tools/smoke.py", "A conversation was stored, read back and deleted."),
    ],
)
def test_wheel_works_where_it_is_installed(
    wheel: Path, tmp_path: Path, file: str, said: str
) -> None:
    """README's application, as printed, and the smoke test, with the embedded server."""
    script = (ROOT / file).read_text(encoding="utf-8")
    if file == "README.md":
        [script] = re.findall(r"^```python\n(.+?)^```$", script, re.MULTILINE | re.DOTALL)
    where = "import memorystore_chat; print(memorystore_chat.__file__)"
    # PYTHONPATH comes before the editable install.
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(wheel)}
    environment["MEMORYSTORE_EMBEDDED_DIR"] = str(tmp_path / "data")
    command = [sys.executable, "-c", f"{where}\n{script}"]
    try:
        printed = subprocess.check_output(command, env=environment, cwd=wheel, text=True)
    finally:
        embedded.stop(tmp_path / "data")
    first, *_, last = printed.splitlines()
    assert (first, last) == (str(wheel / "memorystore_chat/__init__.py"), said)


def test_pins_satisfy_pyproject() -> None:
    """Each requirement in pyproject.toml is pinned to a version that satisfies it: `make lock`.

    requirements.txt holds plain pins: no address, no path, no range.
    """
    pins: dict[str, list[str]] = {}  # more than one under markers
    for line in (ROOT / "requirements.txt").read_text(encoding="utf-8").splitlines():
        if line.startswith("#"):
            assert not re.search(r"[/@]|https?:|--index", line)
            continue
        pin = Requirement(line)
        [specifier] = pin.specifier
        assert (specifier.operator, pin.url) == ("==", None)
        pins.setdefault(pin.name, []).append(specifier.version)
    project = PYPROJECT["project"]
    texts = [*project["dependencies"], *chain(*project["optional-dependencies"].values())]
    for requirement in map(Requirement, texts):
        if requirement.name != project["name"]:
            versions = pins[requirement.name]
            assert all(version in requirement.specifier for version in versions), requirement
