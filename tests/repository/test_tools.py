"""The tools behind make: every step runs and adds up, and the app starts."""

import os
import subprocess
import sys
from collections import Counter
from functools import partial
from pathlib import Path
from unittest.mock import Mock

import httpx
import pytest

import check
import release
import servers
from jupyter_page import started
from run_notebooks import ROOT


def test_closing_line_adds_up(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A failing step hides none of the others; where much was skipped, the way out is named."""
    monkeypatch.setattr("shutil.which", lambda _: None)
    tests, notebooks = Mock(return_value=Counter(failed=2)), Counter(passed=3, skipped=1)
    monkeypatch.setattr(check, "run_pytest", tests)
    monkeypatch.setattr(check, "notebook_steps", lambda: [("step", partial(Counter, notebooks))])
    for steps, status, last in (
        (["notebooks"], 0, "3 passed, 0 failed, 1 skipped"),
        (["notebooks", "tests"], 1, "3 passed, 2 failed, 1 skipped"),
        (["tests", "--pytest", "-k", "a or b", "-x"], 1, "0 passed, 2 failed"),
    ):
        assert check.main(steps) == status
        printed = capsys.readouterr().out
        assert printed.endswith(f"\n{last}\n")
        assert printed.count("\nFAILED ") == status
        assert ("apt-get install redis-server" in printed) == ("skipped" in last)
    tests.assert_called_with(["-m", check.UNMARKED, *check.IN_PARALLEL, "-k", "a or b", "-x"])


@pytest.mark.parametrize("external", ["", "redis://localhost:6379"])
@pytest.mark.parametrize("found", [None, "/redis-server"])
def test_every_notebook_runs_once(
    monkeypatch: pytest.MonkeyPatch, found: str | None, external: str
) -> None:
    """Some run on Redis, where there is one, and all once more on a server that is named."""
    monkeypatch.setattr("shutil.which", lambda _: found)
    monkeypatch.setenv("MEMORYSTORE_TEST_SERVER", external)
    compare = Mock()
    monkeypatch.setattr(check, "compare", compare)
    labels = [label for label, job in check.notebook_steps() if job()]
    ran = Counter(path for call in compare.call_args_list for path in call.args[0])
    assert ran == dict.fromkeys((ROOT / "notebooks").glob("*.ipynb"), 2 if external else 1)
    assert ("notebooks on Redis" in labels) == bool(found)


def test_what_dies_is_a_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "pre-commit").symlink_to("/bin/false")
    monkeypatch.setattr(check, "BIN", tmp_path)
    assert check.lint() == Counter(failed=1)
    nothing = ["-c", os.devnull, str(tmp_path / "pre-commit")]
    counts = check.run_pytest(nothing, "nothing", PYTEST_DISABLE_PLUGIN_AUTOLOAD="1")
    assert counts == Counter(failed=1)


@pytest.mark.parametrize(("tag", "lacks"), [("0.2", "version"), ("v0.2.0", "CHANGELOG")])
def test_tag_must_fit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tag: str, lacks: str
) -> None:
    (tmp_path / "pyproject.toml").write_text('[project]\nversion = "0.2.0"')
    (tmp_path / "CHANGELOG.md").write_text("## [Unreleased]")
    monkeypatch.setattr(release, "ROOT", tmp_path)
    with pytest.raises(SystemExit, match=lacks):
        release.main([tag])


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
