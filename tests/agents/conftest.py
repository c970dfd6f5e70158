"""Fixtures of the agents' tests."""

from typing import Any

import pytest
from langgraph.checkpoint.memory import InMemorySaver

import servers
from memorystore_chat.checkpoint import MemorystoreSaver

client = servers.client_of("valkey_server")


@pytest.fixture(params=["memory", "keep=1", "keep=2"])
def checkpointer(request: pytest.FixtureRequest, client: Any, key_prefix: str) -> Any:
    if request.param == "memory":
        return InMemorySaver()
    return MemorystoreSaver(client, key_prefix=key_prefix, keep=int(request.param[-1]))


@pytest.fixture(params=[False, True], ids=["alone", "checkpointer"])
def saver(request: pytest.FixtureRequest) -> InMemorySaver | None:
    return InMemorySaver() if request.param else None
