"""Servers of every kind that connect() meets, and Google's services on loopback."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import servers
from connecting import BLOCKED, answering
from servers import Cluster, Server


@pytest.fixture(autouse=True)
def no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """The endpoint and the password of whoever runs the tests stay out of them."""
    ours = ["MEMORYSTORE_ENDPOINT", "MEMORYSTORE_PASSWORD"]
    for name in [*ours, "VERTEX_PRODUCT", "K_SERVICE", "CLOUD_RUN_JOB", "KUBERNETES_SERVICE_HOST"]:
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(scope="session")
def tls_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server with a password and a certificate for the name memorystore.test only."""
    made = servers.certificates(tmp_path_factory.mktemp("modern"), "memorystore.test")
    with servers.redis7(tls=made, requirepass="hunter2") as server:
        yield server


@pytest.fixture(scope="session")
def tls_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """The same from an authority without key identifiers, as Memorystore for Redis has.

    Its user `guest` is refused what Memorystore blocks.
    """
    folder = tmp_path_factory.mktemp("old_style")
    made = servers.certificates(folder, "memorystore.test", key_identifier=False)
    options: Any = {"requirepass": "hunter2", "user": f"guest on >hunter2 {without(BLOCKED)}"}
    with servers.cluster("redis", replicas=0, tls=made, **options) as group:
        yield group


def without(commands: list[str]) -> str:
    """The rights of a user who is refused some commands."""
    return " ".join(["~* &* +@all", *(f"-{name.lower()}" for name in commands)])


@pytest.fixture(scope="session")
def auth_server() -> Iterator[Server]:
    """A server with a password; its user `alice` is refused INFO and what Memorystore blocks."""
    rights = without([*BLOCKED, "COMMAND", "INFO"])
    with servers.valkey(requirepass="hunter2", user=f"alice on >wonder {rights}") as server:
        yield server


@pytest.fixture
def running(request: pytest.FixtureRequest) -> Any:
    """The server or cluster of the fixture that a test's parameter names; None for no name."""
    return request.getfixturevalue(request.param) if request.param else None


class Google:
    """Answers a path with the status and the JSON that it is told, each time; 404 for all else.

    Attributes:
        asked: The paths, in the order of the requests.
    """

    url = ""

    def __init__(self) -> None:
        self.answers: dict[str, Callable[[], tuple[int, Any]]] = {}
        self.asked: list[str] = []

    def says(self, path: str, body: Any, status: int = 200) -> None:
        self.answers[path] = lambda: (status, body)

    def reply(self, request: bytes) -> bytes:
        method, _, rest = request.decode().partition(" ")
        if method not in ("GET", "POST"):
            return b""  # a body that came after its head
        path = rest.partition(" ")[0].partition("?")[0].removeprefix("/v1").strip("/")
        self.asked.append(path)
        status, body = self.answers.get(path, lambda: (404, {}))()
        head = f"HTTP/1.1 {status} Said\r\nContent-Type: application/json\r\nContent-Length:"
        text = json.dumps(body)
        return f"{head} {len(text)}\r\n\r\n{text}".encode()


@pytest.fixture
def google() -> Iterator[Google]:
    told = Google()
    with answering(told.reply) as place:
        told.url = f"http://{place}"
        yield told


@pytest.fixture
def signed_out(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Nobody has run gcloud auth application-default login here."""
    monkeypatch.setenv("CLOUDSDK_CONFIG", str(tmp_path))
    monkeypatch.delenv("GOOGLE_APPLICATION_CREDENTIALS", raising=False)
    monkeypatch.setattr("google.auth.compute_engine._metadata._NO_GCE_CHECK", True)
