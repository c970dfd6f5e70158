"""A cluster that changes under a conversation: fail-over and resharding."""

import asyncio
import itertools
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest
from langchain_core.messages import HumanMessage
from redis.crc import key_slot

import servers
from memorystore_chat.commands import Command, Steps, arun, run
from memorystore_chat.connection import connect, connect_async
from memorystore_chat.history import MemorystoreChatMessageHistory
from proxy import Proxy
from servers import Cluster, Server

# A primary is given up after this long without an answer, and the vote takes about as long.
NODE_TIMEOUT = 1.0
FAIL_OVER = 6.0


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """Three primaries with a replica each, quick to notice that one is gone."""
    with servers.cluster(cluster_node_timeout=int(NODE_TIMEOUT * 1000)) as group:
        yield group


def replica_of(cluster: Cluster, primary: Server) -> Server:
    for node in cluster.nodes:
        if node.running:
            with node.admin() as admin:
                role = admin.info("replication")
            if role["role"] == "slave" and role["master_port"] == primary.port:
                return node
    raise AssertionError(f"no replica of {primary.port}")


def contents(node: Server, key: str) -> list[bytes]:
    """The elements of a session as that node, also a replica, has them."""
    with node.admin() as admin, admin.client() as one:
        one.execute_command("READONLY")
        return list(one.lrange(key, 0, -1))


@pytest.mark.parametrize("kind", ["sync", "async"])
async def test_fail_over_in_the_middle_of_a_conversation(cluster: Cluster, kind: str) -> None:
    """The session's primary is killed: appends go on after the fail-over, each stored once."""
    # Each run kills a primary whose replica is still there.
    session = next(
        key
        for key in (f"{kind}{number}" for number in itertools.count())
        if cluster.node_of(key) in cluster.nodes[:3]
    )
    primary = cluster.node_of(session)
    replica = replica_of(cluster, primary)
    sync_client = connect(replica.url, decode_responses=True)
    async_client = await connect_async(replica.url) if kind == "async" else None
    history = MemorystoreChatMessageHistory(sync_client, session, async_client=async_client)

    at_the_kill: dict[str, Any] = {}

    def kill() -> None:
        primary.kill()
        at_the_kill["time"] = time.monotonic()
        at_the_kill["stored"] = contents(replica, session)
        servers.wait_until(lambda: promoted(replica), "the fail-over", within=FAIL_OVER)
        at_the_kill["promoted"] = time.monotonic()

    killer = threading.Timer(0.2, kill)
    killer.start()
    acknowledged: list[tuple[str, float]] = []
    longest = 0.0
    after = 0
    for number in itertools.count():
        started = time.monotonic()
        await history.aadd_messages([HumanMessage(str(number))])
        finished = time.monotonic()
        acknowledged.append((str(number), finished))
        longest = max(longest, finished - started)
        after += "promoted" in at_the_kill and started > at_the_kill["promoted"]
        if after == 50:
            break
        await asyncio.sleep(0.002)
    killer.join()

    stored = [str(message.content) for message in history.messages]
    assert len(stored) == len(set(stored)), "an append is there twice"
    assert stored == sorted(stored, key=int), "appends changed places"
    replica_had = len(at_the_kill["stored"])
    assert replica_had > 10
    assert stored[:replica_had] == [str(number) for number in range(replica_had)]
    late = [text for text, when in acknowledged if when > at_the_kill["promoted"]]
    assert set(late) <= set(stored), "an append that was acknowledged afterwards is missing"
    resumed = min(when for _, when in acknowledged if when > at_the_kill["time"] + 0.1)
    assert resumed - at_the_kill["promoted"] < 1.5, "appends resumed late"
    assert longest < FAIL_OVER
    sync_client.close()
    if async_client is not None:
        await async_client.aclose()


async def test_commands_of_one_round_trip_wait_for_an_outage_to_end() -> None:
    """What needs several commands at once goes on as one command does."""
    with servers.cluster(primaries=1, replicas=0) as single, connect(single.url) as client:
        async_client = await connect_async(single.url)
        (node,) = single.nodes
        keys = [f"k{number}".encode() for number in range(5)]

        def several() -> Steps[list[int]]:
            return (yield [Command("LLEN", (key,), kind=int) for key in keys])

        asks: tuple[Callable[[], Awaitable[list[int]]], ...] = (
            lambda: asyncio.to_thread(run, client, several()),
            lambda: arun(async_client, several()),
        )
        assert await asyncio.gather(*(ask() for ask in asks)) == [[0] * 5] * 2
        node.kill()
        back = threading.Timer(0.5, node.restart)
        back.start()
        assert await asyncio.gather(*(ask() for ask in asks)) == [[0] * 5] * 2
        back.join()
        await async_client.aclose()


def test_a_pipeline_sends_again_what_has_no_answer_and_nothing_else(
    valkey_cluster: Cluster, key_prefix: str
) -> None:
    """One of three nodes hangs up before it answers: what the others have done is not repeated."""
    with ExitStack() as ways:
        primaries = valkey_cluster.nodes[:3]
        ports = {n.port: ways.enter_context(Proxy(n.host, n.port)) for n in primaries}

        def remap(place: tuple[str, int]) -> tuple[str, int]:
            return place[0], ports[place[1]].port if place[1] in ports else place[1]

        keys = [f"{key_prefix}{number}" for number in range(30)]
        at = {key: valkey_cluster.node_of(key) for key in keys}
        cut = ports[at[keys[0]].port]
        with connect(f"redis://127.0.0.1:{cut.port}", address_remap=remap) as client:
            cut.lose_reply_to = keys[0].encode()
            with client.pipeline(transaction=False) as pipe:
                for key in keys:
                    pipe.incr(key)
                answers = dict(zip(keys, pipe.execute(), strict=True))
    assert cut.lost == 1
    assert len(set(at.values())) == 3
    assert {answers[key] for key in keys if at[key] is not at[keys[0]]} == {1}
    assert answers[keys[0]] == 2


def promoted(node: Server) -> bool:
    with node.admin() as admin:
        role: str = admin.info("replication")["role"]
    return role == "master"


@pytest.mark.parametrize("kind", ["sync", "async"])
async def test_resharding_in_the_middle_of_a_conversation(
    valkey_cluster: Cluster, kind: str
) -> None:
    """A session's slot moves to another node: appends and reads follow it at every step."""
    session = f"moving-{kind}"
    source = valkey_cluster.node_of(session)
    target = next(n for n in valkey_cluster.nodes[: valkey_cluster.primaries] if n is not source)
    client = connect(valkey_cluster.url)
    async_client = await connect_async(valkey_cluster.url) if kind == "async" else None
    history = MemorystoreChatMessageHistory(client, session, async_client=async_client)
    history.clear()
    written = 0

    async def turn() -> None:
        nonlocal written
        await history.aadd_messages([HumanMessage(str(written))])
        written += 1
        texts = [message.content for message in await history.aget_messages()]
        assert texts == [str(number) for number in range(written)]

    await turn()
    move_slot(valkey_cluster, session, source, target, "begin")
    await turn()
    move_slot(valkey_cluster, session, source, target, "keys")
    for _ in range(3):
        await turn()
    move_slot(valkey_cluster, session, source, target, "end")
    for _ in range(3):
        await turn()
    history.clear()
    move_slot(valkey_cluster, session, target, source, "begin")
    move_slot(valkey_cluster, session, target, source, "end")
    client.close()
    if async_client is not None:
        await async_client.aclose()


def move_slot(cluster: Cluster, key: str, source: Server, target: Server, step: str) -> None:
    """One of the three steps that move the slot of a key from one primary to another."""
    slot = key_slot(key.encode())
    with source.admin() as one, target.admin() as other:
        source_id, target_id = (
            node.execute_command("CLUSTER MYID").decode() for node in (one, other)
        )
        if step == "begin":
            other.execute_command("CLUSTER SETSLOT", slot, "IMPORTING", source_id)
            one.execute_command("CLUSTER SETSLOT", slot, "MIGRATING", target_id)
        elif step == "keys":
            one.migrate(target.host, target.port, [key], 0, 5000)
        else:
            for node in (other, one):
                node.execute_command("CLUSTER SETSLOT", slot, "NODE", target_id)
