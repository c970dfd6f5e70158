"""Cells run twice, exercises solved, notebooks interrupted, two at once: nothing breaks.

The wrong answers that learners give are in tests/tutorial/test_checks.py.
"""

import asyncio
import random
from pathlib import Path

import pytest
from nbclient.exceptions import CellExecutionError

import series
from servers import Server

pytestmark = [pytest.mark.again, pytest.mark.timeout(400)]
# The longest first. It waits for a lock, a minute a run: every cell twice is enough of it.
PATHS = series.PATHS[::-1]


def each(paths: list[Path]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("path", paths, ids=lambda path: path.stem)


@each(PATHS)
async def test_any_cell_may_be_run_twice(path: Path, valkey_server: Server) -> None:
    """Exercises give a hint at first, and praise when they are solved, also twice."""
    problems = []
    async with series.kernel(series.load(path), valkey_server.url) as kernel:
        cells = kernel.book.cells
        checks = {exercise.task + 1: exercise for exercise in series.exercises(kernel.book)}
        for place, cell in enumerate(cells):
            await kernel.run(place)
            try:
                await kernel.run(place)
            except CellExecutionError as error:
                problems.append(f"cell {place}: {cell.source}\n{error}")
            if any(output.get("name") == "stderr" for output in cell.get("outputs", [])):
                problems.append(f"cell {place} wrote to stderr: {series.text_of(cell)}")
            if exercise := checks.get(place):
                said = [series.text_of(cell)]
                cells[exercise.task].source = exercise.solution
                for _ in range(2):
                    await kernel.run(exercise.task)
                    await kernel.run(place)
                    said.append(series.text_of(cell))
                hinted = said[0].startswith("\nNot solved yet:") and "\nHint: " in said[0]
                if not hinted or not all("Solved." in text for text in said[1:]):
                    problems.append(f"{exercise.title}: {said}")
    assert problems == []


class TestDisturbed:
    """Each notebook in one way at most; a class, which xdist gives to another process."""

    @each(PATHS[1::3])
    async def test_interrupted_notebook_runs_again(self, path: Path, valkey_server: Server) -> None:
        """Stopped at a moment of chance, the same kernel runs all of it again, with all as ever."""
        committed = series.load(path)
        async with series.kernel(committed, valkey_server.url) as kernel:
            while not await kernel.interrupted(after := random.uniform(0, 6)):
                pass
            try:
                await kernel.run_all()
            except CellExecutionError as error:
                pytest.fail(f"after an interrupt at {after:.3f} s: {error}")
            found = list(series.differences(kernel.book, committed, again=True, alone=False))
        assert found == [], f"after an interrupt at {after:.3f} s"

    @each(PATHS[2::3])
    async def test_two_kernels_at_once(self, path: Path, valkey_server: Server) -> None:
        """Two readers on one server, or one with two windows, see what each would see alone."""
        committed = series.load(path)

        async def run() -> series.Book:
            async with series.kernel(committed, valkey_server.url) as kernel:
                await kernel.run_all()
            return kernel.book

        books = await asyncio.gather(run(), run())
        found = [list(series.differences(book, committed, alone=False)) for book in books]
        assert found == [[], []]
