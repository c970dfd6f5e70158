"""What clients and servers do wrong in use: each error says why, and what to do next."""

import asyncio
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest
import redis
from blockbuster import blockbuster_ctx
from langchain_core.messages import HumanMessage
from redis.backoff import NoBackoff
from redis.retry import Retry

import servers
from connecting import answering, refused
from memorystore_chat.connection import clients, connect, connect_async
from memorystore_chat.errors import ConnectError
from memorystore_chat.history import MemorystoreChatMessageHistory
from servers import Cluster, Server


def test_the_server_takes_no_more_clients() -> None:
    """connect() says so, and so does a client that loses its connection meanwhile."""
    with servers.valkey(maxclients=12) as server, connect(server.url, patience=0.2) as client:
        history = MemorystoreChatMessageHistory(client, "full")
        assert isinstance(client, clients.ServerClient)
        client.connection_pool.disconnect()
        taken = [server.client(retry=Retry(NoBackoff(), 0)) for _ in range(20)]
        with suppress(redis.ConnectionError):
            for each in taken:
                each.ping()
        assert "as many clients as it takes" in refused(server.url)
        with pytest.raises(ConnectError, match="as many clients as it takes") as caught:
            history.add_messages([HumanMessage("never")])
        assert "max number of clients reached" in str(caught.value)
        for each in taken:
            each.close()
        history.add_messages([HumanMessage("now")])


async def test_the_pool_is_exhausted(valkey_server: Server, valkey_cluster: Cluster) -> None:
    """Nothing was sent, and the error says so, with a cause that has words; all four clients."""
    options: dict[str, Any] = {"timeout": 0.3, "patience": 0.3, "max_connections": 1}
    for url in (valkey_server.url, valkey_cluster.url):
        with connect(url, **options) as client:
            async with await connect_async(url, **options) as async_client:
                history = MemorystoreChatMessageHistory(client, "busy", async_client=async_client)
                give_back = [hold(client), await hold_async(async_client)]
                for read in (lambda h=history: asyncio.to_thread(len, h), history.aget_messages):
                    with pytest.raises(ConnectError, match="Nothing was sent") as caught:
                        await read()
                    assert "max_connections=" in str(caught.value)
                    assert str(caught.value.__cause__)
                for done in give_back:
                    if (waiting := done()) is not None:
                        await waiting
                assert len(history) == len(await history.aget_messages()) == 0


def hold(client: Any) -> Callable[[], Any]:
    """Take the connection to the key "busy"; what is returned gives it back."""
    if hasattr(client, "get_node_from_key"):
        client = client.get_redis_connection(client.get_node_from_key("busy"))
    pool = client.connection_pool
    connection = pool.get_connection()
    return lambda: pool.release(connection)


async def hold_async(client: Any) -> Callable[[], Any]:
    if hasattr(client, "get_node_from_key"):
        node = client.get_node_from_key("busy")
        connection = node.acquire_connection()
        return lambda: node.release(connection)
    pool = client.connection_pool
    connection = await pool.get_connection()
    return lambda: pool.release(connection)


@pytest.mark.parametrize("secret", ["hunter2", "ya29." + "a1b2c3d4" * 60])
@pytest.mark.parametrize("kind", ["-ERR", "-WRONGPASS", "+", "?"])
def test_a_server_that_repeats_the_login(secret: str, kind: str) -> None:
    """Neither the password nor a part of it is in the error, its causes or its contexts."""
    answer = f"{kind} unknown command 'AUTH', with args beginning with: '{secret[:128]}'\r\n"
    attempts: tuple[Callable[..., Any], ...] = (
        connect,
        lambda *given, **options: asyncio.run(connect_async(*given, **options)),
    )
    with answering(lambda _: answer.encode()) as place:
        for attempt in attempts:
            with pytest.raises(ConnectError) as caught:
                attempt(place, password=secret)
            links: list[BaseException | None] = [caught.value]
            while links:
                if (link := links.pop()) is not None:
                    assert secret[:6] not in f"{link} {link.args}"
                    links += [link.__cause__, link.__context__]


async def test_connections_are_made_without_blocking(
    valkey_server: Server, valkey_cluster: Cluster
) -> None:
    """No file is read on the event loop, neither to connect nor for a new connection."""
    for url in (valkey_server.url, valkey_cluster.url):
        clients.driver_info.cache_clear()
        with blockbuster_ctx():
            client = await connect_async(url)
            async with client:
                await asyncio.gather(*(client.set(f"loop{n}", "x") for n in range(10)))
                await asyncio.gather(*(client.delete(f"loop{n}") for n in range(10)))
