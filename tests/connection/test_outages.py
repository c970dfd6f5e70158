"""Servers that stop being primaries, stay away, come back, or have no connection to spare."""

import asyncio
import os
import time
from typing import Any

import pytest
import redis
from langchain_core.messages import HumanMessage

import servers
from connecting import answer, opened
from memorystore_chat.errors import ConnectError
from memorystore_chat.history import MemorystoreChatMessageHistory
from proxy import Proxy
from reshaping import role_of
from servers import Server

# What Redis before 7 puts before the error of a command in a script.
OF_A_SCRIPT = "ERR Error running script (call to f_abc): @user_script:1: @user_script: 1: -"
FAILOVERS = int(os.environ.get("MEMORYSTORE_TEST_FAILOVERS", "3"))
both_ways = pytest.mark.parametrize("way", ["sync", "async"])
both_kinds = pytest.mark.parametrize("running", ["valkey_server", "valkey_cluster"], indirect=True)


@both_ways
async def test_a_failover_behind_one_address(way: str) -> None:
    """What a demoted server answers is an outage: a new connection leads to the new primary."""
    texts = [
        "READONLY You can't write against a read only replica.",
        "MASTERDOWN Link with MASTER is down and replica-serve-stale-data is set to 'no'.",
        "CLUSTERDOWN The cluster is down",
        "LOADING Redis is loading the dataset in memory",
    ]
    with servers.valkey() as one, servers.valkey() as other, Proxy(one.host, one.port) as proxy:
        async with opened(way, f"redis://127.0.0.1:{proxy.port}") as client:
            talk = MemorystoreChatMessageHistory(client, "moved")
            for number, before in enumerate(["", OF_A_SCRIPT] * 4):
                proxy.answer_append_with = [f"-{before}{texts[number // 2]}\r\n".encode()]
                primary = (other, one)[number % 2]
                proxy.lead_to(primary.host, primary.port, cut=False)
                await talk.aadd_messages([HumanMessage(str(number))])
                assert proxy.answer_append_with == []
                assert (await talk.aget_messages())[-1].text == str(number)
                with primary.admin() as admin:
                    assert admin.llen("moved") == number // 2 + 1


@both_ways
@pytest.mark.parametrize("patience", [0, 0.3])
async def test_a_server_that_stays_away_is_waited_for_as_promised(
    valkey_server: Server, way: str, patience: float
) -> None:
    with Proxy(valkey_server.host, valkey_server.port) as proxy:
        async with opened(way, f"redis://127.0.0.1:{proxy.port}", patience=patience) as client:
            proxy.answer_append_with = [b"-LOADING it is loading\r\n"] * 1000
            began = time.monotonic()
            with pytest.raises(redis.BusyLoadingError):
                await answer(client.rpush("gone", "x"))
            tries = 1000 - len(proxy.answer_append_with)
            assert tries == 1 if patience == 0 else 1 < tries < 20, "too few or without pauses"
            assert time.monotonic() - began >= patience


@both_ways
@both_kinds
async def test_what_redis_py_stumbles_over_is_a_lost_connection(
    running: Any, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    """As when one task loses the connection of another: the command is sent again."""
    library = redis.connection if way == "sync" else redis.asyncio.connection
    async with opened(way, running.url) as client:
        await answer(client.set("stumbled", "x", ex=60))
        real, lost = library.Connection.send_packed_command, [object()]

        def stumble(connection: Any, *given: Any, **options: Any) -> Any:
            return real(lost.pop() if lost else connection, *given, **options)

        monkeypatch.setattr(library.Connection, "send_packed_command", stumble)
        assert await answer(client.get("stumbled")) == b"x"
        assert lost == []
        client.set_response_callback("INCR", lambda *_, **__: os.environ["NOT_REDIS_PY"])
        with pytest.raises(KeyError):
            await answer(client.execute_command("INCR", "once"))
        assert await answer(client.getdel("once")) == b"1"


@both_ways
@both_kinds
async def test_the_pool_is_exhausted(running: Any, way: str) -> None:
    """Nothing was sent, and the error says so."""
    words = r"(No connection available|were in use)\)\. Nothing was sent.*max_connections="
    async with opened(way, running.url, max_connections=1, patience=0) as client:
        history = MemorystoreChatMessageHistory(client, "busy")
        await occupy(client)
        with pytest.raises(ConnectError, match=words):
            await history.aget_messages()


@both_ways
async def test_a_mistake_of_the_caller_costs_no_connection(valkey_server: Server, way: str) -> None:
    """Nor does a conflict that WATCH finds: its connection is used again."""
    async with opened(way, valkey_server.url) as client:
        number = await answer(client.client_id())
        with pytest.raises(redis.DataError):
            await answer(client.set("mistake", {}))
        watching = client.pipeline()
        await answer(watching.watch("mistake"))
        await answer(client.set("mistake", "x", ex=60))
        watching.multi()
        watching.get("mistake")
        with pytest.raises(redis.WatchError):
            await answer(watching.execute())
        await answer(watching.reset())
        assert await answer(client.client_id()) == number


async def occupy(client: Any) -> None:
    """Take the connection to the key "busy" for good, and let nobody wait for another."""
    node = client.get_node_from_key("busy") if hasattr(client, "get_node_from_key") else client
    if hasattr(node, "acquire_connection"):
        node.acquire_connection()
    else:
        pool = getattr(node, "redis_connection", node).connection_pool
        pool.timeout = 0.1
        await answer(pool.get_connection())


async def test_graceful_failovers_of_a_cluster_under_16_tasks() -> None:
    """An asyncio client goes on: each append succeeds, and is stored once."""
    over = asyncio.Event()

    async def work(talk: MemorystoreChatMessageHistory) -> int:
        number = 0
        while not over.is_set():
            await talk.aadd_messages([HumanMessage(str(number))])
            number += 1
        assert [int(message.text) for message in await talk.aget_messages()] == [*range(number)]
        return number

    with servers.cluster() as group:
        async with opened("async", group.url, patience=60) as client:
            talks = [MemorystoreChatMessageHistory(client, f"task{task}") for task in range(16)]
            working = asyncio.gather(*map(work, talks))
            for number in range(FAILOVERS):
                await asyncio.sleep(0.3)
                await asyncio.to_thread(swap, group.nodes[number % 3 :: 3])
            await asyncio.sleep(0.3)
            over.set()
            assert all(await working)


def swap(pair: list[Server]) -> None:
    """Let a replica take over from its primary, which hands over what it has first."""
    for node in pair:
        with node.admin() as admin:
            if role_of(admin) == "slave":
                admin.execute_command("CLUSTER FAILOVER")
                return
