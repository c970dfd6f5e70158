"""Servers that stop being primaries."""

import asyncio
import os
from typing import Any

import pytest
from langchain_core.messages import HumanMessage

import servers
from memorystore_chat.connection import connect, connect_async
from memorystore_chat.errors import ConnectError
from memorystore_chat.history import MemorystoreChatMessageHistory
from proxy import Proxy
from servers import Server

# What Redis before 7 puts before the error of a command in a script.
OF_A_SCRIPT = "ERR Error running script (call to f_abc): @user_script:1: @user_script: 1: -"
FAILOVERS = int(os.environ.get("MEMORYSTORE_TEST_FAILOVERS", "5"))


async def append(talk: MemorystoreChatMessageHistory, text: str) -> None:
    await talk.aadd_messages([HumanMessage(text)])


async def read(talk: MemorystoreChatMessageHistory) -> list[str]:
    return [message.text for message in await talk.aget_messages()]


@pytest.mark.parametrize("kind", ["sync", "async"])
async def test_a_failover_behind_one_address(kind: str) -> None:
    """What a demoted server answers is an outage: a new connection leads to the new primary."""
    texts = [
        "READONLY You can't write against a read only replica.",
        "MASTERDOWN Link with MASTER is down and replica-serve-stale-data is set to 'no'.",
        "CLUSTERDOWN The cluster is down",
        "LOADING Redis is loading the dataset in memory",
    ]
    answers = [f"{where}{text}" for text in texts for where in ("", OF_A_SCRIPT)]
    with servers.valkey() as one, servers.valkey() as other, Proxy(one.host, one.port) as proxy:
        url = f"redis://127.0.0.1:{proxy.port}"
        opening: Any = connect_async(url) if kind == "async" else asyncio.to_thread(connect, url)
        talk = MemorystoreChatMessageHistory(await opening, "moved")
        for number, answer in enumerate(answers):
            proxy.answer_append_with = [f"-{answer}\r\n".encode()] * 2
            primary = (other, one)[number % 2]
            proxy.lead_to(primary.host, primary.port, cut=False)
            await append(talk, str(number))
            assert proxy.answer_append_with == []
            assert (await read(talk))[-1] == str(number)
            with primary.admin() as admin:
                assert admin.llen("moved") == number // 2 + 1


async def test_graceful_failovers_of_a_cluster_under_16_tasks() -> None:
    """An asyncio client goes on: each append is stored once, or fails with a ConnectError."""
    with servers.cluster() as group:
        async with await connect_async(group.url, patience=60) as client:
            over = asyncio.Event()

            async def work(worker: int) -> int:
                talk, stored, number = MemorystoreChatMessageHistory(client, f"task{worker}"), [], 0
                while not over.is_set():
                    number += 1
                    try:
                        await append(talk, str(number))
                        stored.append(str(number))
                    except ConnectError:
                        continue
                found = await read(talk)
                assert len(found) == len(set(found)), "an append is there twice"
                assert set(stored) <= set(found), "an append that was acknowledged is missing"
                return len(stored)

            working = asyncio.gather(*(work(worker) for worker in range(16)))
            for number in range(FAILOVERS):
                await asyncio.sleep(0.5)
                await asyncio.to_thread(swap, group.nodes[number % 3 :: 3])
            over.set()
            assert all(await working)


def swap(pair: list[Server]) -> None:
    """Let a replica take over from its primary, which hands over what it has first."""
    for node in pair:
        with node.admin() as admin:
            role: Any = admin.info("replication")["role"]
            if role == "slave":
                admin.execute_command("CLUSTER FAILOVER")
                return
