"""What every client of connect() is like: polite, bounded, patient, and closed in the end."""

import asyncio
import threading
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import redis
import redis.asyncio
from redis.asyncio.cluster import RedisCluster as AsyncRedisCluster
from redis.cluster import RedisCluster

import servers
from connecting import BLOCKED, use
from memorystore_chat.connection import connect, connect_async
from memorystore_chat.errors import ConnectError
from servers import Cluster, Server


def test_blocked_commands() -> None:
    """It works where CONFIG, CLIENT, ACL, OBJECT, DEBUG, MODULE and COMMAND are renamed away."""
    renamed = [f'{name} ""' for name in BLOCKED]
    with servers.redis7(rename_command=renamed) as server:
        asyncio.run(use(server.url))


async def test_refused_commands(auth_cluster: Cluster) -> None:
    """It works where an ACL refuses those commands, and INFO, with NOPERM."""
    refused = " ".join(f"-{name.lower()}" for name in [*BLOCKED, "INFO"])
    with servers.valkey(user=f"guest on >pw ~* &* +@all {refused}") as server:
        await use(server.url.replace("//", "//guest:pw@"))
    await use(auth_cluster.url.replace("//", "//guest:pw@"))


async def test_manners(server: Server, valkey_cluster: Cluster) -> None:
    """RESP2, time-outs, a bounded pool, a health check, and no client name, for all four."""
    for url in (server.url, valkey_cluster.url):
        with connect(url, timeout=3) as client:
            for connection in sync_connections(client):
                check_manners(connection)
            execute: Any = client.execute_command
            name = execute("CLIENT GETNAME", **one_node(client))
            assert name in (None, b"")
        async with await connect_async(url, timeout=3) as async_client:
            for connection in async_connections(async_client):
                check_manners(connection)


async def test_repr_shows_no_password(auth_server: Server, auth_cluster: Cluster) -> None:
    for url in (auth_server.url, auth_cluster.url):
        with connect(url, password="hunter2") as client:
            shown = [client, getattr(client, "connection_pool", None), *sync_connections(client)]
            assert "hunter2" not in repr(shown)
        async with await connect_async(url, password="hunter2") as async_client:
            assert "hunter2" not in repr([async_client, *async_connections(async_client)])


def sync_connections(client: Any, most: int = 20) -> list[Any]:
    if isinstance(client, RedisCluster):
        pools = [node.redis_connection.connection_pool for node in client.get_nodes()]
    else:
        pools = [client.connection_pool]
    assert {pool.max_connections for pool in pools} == {most}
    return [connection for pool in pools for connection in pool.pool.queue if connection]


def async_connections(client: Any) -> list[Any]:
    if isinstance(client, AsyncRedisCluster):
        assert {node.max_connections for node in client.get_nodes()} == {20}
        return [c for node in client.get_nodes() for c in node._connections]
    assert client.connection_pool.max_connections == 20
    return list(client.connection_pool._available_connections)


def one_node(client: Any) -> dict[str, Any]:
    return {"target_nodes": "random"} if isinstance(client, RedisCluster) else {}


def check_manners(connection: Any) -> None:
    assert connection.protocol == 2
    assert connection.socket_timeout == 3
    assert connection.socket_connect_timeout == 3
    assert connection.health_check_interval == 30


async def test_close_closes_everything(valkey_server: Server, auth_cluster: Cluster) -> None:
    for url, nodes in (
        (valkey_server.url, [valkey_server]),
        (auth_cluster.url.replace("//", "//:hunter2@"), auth_cluster.nodes),
    ):
        before = connected(nodes)
        with connect(url) as client:
            for number in range(20):
                client.get(f"key{number}")
        async with await connect_async(url) as async_client:
            for number in range(20):
                await async_client.get(f"key{number}")
        if len(nodes) == 1:
            with pytest.raises(ConnectError, match="not part of a cluster"):
                connect(url, cluster=True)
        servers.wait_until(lambda: connected(nodes) == before, "the close", within=3)  # noqa: B023


def connected(nodes: list[Server]) -> list[int]:
    found = []
    for node in nodes:
        with node.admin() as admin:
            found.append(int(admin.info("clients")["connected_clients"]))
    return found


async def both_asked(before: Callable[[Server], object], **options: Any) -> list[tuple[Any, float]]:
    """Connect to a server, do something to it, and ping it sync and async at the same time.

    What both answered or raised, and the seconds they took.
    """

    async def timed(ping: Callable[[], Any]) -> tuple[Any, float]:
        started = time.monotonic()
        try:
            answer = await ping()
        except redis.RedisError as error:
            answer = error
        return answer, time.monotonic() - started

    with servers.valkey() as server, connect(server.url, **options) as client:
        async with await connect_async(server.url, **options) as async_client:
            back = before(server)
            ping = partial(asyncio.to_thread, client.ping)
            answers = await asyncio.gather(timed(ping), timed(async_client.ping))
            if isinstance(back, threading.Timer):
                back.join()
            return list(answers)


@pytest.mark.parametrize(("seconds", "away"), [(5, 0.4), (1, 1.5)])
async def test_a_server_that_comes_back_is_waited_for(seconds: float, away: float) -> None:
    """For twice the timeout, unless a patience is given."""

    def restart(server: Server) -> threading.Timer:
        server.kill()
        back = threading.Timer(away, server.restart)
        back.start()
        return back

    answers = await both_asked(restart, timeout=seconds)
    assert [answer for answer, _ in answers] == [True, True]


@pytest.mark.parametrize("patience", [0, 1])
async def test_server_that_stays_away_is_waited_for_as_promised(patience: float) -> None:
    for answer, waited in await both_asked(Server.kill, patience=patience):
        assert isinstance(answer, redis.ConnectionError)
        assert patience <= waited < patience + 2.5
