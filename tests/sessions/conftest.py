"""What the tests of sessions share."""

from collections.abc import Iterator

import pytest

import servers
from interference import InterferingRedis


@pytest.fixture
def interfering(server: servers.Server) -> Iterator[InterferingRedis]:
    """A client that lets something happen between two round trips."""
    with InterferingRedis(host=server.host, port=server.port, protocol=2) as client:
        yield client
