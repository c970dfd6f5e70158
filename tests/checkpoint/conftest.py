"""Savers on one server; what is to run on several asks for `place`."""

import os
from collections.abc import Iterator
from functools import partial
from typing import Any

import pytest
import redis

import servers
from checkpoints import THREAD, Make, Stored
from memorystore_chat.checkpoint import MemorystoreSaver


@pytest.fixture
def client(request: pytest.FixtureRequest, key_prefix: str) -> Iterator[redis.Redis]:
    """A client of $MEMORYSTORE_TEST_SERVER, or of a Valkey 9."""
    url = os.environ.get("MEMORYSTORE_TEST_SERVER")
    server = servers.External(url) if url else request.getfixturevalue("valkey_server")
    with server.client() as connected:
        yield connected
        for key in connected.scan_iter(match=f"{key_prefix}*", count=1000):
            connected.unlink(key)


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
