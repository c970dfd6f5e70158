"""What every client of connect() is like: polite, bounded, patient, and closed in the end."""

import asyncio
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, Self, TypeVar, get_args, get_type_hints

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


def test_refused_commands() -> None:
    """It works where an ACL refuses those commands, and INFO, with NOPERM."""
    refused = " ".join(f"-{name.lower()}" for name in [*BLOCKED, "INFO"])
    with servers.valkey(user=f"guest on >pw ~* &* +@all {refused}") as server:
        asyncio.run(use(server.url.replace("//", "//guest:pw@")))


async def test_refused_commands_on_a_cluster(auth_cluster: Cluster) -> None:
    """A cluster works where everything but COMMAND is refused."""
    await use(auth_cluster.url.replace("//", "//guest:pw@"))


@pytest.mark.parametrize(
    ("opening", "enter"), [(connect, "__enter__"), (connect_async, "__aenter__")]
)
def test_type_checkers_know_what_a_with_block_is_given(opening: Any, enter: str) -> None:
    for kind in get_args(get_type_hints(opening)["return"]):
        returned = get_type_hints(getattr(kind, enter)).get("return")
        assert returned is Self or isinstance(returned, TypeVar), kind


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


async def test_many_tasks_share_a_client(valkey_server: Server, auth_cluster: Cluster) -> None:
    for url in (valkey_server.url, auth_cluster.url.replace("//", "//:hunter2@")):
        async with await connect_async(url, max_connections=5) as client:
            counts = await asyncio.gather(*(client.incr("many") for _ in range(100)))
            assert sorted(counts) == list(range(1, 101))
            await client.delete("many")


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


def test_pool_is_bounded_and_waits(valkey_server: Server) -> None:
    with connect(valkey_server.url, max_connections=2) as client:

        def work(_: int) -> None:
            for _turn in range(20):
                client.ping()

        with ThreadPoolExecutor(12) as threads:
            list(threads.map(work, range(12)))
        assert len(sync_connections(client, most=2)) == 2


async def test_close_closes_everything(valkey_server: Server, auth_cluster: Cluster) -> None:
    for url, nodes in (
        (valkey_server.url, [valkey_server]),
        (auth_cluster.url.replace("//", "//:hunter2@"), auth_cluster.nodes),
    ):
        before = connected(nodes)
        client = connect(url)
        for number in range(20):
            client.get(f"key{number}")
        client.close()
        with connect(url) as client:
            client.ping()
        async with await connect_async(url) as async_client:
            for number in range(20):
                await async_client.get(f"key{number}")
        async_client = await connect_async(url)
        await async_client.aclose()
        wait_until_closed(nodes, before)


def connected(nodes: list[Server]) -> list[int]:
    found = []
    for node in nodes:
        with node.admin() as admin:
            found.append(int(admin.info("clients")["connected_clients"]))
    return found


def wait_until_closed(nodes: list[Server], before: list[int]) -> None:
    servers.wait_until(lambda: connected(nodes) == before, "the close", within=3)


def test_failed_connect_leaves_nothing_open(valkey_server: Server) -> None:
    """A refused cluster=True closes what it opened."""
    before = connected([valkey_server])
    with pytest.raises(ConnectError, match="not part of one"):
        connect(valkey_server.url, cluster=True)
    wait_until_closed([valkey_server], before)


def test_idle_connection_that_died_is_replaced() -> None:
    with servers.valkey() as server, connect(server.url) as client:
        client.ping()
        server.restart()
        assert client.ping()


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


async def test_server_that_hangs_is_an_error_soon() -> None:
    """After about twice the time-out."""
    for answer, waited in await both_asked(Server.pause, timeout=0.5):
        assert isinstance(answer, redis.TimeoutError)
        assert waited < 3
