"""A saver on one server. What depends on the server asks for `place` or `target`."""

from collections.abc import Iterator
from functools import partial
from typing import Any

import pytest
import redis

from checkpoints import THREAD, Make, Stored
from memorystore_chat.checkpoint import MemorystoreSaver
from servers import Server


@pytest.fixture
def client(valkey_server: Server) -> Iterator[redis.Redis]:
    """A client of a Valkey 9."""
    with valkey_server.client() as connected:
        yield connected


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
