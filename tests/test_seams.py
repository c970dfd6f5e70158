"""What this package leans on in redis-py without a promise that it stays (`_seams`)."""

import inspect

import redis
from redis.connection import SSLConnection

import memorystore_chat.connection.connections as ours
from memorystore_chat.connection.pools import Pool


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


class _NeverConnected(redis.Connection):
    in_step = True

    def connect(self) -> None:
        pass

    def can_read(self, timeout: float = 0) -> bool:
        return False
