"""What is left of appends when replies get lost, a replica takes over, and 200 threads write."""

import asyncio
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise

import redis
import redis.asyncio
from langchain_core.messages import AIMessage, HumanMessage
from redis.cluster import ClusterNode, RedisCluster

import servers
from memorystore_chat import ConnectError, MemorystoreChatMessageHistory
from peers import COMMUNITY, OFFICIAL, OURS, Store
from proxy import Proxy


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
        stored = [str(m.text) for m in Store(name, direct, direct, "faults").read_all()]
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
        stored = [str(m.text) for m in MemorystoreChatMessageHistory(direct, "faults").messages]
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
        stored = [str(m.text) for m in Store(name, direct, direct, "faults").read_all()]
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
        texts = [str(m.text) for m in store.read_all()]
    attempted = [
        f"{thread}.{turn} {part}"
        for thread in range(200)
        for turn in range(5)
        for part in ("ask", "answer")
    ]
    after = dict(pairwise(texts))
    torn = sum(after.get(text) != text.replace("ask", "answer") for text in texts if "ask" in text)
    return tally(attempted, attempted, texts) | {"torn": torn}


def measure(server: servers.Server) -> dict[str, dict[str, int]]:
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
