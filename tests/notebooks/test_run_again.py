"""Cells run twice, and exercises solved: nothing breaks.

The wrong answers that learners give are in tests/tutorial/test_checks.py.
"""

from pathlib import Path

import pytest
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError

import series
from servers import Server


@pytest.mark.again
@pytest.mark.parametrize("path", series.PATHS[::-1], ids=lambda path: path.stem)  # longest first
def test_any_cell_may_be_run_twice(
    path: Path, valkey_server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Exercises give a hint at first, and praise when they are solved, also twice."""
    monkeypatch.setenv("MEMORYSTORE_ENDPOINT", valkey_server.url)
    monkeypatch.delenv("GOOGLE_CLOUD_PROJECT", raising=False)
    book = series.load(path)
    resources = {"metadata": {"path": str(series.FOLDER)}}
    client = NotebookClient(book, timeout=90, coalesce_streams=True, resources=resources)
    checks = {exercise.task + 1: exercise for exercise in series.exercises(book)}
    problems = []

    def run(place: int) -> None:
        book.cells[place].outputs = []
        client.clear_display_id_mapping(place)
        client.execute_cell(book.cells[place], place)

    with client.setup_kernel():
        for place, cell in enumerate(book.cells):
            if cell.cell_type != "code":
                continue
            run(place)
            try:
                run(place)
            except CellExecutionError as error:
                problems.append(f"cell {place}: {cell.source}\n{error}")
            if any(output.get("name") == "stderr" for output in cell.outputs):
                problems.append(f"cell {place} wrote to stderr: {series.text_of(cell)}")
            if exercise := checks.get(place):
                said = [series.text_of(cell)]
                book.cells[exercise.task].source = exercise.solution
                for _ in range(2):
                    run(exercise.task)
                    run(place)
                    said.append(series.text_of(cell))
                hinted = said[0].startswith("\nNot solved yet:") and "\nHint: " in said[0]
                if not hinted or not all("Solved." in text for text in said[1:]):
                    problems.append(f"{exercise.title}: {said}")
    assert problems == []
