"""Measures the chat history, the checkpointer, and the store beside their peers.

It writes bench/results.json, results.md, turn.png and checkpoints.png.

Everything runs on this machine: the embedded Valkey over TCP, directly and through a proxy that
adds a delay to each round trip.

Usage: make bench [BENCH_ARGS=--quick]
"""

import argparse
import json
import tempfile
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

from langchain_core.messages import messages_from_dict

import checkpointers
import faults
import report
import servers
import store
from memorystore_chat import codec
from peers import COMMUNITY, NAMES, OFFICIAL, WINDOW, Store, conversation, load_peers, plain
from proxy import Proxy
from report import ALONE, LENGTHS
from timing import Rows, link, medians, seconds

HERE = Path(__file__).resolve().parent
LINKS = {"0 ms": 0.0, "1 ms": 0.001, "20 ms": 0.020}
SINGLES = {0.0: 1000, 0.001: 200, 0.020: 20}
RUNS = {0.0: 11, 0.001: 5, 0.020: 5}


def measure_turns(server: servers.Server, port: int, delay: float, runs: int) -> Rows:
    """One turn: read the newest 20, append a question and its answer, set the expiry."""
    turn = conversation(2)

    def turns(store: Store, length: int, repeat: int) -> float:
        def take_turn() -> None:
            store.read(WINDOW)
            store.append(turn)

        spent = 0.0
        for _ in range(repeat):
            spent += seconds(take_turn)
            store.trim(length)
        return spent / repeat

    tasks: dict[tuple[str, str], Any] = {}
    with server.client() as direct, server.client(port=port) as client:
        for length, name in product(LENGTHS, NAMES):
            store = Store(name, client, direct, f"turn-{name}-{length}")
            store.fill(conversation(length))
            slow = delay or (name in (OFFICIAL, COMMUNITY) and length >= 1000)
            tasks[name, f"{length:,}"] = partial(turns, store, length, 3 if slow else 60)
        found = medians(tasks, runs)
        direct.flushall()
    return found


def measure_bulk(server: servers.Server, port: int, delay: float, runs: int) -> Rows:
    """1,000 appended one by one and in one batch, and 1,000 read; all in ms per 1,000."""
    thousand, single = conversation(1000), conversation(SINGLES[delay])

    def append(store: Store, messages: list[Any], size: int) -> float:
        direct.unlink(store.key)

        def append_all() -> None:
            for start in range(0, len(messages), size):
                store.append(messages[start : start + size])

        return seconds(append_all) * 1000 / len(messages)

    def read(store: Store) -> float:
        store.fill(thousand)
        return seconds(store.read)

    tasks: dict[tuple[str, str], Any] = {}
    with server.client() as direct, server.client(port=port) as client:
        for name in NAMES:
            store = Store(name, client, direct, f"bulk-{name}")
            # A peer's batch is one or two commands a message; on a slow link a part says it all.
            batch = thousand[:100] if delay and name in (OFFICIAL, COMMUNITY) else thousand
            tasks[name, "one by one"] = partial(append, store, single, 1)
            tasks[name, "batch"] = partial(append, store, batch, 1000)
            tasks[name, "read"] = partial(read, store)
        dicts = [plain(element) for element in codec.encode(thousand, "x")]
        tasks[ALONE, "read"] = partial(seconds, partial(messages_from_dict, dicts))
        found = medians(tasks, runs)
        direct.flushall()
    return found


def measure_sizes(server: servers.Server) -> tuple[Rows, Rows]:
    """Bytes on the server per message, and round trips per turn counted on the wire."""
    sizes, trips = Rows(), Rows()
    with server.client() as direct, Proxy(server.host, server.port) as proxy:
        for name in NAMES:
            with server.client(port=proxy.port) as client:
                store = Store(name, client, direct, f"size-{name}")
                store.append(conversation(1000))
                sizes[name] = {
                    "bytes each": (direct.memory_usage(store.key, samples=0) or 0) // 1000
                }
                proxy.reset()
                store.read(WINDOW)
                store.append(conversation(2))
                trips[name] = {"round trips": proxy.round_trips}
        direct.flushall()
    return sizes, trips


def measure_all(server: servers.Server, *, quick: bool) -> dict[str, Any]:
    """Everything; quickly means without a delay, with three runs and 50 turns of an agent."""
    results: dict[str, Any] = {"machine": report.machine(), "links": {}}
    for name, delay in [*LINKS.items()][: 1 if quick else None]:
        print(f"link with {name} added", flush=True)
        runs = 3 if quick else RUNS[delay]
        with link(server.port, delay) as port:
            results["links"][name] = {
                "turn": measure_turns(server, port, delay, runs),
                "bulk": measure_bulk(server, port, delay, runs),
            }
            if name in checkpointers.LINKS:
                runs = 3 if quick else checkpointers.RUNS
                results["links"][name]["agent"] = checkpointers.measure_turns(server, port, runs)
    results["sizes"], results["trips"] = measure_sizes(server)
    print("agents", flush=True)
    turns = [turns for turns in checkpointers.TURNS if turns <= 50 or not quick]
    results["wire"] = checkpointers.measure_wire(server)
    results["stored"] = checkpointers.measure_stored(turns)
    print("long-term memory", flush=True)
    results["store"] = store.measure(server, 3 if quick else RUNS[0.0])
    print("faults", flush=True)
    results["faults"] = faults.measure(server)
    return results


def main() -> None:
    """Measure and write the results."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="only without a delay, three runs")
    options = parser.parse_args()
    # Figures of three runs are not for committing.
    output = Path(tempfile.mkdtemp(prefix="memorystore-chat-bench-")) if options.quick else HERE
    load_peers()
    with servers.valkey() as server:
        results = measure_all(server, quick=options.quick)
    (output / "results.json").write_text(json.dumps(results, indent=1) + "\n")
    report.write(results, output)
    print(f"Written to {output}")


if __name__ == "__main__":
    main()
