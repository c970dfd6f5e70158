"""Every way in which connect() fails: soon, and with the next step."""

import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import redis

import servers
from connecting import answering, refused
from memorystore_chat.connection import connect, tls
from memorystore_chat.errors import ConnectError
from servers import Cluster, Server, Tls

TOKENS = redis.UsernamePasswordCredentialProvider(password="token")


@pytest.mark.parametrize(
    ("endpoint", "words"),
    [
        ("127.0.0.1:1", ["nothing listens on port 1", 'connect("embedded")']),
        ("redis://no-such-host.invalid", ["'no-such-host.invalid' does not resolve"]),
        ("unix:///no/such.sock", ["No such file"]),
    ],
)
def test_nothing_is_there(endpoint: str, words: list[str]) -> None:
    said = refused(endpoint, within=2)
    assert [word for word in words if word not in said] == []


@contextmanager
def listening(queue: int) -> Iterator[str]:
    """An address that nobody answers at."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(queue)
        yield f"127.0.0.1:{listener.getsockname()[1]}"


def test_a_server_that_accepts_and_never_answers() -> None:
    with listening(8) as place:
        assert "answered nothing within 0.3 s" in refused(place, timeout=0.3, within=1.3)


def test_an_address_that_drops_every_packet() -> None:
    """A listener whose queue is full drops what comes."""
    with listening(0) as place:
        host, port = place.split(":")
        fillers = [socket.socket() for _ in range(4)]
        for filler in fillers:
            filler.setblocking(False)
            filler.connect_ex((host, int(port)))
        time.sleep(0.05)
        assert "no answer within 0.3 s" in refused(place, timeout=0.3, within=1.3)
        refused(f"rediss://{place}", timeout=0.3, within=1.3)
        for filler in fillers:
            filler.close()


@pytest.mark.parametrize(
    ("product", "advice"), [("", "jump VM"), ("WORKBENCH_INSTANCE", "Workbench instance")]
)
def test_private_address(product: str, advice: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The way in from where this runs. No packet goes to a private network."""
    monkeypatch.setenv("VERTEX_PRODUCT", product)

    def no_answer(self: socket.socket, address: Any) -> None:
        raise TimeoutError("timed out")

    monkeypatch.setattr(socket.socket, "connect", no_answer)
    with pytest.raises(ConnectError, match=r"private address 10\.0\.0\.3") as caught:
        connect("10.0.0.3")
    assert advice in str(caught.value)


def test_a_refused_login(auth_server: Server) -> None:
    """It is not tried again, and not repeated."""
    cases: list[tuple[str, dict[str, Any], str]] = [
        ("", {"password": "wrong1"}, "get-auth-string"),
        ("bob:hunter2@", {}, "refuses the user or the password"),
        ("", {}, "asks for a password"),
    ]
    for login, given, text in cases:
        message = refused(auth_server.url.replace("//", f"//{login}"), **given)
        assert text in message
        assert "hunter2" not in message
        assert "wrong1" not in message


def test_what_a_server_does_not_have(server: Server) -> None:
    cases: list[tuple[str, dict[str, Any], str]] = [
        ("", {"password": "hunter2"}, "the server has none"),
        ("", {"iam": TOKENS}, "iam=True out"),
        ("", {"cluster": True}, "not part of a cluster"),
        ("/99", {}, "it has no database 99"),
    ]
    for path, given, text in cases:
        message = refused(server.url + path, **given)
        assert text in message
        assert "hunter2" not in message


@pytest.fixture(scope="module", params=[1, 4])
def misleading_cluster(request: pytest.FixtureRequest) -> Iterator[Cluster]:
    """A cluster, of one database or several, that gives an address nothing listens on."""
    options: dict[str, Any] = {"cluster_databases": request.param, "replicas": 0, "primaries": 1}
    with servers.cluster(cluster_announce_ip="127.0.0.77", **options) as group:
        yield group


def test_a_database_on_a_cluster(misleading_cluster: Cluster) -> None:
    """A cluster has one, also if its server can have more, and none is chosen silently."""
    for options in ({}, {"cluster": True}):
        assert "only database 0" in refused(f"{misleading_cluster.url}/1", **options)
    if misleading_cluster.nodes[0].options["cluster-databases"] == 1:
        said = refused(f"{misleading_cluster.url}/1", cluster=False)
        assert "no database 1" in said
        assert "0 to 15" not in said


def test_cluster_nodes_out_of_reach(misleading_cluster: Cluster) -> None:
    message = refused(misleading_cluster.url, within=2)
    assert "addresses they give each other" in message
    assert "each node" in message


def test_a_certificate_that_does_not_fit(
    tls_server: Server, modern: Tls, names: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A name that the certificate does not carry is refused, with the authority given too."""
    said = refused(tls_server.url)
    assert "an authority this machine does not know" in said
    assert "ca_certs=" in said
    other = servers.certificates(tmp_path, "memorystore.test").ca
    assert "another authority than those in ca_certs" in refused(tls_server.url, ca_certs=other)
    said = refused(f"rediss://other.test:{tls_server.port}", ca_certs=modern.ca)
    assert "does not name 'other.test'" in said
    monkeypatch.setenv("SSL_CERT_FILE", str(modern.ca))
    tls.tls_context.cache_clear()
    assert "does not name '127.0.0.1'" in refused(tls_server.url)
    # The system's authorities are not trusted beside a given one.
    assert "another authority than those in ca_certs" in refused(tls_server.url, ca_certs=other)
    tls.tls_context.cache_clear()


def test_tls_meets_plain(tls_server: Server, server: Server) -> None:
    assert "use rediss://" in refused(tls_server.url.replace("rediss", "redis"))
    said = refused(server.url.replace("redis:", "rediss:"), timeout=0.3, within=1.3)
    assert "Use redis://" in said


@pytest.mark.parametrize("answer", [b"HTTP/1.1 400 Bad Request\r\n\r\n", b"220 mail ready\r\n"])
def test_something_else_answers(answer: bytes) -> None:
    with answering(lambda _: answer) as place:
        assert "is no Redis or Valkey server" in refused(place)
        assert "does not answer in TLS" in refused(f"rediss://{place}")


def test_too_old() -> None:
    info = b"redis_version:4.0.14\r\nredis_mode:standalone\r\n"

    def reply(request: bytes) -> bytes:
        if b"INFO\r\n" in request and b"SETINFO" not in request:
            return b"$%d\r\n%s\r\n" % (len(info), info)
        return b"+PONG\r\n" if b"PING" in request else b"+OK\r\n" * request.count(b"*")

    with answering(reply) as place:
        assert "version 4.0.14, and 5.0 is the oldest" in refused(place)


@pytest.mark.parametrize(
    ("error", "scheme", "text"),
    [
        ("CLUSTERDOWN The cluster is down", "redis", "no primary just now"),
        ("NOPERM No permissions to run 'ping'", "redis", "No permissions to run 'ping'"),
        ("ERR SELECT is not allowed in cluster mode", "redis", "has only database 0"),
        ("ERR odd", "redis", "and answers: odd"),
        ("LOADING Redis is loading", "redis", "still loading its data"),
        (None, "redis", "at the first command. A TLS port does that"),
        (None, "rediss", "during the TLS handshake. Use redis://"),
    ],
)
def test_what_a_server_answers(error: str | None, scheme: str, text: str) -> None:
    def answer(_: bytes) -> bytes:
        if error is None:
            raise ConnectionAbortedError  # it hangs up
        return f"-{error}\r\n".encode() * max(1, _.count(b"\r\n*") + 1)

    with answering(answer) as place:
        assert text in refused(f"{scheme}://{place}", timeout=0.3, within=1.3)
