"""Every way in which connect() fails: soon, and with the next step."""

import socket
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

import servers
from connecting import Attempt, answering
from memorystore_chat.connection import tls
from memorystore_chat.connection.opening import connect
from memorystore_chat.errors import ConnectError
from servers import Cluster, Server, Tls


@contextmanager
def silent_server() -> Iterator[str]:
    """An address that accepts connections and never answers."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        yield f"127.0.0.1:{listener.getsockname()[1]}"


@contextmanager
def black_hole() -> Iterator[str]:
    """An address that does not even accept: a listener whose queue is full drops what comes."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        fillers = []
        for _ in range(4):
            filler = socket.socket()
            filler.setblocking(False)
            filler.connect_ex(listener.getsockname())
            fillers.append(filler)
        time.sleep(0.05)
        yield f"127.0.0.1:{listener.getsockname()[1]}"
        for filler in fillers:
            filler.close()


def test_nothing_listens(attempt: Attempt) -> None:
    """Nothing at the port: known within two seconds."""
    message = attempt(f"127.0.0.1:{servers.free_port()}", within=2)
    assert "nothing listens on port" in message
    assert 'connect("embedded")' in message


def test_unknown_name(attempt: Attempt) -> None:
    """A name that does not resolve is named."""
    message = attempt("redis://no-such-host.invalid", within=2)
    assert "'no-such-host.invalid' does not resolve" in message


def test_missing_socket(attempt: Attempt) -> None:
    """A unix socket that does not exist."""
    assert "No such file" in attempt("unix:///no/such.sock", within=1)


def test_no_answer(attempt: Attempt) -> None:
    """A server that accepts and never answers: the time-out, and little more."""
    with silent_server() as place:
        message = attempt(place, timeout=0.5, within=1.5)
    assert "answered nothing within 0.5 s" in message


def test_black_hole(attempt: Attempt) -> None:
    """An address that drops every packet: the time-out, and at most a second more."""
    with black_hole() as place:
        message = attempt(place, timeout=0.5, within=1.5)
        assert "no answer within 0.5 s" in message
        attempt(f"rediss://{place}", timeout=0.5, within=1.5)


@pytest.mark.parametrize(
    ("product", "advice"),
    [
        ("", "tunnel_commands"),
        ("COLAB_ENTERPRISE", "runtime template"),
        ("WORKBENCH_INSTANCE", "Workbench instance on the network"),
    ],
)
def test_private_address(product: str, advice: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A private address that does not answer: the way in from where this runs."""
    # No packet goes to a private network: the time-out is what one there would look like.
    monkeypatch.setenv("VERTEX_PRODUCT", product)

    def no_answer(self: socket.socket, address: Any) -> None:
        raise TimeoutError("timed out")

    monkeypatch.setattr(socket.socket, "connect", no_answer)
    with pytest.raises(ConnectError, match=r"private address 10\.0\.0\.3") as caught:
        connect("10.0.0.3")
    assert advice in str(caught.value)


def test_wrong_password(auth_server: Server, attempt: Attempt) -> None:
    """A wrong password is not tried again: known within a second, and not repeated."""
    message = attempt(auth_server.url, password="wrong", within=1, secrets=("wrong",))
    assert "refuses the user or the password" in message
    assert "get-auth-string" in message


def test_wrong_user(auth_server: Server, attempt: Attempt) -> None:
    """So is a user that does not exist."""
    url = auth_server.url.replace("//", "//bob:hunter2@")
    message = attempt(url, within=1, secrets=("hunter2",))
    assert "refuses the user or the password" in message


def test_password_missing(auth_server: Server, attempt: Attempt) -> None:
    """A server with AUTH and no password given."""
    message = attempt(auth_server.url, within=1)
    assert "asks for a password" in message
    assert "$MEMORYSTORE_PASSWORD" in message


def test_password_too_many(server: Server, attempt: Attempt) -> None:
    """A password given to a server without one."""
    message = attempt(server.url, password="hunter2", within=1, secrets=("hunter2",))
    assert "the server has none" in message


def test_password_is_in_no_cause() -> None:
    """A server that repeats the password in its answer does not get it into the traceback."""

    def repeat(request: bytes) -> bytes:
        return b"-ERR unknown command 'AUTH', with args beginning with: 'hunter2'\r\n"

    secret = "hunter2"
    with answering(repeat) as place, pytest.raises(ConnectError) as caught:
        connect(place, password=secret)
    shown = "".join(traceback.format_exception(caught.value))
    assert secret not in shown
    assert "refuses the first command" in shown


def test_unknown_authority(tls_server: Server, attempt: Attempt) -> None:
    """TLS without the instance's authority."""
    message = attempt(tls_server.url, within=1)
    assert "an authority this machine does not know" in message
    assert "ca_certs=" in message


def test_wrong_authority(tls_server: Server, attempt: Attempt, tmp_path: Path) -> None:
    """TLS with the authority of something else."""
    other = servers.certificates(tmp_path, "memorystore.test").ca
    message = attempt(tls_server.url, ca_certs=other, within=1)
    assert "another authority than those in ca_certs" in message


def test_host_name_mismatch(tls_server: Server, modern: Tls, names: None, attempt: Attempt) -> None:
    """A name that the certificate does not carry is refused, with the authority given too."""
    url = f"rediss://other.test:{tls_server.port}"
    message = attempt(url, ca_certs=modern.ca, within=1)
    assert "does not name 'other.test'" in message
    assert "IP address" in message


def test_address_mismatch_without_authority(
    tls_server: Server, modern: Tls, attempt: Attempt, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An address the certificate does not carry is refused where no authority was given."""
    monkeypatch.setenv("SSL_CERT_FILE", str(modern.ca))
    tls.trusting.cache_clear()
    message = attempt(tls_server.url, within=1)
    tls.trusting.cache_clear()
    assert "does not name '127.0.0.1'" in message


def test_plain_to_tls(tls_server: Server, attempt: Attempt) -> None:
    """A plain client at a TLS port."""
    message = attempt(tls_server.url.replace("rediss", "redis"), within=1)
    assert "use rediss://" in message


def test_tls_to_plain(server: Server, attempt: Attempt) -> None:
    """A TLS client at a plain port."""
    url = server.url.replace("redis:", "rediss:")
    message = attempt(url, timeout=0.5, within=1.5)
    assert "no TLS handshake" in message
    assert "Use redis://" in message


def test_tls_to_http(attempt: Attempt) -> None:
    """A TLS client at a port that answers something else."""
    with answering(lambda _: b"HTTP/1.1 400 Bad Request\r\n\r\n") as place:
        assert "does not answer in TLS" in attempt(f"rediss://{place}", within=1)


def info_of(text: str) -> Callable[[bytes], bytes]:
    """The replies of a server whose INFO is `text`."""

    def reply(request: bytes) -> bytes:
        if b"INFO\r\n" in request and b"SETINFO" not in request:
            return f"${len(text)}\r\n{text}\r\n".encode()
        return b"+PONG\r\n" if b"PING" in request else b"+OK\r\n" * request.count(b"*")

    return reply


def test_too_old(attempt: Attempt) -> None:
    """A server older than 5.0 is refused, with the command that upgrades it."""
    with answering(info_of("redis_version:4.0.14\r\nredis_mode:standalone\r\n")) as place:
        message = attempt(place, within=1)
    assert "version 4.0.14, and 5.0 is the oldest" in message
    assert "gcloud redis instances upgrade" in message


@pytest.mark.parametrize("version", ["5.0.0", "5.0.14", "6.2.6", "10.0.0", "255.255.255"])
def test_old_enough(version: str) -> None:
    """From 5.0 on every version will do."""
    with (
        answering(info_of(f"redis_version:{version}\r\nredis_mode:standalone\r\n")) as place,
        connect(place) as client,
    ):
        assert client.info("server")["redis_version"] == version


def test_still_loading(attempt: Attempt) -> None:
    """A server that loads its data is waited for, and then reported."""
    with servers.valkey() as server:
        with server.admin() as admin:
            pipeline = admin.pipeline()
            for number in range(300):
                pipeline.set(f"key{number}", "x" * 100)
            pipeline.execute()
            admin.save()
        server.kill()
        server.config |= {"key_load_delay": 5000, "loading_process_events_interval_bytes": 1024}
        server.spawn()
        servers.wait_until(lambda: accepts(server), "the port being open")
        message = attempt(server.url, timeout=0.5, within=1.5)
        assert "still loading its data" in message
        with connect(server.url, timeout=15) as client:
            assert client.dbsize() == 300


def accepts(server: Server) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex((server.host, server.port)) == 0


def test_cluster_wanted_and_none_there(server: Server, attempt: Attempt) -> None:
    """cluster=True for a server of its own."""
    message = attempt(server.url, cluster=True, within=1)
    assert "not part of one" in message


@pytest.fixture(scope="module")
def misleading_cluster() -> Iterator[Cluster]:
    """A cluster that gives its clients an address nothing listens on."""
    with servers.cluster(primaries=1, replicas=0, cluster_announce_ip="127.0.0.77") as group:
        yield group


def test_cluster_nodes_out_of_reach(misleading_cluster: Cluster, attempt: Attempt) -> None:
    """A cluster whose nodes give addresses that lead nowhere from here."""
    message = attempt(misleading_cluster.url, within=2)
    assert "addresses they give each other" in message
    assert "each node" in message


def test_not_a_server(attempt: Attempt) -> None:
    """Something that speaks another language."""
    with answering(lambda _: b"HTTP/1.1 400 Bad Request\r\n\r\n") as place:
        assert "Cannot connect" in attempt(place, within=1)
