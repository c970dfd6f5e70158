"""Servers of every kind, and how the tests of connect() try them."""

import socket
from collections.abc import Iterator
from typing import Any

import pytest

import servers
from connecting import BLOCKED
from servers import Cluster, Server, Tls


@pytest.fixture(autouse=True)
def no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """The endpoint and the password of whoever runs the tests stay out of them."""
    for name in (
        "MEMORYSTORE_ENDPOINT",
        "MEMORYSTORE_PASSWORD",
        "VERTEX_PRODUCT",
        "K_SERVICE",
        "KUBERNETES_SERVICE_HOST",
    ):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(scope="session")
def modern(tmp_path_factory: pytest.TempPathFactory) -> Tls:
    """A certificate for the name memorystore.test only."""
    return servers.certificates(tmp_path_factory.mktemp("modern"), "memorystore.test")


@pytest.fixture(scope="session")
def old_style(tmp_path_factory: pytest.TempPathFactory) -> Tls:
    """The same from an authority without key identifiers, as Memorystore for Redis has."""
    folder = tmp_path_factory.mktemp("old_style")
    return servers.certificates(folder, "memorystore.test", key_identifiers=False)


@pytest.fixture(scope="session")
def tls_server(modern: Tls) -> Iterator[Server]:
    with servers.redis7(tls=modern) as server:
        yield server


@pytest.fixture(scope="session")
def old_tls_server(old_style: Tls) -> Iterator[Server]:
    with servers.redis7(tls=old_style) as server:
        yield server


@pytest.fixture(scope="session")
def tls_auth_server(old_style: Tls) -> Iterator[Server]:
    with servers.redis7(tls=old_style, requirepass="hunter2") as server:
        yield server


@pytest.fixture(scope="session")
def tls_cluster(old_style: Tls) -> Iterator[Cluster]:
    with servers.cluster("redis", replicas=0, tls=old_style, requirepass="hunter2") as group:
        yield group


@pytest.fixture(scope="session", params=["valkey9", "redis7"])
def auth_server(request: pytest.FixtureRequest) -> Iterator[Server]:
    """A server with a password, and a user `alice` with one of her own."""
    start = {"valkey9": servers.valkey, "redis7": servers.redis7}[request.param]
    with start(requirepass="hunter2", user="alice on >wonder ~* &* +@all") as server:
        yield server


@pytest.fixture(scope="session")
def auth_cluster() -> Iterator[Cluster]:
    """A cluster with a password, and a user `guest` who is refused the blocked commands."""
    refused = " ".join(f"-{name.lower()}" for name in BLOCKED if name != "COMMAND")
    rule = f"guest on >pw ~* &* +@all {refused}"
    with servers.cluster(replicas=0, requirepass="hunter2", user=rule) as group:
        yield group


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> None:
    """memorystore.test and other.test are this machine."""
    real = socket.getaddrinfo

    def lookup(host: Any, *rest: Any, **options: Any) -> Any:
        return real("127.0.0.1" if str(host).endswith(".test") else host, *rest, **options)

    monkeypatch.setattr(socket, "getaddrinfo", lookup)
