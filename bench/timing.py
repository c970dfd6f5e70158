"""Wall times, their medians, and links that add a delay."""

import multiprocessing
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from proxy import Proxy

Figures = dict[str, dict[str, Any]]


def seconds(task: Callable[[], object]) -> float:
    """Wall time of one call."""
    start = time.perf_counter()
    task()
    return time.perf_counter() - start


def medians(tasks: Mapping[str, Callable[[], float]], runs: int) -> Figures:
    """Run all tasks in turn, ``runs`` times over after a warm-up; median and all runs, in ms."""
    for task in tasks.values():
        task()
    found: dict[str, list[float]] = {name: [] for name in tasks}
    for _ in range(runs):
        for name, task in tasks.items():
            found[name].append(round(task() * 1000, 4))
    return {
        name: {"median_ms": round(statistics.median(times), 4), "runs_ms": times}
        for name, times in found.items()
    }


def by_length(
    what: str, figures: Figures, lengths: Sequence[int], names: Sequence[str]
) -> dict[str, Figures]:
    """The figures of tasks that are called by a length and a name, in two levels; printed, too."""
    found = {
        str(length): {name: figures[f"{length} {name}"] for name in names} for length in lengths
    }
    for length, each in found.items():
        print(f"  {what} at {length}: {short(each)}", flush=True)
    return found


def _delay(port: int, delay: float, sender: Any) -> None:
    with Proxy("127.0.0.1", port, delay=delay) as proxy:
        sender.send(proxy.port)
        sender.recv()


@contextmanager
def link(port: int, delay: float) -> Iterator[int]:
    """A port that leads to the server, directly or with a delay; the proxy has its own process."""
    if not delay:
        yield port
        return
    ours, theirs = multiprocessing.Pipe()
    context = multiprocessing.get_context("spawn")
    process = context.Process(target=_delay, args=(port, delay, theirs), daemon=True)
    process.start()
    try:
        yield ours.recv()
    finally:
        ours.send(None)
        process.join()


def short(figures: Figures) -> str:
    """The medians in one line."""
    return ", ".join(f"{name} {figure['median_ms']:.2f} ms" for name, figure in figures.items())
