"""Fixtures of the agents' tests."""

from collections.abc import Iterator
from typing import Any

import pytest
import redis
from langgraph.checkpoint.memory import InMemorySaver

from memorystore_chat import MemorystoreChatMessageHistory
from scripted import Make
from servers import Server


@pytest.fixture
def client(valkey_server: Server) -> Iterator[redis.Redis]:
    with valkey_server.client() as connected:
        yield connected


@pytest.fixture
def make(client: redis.Redis, key_prefix: str) -> Make:
    """Histories of this test's own sessions."""

    def make(thread_id: str = "ada/1", **options: Any) -> MemorystoreChatMessageHistory:
        given: dict[str, Any] = {"client": client, "session_id": thread_id}
        return MemorystoreChatMessageHistory(**given | {"key_prefix": key_prefix} | options)

    return make


@pytest.fixture(params=[False, True], ids=["alone", "checkpointer"])
def saver(request: pytest.FixtureRequest) -> InMemorySaver | None:
    return InMemorySaver() if request.param else None
