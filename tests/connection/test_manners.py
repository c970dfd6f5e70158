"""What every client of connect() is like: polite, bounded, patient, and closed in the end."""

import asyncio
import threading
import time
from functools import partial
from typing import Any

import pytest
import redis
import redis.asyncio
from blockbuster import blockbuster_ctx
from redis.cluster import RedisCluster

import servers
from connecting import refused
from memorystore_chat.connection import clients, connect, connect_async
from proxy import Proxy
from servers import Cluster, Server


async def test_manners(server: Server, auth_cluster: Cluster) -> None:
    """RESP2, time-outs, a bounded pool, a health check, no name and no password shown; all four."""
    for url, login in ((server.url, {}), (auth_cluster.url, {"password": "hunter2"})):
        options: dict[str, Any] = {"timeout": 3, **login}
        with connect(url, **options) as client:
            execute: Any = client.execute_command
            node: Any = client
            if isinstance(client, RedisCluster):
                node = client.get_default_node()
                execute = partial(execute, target_nodes=node)
                node = node.redis_connection
            assert execute("CLIENT GETNAME") in (None, b"")
            check(client, node.get_connection_kwargs(), node.connection_pool)
        async with await connect_async(url, **options) as async_client:
            if isinstance(async_client, redis.asyncio.RedisCluster):
                node = async_client.get_default_node()
                check(async_client, node.connection_kwargs, node)
            else:
                pool = async_client.connection_pool
                check(async_client, pool.connection_kwargs, pool)


def check(client: Any, used: dict[str, Any], pool: Any) -> None:
    assert (used["protocol"], used["health_check_interval"], pool.max_connections) == (2, 30, 20)
    assert used["socket_timeout"] == used["socket_connect_timeout"] == 3
    retry = client.retry if hasattr(client, "retry") else client.get_retry()
    assert retry.patience == 6, "twice the timeout"
    assert "hunter2" not in repr([client, pool])


async def test_close_closes_everything(valkey_server: Server, auth_cluster: Cluster) -> None:
    for url, nodes in (
        (valkey_server.url, [valkey_server]),
        (auth_cluster.url.replace("//", "//:hunter2@"), auth_cluster.nodes),
    ):
        newest = [max(connected(node)) for node in nodes]
        with connect(url) as client:
            for number in range(20):
                client.get(f"key{number}")
        async with await connect_async(url) as async_client:
            for number in range(20):
                await async_client.get(f"key{number}")
        if len(nodes) == 1:
            await asyncio.to_thread(refused, url, cluster=True)
        for node, last in zip(nodes, newest, strict=True):
            servers.wait_until(
                lambda: all(number <= last for number in connected(node)[:-1]),  # noqa: B023
                "the close",
            )


def connected(node: Server) -> list[int]:
    """The numbers of a server's connections in their order; the last is the one that asks."""
    with node.admin() as admin:
        return sorted(int(one["id"]) for one in admin.client_list())


async def test_connections_are_made_without_blocking(
    valkey_server: Server, valkey_cluster: Cluster
) -> None:
    """No file is read on the event loop, neither to connect nor for a new connection."""
    for url in (valkey_server.url, valkey_cluster.url):
        clients.driver_info.cache_clear()
        with blockbuster_ctx():
            async with await connect_async(url) as client:
                await asyncio.gather(*(client.set(f"loop{n}", "x") for n in range(10)))
                await asyncio.gather(*(client.delete(f"loop{n}") for n in range(10)))


async def test_a_server_that_comes_back_is_waited_for() -> None:
    with servers.valkey() as server, connect(server.url, patience=60) as client:
        async with await connect_async(server.url, patience=60) as async_client:
            server.kill()
            back = threading.Timer(0.5, server.restart)
            back.start()
            both = await asyncio.gather(asyncio.to_thread(client.ping), async_client.ping())
            back.join()
            assert all(both)


@pytest.mark.parametrize("patience", [0, 0.5])
async def test_a_server_that_stays_away_is_waited_for_as_promised(
    valkey_server: Server, patience: float
) -> None:
    with Proxy(valkey_server.host, valkey_server.port) as proxy:
        url = f"redis://127.0.0.1:{proxy.port}"
        with connect(url, patience=patience) as client:
            async with await connect_async(url, patience=patience) as async_client:
                push: Any = client.rpush
                push_async: Any = async_client.rpush
                for run in (
                    lambda: asyncio.to_thread(push, "gone", "x"),
                    lambda: push_async("gone", "x"),
                ):
                    proxy.answer_append_with = [b"-LOADING it is loading\r\n"] * 1000
                    began = time.monotonic()
                    with pytest.raises(redis.BusyLoadingError):
                        await run()
                    assert (len(proxy.answer_append_with) == 999) == (patience == 0)
                    assert time.monotonic() - began >= patience
