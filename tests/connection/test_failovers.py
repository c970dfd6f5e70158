"""Servers that stop being primaries."""

import asyncio
import os
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from langchain_core.messages import HumanMessage

import servers
from memorystore_chat.connection import connect, connect_async
from memorystore_chat.errors import ConnectError
from memorystore_chat.history import MemorystoreChatMessageHistory
from proxy import Proxy
from servers import Server


@pytest.fixture(params=["sync", "async"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def told(kind: str, session: str, client: Any, async_client: Any) -> MemorystoreChatMessageHistory:
    """A history whose a-methods use the asynchronous client, or the synchronous one in a thread."""
    twin = async_client if kind == "async" else None
    return MemorystoreChatMessageHistory(client, session, async_client=twin)


async def append(history: MemorystoreChatMessageHistory, text: str) -> None:
    await history.aadd_messages([HumanMessage(text)])


async def read(history: MemorystoreChatMessageHistory) -> list[str]:
    return [message.text for message in await history.aget_messages()]


@pytest.fixture
def pair() -> Iterator[tuple[Server, Server]]:
    with (
        servers.valkey(repl_diskless_sync_delay=0) as primary,
        servers.valkey(replicaof=f"127.0.0.1 {primary.port}") as replica,
    ):
        in_step(replica)
        yield primary, replica


def in_step(replica: Server) -> None:
    with replica.admin() as admin:
        servers.wait_until(
            lambda: admin.info("replication").get("master_link_status") == "up", "the replication"
        )


def fail_over(old: Server, new: Server, proxy: Proxy) -> None:
    """Make the replica the primary; new connections through the proxy go there, old ones stay."""
    with old.admin() as first, new.admin() as second:
        first.execute_command("CLIENT", "PAUSE", 10_000, "WRITE")
        second.execute_command("REPLICAOF", "NO", "ONE")
        first.execute_command("REPLICAOF", "127.0.0.1", new.port)
        first.execute_command("CLIENT", "UNPAUSE")
    proxy.server = (new.host, new.port)


def length(server: Server) -> int:
    with server.admin() as admin:
        return int(admin.llen("moved"))


async def test_a_graceful_failover_behind_one_address(
    pair: tuple[Server, Server], kind: str
) -> None:
    """While the address still leads to the demoted server, it is tried again and again."""
    primary, replica = pair
    with Proxy(primary.host, primary.port) as proxy:
        url = f"redis://127.0.0.1:{proxy.port}"
        with connect(url, patience=10) as client:
            async with await connect_async(url, patience=10) as async_client:
                talk = told(kind, "moved", client, async_client)
                await append(talk, "before")
                servers.wait_until(lambda: length(replica) == 1, "the replication")
                fail_over(primary, replica, proxy)
                proxy.server = (primary.host, primary.port)
                later = threading.Timer(
                    1.0, lambda: setattr(proxy, "server", (replica.host, replica.port))
                )
                later.start()
                await append(talk, "after")
                later.join()
                assert await read(talk) == ["before", "after"]


@pytest.mark.parametrize(
    "answer",
    [
        "-READONLY You can't write against a read only replica.",
        # Out of a script, before Redis 7.
        "-ERR Error running script (call to f_abc): @user_script:1: @user_script: 1: -READONLY You "
        "can't write against a read only replica.",
        "-MASTERDOWN Link with MASTER is down and replica-serve-stale-data is set to 'no'.",
        "-CLUSTERDOWN The cluster is down",
        "-LOADING Redis is loading the dataset in memory",
    ],
)
async def test_an_answer_of_a_fail_over_is_an_outage(
    valkey_server: Server, kind: str, answer: str, key_prefix: str
) -> None:
    """It is dropped with its connection, and the append is tried again on a new one."""
    with Proxy(valkey_server.host, valkey_server.port) as proxy:
        url = f"redis://127.0.0.1:{proxy.port}"
        with connect(url) as client:
            async with await connect_async(url) as async_client:
                talk = told(kind, f"{key_prefix}once", client, async_client)
                await append(talk, "first")
                proxy.answer_append_with = [f"{answer}\r\n".encode()] * 2
                await append(talk, "second")
                assert proxy.answer_append_with == []
                assert await read(talk) == ["first", "second"]


FAILOVERS = int(os.environ.get("MEMORYSTORE_TEST_FAILOVERS", "5"))


async def test_graceful_failovers_of_a_cluster_under_16_tasks() -> None:
    """An asyncio client goes on: each append is stored once, or fails with a ConnectError."""
    with servers.cluster() as group:
        async with await connect_async(group.url) as client:
            over, failed = asyncio.Event(), 0

            async def work(worker: int) -> list[str]:
                nonlocal failed
                talk, stored, number = MemorystoreChatMessageHistory(client, f"task{worker}"), [], 0
                while not over.is_set():
                    number += 1
                    try:
                        await append(talk, str(number))
                        stored.append(str(number))
                    except ConnectError:
                        failed += 1
                found = await read(talk)
                assert len(found) == len(set(found)), "an append is there twice"
                assert set(stored) <= set(found), "an append that was acknowledged is missing"
                return stored

            working = asyncio.gather(*(work(worker) for worker in range(16)))
            for number in range(FAILOVERS):
                await asyncio.sleep(0.5)
                await asyncio.to_thread(swap, group.nodes[number % 3 :: 3])
            over.set()
            assert sum(map(len, await working)) > 99 * failed


def swap(pair: list[Server]) -> None:
    """Let a replica take over from its primary, which hands over what it has first."""
    for node in pair:
        with node.admin() as admin:
            if admin.info("replication")["role"] == "slave":
                admin.execute_command("CLUSTER FAILOVER")
                return
