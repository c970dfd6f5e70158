"""What the package uses of redis-py beyond its documented interface (`_seams`) is still there."""

import asyncio
import inspect
import socket
from typing import TYPE_CHECKING, Any

import pytest
import redis
import redis.asyncio
from redis.connection import SSLConnection

import memorystore_chat.connection.connections as ours
from memorystore_chat._seams import AS_BYTES, last_words, opened_in_another_loop, send_again
from memorystore_chat.connection.pools import Pool

if TYPE_CHECKING:
    from servers import Cluster, Server

ADVICE = "redis-py changed: mend it in memorystore_chat/_seams.py"


@pytest.mark.parametrize("cluster", [False, True], ids=["server", "cluster"])
async def test_replies_are_bytes_whatever_the_client_decodes(
    valkey_server: "Server", valkey_cluster: "Cluster", key_prefix: str, cluster: bool
) -> None:
    """NEVER_DECODE of redis-py, sync and async, on a server and on a cluster."""
    target = valkey_cluster if cluster else valkey_server
    key = f"{key_prefix}bytes"
    with target.client(decode_responses=True) as client:
        client.rpush(key, b"\xff")
        assert client.execute_command("LRANGE", key, 0, -1, **AS_BYTES) == [b"\xff"], ADVICE
    async with target.async_client(decode_responses=True) as twin:
        assert await twin.execute_command("LRANGE", key, 0, -1, **AS_BYTES) == [b"\xff"], ADVICE


@pytest.mark.parametrize("kind", ["server", "single connection", "blocking pool", "cluster"])
def test_a_client_of_another_loop_is_recognized(
    valkey_server: "Server", valkey_cluster: "Cluster", kind: str
) -> None:
    """Its idle connections tell which loop opened them; a closed client has none."""

    async def use(client: Any) -> bool:
        await client.get("x")
        return opened_in_another_loop(client)

    async def ask(client: Any) -> bool:
        return opened_in_another_loop(client)

    async def made() -> Any:
        if kind == "cluster":
            return valkey_cluster.async_client()
        if kind == "blocking pool":
            pool = redis.asyncio.BlockingConnectionPool(port=valkey_server.port, protocol=2)
            return redis.asyncio.Redis.from_pool(pool)
        return valkey_server.async_client(single_connection_client=kind != "server")

    first, second = asyncio.new_event_loop(), asyncio.new_event_loop()
    try:
        client = first.run_until_complete(made())
        assert not second.run_until_complete(ask(client)), "it has no connection yet"
        assert not first.run_until_complete(use(client)), ADVICE
        assert second.run_until_complete(ask(client)), ADVICE
        first.run_until_complete(client.aclose())
        assert not second.run_until_complete(ask(client)), "it was closed"
        assert not second.run_until_complete(use(client)), ADVICE
        second.run_until_complete(client.aclose())
    finally:
        first.close()
        second.close()


def test_redis_makes_the_tls_context_in_the_method_that_is_replaced() -> None:
    """SSLConnection wraps its socket in ``_wrap_socket_with_ssl(sock)``, which we replace."""
    names = list(inspect.signature(SSLConnection._wrap_socket_with_ssl).parameters)
    assert names == ["self", "sock"], "redis-py wraps TLS sockets in another way: see _seams"
    assert "_wrap_socket_with_ssl" in inspect.getsource(SSLConnection._connect)
    assert ours.TlsConnection._wrap_socket_with_ssl is not SSLConnection._wrap_socket_with_ssl


def test_redis_reads_its_pool_from_the_two_lists_that_are_replaced() -> None:
    """redis-py's own pool has the two lists, and counts and marks connections by them."""
    theirs = redis.ConnectionPool()
    for name in ("_available_connections", "_in_use_connections"):
        assert hasattr(theirs, name), f"redis-py's pool has no {name} any more: see _seams"
    pool = Pool(timeout=1, max_connections=3, connection_class=_NeverConnected)
    lent = pool.get_connection()
    pool.release(pool.get_connection())
    assert [number for number, _ in pool.get_connection_count()] == [1, 1]
    pool.update_active_connections_for_reconnect()
    assert lent.should_reconnect()


async def test_what_a_server_said_before_it_hung_up_can_be_read() -> None:
    """A connection of redis-py has its socket in ``_sock``, an asynchronous one a stream."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        address = {"host": "127.0.0.1", "port": listener.getsockname()[1], "protocol": 2}
        one = redis.Connection(driver_info=None, **address)
        other = redis.asyncio.Connection(driver_info=None, **address)
        one.connect()
        listener.accept()[0].sendall(b"-ERR Protocol error\r\n")
        assert last_words(one) == b"-ERR Protocol error\r\n"
        await other.connect()
        listener.accept()[0].sendall(b"-ERR Protocol error\r\n")
        await asyncio.sleep(0.1)
        assert last_words(other) == b"-ERR Protocol error\r\n"
        one.disconnect()
        await other.disconnect()
        assert last_words(one) == last_words(other) == b""


def test_the_commands_of_a_clusters_pipeline_are_sent_by_the_method_that_is_replaced(
    valkey_cluster: "Cluster",
) -> None:
    """A pipeline's ``_execution_strategy`` sends them, and keeps each one's answer with it."""
    seen: list[Any] = []
    with valkey_cluster.client() as client, client.pipeline(transaction=False) as pipe:
        send = pipe._execution_strategy.send_cluster_commands

        def noted(stack: list[Any], **options: Any) -> Any:
            seen.extend(stack)
            return send(stack, **options)

        pipe._execution_strategy.send_cluster_commands = noted
        send_again(pipe, lambda attempt, _: attempt(), (redis.ConnectionError,))
        pipe.llen("nothing")
        assert pipe.execute() == [0], ADVICE
    assert [(one.args[0], one.result, one.position) for one in seen] == [("LLEN", 0, 0)], ADVICE


class _NeverConnected(redis.Connection):
    in_step = True

    def connect(self) -> None:
        pass

    def can_read(self, timeout: float = 0) -> bool:
        return False
