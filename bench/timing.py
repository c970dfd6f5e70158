"""Wall times, their medians, and links that add a delay."""

import multiprocessing
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from typing import Any

from proxy import Proxy

Rows = dict[str, dict[str, Any]]  # a table: row -> column -> value
_proxies: list[Proxy] = []  # of this process; they end with it


def seconds(task: Callable[[], object]) -> float:
    """Wall time of one call."""
    start = time.perf_counter()
    task()
    return time.perf_counter() - start


def medians(tasks: Mapping[tuple[str, str], Callable[[], float]], runs: int) -> Rows:
    """Run all tasks in turn, ``runs`` times over after a warm-up; the medians in ms, printed too.

    Args:
        tasks: A row and a column -> what measures itself in seconds.
        runs: How often each is measured.
    """
    found: dict[tuple[str, str], list[float]] = {place: [] for place in tasks}
    for _ in range(1 + runs):
        for place, task in tasks.items():
            found[place].append(task() * 1000)
    rows: Rows = {}
    for (row, column), times in found.items():
        rows.setdefault(row, {})[column] = round(statistics.median(times[1:]), 4)
    for row, columns in rows.items():
        print(f"  {row}: {columns}", flush=True)
    return rows


def _forward(port: int, delay: float) -> int:
    _proxies.append(Proxy("127.0.0.1", port, delay=delay))
    return _proxies[-1].port


@contextmanager
def link(port: int, delay: float) -> Iterator[int]:
    """A port that leads to the server, directly or with a delay; the proxy has its own process."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as process:
        yield process.submit(_forward, port, delay).result() if delay else port
