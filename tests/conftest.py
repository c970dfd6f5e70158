"""Servers shared by the tests of a process; each is started when the first test asks for it."""

import os
import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import hypothesis
import pytest
import redis

import jupyter_page
import servers
from memorystore_chat import MemorystoreChatMessageHistory
from scripted import Make
from servers import Cluster, Server

# It streams at once, and yet so that notebook 10 can end a replica in the middle of an answer.
os.environ.setdefault("DEMO_MODEL_DELAY", "0.002")
hypothesis.settings.load_profile("ci")  # the same examples each time, however slow the machine is
NAMED = os.environ.get("MEMORYSTORE_TEST_SERVER")
SERVERS = ["valkey_server", "redis_server", *(["named_server"] if NAMED else [])]
PLACES = ["valkey_server-sync", "redis_server-async", "valkey_cluster-sync", "valkey_cluster-async"]
PLACES += [f"{name}-sync" for name in SERVERS[2:]]


def shared(start: Callable[[], Server | Cluster]) -> Any:
    """A fixture that starts a server or cluster once for all tests of a process."""

    @pytest.fixture(scope="session")
    def started() -> Iterator[Server | Cluster]:
        with start() as running:
            yield running

    return started


redis_server, valkey_server = shared(servers.redis7), shared(servers.valkey)
valkey_cluster = shared(servers.cluster)  # three primaries, each with a replica
named_server = shared(partial(servers.External, NAMED or ""))
client = servers.client_of(*SERVERS)


@pytest.fixture
def key_prefix(request: pytest.FixtureRequest) -> Iterator[str]:
    """A prefix no other test uses; the keys that have it are removed afterwards."""
    prefix = f"test-{uuid.uuid4().hex[:12]}:"
    yield prefix
    for name in {*SERVERS, "valkey_cluster"}.intersection(request.fixturenames):
        with request.getfixturevalue(name).client() as used:
            for key in used.scan_iter(match=f"*{prefix}*", count=1000):
                used.unlink(key)


@dataclass
class Place:
    """A server or cluster, used in one way."""

    way: str  # "sync" or "async"
    sync_client: Any  # answers bytes
    client: Any  # the way's own: `sync_client`, or one of redis.asyncio

    async def call(self, object_: Any, name: str, *given: Any, **options: Any) -> Any:
        """Call a method or read a property, or await its twin: "a" or "aget_" before its name."""
        if self.way == "sync":
            found = getattr(object_, name)
            return found(*given, **options) if callable(found) else found
        twin = getattr(object_, f"a{name}", None) or getattr(object_, f"aget_{name}")
        return await twin(*given, **options)


@pytest.fixture(params=PLACES)
async def place(request: pytest.FixtureRequest, key_prefix: str) -> AsyncIterator[Place]:
    """Valkey, Redis and a cluster, used in both ways."""
    name, _, way = request.param.partition("-")
    running = request.getfixturevalue(name)
    with running.client() as sync_client:
        async with running.async_client() as client:
            yield Place(way, sync_client, sync_client if way == "sync" else client)


@pytest.fixture
def make(client: redis.Redis, key_prefix: str) -> Make:
    """Histories on `client`'s server with keys of this test's own."""

    def make(session_id: str = "ada/1", **options: Any) -> MemorystoreChatMessageHistory:
        given: dict[str, Any] = {"client": client, "session_id": session_id}
        return MemorystoreChatMessageHistory(**given | {"key_prefix": key_prefix} | options)

    return make


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    """The machine's Chromium, headless and without calls home."""
    with jupyter_page.chromium() as chromium:
        yield chromium


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the tests that import Google's libraries: it takes ten seconds a process."""
    items.sort(key=lambda item: "gemini" not in getattr(item, "fixturenames", ()))
