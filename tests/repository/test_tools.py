"""The tools behind make: every step runs and adds up, and what keeps a release back."""

import os
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

import check
import counting
import release
import series
from counting import Counts

PROJECT = '[project]\nversion = "0.2.0"\n'


@pytest.fixture(autouse=True)
def no_endpoint(monkeypatch: pytest.MonkeyPatch) -> None:
    """check.main() takes the endpoint out of the environment; give it back afterwards."""
    for name in ("MEMORYSTORE_ENDPOINT", "MEMORYSTORE_TEST_SERVER", "GOOGLE_CLOUD_PROJECT"):
        monkeypatch.delenv(name, raising=False)


def steps(*results: Counts) -> Iterator[check.Step]:
    for number, counts in enumerate(results):
        yield f"step {number}", partial(replace, counts)


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
    monkeypatch.setattr("shutil.which", lambda _: None)
    monkeypatch.setattr(check, "notebook_steps", lambda: steps(*results))
    assert check.main(["notebooks"]) == status
    printed = capsys.readouterr().out
    assert printed.endswith(f"\n{last}\n")
    assert [line.split()[0] for line in printed.splitlines() if " s  " in line] == [
        "FAILED" if counts.failed else "ok" for counts in results
    ]
    assert ("apt-get install redis-server" in printed) == any(c.skipped for c in results)


def test_pytest_arguments_are_handed_on(monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[Sequence[str]] = []

    def run_pytest(arguments: Sequence[str]) -> Counts:
        given.append(arguments)
        return Counts(1)

    monkeypatch.setattr(check, "run_pytest", run_pytest)
    assert check.main(["tests", "--pytest", "-k", "a or b", "-x"]) == 0
    assert given == [["-m", check.UNMARKED, *check.IN_PARALLEL, "-k", "a or b", "-x"]]
    with pytest.raises(SystemExit, match="2"):
        check.main(["lint", "everything"])


def test_each_notebook_runs_on_every_server(monkeypatch: pytest.MonkeyPatch) -> None:
    """The embedded Valkey and redis-server, whose absence fails in CI and is skipped elsewhere."""
    monkeypatch.setattr(check, "compare", lambda *_: Counts(passed=1))
    monkeypatch.setattr("shutil.which", lambda _: None)
    assert [label for label, _ in check.notebook_steps()] == [path.name for path in series.PATHS]
    for ci, redis in (("false", Counts(skipped=1)), ("true", Counts(failed=1))):
        monkeypatch.setenv("CI", ci)
        assert check.on_servers(Path("a.ipynb")) == Counts(passed=1) + redis
    monkeypatch.setenv("MEMORYSTORE_TEST_SERVER", "redis://localhost:6379")
    assert check.on_servers(Path("a.ipynb")) == Counts(passed=2, failed=1)


def test_what_dies_is_a_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    launcher = [sys.executable, "-c", "raise SystemExit(3)"]
    assert check.compare(tmp_path / "absent.ipynb", None, launcher) == Counts(failed=1)
    (tmp_path / "pre-commit").write_text("#!/bin/sh\nexit 1\n")
    (tmp_path / "pre-commit").chmod(0o755)
    monkeypatch.setattr(check, "BIN", tmp_path)
    assert check.lint() == Counts(failed=1)
    plain = dict(os.environ, PYTEST_DISABLE_PLUGIN_AUTOLOAD="1")
    nothing = ["-c", os.devnull, str(tmp_path / "pre-commit")]
    assert counting.run_pytest(nothing, plain) == Counts(failed=1)


def test_interrupt_stops_everything(monkeypatch: pytest.MonkeyPatch) -> None:
    """After Ctrl-C no further step runs, and the status says that it was interrupted."""

    def interrupted() -> Counts:
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(1)  # as a command does until it has ended
        return Counts(failed=1)

    ran: list[str] = []
    later = ("later", lambda: ran.append("a later step"))
    monkeypatch.setattr(check, "STEPS_AT_ONCE", 1)
    monkeypatch.setattr(check, "notebook_steps", lambda: [("first", interrupted), later])
    assert check.main(["notebooks"]) == 130
    assert ran == []


def test_report_of_pytest_is_counted() -> None:
    suite = '<testsuite tests="9" failures="2" errors="1" skipped="3"></testsuite>'
    assert counting.read_report(f"<testsuites>{suite}{suite}</testsuites>") == Counts(6, 6, 6)


@pytest.mark.parametrize(
    ("tag", "changelog", "problems"),
    [
        ("v0.2.0", "## [0.2.0] - 2026-12-01\n", []),
        ("v0.2.1", "## [0.2.0] - 2026-12-01\n", ["the tag is v0.2.1"]),
        ("0.2", "", ["the tag is 0.2", "CHANGELOG.md has no section"]),
    ],
)
def test_tag_must_be_the_version_and_in_the_changelog(
    tag: str, changelog: str, problems: list[str]
) -> None:
    found = release.tag_problems(tag, PROJECT, changelog)
    assert len(found) == len(problems)
    assert all(text.startswith(start) for text, start in zip(found, problems, strict=True))
    assert release.main(["v99"]) == 1
