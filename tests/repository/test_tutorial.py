"""`make tutorial`: the working copy of the notebooks, and the start and the end of JupyterLab."""

import os
import re
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_notebook, new_output

import servers
import tutorial
from jupyter_page import started
from memorystore_chat.embedded.server import stop

FIRST = "01_setup.ipynb"


@pytest.fixture(autouse=True)
def jupyter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What Jupyter writes down for the user stays out of the user's folders."""
    monkeypatch.setenv("JUPYTER_DATA_DIR", str(tmp_path / "jupyter"))
    monkeypatch.delenv("JUPYTER_RUNTIME_DIR", raising=False)


def write(path: Path, source: str, output: str = "") -> None:
    outputs = [new_output("stream", text=output)] if output else []
    cell = new_code_cell(source, outputs=outputs, execution_count=1)
    kept = nbformat.read(path, as_version=4).metadata if path.exists() else {}  # as JupyterLab does
    nbformat.write(new_notebook(cells=[cell], metadata=kept), path)


def read(path: Path) -> tuple[str, str]:
    (cell,) = nbformat.read(path, as_version=4).cells
    return cell.source, "".join(output.text for output in cell.outputs)


@pytest.fixture
def series(tmp_path: Path) -> Path:
    (tmp_path / "notebooks").mkdir()
    write(tmp_path / "notebooks" / FIRST, "1", "one")
    return tmp_path / "notebooks"


@pytest.fixture
def copy(series: Path, tmp_path: Path) -> Path:
    """A working copy, which has no outputs."""
    assert tutorial.renew(series, tmp_path / "copy") == []
    assert read(tmp_path / "copy" / FIRST) == ("1", "")
    return tmp_path / "copy"


@pytest.mark.parametrize(
    "case",
    [
        (None, "1 + 1", ("1 + 1", ""), []),
        (("1", "only run"), "", ("1", "only run"), []),
        (("1", "only run"), "1 + 1", ("1 + 1", ""), []),
        (("solved", ""), "", ("solved", ""), []),
        (("solved", ""), "1 + 1", ("solved", ""), [FIRST]),
    ],
)
def test_what_the_reader_wrote_stays(series: Path, copy: Path, case: Any) -> None:
    """A newer version of it is named each time; what was only run is kept until there is one."""
    mine, newer, found, behind = case
    if mine:
        write(copy / FIRST, *mine)
    if newer:
        write(series / FIRST, newer)
    for _ in range(2):
        assert tutorial.renew(series, copy) == behind
    assert read(copy / FIRST) == found


def test_what_comes_and_goes(series: Path, copy: Path) -> None:
    """A notebook that is gone goes from the copy, too, unless it is the reader's own."""
    for name in ("02.ipynb", "03.ipynb", "04.ipynb"):
        write(series / name, "2")
    assert tutorial.renew(series, copy) == []
    own = {FIRST: "", "02.ipynb": "[]", "03.ipynb": '{"metadata": null}', "mine.ipynb": "none"}
    own["04-Copy1.ipynb"] = (copy / "04.ipynb").read_text()
    for name, text in own.items():
        (copy / name).write_text(text)
    for path in series.iterdir():
        path.unlink()
    assert tutorial.renew(series, copy) == []
    assert {path.name: path.read_text() for path in copy.glob("*.ipynb")} == own


def test_fresh_starts_over_and_loses_nothing(series: Path, copy: Path) -> None:
    """Everything is new; what the reader wrote is in a folder beside it."""
    for mine in (("solved", ""), ("1", "only run")):
        write(copy / FIRST, *mine)
        assert tutorial.renew(series, copy, fresh=True) == []
        assert read(copy / FIRST) == ("1", "")
    (kept,) = copy.glob(f"before-*/{FIRST}")
    assert read(kept)[0] == "solved"


@pytest.fixture
def data(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="msc-") as root:  # a socket's path must be short
        monkeypatch.setenv("MEMORYSTORE_EMBEDDED_DIR", f"{root}/data")
        for name in ("MEMORYSTORE_ENDPOINT", "MEMORYSTORE_PASSWORD"):
            monkeypatch.delenv(name, raising=False)
        yield Path(root, "data")
        stop(f"{root}/data")


def address(lines: list[str]) -> str:
    pattern = r"Open +(http\S+/lab/tree/01_setup\.ipynb\?token=\w+)"
    (found,) = filter(None, (re.fullmatch(pattern, line) for line in lines))
    return str(found[1])


def test_two_at_once(tmp_path: Path, data: Path) -> None:
    """Each says three lines and answers, a second one on a folder says where the first is.

    The server ends with the last of them, and git ignores the working copy.
    """
    for name in "ab":
        (tmp_path / name).mkdir()
    with started(tmp_path / "a") as (first, lines):
        assert len(lines) == 3
        assert lines[0] == f"Server  embedded Valkey, which keeps your conversations in {data}"
        assert "@jupyterlab/apputils-extension:announcements" in httpx.get(address(lines)).text
        with started(tmp_path / "a") as (again, others):
            assert again.wait(60) == 0
            assert address(others) == address(lines)
        with started(tmp_path / "b") as (_, others):
            assert address(others) != address(lines)
            assert "jupyter-config-data" in httpx.get(address(others)).text
            os.killpg(first.pid, signal.SIGINT)
            first.wait(60)
            os.kill(int((data / "valkey.pid").read_text()), 0)
    with pytest.raises((ProcessLookupError, FileNotFoundError)):
        os.kill(int((data / "valkey.pid").read_text()), 0)
    ignored = ["git", "check-ignore", "--quiet", f"my-notebooks/{FIRST}"]
    assert subprocess.run(ignored, cwd=tutorial.ROOT).returncode == 0


def test_a_named_server_is_used_and_a_dead_one_said_before_jupyterlab_opens(
    tmp_path: Path,
    data: Path,
    valkey_server: servers.Server,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """In one sentence with the way out, no password in it, and no JupyterLab."""
    monkeypatch.setenv("MEMORYSTORE_ENDPOINT", valkey_server.url)
    assert tutorial.server() == f"{valkey_server.url} (from MEMORYSTORE_ENDPOINT)"
    assert not data.exists()
    monkeypatch.setenv("MEMORYSTORE_ENDPOINT", "redis://:sesame@127.0.0.1:1")
    monkeypatch.setattr(tutorial, "serve", lambda *_, **__: pytest.fail("JupyterLab opens"))
    assert tutorial.main(["--folder", str(tmp_path / "copy")]) == 1
    said = capsys.readouterr().err
    assert "redis://:***@127.0.0.1:1" in said
    assert "Without MEMORYSTORE_ENDPOINT the embedded server is used." in said
    assert "sesame" not in said
