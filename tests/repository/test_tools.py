"""The tools behind make: every step runs and adds up, and the app starts."""

import os
import signal
import subprocess
import sys
import time
from contextlib import nullcontext
from pathlib import Path
from unittest.mock import Mock

import httpx
import pytest

import check
import servers
from check import Counts
from jupyter_page import started
from run_notebooks import ROOT


@pytest.fixture(autouse=True)
def no_endpoint(monkeypatch: pytest.MonkeyPatch) -> None:
    """check.main() takes the endpoint out of the environment; give it back afterwards."""
    for name in ("MEMORYSTORE_ENDPOINT", "MEMORYSTORE_TEST_SERVER", "GOOGLE_CLOUD_PROJECT"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize(
    ("results", "status", "last"),
    [
        ([Counts(3), Counts(1, 2), Counts(5)], 1, "9 passed, 2 failed"),
        ([Counts(3), Counts(0, 0, 1)], 0, "3 passed, 0 failed, 1 skipped"),
    ],
)
def test_closing_line_adds_up(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    results: list[Counts],
    status: int,
    last: str,
) -> None:
    """A failing step hides none of the later ones; their sum stands alone on the last line."""
    steps = [(f"step {number}", lambda c=counts: c) for number, counts in enumerate(results)]
    monkeypatch.setattr("shutil.which", lambda _: None)
    monkeypatch.setattr(check, "notebook_steps", lambda: steps)
    assert check.main(["notebooks"]) == status
    printed = capsys.readouterr().out
    assert printed.endswith(f"\n{last}\n")
    assert printed.count("\nFAILED ") == bool(status)
    assert ("apt-get install redis-server" in printed) == any(c.skipped for c in results)


def test_pytest_arguments_are_handed_on(monkeypatch: pytest.MonkeyPatch) -> None:
    run = Mock(return_value=Counts(1))
    monkeypatch.setattr(check, "run_pytest", run)
    assert check.main(["tests", "--pytest", "-k", "a or b", "-x"]) == 0
    run.assert_called_once_with(["-m", check.UNMARKED, *check.IN_PARALLEL, "-k", "a or b", "-x"])
    with pytest.raises(SystemExit, match="2"):
        check.main(["lint", "everything"])


def test_every_notebook_runs_and_some_on_redis(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where there is no redis-server, those run on Valkey as well."""
    compare = Mock(return_value=Counts(1))
    monkeypatch.setattr(check, "compare", compare)
    monkeypatch.setattr("servers.valkey", lambda: nullcontext(Mock(url="valkey")))
    monkeypatch.setattr("servers.redis7", lambda: nullcontext(Mock(url="redis")))
    names = sorted(path.name for path in (ROOT / "notebooks").glob("*.ipynb"))
    assert sorted(label for label, _ in check.notebook_steps()) == names
    assert {f"{stem}.ipynb" for stem in check.ON_REDIS} < set(names)
    path = Path(f"{check.ON_REDIS[0]}.ipynb")
    for each, found, server in (
        (path, "/redis-server", "redis"),
        (path, None, "valkey"),
        (Path("another.ipynb"), "/redis-server", "valkey"),
    ):
        monkeypatch.setattr("shutil.which", Mock(return_value=found))
        assert check.on_servers(each) == Counts(1)
        compare.assert_called_with(each, server)
    monkeypatch.setenv("MEMORYSTORE_TEST_SERVER", "redis://localhost:6379")
    assert check.on_servers(path) == Counts(2)


def test_what_dies_is_a_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "pre-commit").write_text("#!/bin/sh\nexit 1\n")
    (tmp_path / "pre-commit").chmod(0o755)
    monkeypatch.setattr(check, "BIN", tmp_path)
    assert check.lint() == Counts(failed=1)
    plain = dict(os.environ, PYTEST_DISABLE_PLUGIN_AUTOLOAD="1")
    nothing = ["-c", os.devnull, str(tmp_path / "pre-commit")]
    assert check.run_pytest(nothing, "nothing", plain) == Counts(failed=1)


def test_interrupt_stops_everything(monkeypatch: pytest.MonkeyPatch) -> None:
    """After Ctrl-C no further step runs, and the status says that it was interrupted."""

    def interrupted() -> Counts:
        time.sleep(0.2)  # until the later step waits
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(1)  # as a command does until it has ended
        return Counts(failed=1)

    ran: list[str] = []
    later = ("later", lambda: ran.append("a later step"))
    monkeypatch.setattr(check, "STEPS_AT_ONCE", 1)
    monkeypatch.setattr(check, "notebook_steps", lambda: [("first", interrupted), later])
    assert check.main(["notebooks"]) == 130
    assert ran == []


@pytest.mark.timeout(300)
def test_app(tmp_path: Path) -> None:
    """`make app` says where it answers; a second one says what has the port, and ends."""
    port = servers.free_port()
    with servers.valkey() as server:
        settings = {"MEMORYSTORE_ENDPOINT": server.url, "KEY_PREFIX": "test-make-app:"}
        with started(tmp_path, f"PORT={port}", target="app", **settings) as (_, lines):
            assert lines[0].split() == ["Server", server.url]
            assert lines[2].split() == ["Open", f"http://127.0.0.1:{port}"]
            servers.wait_until(lambda: answers(port), "the app", 60)
            program = [sys.executable, str(ROOT / "tools/run_app.py")]
            own = os.environ | settings | {"PORT": str(port)}
            second = subprocess.run(program, env=own, capture_output=True, text=True, timeout=60)
    assert second.returncode == 1
    assert f"Port {port} is not free" in second.stderr
    assert "app/main.py (process " in second.stderr


def answers(port: int) -> bool:
    try:
        return httpx.get(f"http://127.0.0.1:{port}/healthz").status_code == 200
    except httpx.TransportError:
        return False
