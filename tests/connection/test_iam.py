"""IAM: the real google-auth against a token server on loopback, and servers that rotate tokens."""

import json
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import redis
from google.oauth2.credentials import Credentials
from langchain_core.messages import HumanMessage

import servers
from memorystore_chat.connection import connect, connect_async
from memorystore_chat.connection.iam import IamCredentials, TokenError, TokenServerError
from memorystore_chat.errors import ConnectError
from memorystore_chat.history import MemorystoreChatMessageHistory
from servers import Cluster, Server


class TokenServer(ThreadingHTTPServer):
    """Google's token service: token-1, token-2, ... on request."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Answers)
        self.issued: list[str] = []
        self.asked = 0
        self.lifetime = 3600.0
        self.delay = 0.0
        self.status = 200
        threading.Thread(target=self.serve_forever, args=(0.01,), daemon=True).start()

    def login(self, port: int | None = None) -> IamCredentials:
        """Somebody's credentials, who has no token yet."""
        uri = f"http://127.0.0.1:{port or self.server_port}/token"
        return IamCredentials(Credentials(None, "refresh", None, uri, "client", "secret"))


class _Answers(BaseHTTPRequestHandler):
    server: TokenServer

    def do_POST(self) -> None:
        google = self.server
        self.rfile.read(int(self.headers["Content-Length"]))
        google.asked += 1
        time.sleep(google.delay)
        if google.status == 200:
            google.issued.append(f"token-{len(google.issued) + 1}")
        answer = {"access_token": (google.issued or [""])[-1], "expires_in": google.lifetime}
        body = json.dumps(answer if google.status == 200 else {}).encode()
        self.send_response(google.status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def google() -> Iterator[TokenServer]:
    with TokenServer() as server:
        yield server
        server.shutdown()


def nodes_of(target: Server | Cluster) -> list[Server]:
    return target.nodes if isinstance(target, Cluster) else [target]


def accept_only(target: Server | Cluster, token: str) -> None:
    """Let the server take this token and no older one, and drop who is logged in."""
    for node in nodes_of(target):
        with node.admin() as admin:
            admin.execute_command("ACL", "SETUSER", "default", "on", "resetpass", f">{token}")
            admin.execute_command("CLIENT", "KILL", "USER", "default")


@pytest.fixture(scope="module")
def redis7() -> Iterator[Server]:
    with servers.redis7() as server:
        yield server


@pytest.fixture(scope="module")
def valkey9() -> Iterator[Server]:
    with servers.valkey() as server:
        yield server


@pytest.fixture(params=["redis7", "valkey9", "auth_cluster", "tls_auth_server", "tls_cluster"])
def target(request: pytest.FixtureRequest, google: TokenServer) -> Iterator[Server | Cluster]:
    """A server, or a cluster, that takes only the first token of `google`."""
    chosen: Server | Cluster = request.getfixturevalue(request.param)
    for node in nodes_of(chosen):
        with node.admin() as admin:
            admin.flushall()
    accept_only(chosen, "token-1")
    yield chosen
    accept_only(chosen, "hunter2")


def tls(target: Server | Cluster) -> dict[str, Any]:
    certificates = nodes_of(target)[0].tls
    return {"ca_certs": certificates.ca} if certificates else {}


def texts(messages: list[Any]) -> list[str]:
    return [message.content for message in messages]


ROTATE_AT = {15, 30, 45, 60}
EXPECTED = [str(number) for number in range(75)]


@pytest.mark.parametrize("kind", ["sync", "async"])
async def test_rotation_is_not_noticed(
    target: Server | Cluster, google: TokenServer, kind: str
) -> None:
    """Tokens change and connections drop during a loop of appends: nothing lost, nothing twice."""
    provider = google.login()
    with connect(target.url, iam=provider, **tls(target)) as client:
        async with await connect_async(target.url, iam=provider, **tls(target)) as async_client:
            twin = async_client if kind == "async" else None
            history = MemorystoreChatMessageHistory(client, "session", async_client=twin)
            for number in range(75):
                if number in ROTATE_AT:
                    accept_only(target, f"token-{len(google.issued) + 1}")
                await history.aadd_messages([HumanMessage(str(number))])
            assert texts(history.messages) == texts(await history.aget_messages()) == EXPECTED
    assert google.issued == ["token-1", "token-2", "token-3", "token-4", "token-5"]


async def test_lost_login_is_renewed(target: Server | Cluster, google: TokenServer) -> None:
    """NOAUTH on an open connection leads to a new login, and the command runs once."""
    provider = google.login()
    options: dict[str, Any] = {"iam": provider, **tls(target)}
    with connect(target.url, **options) as client:
        async with await connect_async(target.url, **options) as async_client:
            for node in nodes_of(target):
                with node.admin() as admin:
                    admin.execute_command("ACL", "SETUSER", "default", "resetpass", ">token-2")
            # RESET takes a connection's login away: from here on the server answers NOAUTH.
            both: tuple[Any, ...] = (client, async_client)
            for one in both:
                nodes = {"target_nodes": one.get_nodes()} if isinstance(target, Cluster) else {}
                answer = one.execute_command("RESET", **nodes)
                if one is async_client:
                    await answer
            assert client.incr("{k}counter") == 1
            assert await async_client.incr("{k}counter") == 2
            assert google.issued == ["token-1", "token-2"]


def test_one_token_per_lifetime_with_16_threads(google: TokenServer) -> None:
    google.lifetime, google.delay = 1.0, 0.05
    provider = google.login()
    end = time.monotonic() + 2.3
    seen: list[set[str]] = []

    def ask() -> None:
        mine = set()
        while time.monotonic() < end:
            mine.add(provider.get_credentials()[1])
            time.sleep(0.001)
        seen.append(mine)

    with ThreadPoolExecutor(16) as pool:
        for _ in range(16):
            pool.submit(ask)
    assert google.issued == ["token-1", "token-2", "token-3"]
    assert seen == [{"token-1", "token-2", "token-3"}] * 16


def test_refused_token_is_reported_with_the_role(redis7: Server, google: TokenServer) -> None:
    accept_only(redis7, "another")
    started = time.monotonic()
    with pytest.raises(ConnectError, match="refuses the access token") as caught:
        connect(redis7.url, iam=google.login())
    assert time.monotonic() - started < 2
    assert "roles/redis.dbConnectionUser" in str(caught.value)
    assert "token-1" not in str(caught.value)
    assert google.issued == ["token-1", "token-2"]


def test_revoked_role_is_reported_quickly(redis7: Server, google: TokenServer) -> None:
    """Where the new token is refused as well, the command fails soon and for good."""
    accept_only(redis7, "token-1")
    with connect(redis7.url, iam=google.login()) as client:
        accept_only(redis7, "another")
        started = time.monotonic()
        with pytest.raises(redis.AuthenticationError):
            client.get("a")
        assert time.monotonic() - started < 2
        with pytest.raises(ConnectError, match=r"refuses the login.*dbConnectionUser"):
            len(MemorystoreChatMessageHistory(client, "a"))
    assert google.issued == ["token-1", "token-2", "token-3"]


def test_failed_renewal_keeps_the_good_token(google: TokenServer) -> None:
    google.lifetime = 7.0
    provider = google.login()
    provider.get_credentials()
    google.status = 404
    asked = google.asked
    time.sleep(6.35)  # within the last tenth of its lifetime
    with ThreadPoolExecutor(50) as pool:
        logins = list(pool.map(lambda _: provider.get_credentials(), range(50)))
    assert logins == [("default", "token-1")] * 50
    assert google.asked == asked + 1


def test_google_refuses_or_is_away(redis7: Server, google: TokenServer) -> None:
    google.status = 401
    for port, kind, word in (
        (None, TokenError, "application-default login"),
        (servers.free_port(), TokenServerError, "cannot be reached"),
    ):
        with pytest.raises(kind, match=word):
            google.login(port).get_credentials()
        with pytest.raises(ConnectError, match=word):
            connect(redis7.url, iam=google.login(port), timeout=1)


def test_no_sign_in(redis7: Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("CLOUDSDK_CONFIG", str(tmp_path))
    monkeypatch.delenv("GOOGLE_APPLICATION_CREDENTIALS", raising=False)
    monkeypatch.setattr("google.auth.compute_engine._metadata._NO_GCE_CHECK", True)
    with pytest.raises(ConnectError, match="gcloud auth application-default login"):
        connect(redis7.url, iam=True)
