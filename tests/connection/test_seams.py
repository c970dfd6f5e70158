"""What the package uses of redis-py beyond its documented interface is still there."""

import inspect

import pytest
from redis.connection import SSLConnection

from memorystore_chat.commands import AS_BYTES
from memorystore_chat.connection import clients
from servers import Cluster, Server


@pytest.mark.parametrize("cluster", [False, True], ids=["server", "cluster"])
async def test_replies_are_bytes_whatever_the_client_decodes(
    valkey_server: Server, valkey_cluster: Cluster, key_prefix: str, cluster: bool
) -> None:
    """NEVER_DECODE of redis-py, sync and async, on a server and on a cluster: see commands.py."""
    target = valkey_cluster if cluster else valkey_server
    key = f"{key_prefix}bytes"
    with target.client(decode_responses=True) as client:
        client.rpush(key, b"\xff")
        assert client.execute_command("LRANGE", key, 0, -1, **AS_BYTES) == [b"\xff"]
    async with target.async_client(decode_responses=True) as twin:
        assert await twin.execute_command("LRANGE", key, 0, -1, **AS_BYTES) == [b"\xff"]


def test_redis_makes_the_tls_context_in_the_method_that_is_replaced() -> None:
    """SSLConnection wraps its socket in ``_wrap_socket_with_ssl(sock)``: see clients.py."""
    names = list(inspect.signature(SSLConnection._wrap_socket_with_ssl).parameters)
    assert names == ["self", "sock"]
    assert "_wrap_socket_with_ssl" in inspect.getsource(SSLConnection._connect)
    assert clients.TlsConnection._wrap_socket_with_ssl is not SSLConnection._wrap_socket_with_ssl
