"""Servers shared by the tests; each is started when the first test asks for it."""

import os
import uuid
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from typing import Any

import pytest
import redis

import jupyter_page
import servers
from memorystore_chat import MemorystoreChatMessageHistory
from scripted import Make
from servers import Cluster, Server

os.environ.setdefault("DEMO_MODEL_DELAY", "0")  # it streams at once
PLACES = {"valkey": "valkey_server", "redis": "redis_server", "cluster": "valkey_cluster"}
EXTERNAL = os.environ.get("MEMORYSTORE_TEST_SERVER")


@pytest.fixture(scope="session", params=["valkey9", "redis7", *(["external"] if EXTERNAL else [])])
def server(request: pytest.FixtureRequest) -> Iterator[Server]:
    """A standalone server: every test that uses it runs on Valkey 9 and on Redis 7.

    Where ``$MEMORYSTORE_TEST_SERVER`` is set (``redis://HOST:PORT``) they run on that one too.
    """
    if request.param == "external":
        with servers.external(EXTERNAL or "") as running:
            yield running
    else:
        yield request.getfixturevalue(f"{request.param.rstrip('79')}_server")


@dataclass
class Place:
    """A server or cluster, and one way of using it.

    Attributes:
        server: Where it is.
        way: "sync" or "async".
        sync_client: A synchronous client of it that answers bytes.
        client: The client of the way in question: `sync_client`, or one of redis.asyncio.
    """

    server: Server | Cluster
    way: str
    sync_client: Any
    client: Any

    async def call(self, object_: Any, name: str, *given: Any, **options: Any) -> Any:
        """Call a method, or await its twin with an "a" before its name.

        A property is read; its twin is the method with "aget_" before its name.
        """
        if self.way == "sync":
            found = getattr(object_, name)
            return found(*given, **options) if callable(found) else found
        twin = getattr(object_, f"a{name}", None) or getattr(object_, f"aget_{name}")
        return await twin(*given, **options)


@pytest.fixture(params=[f"{p}-{way}" for p in PLACES for way in ("sync", "async")])
async def place(request: pytest.FixtureRequest, key_prefix: str) -> AsyncIterator[Place]:
    """Valkey, Redis and a cluster, each used in both ways; keys under `key_prefix` are removed."""
    name, _, way = request.param.partition("-")
    running = request.getfixturevalue(PLACES[name])
    sync_client = running.client()
    client = running.async_client() if way == "async" else sync_client
    yield Place(running, way, sync_client, client)
    for key in sync_client.scan_iter(match=f"{key_prefix}*", count=1000):
        sync_client.unlink(key)
    if way == "async":
        await client.aclose()
    sync_client.close()


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Keep tests marked `own_server` off the external one, whose version may lack what they use.

    Those of Google's clients, which take ten seconds to import, come first and so in one process.
    """
    google = {"gemini", "provider"}
    items.sort(key=lambda item: google.isdisjoint(getattr(item, "fixturenames", ())))
    left_out = [
        item
        for item in items
        if item.get_closest_marker("own_server")
        and (callspec := getattr(item, "callspec", None))
        and callspec.params.get("server") == "external"
    ]
    if left_out:
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if item not in left_out]


@pytest.fixture
def client(server: Server) -> Iterator[redis.Redis]:
    """A plain redis-py client of `server` that answers bytes."""
    with server.client() as connected:
        yield connected


@pytest.fixture
async def async_client(server: Server) -> AsyncIterator[Any]:
    """The same of redis.asyncio."""
    async with server.async_client() as connected:
        yield connected


@pytest.fixture
def make(client: redis.Redis, key_prefix: str) -> Make:
    """Histories on `server` with keys of this test's own."""

    def make(
        session_id: str = "s", *given: Any, client: redis.Redis = client, **options: Any
    ) -> MemorystoreChatMessageHistory:
        return MemorystoreChatMessageHistory(
            client, session_id, *given, key_prefix=key_prefix, **options
        )

    return make


@pytest.fixture(scope="session")
def redis_server() -> Iterator[Server]:
    """A standalone Redis 7."""
    with servers.redis7() as running:
        yield running


@pytest.fixture(scope="session")
def valkey_server() -> Iterator[Server]:
    """A standalone Valkey 9."""
    with servers.valkey() as running:
        yield running


@pytest.fixture(scope="session")
def valkey_cluster() -> Iterator[Cluster]:
    """A Valkey 9 cluster: three primaries, each with a replica."""
    with servers.cluster() as running:
        yield running


@pytest.fixture
def key_prefix(request: pytest.FixtureRequest) -> Iterator[str]:
    """A prefix no other test uses; the keys under it are removed afterwards."""
    prefix = f"test-{uuid.uuid4().hex[:12]}:"
    yield prefix
    for name in ("server", "valkey_server", "valkey_cluster"):
        if name in request.fixturenames:
            with request.getfixturevalue(name).client() as used:
                for key in used.scan_iter(match=f"{prefix}*", count=1000):
                    used.unlink(key)


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    """The machine's Chromium, headless and without calls home."""
    try:
        with jupyter_page.chromium() as chromium:
            yield chromium
    except (FileNotFoundError, ModuleNotFoundError) as error:
        servers.missing(str(error))
