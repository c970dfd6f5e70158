"""Every way in which connect() fails: soon, and with the next step."""

import asyncio
import secrets
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import redis

import servers
from connecting import answering, refused
from memorystore_chat.connection import connect, connect_async, tls
from memorystore_chat.errors import ConnectError
from servers import Cluster, Server, Tls

TOKENS = redis.UsernamePasswordCredentialProvider(password="token")

# Nothing there


def test_nothing_listens() -> None:
    message = refused(f"127.0.0.1:{servers.free_port()}")
    assert "nothing listens on port" in message
    assert 'connect("embedded")' in message


def test_unknown_name() -> None:
    said = refused("redis://no-such-host.invalid", within=2)
    assert "'no-such-host.invalid' does not resolve" in said


def test_missing_socket() -> None:
    assert "No such file" in refused("unix:///no/such.sock")


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


def test_a_wait_that_is_cancelled_ends_at_once() -> None:
    """No thread goes on with it, which asyncio.run() would wait for."""

    async def give_up(place: str) -> None:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(connect_async(place, timeout=8), 0.3)

    with listening(8) as place:
        started = time.monotonic()
        asyncio.run(give_up(place))
        assert time.monotonic() - started < 4


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
    ("product", "advice"),
    [
        ("", "tunnel-through-iap"),
        ("COLAB_ENTERPRISE", "runtime template"),
        ("WORKBENCH_INSTANCE", "Workbench instance on the network"),
    ],
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


# Login, database and mode


@pytest.mark.parametrize(
    ("login", "given", "texts"),
    [
        ("", {"password": "wrong1"}, ["refuses the user or the password", "get-auth-string"]),
        ("bob:hunter2@", {}, ["refuses the user or the password"]),
        ("", {}, ["asks for a password", "$MEMORYSTORE_PASSWORD"]),
    ],
)
def test_a_refused_login(
    auth_server: Server, login: str, given: dict[str, Any], texts: list[str]
) -> None:
    """It is not tried again, and not repeated."""
    message = refused(auth_server.url.replace("//", f"//{login}"), **given)
    assert all(text in message for text in texts)
    assert "hunter2" not in message
    assert "wrong1" not in message


@pytest.mark.parametrize(
    ("path", "given", "text"),
    [
        ("", {"password": "hunter2"}, "the server has none"),
        ("", {"iam": TOKENS}, "Leave iam=True out"),
        ("", {"cluster": True}, "not part of one"),
        ("/99", {}, "it has no database 99"),
    ],
)
def test_what_a_server_does_not_have(
    server: Server, path: str, given: dict[str, Any], text: str
) -> None:
    message = refused(server.url + path, **given)
    assert text in message
    assert "hunter2" not in message


@pytest.fixture(scope="module", params=[1, 4])
def misleading_cluster(request: pytest.FixtureRequest) -> Iterator[Cluster]:
    """A cluster, of one database or several, that gives an address nothing listens on."""
    with servers.cluster(
        primaries=1,
        replicas=0,
        cluster_databases=request.param,
        cluster_announce_ip="127.0.0.77",
    ) as group:
        yield group


def test_a_database_on_a_cluster(misleading_cluster: Cluster) -> None:
    """A cluster has one, also if its server can have more, and none is chosen silently."""
    for options in ({}, {"cluster": True}):
        assert "only database 0" in refused(f"{misleading_cluster.url}/1", **options)
    if misleading_cluster.nodes[0].options["cluster-databases"] == 1:
        said = refused(f"{misleading_cluster.url}/1", cluster=False)
        assert "no database 1" in said
        assert "15" not in said


def test_cluster_nodes_out_of_reach(misleading_cluster: Cluster) -> None:
    message = refused(misleading_cluster.url, within=2)
    assert "addresses they give each other" in message
    assert "each node" in message


# TLS


def test_unknown_authority(tls_server: Server) -> None:
    message = refused(tls_server.url)
    assert "an authority this machine does not know" in message
    assert "ca_certs=" in message


def test_wrong_authority(tls_server: Server, tmp_path: Path) -> None:
    other = servers.certificates(tmp_path, "memorystore.test").ca
    message = refused(tls_server.url, ca_certs=other)
    assert "another authority than those in ca_certs" in message


def test_host_name_mismatch(tls_server: Server, modern: Tls, names: None) -> None:
    """A name that the certificate does not carry is refused, with the authority given too."""
    message = refused(f"rediss://other.test:{tls_server.port}", ca_certs=modern.ca)
    assert "does not name 'other.test'" in message
    assert "IP address" in message


def test_address_mismatch_without_authority(
    tls_server: Server, modern: Tls, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(modern.ca))
    tls.tls_context.cache_clear()
    message = refused(tls_server.url)
    tls.tls_context.cache_clear()
    assert "does not name '127.0.0.1'" in message


def test_plain_to_tls(tls_server: Server) -> None:
    assert "use rediss://" in refused(tls_server.url.replace("rediss", "redis"))


def test_tls_to_plain(server: Server) -> None:
    message = refused(server.url.replace("redis:", "rediss:"), timeout=0.3, within=1.3)
    assert "no TLS handshake" in message
    assert "Use redis://" in message


# Something else answers


@pytest.mark.parametrize("answer", [b"HTTP/1.1 400 Bad Request\r\n\r\n", b"220 mail ready\r\n"])
def test_something_else_answers(answer: bytes) -> None:
    with answering(lambda _: answer) as place:
        assert "is no Redis or Valkey server" in refused(place)
        assert "does not answer in TLS" in refused(f"rediss://{place}")


def info_of(text: str) -> Callable[[bytes], bytes]:
    """The replies of a server whose INFO is `text`."""

    def reply(request: bytes) -> bytes:
        if b"INFO\r\n" in request and b"SETINFO" not in request:
            return f"${len(text)}\r\n{text}\r\n".encode()
        return b"+PONG\r\n" if b"PING" in request else b"+OK\r\n" * request.count(b"*")

    return reply


def test_too_old() -> None:
    with answering(info_of("redis_version:4.0.14\r\nredis_mode:standalone\r\n")) as place:
        message = refused(place)
    assert "version 4.0.14, and 5.0 is the oldest" in message
    assert "gcloud redis instances upgrade" in message


@pytest.mark.parametrize(
    ("error", "scheme", "given", "text"),
    [
        ("CLUSTERDOWN The cluster is down", "redis", {}, "no primary just now"),
        ("NOPERM No permissions to run 'ping'", "redis", {}, "may not run PING or INFO"),
        ("DENIED Redis is running in protected mode", "redis", {}, "Set a password on it"),
        ("ERR SELECT is not allowed in cluster mode", "redis", {}, "has only database 0"),
        ("ERR IAM: too many logins", "redis", {"iam": TOKENS}, "try again in a minute"),
        ("ERR odd", "redis", {}, "and answers: odd"),
        (None, "redis", {}, "at the first command. A TLS port does that"),
        (None, "rediss", {}, "during the TLS handshake. Use redis://"),
    ],
)
def test_what_a_server_answers(
    error: str | None, scheme: str, given: dict[str, Any], text: str
) -> None:
    def answer(_: bytes) -> bytes:
        if error is None:
            raise ConnectionAbortedError  # it hangs up
        return f"-{error}\r\n".encode() * max(1, _.count(b"\r\n*") + 1)

    with answering(answer) as place:
        assert text in refused(f"{scheme}://{place}", timeout=0.3, within=1.3, **given)


@pytest.mark.parametrize("version", ["5.0.0", "5.0.14", "6.2.6", "10.0.0", "255.255.255"])
def test_old_enough(version: str) -> None:
    with (
        answering(info_of(f"redis_version:{version}\r\nredis_mode:standalone\r\n")) as place,
        connect(place) as client,
    ):
        assert client.info("server")["redis_version"] == version


def test_still_loading() -> None:
    """A server that loads its data is waited for, and then reported."""
    with servers.valkey() as server:
        with server.admin() as admin:
            # Random, as the server looks up from loading after so many bytes, compressed.
            admin.mset({f"key{number}": secrets.token_hex(50) for number in range(400)})
            admin.save()
        server.kill()
        slowly = {"key-load-delay": 10_000, "loading-process-events-interval-bytes": 1024}
        server.options = {**server.options, **slowly}
        server.spawn()
        servers.wait_until(lambda: accepts(server), "the port being open")
        assert "still loading its data" in refused(server.url, timeout=0.5, within=1.5)
        with connect(server.url, timeout=15) as client:
            assert client.dbsize() == 400


def accepts(server: Server) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex((server.host, server.port)) == 0
