"""The exercises in their notebooks: unsolved they give a hint, solved they praise, also twice.

The wrong answers that learners give are in tests/tutorial/test_checks.py.
"""

import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from IPython.core.interactiveshell import InteractiveShell
from IPython.utils.capture import capture_output
from traitlets.config import Config

import series
from servers import Server

Run = Callable[[str], str]


@pytest.fixture
def run(valkey_server: Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[Run]:
    """Runs a cell in this process, where all is imported; returns its last value as text."""
    monkeypatch.setitem(sys.modules, "__main__", sys.modules["__main__"])
    environment = series.environment(valkey_server.url)
    for name in os.environ.keys() - environment.keys():
        monkeypatch.delenv(name)
    monkeypatch.setenv("MEMORYSTORE_ENDPOINT", valkey_server.url)
    shell = InteractiveShell.instance(config=Config({"HistoryManager": {"enabled": False}}))

    def run(source: str) -> str:
        with capture_output():
            result = shell.run_cell(source)
        result.raise_error()
        return repr(result.result)

    yield run
    InteractiveShell.clear_instance()


@pytest.mark.timeout(300)
@pytest.mark.parametrize("path", series.PATHS, ids=lambda path: path.stem)
def test_exercises(path: Path, run: Run) -> None:
    book = series.load(path)
    tasks = {exercise.task: exercise for exercise in series.exercises(book)}
    problems = []
    for place, cell in enumerate(book.cells):
        if cell.cell_type != "code":
            continue
        run(cell.source)
        if (exercise := tasks.get(place)) is None:
            continue
        check = book.cells[place + 1].source
        said = run(check)
        if not said.startswith("Not solved yet:") or "\nHint: " not in said:
            problems.append(f"{exercise.title}: unsolved\n-> {said}")
        for _ in range(2):
            run(exercise.solution)
            if not (said := run(check)).startswith("Solved."):
                problems.append(f"{exercise.title}: the solution\n-> {said}")
    assert problems == []
