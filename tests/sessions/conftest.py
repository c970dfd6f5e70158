"""What the tests of sessions share: one contract for a server and a cluster."""

from collections.abc import Iterator
from typing import Any

import pytest

import servers
from interference import InterferingRedis


@pytest.fixture(params=["redis_server", "valkey_cluster"])
def client(request: pytest.FixtureRequest, key_prefix: str) -> Iterator[Any]:
    """A plain redis-py client; the keys under `key_prefix` are removed afterwards."""
    with request.getfixturevalue(request.param).client() as connected:
        yield connected
        for key in connected.scan_iter(match=f"*{key_prefix}*", count=1000):
            connected.unlink(key)


@pytest.fixture
def interfering(valkey_server: servers.Server) -> Iterator[InterferingRedis]:
    """A client that lets something happen between two round trips."""
    with InterferingRedis(host=valkey_server.host, port=valkey_server.port, protocol=2) as client:
        yield client
