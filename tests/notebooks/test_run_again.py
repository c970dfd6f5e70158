"""Cells run twice, notebooks interrupted and run again, two kernels at once: nothing breaks."""

import asyncio
import random
from pathlib import Path

import pytest
from nbclient.exceptions import CellExecutionError

import series
from servers import Server

pytestmark = [pytest.mark.again, pytest.mark.timeout(400)]
# The last one waits for a lock, a minute a run: every cell twice is enough of it.
TURNS = series.PATHS[:-1]


def each(paths: list[Path]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("path", paths, ids=lambda path: path.stem)


@each(series.PATHS)
async def test_any_cell_may_be_run_twice(path: Path, valkey_server: Server) -> None:
    problems = []
    async with series.kernel(series.load(path), valkey_server.url) as kernel:
        for place, cell in enumerate(kernel.book.cells):
            await kernel.run(place)
            try:
                await kernel.run(place)
            except CellExecutionError as error:
                problems.append(f"cell {place}: {cell.source}\n{error}")
            if any(output.get("name") == "stderr" for output in cell.get("outputs", [])):
                problems.append(f"cell {place} wrote to stderr: {series.text_of(cell)}")
    assert problems == []


@each(TURNS[::2])
async def test_interrupted_notebook_runs_again(path: Path, valkey_server: Server) -> None:
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


@each(TURNS[1::2])
async def test_two_kernels_at_once(path: Path, valkey_server: Server) -> None:
    """Two readers on one server, or one with two windows, see what each would see alone."""
    committed = series.load(path)
    books = await asyncio.gather(*(series.executed(committed, valkey_server.url) for _ in range(2)))
    found = [list(series.differences(book, committed, alone=False)) for book in books]
    assert found == [[], []]
