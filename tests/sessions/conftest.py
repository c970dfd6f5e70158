"""What the tests of sessions share: one contract for a server and a cluster."""

from collections.abc import Iterator

import pytest

from interference import InterferingRedis
from servers import Server, client_of

client = client_of("redis_server", "valkey_cluster")


@pytest.fixture
def interfering(valkey_server: Server) -> Iterator[InterferingRedis]:
    """A client that lets something happen between two round trips."""
    with InterferingRedis(host=valkey_server.host, port=valkey_server.port, protocol=2) as client:
        yield client
