"""Servers of every kind that connect() meets, and Google's services on loopback."""

import json
import socket
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

import servers
from connecting import BLOCKED
from servers import Cluster, Server, Tls


@pytest.fixture(autouse=True)
def no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """The endpoint and the password of whoever runs the tests stay out of them."""
    ours = ["MEMORYSTORE_ENDPOINT", "MEMORYSTORE_PASSWORD"]
    for name in [*ours, "VERTEX_PRODUCT", "K_SERVICE", "CLOUD_RUN_JOB", "KUBERNETES_SERVICE_HOST"]:
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(scope="session")
def modern(tmp_path_factory: pytest.TempPathFactory) -> Tls:
    """A certificate for the name memorystore.test only."""
    return servers.certificates(tmp_path_factory.mktemp("modern"), "memorystore.test")


@pytest.fixture(scope="session")
def old_style(tmp_path_factory: pytest.TempPathFactory) -> Tls:
    """The same from an authority without key identifiers, as Memorystore for Redis has."""
    folder = tmp_path_factory.mktemp("old_style")
    return servers.certificates(folder, "memorystore.test", key_identifier=False)


@pytest.fixture(scope="session")
def tls_server(modern: Tls) -> Iterator[Server]:
    with servers.redis7(tls=modern, requirepass="hunter2") as server:
        yield server


@pytest.fixture(scope="session")
def tls_cluster(old_style: Tls) -> Iterator[Cluster]:
    with servers.cluster("redis", replicas=0, tls=old_style, requirepass="hunter2") as group:
        yield group


@pytest.fixture(scope="session")
def auth_server() -> Iterator[Server]:
    """A server with a password, and a user `alice` with one of her own."""
    with servers.valkey(requirepass="hunter2", user="alice on >wonder ~* &* +@all") as server:
        yield server


@pytest.fixture(scope="session")
def auth_cluster() -> Iterator[Cluster]:
    """A cluster with a password, and a user `guest` who is refused the blocked commands."""
    rights = " ".join(f"-{name.lower()}" for name in BLOCKED if name != "COMMAND")
    with servers.cluster(
        replicas=0, requirepass="hunter2", user=f"guest on >pw ~* &* +@all {rights}"
    ) as group:
        yield group


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> None:
    """memorystore.test and other.test are this machine."""
    real = socket.getaddrinfo

    def lookup(host: Any, *rest: Any, **options: Any) -> Any:
        return real("127.0.0.1" if str(host).endswith(".test") else host, *rest, **options)

    monkeypatch.setattr(socket, "getaddrinfo", lookup)


class Google(ThreadingHTTPServer):
    """Answers a path with the status and the JSON that it is told, each time; 404 for all else.

    Attributes:
        asked: The paths, in the order of the requests.
    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Answers)
        self.answers: dict[str, Callable[[], tuple[int, Any]]] = {}
        self.asked: list[str] = []
        self.url = f"http://127.0.0.1:{self.server_port}"
        threading.Thread(target=self.serve_forever, args=(0.01,), daemon=True).start()

    def says(self, path: str, body: Any, status: int = 200) -> None:
        self.answers[path] = lambda: (status, body)


class _Answers(BaseHTTPRequestHandler):
    server: Google

    def do_GET(self) -> None:
        path = self.path.partition("?")[0].removeprefix("/v1").strip("/")
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.server.asked.append(path)
        error = {"error": {"code": 404, "status": "NOT_FOUND", "message": ""}}
        status, body = self.server.answers.get(path, lambda: (404, error))()
        text = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    do_POST = do_GET  # noqa: N815 - that is how it is called

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def google() -> Iterator[Google]:
    with Google() as server:
        yield server
        server.shutdown()


@pytest.fixture
def signed_out(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Nobody has run gcloud auth application-default login here."""
    monkeypatch.setenv("CLOUDSDK_CONFIG", str(tmp_path))
    monkeypatch.delenv("GOOGLE_APPLICATION_CREDENTIALS", raising=False)
    monkeypatch.setattr("google.auth.compute_engine._metadata._NO_GCE_CHECK", True)
