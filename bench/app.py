"""Measure the web app: 200 guests, each with 5 turns, on two replicas with one memory.

Each guest tells a number, and asks for it on the other replica. Nothing may be mixed up or lost,
and what fails ends it: ``PYTHONPATH=helpers:tests/support python bench/app.py [GUESTS]``.
"""

import os
import signal
import statistics
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import servers
from web_app import Replica, Visitor, text_of

TURNS = 5


def visit(urls: list[str], number: int) -> tuple[list[float], list[str]]:
    """Be a guest for five turns; the seconds of each turn, and what was mixed up or lost."""
    guest = Visitor(urls[0])
    guest.http.timeout = 120
    seconds, wrong, known = list[float](), list[str](), dict[str, str]()
    for step in range(TURNS):
        guest.http.base_url = urls[(number + step) % len(urls)]
        began = time.perf_counter()
        text = "What is my name?" if step else f"My name is Guest{number}."
        events = guest.ask(text, **known)
        seconds.append(time.perf_counter() - began)
        known = {"conversation": events[0]["id"]}
        said = text_of(events)
        wrong += [] if f"Guest{number}." in said else [said]
    kinds = [line["type"] for line in guest.shown(**known)["lines"]]
    talk = [kind for kind in kinds if kind != "tool"]
    guest.http.close()
    return seconds, wrong + ([] if talk == ["guest", "concierge"] * TURNS else [str(kinds)])


def main(guests: int) -> int:
    """Print the figures; returns the exit status."""
    os.environ["DEMO_MODEL_DELAY"] = "0.0001"
    with servers.valkey() as server, tempfile.TemporaryDirectory() as folder:
        replicas = [Replica(Path(folder, name), server) for name in "AB"]
        began = time.perf_counter()
        with ThreadPoolExecutor(guests) as threads:
            urls = [replica.url for replica in replicas]
            visits = list(threads.map(partial(visit, urls), range(guests)))
        took = time.perf_counter() - began
        for replica in replicas:
            replica.end(signal.SIGTERM)
    seconds = sorted(second for each, _ in visits for second in each)
    wrong = [each for _, problems in visits for each in problems]
    cuts = statistics.quantiles(seconds, n=100)
    print(f"{guests} guests, {len(seconds)} turns, {len(seconds) / took:.0f} a second")
    print(f"median {cuts[49]:.2f} s, 95 % {cuts[94]:.2f} s, longest {seconds[-1]:.2f} s")
    print(f"mixed up or lost: {len(wrong)} {wrong[:3] or ''}")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]) if len(sys.argv) > 1 else 200))
