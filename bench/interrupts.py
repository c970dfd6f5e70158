"""Interrupt a program with real signals at random times, and count what goes wrong afterwards.

    python bench/interrupts.py [--number 10000] [--plain]

SIGALRM raises KeyboardInterrupt, SystemExit or a job runner's time limit somewhere inside an
append, a read or a pipeline; the next calls must get their own replies. One server and a cluster,
over loopback and with 1 ms of network between. ``--plain`` does the same to clients made with
redis-py alone. Every line is a process of its own, so that one that hangs is only counted.
"""

import argparse
import contextlib
import faulthandler
import json
import random
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import redis
from langchain_core.messages import HumanMessage
from redis.cluster import RedisCluster

from memorystore_chat import MemorystoreChatMessageHistory, connect

sys.path.insert(0, str(Path(__file__).parent.parent / "tests/support"))
import servers
from proxy import Proxy

SESSIONS = [f"session-{number}" for number in range(8)]
HANGS_AFTER = 10
LEAKS_ENOUGH = 3
CONNECTIONS = 20


class TimeLimit(Exception):  # noqa: N818 - named as job runners do
    """What a job runner raises when a job has run for too long."""


REASONS = (KeyboardInterrupt, SystemExit, TimeLimit)


def stop(*_: object) -> None:
    """The handler of the alarm."""
    raise random.choice(REASONS)


def open_client(url: str, plain: bool, ports: dict[str, int]) -> Any:
    """The client under test, with few enough connections that a leak shows."""
    remap: dict[str, Any] = {}
    if ports:
        remap["address_remap"] = lambda place: (place[0], ports.get(str(place[1]), place[1]))
    if not plain:
        return connect(url, timeout=1, max_connections=CONNECTIONS, **remap)
    host, port = url.removeprefix("redis://").split(":")
    pool: dict[str, Any] = {
        "timeout": 1,
        "max_connections": CONNECTIONS,
        "protocol": 2,
        "socket_timeout": 1,
    }
    if connect_is_cluster(url):
        return RedisCluster(url=url, connection_pool_class=redis.BlockingConnectionPool, **pool)
    return redis.Redis.from_pool(redis.BlockingConnectionPool(host=host, port=int(port), **pool))


def connect_is_cluster(url: str) -> bool:
    """Whether a node of a cluster answers there."""
    with redis.Redis.from_url(url, protocol=2) as client:
        return bool(client.info("cluster")["cluster_enabled"])


class Worker:
    """One process: appends, reads and pipelines on a few sessions, interrupted."""

    def __init__(self, client: Any) -> None:
        self.client = client
        self.histories = {
            name: MemorystoreChatMessageHistory(client, name, window=4) for name in SESSIONS
        }
        self.counts: Counter[str] = Counter()
        self.acknowledged: set[str] = set()

    def append(self) -> None:
        """Add a message that names its session."""
        name = random.choice(SESSIONS)
        text = f"{name} {random.getrandbits(64):x}"
        self.histories[name].add_messages([HumanMessage(text)])
        self.acknowledged.add(text)

    def read(self) -> None:
        """Read a session, whose messages must all name it."""
        name = random.choice(SESSIONS)
        messages = self.histories[name].messages
        if not all(str(message.content).startswith(name) for message in messages):
            self.counts["wrong replies"] += 1

    def pipeline(self) -> None:
        """Read several sessions in one round trip."""
        names = random.sample(SESSIONS, 3)
        with self.client.pipeline(transaction=False) as pipe:
            for name in names:
                pipe.lrange(name, -1, -1)
            replies = pipe.execute()
        if not all(name.encode() in reply[0] for name, reply in zip(names, replies, strict=True)):
            self.counts["wrong replies"] += 1

    def run(self, number: int) -> None:
        """Call until so many calls have been interrupted."""
        kinds: list[Callable[[], None]] = [self.append, self.read, self.pipeline]
        for name in SESSIONS:
            self.histories[name].add_messages([HumanMessage(f"{name} {random.getrandbits(64):x}")])
        started = time.perf_counter()
        for index in range(300):
            kinds[index % 3]()
        usual = (time.perf_counter() - started) / 300
        signal.signal(signal.SIGALRM, stop)
        while self.counts["interrupts"] < number and self.counts["leaks"] < LEAKS_ENOUGH:
            faulthandler.dump_traceback_later(HANGS_AFTER, exit=True)
            try:
                self.call(random.choice(kinds), random.uniform(0.02, 1.2) * usual)
            except REASONS:
                self.counts["interrupts"] += 1
            if sum(self.counts.values()) % 50 == 0:
                print(json.dumps(self.counts), flush=True)

    def call(self, kind: Callable[[], None], seconds: float) -> None:
        """Call something, with an alarm after so many seconds; count what it raises by itself."""
        try:
            signal.setitimer(signal.ITIMER_REAL, seconds)
            kind()
        except REASONS:
            raise
        except Exception as error:  # noqa: BLE001 - whatever comes is a figure
            signal.setitimer(signal.ITIMER_REAL, 0)
            what = "leaks" if "onnection available" in str(error.__cause__) else "errors"
            self.counts[what] += 1
            if self.counts[what] == 1:
                print(f"{what}: {error!r} from {error.__cause__!r}", file=sys.stderr)
        signal.setitimer(signal.ITIMER_REAL, 0)

    def check(self) -> None:
        """See that every connection can still be had, and that nothing is lost or doubled."""
        signal.setitimer(signal.ITIMER_REAL, 0)
        if missing := sum(missing_connections(pool, CONNECTIONS) for pool in pools(self.client)):
            self.counts["leaks"] += missing
            return
        stored: Counter[str] = Counter()
        for name in SESSIONS:
            history = MemorystoreChatMessageHistory(self.client, name)
            stored.update(str(message.content) for message in history.messages)
        self.counts["lost"] = len(self.acknowledged - set(stored))
        self.counts["doubled"] = sum(count > 1 for count in stored.values())


def missing_connections(pool: Any, number: int) -> int:
    """How many of a pool's connections cannot be had any more."""
    taken: list[Any] = []
    pool.timeout = 0.2
    for _ in range(number):
        with contextlib.suppress(redis.ConnectionError):
            taken.append(pool.get_connection())
    for connection in taken:
        pool.release(connection)
    return number - len(taken)


def pools(client: Any) -> list[Any]:
    """The pools of one server or of every primary."""
    if isinstance(client, RedisCluster):
        nodes: list[Any] = client.get_primaries()
        return [client.get_redis_connection(node).connection_pool for node in nodes]
    return [client.connection_pool]


def work(url: str, number: int, plain: bool, ports: dict[str, int]) -> None:
    """What a child process does."""
    threading.excepthook = lambda _: None
    worker = Worker(open_client(url, plain, ports))
    worker.run(number)
    faulthandler.dump_traceback_later(6 * HANGS_AFTER, exit=True)
    worker.check()
    print(json.dumps(worker.counts), flush=True)


def attack(url: str, number: int, more: list[str], ports: dict[str, int]) -> Counter[str]:
    """Run children until so many interrupts have been counted; a child that hangs is replaced."""
    total: Counter[str] = Counter()
    while (left := number - total["interrupts"]) > 0 and total["hangs"] + total["leaks"] < 20:
        command = [sys.executable, __file__, "--child", url, "--number", str(left)]
        command += ["--ports", json.dumps(ports), *more]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if "File" not in done.stderr or "Timeout" not in done.stderr:
            print(done.stderr, end="", file=sys.stderr)
        lines = done.stdout.splitlines()
        if lines:
            total.update(json.loads(lines[-1]))
        total["hangs"] += done.returncode != 0
    return total


def main() -> None:
    """Print a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--number", type=int, default=10_000)
    parser.add_argument("--plain", action="store_true")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    parser.add_argument("--ports", default="{}", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        work(options.child, options.number, options.plain, json.loads(options.ports))
        return
    columns = ("interrupts", "wrong replies", "hangs", "leaks", "errors", "lost", "doubled")
    print("| client |", " | ".join(columns), "|\n|---|" + "---:|" * len(columns))
    with (
        servers.valkey() as server,
        Proxy(server.host, server.port, delay=0.001) as far,
        servers.cluster(primaries=3, replicas=0) as cluster,
        contextlib.ExitStack() as ways,
    ):
        remap = {
            str(node.port): ways.enter_context(Proxy(node.host, node.port, delay=0.001)).port
            for node in cluster.nodes
        }
        for name, url, ports in (
            ("one server, 0 ms", server.url, {}),
            ("one server, 1 ms", f"redis://127.0.0.1:{far.port}", {}),
            ("cluster, 0 ms", cluster.url, {}),
            ("cluster, 1 ms", f"redis://127.0.0.1:{remap[str(cluster.nodes[0].port)]}", remap),
        ):
            counts = attack(url, options.number, ["--plain"] * options.plain, ports)
            print(f"| {name} |", " | ".join(str(counts[c]) for c in columns), "|", flush=True)


if __name__ == "__main__":
    main()
