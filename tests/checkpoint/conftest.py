"""Savers on one server; what is to run on several asks for `place`."""

from functools import partial
from typing import Any

import pytest
import redis

import servers
from checkpoints import THREAD, Make, Stored
from memorystore_chat.checkpoint import MemorystoreSaver

client = servers.client_of("valkey_server")


@pytest.fixture
def make_saver(client: redis.Redis, key_prefix: str) -> Make:
    """Savers that share their threads."""
    return partial(MemorystoreSaver, client, key_prefix=key_prefix)


@pytest.fixture
def saver(make_saver: Make) -> MemorystoreSaver:
    """One without options."""
    return make_saver()


@pytest.fixture
def key(key_prefix: str) -> str:
    """The Redis key of the thread."""
    return f"{key_prefix}checkpoints:{THREAD}"


@pytest.fixture
def stored(client: Any, key: str) -> Stored:
    """What the server has of the thread."""
    return lambda: dict(client.hgetall(key))
