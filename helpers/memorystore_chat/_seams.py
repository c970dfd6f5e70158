"""Every place at which this package leans on what redis-py does not promise to keep.

Each has a test in tests/test_seams.py that fails when the library changes.
"""

import ssl
from typing import Any

import redis
from redis.connection import SSLConnection


class OwnTlsConnection(SSLConnection):
    """A TLS connection whose context is ours: redis-py's own always trusts the system too."""

    def tls(self) -> ssl.SSLContext:
        """What this connection trusts."""
        raise NotImplementedError

    def _wrap_socket_with_ssl(self, sock: Any) -> ssl.SSLSocket:
        return self.tls().wrap_socket(sock, server_hostname=self.host)


class OwnListsPool(redis.ConnectionPool):
    """A pool that keeps its connections in a way of its own.

    redis-py reads its two lists to mark connections for a new login, and to count and drop them.
    """

    def idle(self) -> list[Any]:
        """The connections that nobody has."""
        raise NotImplementedError

    def in_use(self) -> set[Any]:
        """The connections that somebody has now."""
        raise NotImplementedError

    @property
    def _available_connections(self) -> list[Any]:  # type: ignore[override]
        return self.idle()

    @property
    def _in_use_connections(self) -> set[Any]:  # type: ignore[override]
        return self.in_use()
