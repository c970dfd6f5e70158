"""The tools behind make: every step runs and adds up, and the app starts."""

import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from unittest.mock import Mock

import httpx
import pytest

import check
import servers
from jupyter_page import started
from run_notebooks import ROOT

SHORT = Counter(passed=3, skipped=1)


@pytest.mark.parametrize(
    ("results", "status", "last"),
    [
        (
            [Counter(passed=3), Counter(passed=1, failed=2), SHORT],
            1,
            "7 passed, 2 failed, 1 skipped",
        ),
        ([Counter(passed=3), SHORT], 0, "6 passed, 0 failed, 1 skipped"),
        ([Counter(passed=3)], 0, "3 passed, 0 failed"),
    ],
)
def test_closing_line_adds_up(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    results: list[Counter[str]],
    status: int,
    last: str,
) -> None:
    """A failing step hides none of the others; their sum stands alone on the last line."""
    steps = [(f"step {number}", lambda c=counts: c) for number, counts in enumerate(results)]
    monkeypatch.setattr("shutil.which", lambda _: None)
    monkeypatch.setattr(check, "notebook_steps", lambda: steps)
    assert check.main(["notebooks"]) == status
    printed = capsys.readouterr().out
    assert printed.endswith(f"\n{last}\n")
    assert printed.count("\nFAILED ") == bool(status)
    assert ("apt-get install redis-server" in printed) == (SHORT in results)


def test_pytest_arguments_are_handed_on(monkeypatch: pytest.MonkeyPatch) -> None:
    run = Mock(return_value=Counter(passed=1))
    monkeypatch.setattr(check, "run_pytest", run)
    assert check.main(["tests", "--pytest", "-k", "a or b", "-x"]) == 0
    run.assert_called_once_with(["-m", check.UNMARKED, *check.IN_PARALLEL, "-k", "a or b", "-x"])
    with pytest.raises(SystemExit, match="2"):
        check.main(["lint", "everything"])


@pytest.mark.parametrize("found", [None, "/redis-server"])
def test_every_notebook_runs_once_and_some_on_redis(
    monkeypatch: pytest.MonkeyPatch, found: str | None
) -> None:
    """Where there is no redis-server, those run on Valkey as well."""
    monkeypatch.setattr("shutil.which", lambda _: found)
    monkeypatch.delenv("MEMORYSTORE_TEST_SERVER", raising=False)
    names = {path.stem for path in (ROOT / "notebooks").glob("*.ipynb")}
    ran = {
        start: [path.stem for path in paths]
        for _, job in check.notebook_steps()
        for paths, start in [job.args]  # type: ignore[attr-defined]
    }
    on_redis = set(check.ON_REDIS) if found else set()
    assert set(ran.pop(servers.redis7, [])) == on_redis
    assert set(ran.pop(servers.valkey)) == names - on_redis
    assert ran == {}
    monkeypatch.setenv("MEMORYSTORE_TEST_SERVER", "redis://localhost:6379")
    *_, (label, job) = check.notebook_steps()
    assert label.endswith("redis://localhost:6379")
    assert len(job.args[0]) == len(names)  # type: ignore[attr-defined]


def test_what_dies_is_a_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "pre-commit").write_text("#!/bin/sh\nexit 1\n")
    (tmp_path / "pre-commit").chmod(0o755)
    monkeypatch.setattr(check, "BIN", tmp_path)
    assert check.lint() == Counter(failed=1)
    nothing = ["-c", os.devnull, str(tmp_path / "pre-commit")]
    counts = check.run_pytest(nothing, "nothing", PYTEST_DISABLE_PLUGIN_AUTOLOAD="1")
    assert counts == Counter(failed=1)


def test_interrupt_stops_everything(monkeypatch: pytest.MonkeyPatch) -> None:
    """After Ctrl-C the status says that it was interrupted."""

    def interrupted() -> Counter[str]:
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.2)  # as a command does until it has ended
        return Counter(failed=1)

    monkeypatch.setattr(check, "notebook_steps", lambda: [("first", interrupted)])
    assert check.main(["notebooks"]) == 130


@pytest.mark.timeout(300)
def test_app(tmp_path: Path) -> None:
    """`make app` says where it answers; a second one says what has the port, and ends."""
    port = servers.free_port()
    with servers.valkey() as server:
        settings = {"MEMORYSTORE_ENDPOINT": server.url, "KEY_PREFIX": "test-make-app:"}
        with started(tmp_path, f"PORT={port}", target="app", **settings) as (_, lines):
            assert lines[0].split() == ["Server", server.url]
            assert lines[2].split() == ["Open", f"http://127.0.0.1:{port}"]
            transport = httpx.HTTPTransport(retries=10)  # until it listens
            with httpx.Client(transport=transport) as client:
                assert client.get(f"http://127.0.0.1:{port}/healthz").status_code == 200
            program = [sys.executable, str(ROOT / "tools/run_app.py")]
            own = os.environ | settings | {"PORT": str(port)}
            second = subprocess.run(program, env=own, capture_output=True, text=True, timeout=60)
    assert second.returncode == 1
    assert f"Port {port} is not free" in second.stderr
    assert "app/main.py (process " in second.stderr
