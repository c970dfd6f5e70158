"""Measures the chat history, the checkpointer, and the store beside their peers.

It writes bench/results.json, results.md, turn.png and checkpoints.png.

Everything runs on this machine: the embedded Valkey over TCP, directly and through a proxy that
adds a delay to each round trip.

Usage: make bench [BENCH_ARGS="--quick --only-store"]
"""

import argparse
import json
import tempfile
from functools import partial
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
from report import LENGTHS
from timing import by_length, link, medians, seconds, short

HERE = Path(__file__).resolve().parent
LINKS = {"0 ms": 0.0, "1 ms": 0.001, "20 ms": 0.020}
SINGLES = {0.0: 1000, 0.001: 200, 0.020: 20}
RUNS = {0.0: 11, 0.001: 5, 0.020: 5}


def measure_turns(server: servers.Server, port: int, delay: float, runs: int) -> dict[str, Any]:
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

    tasks: dict[str, Any] = {}
    with server.client() as direct, server.client(port=port) as client:
        for length in LENGTHS:
            for name in NAMES:
                store = Store(name, client, direct, f"turn-{name}-{length}")
                store.fill(conversation(length))
                store.prepare(turn)
                slow = name in (OFFICIAL, COMMUNITY) and length >= 1000
                tasks[f"{length} {name}"] = partial(
                    turns, store, length, 3 if slow or delay else 60
                )
        figures = medians(tasks, runs)
        direct.flushall()
    return by_length("turn", figures, LENGTHS, NAMES)


def measure_bulk(server: servers.Server, port: int, delay: float, runs: int) -> dict[str, Any]:
    """1,000 appended one by one and in one batch, and 1,000 read; all in ms per 1,000."""
    result: dict[str, Any] = {}

    def append(store: Store, messages: list[Any], size: int) -> float:
        direct.unlink(store.key)
        parts = [messages[start : start + size] for start in range(0, len(messages), size)]
        for part in parts:
            store.prepare(part)

        def append_all() -> None:
            for part in parts:
                store.append(part)

        return seconds(append_all) * 1000 / len(messages)

    with server.client() as direct, server.client(port=port) as client:
        stores = {name: Store(name, client, direct, f"bulk-{name}") for name in NAMES}
        single = conversation(SINGLES[delay])
        # A peer's batch is one or two commands a message; on a slow link a part of it says it all.
        batches = {
            name: conversation(100 if delay and name in (OFFICIAL, COMMUNITY) else 1000)
            for name in NAMES
        }
        tasks: dict[str, Any] = {
            "one by one": {n: partial(append, each, single, 1) for n, each in stores.items()},
            "batch": {n: partial(append, each, batches[n], 1000) for n, each in stores.items()},
            "read": {n: partial(seconds, each.read) for n, each in stores.items()},
        }
        dicts = [plain(element) for element in codec.encode(conversation(1000), "x")]
        alone = partial(seconds, partial(messages_from_dict, dicts))
        tasks["read"]["messages_from_dict alone"] = alone
        for task, each in tasks.items():
            for store in stores.values():
                store.fill(conversation(1000))
            result[task] = medians(each, 2 * runs + 1 if task == "read" else runs)
            print(f"  {task}: {short(result[task])}", flush=True)
        direct.flushall()
    return result


def measure_sizes(server: servers.Server) -> dict[str, Any]:
    """Bytes on the server per message, and round trips per turn counted on the wire."""
    result: dict[str, Any] = {"bytes": {}, "round_trips": {}}
    messages, turn = conversation(1000), conversation(2)
    with server.client() as direct, Proxy(server.host, server.port) as proxy:
        for name in NAMES:
            with server.client(port=proxy.port) as client:
                store = Store(name, client, direct, f"size-{name}")
                for part in (messages, turn):
                    store.prepare(part)
                store.append(messages)
                used = direct.memory_usage(store.key, samples=0)
                result["bytes"][name] = round(used / len(messages), 1)
                proxy.reset()
                store.read(WINDOW)
                store.append(turn)
                result["round_trips"][name] = proxy.round_trips
        direct.flushall()
    return result


def measure_store(server: servers.Server, runs: int) -> dict[str, Any]:
    """Long-term memory: on the wire, by meaning, and among many namespaces."""
    print("long-term memory", flush=True)
    return {
        "wire": store.measure_wire(server),
        "meaning": store.measure_meaning(server, runs),
        "scale": store.measure_scale(server, runs),
    }


def measure_all(server: servers.Server, *, quick: bool) -> dict[str, Any]:
    """Everything; quickly means without a delay, with three runs and 50 turns of an agent."""
    results: dict[str, Any] = {"machine": report.machine(), "links": {}}
    for name, delay in [*LINKS.items()][: 1 if quick else None]:
        print(f"link with {name} added", flush=True)
        runs = 3 if quick else RUNS[delay]
        with link(server.port, delay) as port:
            results["links"][name] = {
                "turn": measure_turns(server, port, delay, runs),
                **measure_bulk(server, port, delay, runs),
            }
            if name in checkpointers.LINKS:
                runs = 3 if quick else checkpointers.RUNS
                results["links"][name]["agent"] = checkpointers.measure_turns(server, port, runs)
    results["sizes"] = measure_sizes(server)
    print("agents", flush=True)
    turns = [turns for turns in checkpointers.TURNS if turns <= 50 or not quick]
    results["agents"] = {
        "wire": checkpointers.measure_wire(server),
        "stored": checkpointers.measure_stored(turns),
    }
    results["store"] = measure_store(server, 3 if quick else RUNS[0.0])
    print("faults", flush=True)
    results["faults"] = faults.measure(server)
    return results


def main() -> None:
    """Measure and write the results."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="only without a delay, three runs")
    parser.add_argument("--only-store", action="store_true", help="only long-term memory, anew")
    options = parser.parse_args()
    # Figures of three runs are not for committing.
    output = Path(tempfile.mkdtemp(prefix="memorystore-chat-bench-")) if options.quick else HERE
    load_peers()
    with servers.valkey() as server:
        if options.only_store:
            results: dict[str, Any] = json.loads((HERE / "results.json").read_text())
            results["store"] = measure_store(server, 3 if options.quick else RUNS[0.0])
        else:
            results = measure_all(server, quick=options.quick)
    (output / "results.json").write_text(json.dumps(results, indent=1) + "\n")
    report.write(results, output)
    print(f"Written to {output}")


if __name__ == "__main__":
    main()
