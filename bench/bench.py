"""Measures the chat history, the checkpointer, and the store beside their peers.

It writes bench/results.json, results.md, turn.png and checkpoints.png.

Everything runs on this machine: the embedded Valkey over TCP, directly and through a proxy that
adds a delay to each round trip.

Usage: make bench [BENCH_ARGS="--quick | --only-faults | --only-store | --only-report"]
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
from peers import COMMUNITY, NAMES, OFFICIAL, Store, conversation, load_peers, plain
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
    tasks: dict[str, Any] = {}
    with server.client() as direct, server.client(port=port) as client:
        for length in LENGTHS:
            for name in NAMES:
                store = Store(name, client, direct, f"turn-{name}-{length}")
                store.fill(conversation(length))
                store.prepare(turn)
                slow = name in (OFFICIAL, COMMUNITY) and length >= 1000
                repeat = 3 if slow or delay else 60

                def one(store: Store = store, length: int = length, repeat: int = repeat) -> float:
                    def take_turn() -> None:
                        store.read_window()
                        store.append(turn)

                    spent = 0.0
                    for _ in range(repeat):
                        spent += seconds(take_turn)
                        store.trim(length)
                    return spent / repeat

                tasks[f"{length} {name}"] = one
        figures = medians(tasks, runs)
        direct.flushall()
    return by_length("turn", figures, LENGTHS, NAMES)


def measure_bulk(server: servers.Server, port: int, delay: float, runs: int) -> dict[str, Any]:
    """1,000 appended one by one and in one batch, and 1,000 read; all in ms per 1,000."""
    single = conversation(SINGLES[delay])
    # A peer's batch is one or two commands a message; on a slow link a part of it says it all.
    batches = {
        name: conversation(100 if delay and name in (OFFICIAL, COMMUNITY) else 1000)
        for name in NAMES
    }
    result: dict[str, Any] = {}
    with server.client() as direct, server.client(port=port) as client:
        stores = {name: Store(name, client, direct, f"bulk-{name}") for name in NAMES}

        def one_by_one(store: Store) -> float:
            direct.unlink(store.key)
            parts = [[message] for message in single]
            for part in parts:
                store.prepare(part)

            def append_all() -> None:
                for part in parts:
                    store.append(part)

            return seconds(append_all) * 1000 / len(single)

        def batch(store: Store) -> float:
            direct.unlink(store.key)
            messages = batches[store.name]
            store.prepare(messages)
            return seconds(lambda: store.append(messages)) * 1000 / len(messages)

        def read(store: Store) -> float:
            return seconds(store.read_all)

        for task, run in (("one by one", one_by_one), ("batch", batch)):
            result[task] = medians(
                {name: partial(run, store) for name, store in stores.items()}, runs
            )
            print(f"  {task}: {short(result[task])}", flush=True)
        for store in stores.values():
            store.fill(conversation(1000))
        dicts = [plain(element) for element in codec.encode(conversation(1000), "x")]
        tasks: dict[str, Any] = {name: partial(read, store) for name, store in stores.items()}
        tasks["messages_from_dict alone"] = lambda: seconds(lambda: messages_from_dict(dicts))
        result["read"] = medians(tasks, 2 * runs + 1)
        print(f"  read: {short(result['read'])}", flush=True)
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
                store.read_window()
                store.append(turn)
                result["round_trips"][name] = proxy.round_trips
        direct.flushall()
    return result


def measure_store(server: servers.Server, runs: int) -> dict[str, Any]:
    """Long-term memory: on the wire, by meaning, and among many namespaces."""
    return {
        "wire": store.measure_wire(server),
        "meaning": store.measure_meaning(server, runs),
        "scale": store.measure_scale(server, runs),
    }


def main() -> None:
    """Measure and write the results."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="only without a delay, three runs")
    parser.add_argument("--only-faults", action="store_true", help="only the exactly-once table")
    parser.add_argument("--only-store", action="store_true", help="only long-term memory, anew")
    parser.add_argument("--output", type=Path, help="by default bench/, a new folder when quick")
    parser.add_argument("--only-report", action="store_true", help="from results.json, again")
    options = parser.parse_args()
    if options.output is None:  # figures of three runs are not for committing
        quick = tempfile.mkdtemp(prefix="memorystore-chat-bench-") if options.quick else None
        options.output = Path(quick or HERE)
    if options.only_report:
        report.write(json.loads((options.output / "results.json").read_text()), options.output)
        return
    load_peers()
    if options.only_store:
        results: dict[str, Any] = json.loads((options.output / "results.json").read_text())
        with servers.valkey() as server:
            results["store"] = measure_store(server, RUNS[0.0])
        (options.output / "results.json").write_text(json.dumps(results, indent=1) + "\n")
        report.write(results, options.output)
        return
    results = {"machine": report.machine(), "links": {}}
    with servers.valkey() as server:
        if not options.only_faults:
            for name, delay in LINKS.items() if not options.quick else [("0 ms", 0.0)]:
                print(f"link with {name} added", flush=True)
                runs = 3 if options.quick else RUNS[delay]
                with link(server.port, delay) as port:
                    results["links"][name] = {
                        "turn": measure_turns(server, port, delay, runs),
                        **measure_bulk(server, port, delay, runs),
                    }
                    if name in checkpointers.LINKS:
                        results["links"][name]["agent"] = checkpointers.measure_turns(
                            server, port, 3 if options.quick else checkpointers.RUNS
                        )
            results["sizes"] = measure_sizes(server)
            print("agents", flush=True)
            results["agents"] = {
                "wire": checkpointers.measure_wire(server),
                "stored": checkpointers.measure_stored(
                    [turns for turns in checkpointers.TURNS if turns <= 50 or not options.quick]
                ),
            }
            print("long-term memory", flush=True)
            results["store"] = measure_store(server, 3 if options.quick else RUNS[0.0])
        print("faults", flush=True)
        results["faults"] = faults.measure(server)
    if options.only_faults:
        return
    options.output.mkdir(exist_ok=True)
    (options.output / "results.json").write_text(json.dumps(results, indent=1) + "\n")
    report.write(results, options.output)
    print(f"Written to {options.output}")


if __name__ == "__main__":
    main()
