"""tools/check.py: every step runs, the last line is the sum, the exit status is the result."""

import os
import signal
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

import check
import series
from counting import Counts


@pytest.fixture(autouse=True)
def no_endpoint(monkeypatch: pytest.MonkeyPatch) -> None:
    """check.main() takes the endpoint out of the environment; give it back afterwards."""
    monkeypatch.delenv("MEMORYSTORE_ENDPOINT", raising=False)
    monkeypatch.delenv("GOOGLE_CLOUD_PROJECT", raising=False)


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
    monkeypatch.setattr(check, "notebook_steps", lambda: steps(*results))
    assert check.main(["notebooks"]) == status
    printed = capsys.readouterr().out
    assert printed.endswith(f"\n{last}\n")
    assert [line.split()[0] for line in printed.splitlines() if " s  " in line] == [
        "FAILED" if counts.failed else "ok" for counts in results
    ]


def test_pytest_arguments_are_handed_on(monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[Sequence[str]] = []

    def run_pytest(arguments: Sequence[str]) -> Counts:
        given.append(arguments)
        return Counts(1)

    monkeypatch.setattr(check, "run_pytest", run_pytest)
    assert check.main(["tests", "--pytest", "-k", "a or b", "-x"]) == 0
    assert given == [["-m", check.UNMARKED, *check.IN_PARALLEL, "-k", "a or b", "-x"]]


def test_unknown_step_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        check.main(["lint", "everything"])
    assert "no step 'everything'; there are: tests, lint, notebooks" in capsys.readouterr().err


def test_missing_redis_fails_in_ci_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.which", lambda _: None)
    monkeypatch.setenv("CI", "false")
    assert check.on_redis(Path("a.ipynb")) == Counts(skipped=1)
    monkeypatch.setenv("CI", "true")
    assert check.on_redis(Path("a.ipynb")) == Counts(failed=1)


def test_each_notebook_runs_on_every_server(monkeypatch: pytest.MonkeyPatch) -> None:
    ran = []

    def compare(path: Path, endpoint: str | None, _: object = ()) -> Counts:
        ran.append(endpoint)
        return Counts(passed=1)

    monkeypatch.setattr(check, "compare", compare)
    monkeypatch.setattr(check, "on_redis", lambda path: compare(path, "redis7"))
    monkeypatch.delenv("MEMORYSTORE_TEST_SERVER", raising=False)
    labels = [label for label, _ in check.notebook_steps()]
    assert labels == [path.name for path in series.PATHS]
    assert check.on_servers(Path("a.ipynb")) == Counts(passed=2)
    monkeypatch.setenv("MEMORYSTORE_TEST_SERVER", "redis://localhost:6379")
    assert check.on_servers(Path("a.ipynb")) == Counts(passed=3)
    assert Counter(ran) == {None: 2, "redis7": 2, "redis://localhost:6379": 1}


def test_comparison_that_dies_is_a_failure(tmp_path: Path) -> None:
    launcher = [sys.executable, "-c", "raise SystemExit(3)"]
    assert check.compare(tmp_path / "absent.ipynb", None, launcher) == Counts(failed=1)


@pytest.mark.parametrize(("status", "counts"), [(0, Counts(passed=1)), (1, Counts(failed=1))])
def test_lint_is_one_check(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    status: int,
    counts: Counts,
) -> None:
    """It passes with exit status 0 only, and what it said is printed under its name."""
    (tmp_path / "pre-commit").write_text(f"#!/bin/sh\necho found\nexit {status}\n")
    (tmp_path / "pre-commit").chmod(0o755)
    monkeypatch.setattr(check, "BIN", tmp_path)
    assert check.lint() == counts
    assert capsys.readouterr().out == "\n==> lint\nfound\n"


def test_interrupt_stops_everything(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """After Ctrl-C no further step runs, and the status says that it was interrupted."""

    def interrupted() -> Counts:
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(1)  # as a command does until it has ended
        return Counts(failed=1)

    later = ("later", lambda: ran.append("a later step"))
    ran: list[str] = []
    monkeypatch.setattr(check, "STEPS_AT_ONCE", 1)
    monkeypatch.setattr(check, "notebook_steps", lambda: [("first", interrupted), later])
    assert check.main(["notebooks"]) == 130
    assert ran == []
    assert capsys.readouterr().err.endswith("Stopped.\n")


@pytest.mark.parametrize("found", [None, "/usr/bin/redis-server"])
def test_summary_says_what_was_left_out(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], found: str | None
) -> None:
    """Without redis-server the summary has the number left out, why, and what brings it."""
    monkeypatch.setattr("shutil.which", lambda _: found)
    monkeypatch.setattr(check, "notebook_steps", lambda: steps(Counts(3), Counts(0, 0, 7)))
    assert check.main(["notebooks"]) == 0
    printed = capsys.readouterr().out
    assert ("Left out: 7 checks" in printed) == (found is None)
    assert ("apt-get install redis-server (macOS: brew install redis)" in printed) == (not found)
    assert printed.endswith("\n3 passed, 0 failed, 7 skipped\n")
