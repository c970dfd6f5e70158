"""Measure sessions.scan, export, load and delete on many sessions, and print a Markdown table.

    python bench/scale_sessions.py [SESSIONS] [MESSAGES]

By default 100,000 sessions of 6 messages, on the embedded Valkey over loopback TCP. Every step
runs in a process of its own; its memory is the growth of that process's peak resident set.
"""

import resource
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from datetime import timedelta
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import redis
from langchain_core.messages import AIMessage, HumanMessage

from memorystore_chat import codec, sessions

sys.path.insert(0, str(Path(__file__).parent.parent / "tests/support"))
import servers

PREFIX = "scale:"


def fill(client: redis.Redis, number: int, messages: int) -> int:
    """Store the sessions, 1,000 to a pipeline."""
    turn = [HumanMessage("What is my favorite color? " * 3), AIMessage("Green. " * 30)]
    for start in range(0, number, 1000):
        with client.pipeline(transaction=False) as pipe:
            for index in range(start, min(start + 1000, number)):
                elements = codec.encode(turn * (messages // 2), codec.new_append_id())
                pipe.rpush(f"{PREFIX}{index:08}", *elements)
                pipe.expire(f"{PREFIX}{index:08}", 86_400)
            pipe.execute()
    return number


def scan(client: redis.Redis) -> int:
    """Count them."""
    return sum(1 for _ in sessions.scan(client, key_prefix=PREFIX))


def export(client: redis.Redis, path: Path) -> int:
    """Write them to a file."""
    return sessions.export(client, path, key_prefix=PREFIX).sessions


def load(client: redis.Redis, path: Path) -> int:
    """Bring them back."""
    report = sessions.load(client, path)
    return report.sessions or report.existing


def delete(client: redis.Redis, idle_for: timedelta | None, dry_run: bool) -> int:
    """Delete them."""
    return sessions.delete(client, key_prefix=PREFIX, idle_for=idle_for, dry_run=dry_run).sessions


def measured(url: str, step: Callable[[redis.Redis], int]) -> tuple[int, float, float]:
    """Run a step: its sessions, seconds, and MB of memory it added to the process."""
    with redis.Redis.from_url(url, protocol=2) as client:
        client.ping()
        codec.decode(codec.encode([HumanMessage("warm up")], "1")[0])
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        begun = time.perf_counter()
        number = step(client)
        seconds = time.perf_counter() - begun
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
        return number, seconds, peak / (1e6 if sys.platform == "darwin" else 1e3)


def main(number: int = 100_000, messages: int = 6) -> None:
    """Run all steps and print the table."""
    with servers.valkey() as server, tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "sessions.jsonl"
        steps: dict[str, Callable[[redis.Redis], int]] = {
            "(fill)": partial(fill, number=number, messages=messages),
            "scan": scan,
            "export": partial(export, path=path),
            "delete, dry run": partial(delete, idle_for=None, dry_run=True),
            "delete by prefix": partial(delete, idle_for=None, dry_run=False),
            "load": partial(load, path=path),
            "load again (nothing to do)": partial(load, path=path),
            "delete by age": partial(delete, idle_for=timedelta(seconds=1), dry_run=False),
        }
        print(f"{number:,} sessions of {messages} messages")
        print()
        print("| step | sessions | seconds | sessions/s | memory added |")
        print("|---|---:|---:|---:|---:|")
        # A new process for each step, so that its peak is its own.
        with ProcessPoolExecutor(1, get_context("spawn"), max_tasks_per_child=1) as pool:
            for name, step in steps.items():
                done, seconds, grown = pool.submit(measured, server.url, step).result()
                print(f"| {name} | {done:,} | {seconds:.1f} | {done / seconds:,.0f} | ", end="")
                print(f"{grown:.0f} MB |", flush=True)
                if name == "export":
                    print(f"| (the file: {path.stat().st_size / 1e6:.0f} MB) | | | | |")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
