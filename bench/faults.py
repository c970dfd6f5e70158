"""What is left of appends when replies get lost, a replica takes over, and 200 threads write."""

import asyncio
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from functools import partial
from itertools import pairwise
from typing import Any

import redis
import redis.asyncio
from langchain_core.messages import AIMessage, HumanMessage

import servers
from memorystore_chat import ConnectError, MemorystoreChatMessageHistory
from peers import COMMUNITY, OFFICIAL, OURS, Store
from proxy import Proxy

HISTORIES = (OURS, OFFICIAL, COMMUNITY)


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


TEXTS = {writer: [f"{writer} {number}" for number in range(500)] for writer in "ab"}
ATTEMPTED = [*TEXTS["a"], *TEXTS["b"]]


def stored(name: str, direct: Any) -> list[str]:
    """What is in the session."""
    return [str(message.text) for message in Store(name, direct, direct, "faults").read()]


def two_writers(
    name: str, direct: Any, connect: Callable[[], Any], meanwhile: Callable[[list[str]], object]
) -> dict[str, int]:
    """1,000 appends by two writers with clients of their own, while something else happens."""
    acknowledged: list[str] = []

    def write(writer: str) -> None:
        with connect() as client:
            store = Store(name, client, direct, "faults")
            for text in TEXTS[writer]:
                # What is not acknowledged was attempted.
                with suppress(redis.ConnectionError, ConnectError):
                    store.append([HumanMessage(text)])
                    acknowledged.append(text)

    with ThreadPoolExecutor(2) as threads:
        writing = threads.map(write, TEXTS)
        meanwhile(acknowledged)
        list(writing)
    return tally(ATTEMPTED, acknowledged, stored(name, direct))


def lose_replies(server: servers.Server, name: str, retries: bool) -> dict[str, int]:
    """1,000 appends by two writers over a link that loses the reply to every third command."""
    options = {} if retries else {"retry": redis.retry.Retry(redis.backoff.NoBackoff(), 0)}
    with server.client() as direct, Proxy(server.host, server.port, lose_every=3) as proxy:
        direct.flushall()
        return two_writers(name, direct, partial(server.client, port=proxy.port, **options), len)


def lose_replies_async(server: servers.Server) -> dict[str, int]:
    """The same with ours and redis.asyncio."""
    with server.client() as direct, Proxy(server.host, server.port, lose_every=3) as proxy:
        direct.flushall()

        async def write(writer: str) -> None:
            async with redis.asyncio.Redis(port=proxy.port, protocol=2) as client:
                history = MemorystoreChatMessageHistory(client, "faults")
                for text in TEXTS[writer]:
                    await history.aadd_messages([HumanMessage(text)])

        async def both() -> None:
            await asyncio.gather(*map(write, TEXTS))

        asyncio.run(both())
        return tally(ATTEMPTED, ATTEMPTED, stored(OURS, direct))


def fail_over(name: str) -> dict[str, int]:
    """The same on a cluster, on which a replica takes over after 250 appends."""
    with servers.cluster() as cluster, cluster.client() as direct, ExitStack() as opened:
        proxies = [Proxy(node.host, node.port, lose_every=3) for node in cluster.nodes]
        ports = {each.server_port: opened.enter_context(each).port for each in proxies}
        connect = partial(
            cluster.client,
            address_remap=lambda at: (at[0], ports[at[1]]),
            retry=redis.retry.Retry(redis.backoff.ConstantBackoff(0.01), 100),
        )

        def take_over(acknowledged: list[str]) -> None:
            servers.wait_until(lambda: len(acknowledged) >= 250, "appends before", 60)
            primary = cluster.nodes.index(cluster.node_of("faults"))
            with cluster.nodes[primary + 3].admin() as admin:
                admin.execute_command("CLUSTER FAILOVER")
                servers.wait_until(
                    lambda: admin.info("replication")["role"] == "master", "the failover"
                )

        return two_writers(name, direct, connect, take_over)


def crowd(server: servers.Server, name: str) -> dict[str, int]:
    """200 threads, five turns of two messages each; a turn is torn if another's comes between."""
    turns = [[f"{thread}.{turn}" for turn in range(5)] for thread in range(200)]
    with server.client() as direct, server.client(max_connections=200) as client:
        direct.flushall()
        store = Store(name, client, direct, "faults")

        def write(own: list[str]) -> None:
            for turn in own:
                store.append([HumanMessage(f"{turn} ask"), AIMessage(f"{turn} answer")])

        with ThreadPoolExecutor(200) as threads:
            list(threads.map(write, turns))
        texts = stored(name, direct)
    attempted = [f"{turn} {part}" for own in turns for turn in own for part in ("ask", "answer")]
    after = dict(pairwise(texts))
    torn = sum(after.get(text) != text.replace("ask", "answer") for text in texts if "ask" in text)
    return tally(attempted, attempted, texts) | {"torn": torn}


def measure(server: servers.Server) -> dict[str, dict[str, int]]:
    """The exactly-once, failover and concurrency figures."""
    lose = partial(lose_replies, server)
    rows: list[tuple[str, Any]] = [
        *((f"lost replies, retries on: {name}", partial(lose, name, True)) for name in HISTORIES),
        (f"lost replies, retries on: {OURS}, async", partial(lose_replies_async, server)),
        *((f"lost replies, retries off: {name}", partial(lose, name, False)) for name in HISTORIES),
        *(
            (f"cluster failover and lost replies: {name}", partial(fail_over, name))
            for name in (OURS, OFFICIAL)
        ),
        *((f"200 threads: {name}", partial(crowd, server, name)) for name in HISTORIES),
    ]
    result = {}
    for title, run in rows:
        result[title] = run()
        print(f"  {title}: {result[title]}", flush=True)
    return result
