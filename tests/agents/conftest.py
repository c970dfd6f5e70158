"""Fixtures of the agents' tests."""

from collections.abc import Iterator
from typing import Any

import pytest
import redis
from langgraph.checkpoint.memory import InMemorySaver

from memorystore_chat.checkpoint import MemorystoreSaver
from servers import Server


@pytest.fixture
def client(valkey_server: Server) -> Iterator[redis.Redis]:
    with valkey_server.client() as connected:
        yield connected


@pytest.fixture(params=["memory", "keep=1", "keep=2"])
def checkpointer(request: pytest.FixtureRequest, client: Any, key_prefix: str) -> Any:
    if request.param == "memory":
        return InMemorySaver()
    return MemorystoreSaver(client, key_prefix=key_prefix, keep=int(request.param[-1]))


@pytest.fixture(params=[False, True], ids=["alone", "checkpointer"])
def saver(request: pytest.FixtureRequest) -> InMemorySaver | None:
    return InMemorySaver() if request.param else None
