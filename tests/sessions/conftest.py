"""What the tests of sessions share: one contract for a server and a cluster."""

from collections.abc import Iterator
from typing import Any

import pytest

from interference import InterferingRedis
from servers import Server


@pytest.fixture(params=["redis_server", "valkey_cluster"])
def server(request: pytest.FixtureRequest) -> Any:
    """What `client` is a client of."""
    return request.getfixturevalue(request.param)


@pytest.fixture
def interfering(valkey_server: Server) -> Iterator[InterferingRedis]:
    """A client that lets something happen between two round trips."""
    with InterferingRedis(host=valkey_server.host, port=valkey_server.port, protocol=2) as client:
        yield client
