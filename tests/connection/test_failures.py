"""Every way in which connect() fails: with the likely cause and the next step, and tried once."""

import asyncio
import re
import socket
import ssl
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import redis

import servers
from connecting import answering, opened, refused
from memorystore_chat.connection import Endpoint, IamCredentials, connect, connect_async, tls
from memorystore_chat.connection.diagnosis import diagnose
from memorystore_chat.errors import ConnectError
from memorystore_chat.history import MemorystoreChatMessageHistory
from servers import Cluster, Server, Tls

TOKENS = redis.UsernamePasswordCredentialProvider(password="token")


@pytest.mark.parametrize(
    ("endpoint", "product", "word"),
    [
        ("10.0.0.3", "", "private address 10.0.0.3 does not answer within 0.1 s.*jump VM"),
        ("10.0.0.3", "WORKBENCH_INSTANCE", "Use a Workbench instance"),
        ("8.8.8.8", "", "no answer within 0.1 s.*no firewall"),
        ("rediss://8.8.8.8", "", "TLS on port 6378"),
    ],
)
def test_no_answer(endpoint: str, product: str, word: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The way in is that from where this runs. No packet is sent."""
    monkeypatch.setenv("VERTEX_PRODUCT", product)

    def silence(self: socket.socket, _: Any) -> None:
        time.sleep(self.gettimeout() or 60)
        raise TimeoutError("timed out")

    async def async_silence(*_: Any, **__: Any) -> None:
        await asyncio.sleep(60)

    monkeypatch.setattr(socket.socket, "connect", silence)
    monkeypatch.setattr(asyncio, "open_connection", async_silence)
    assert re.search(word, refused(endpoint, timeout=0.1))


def test_a_server_that_accepts_and_never_answers() -> None:
    asked: list[bytes] = []

    def silence(request: bytes) -> bytes:
        asked.append(request)
        return b""

    with answering(silence) as place:
        assert "answered nothing within 1 s" in refused(place, timeout=1)
    assert len(asked) == 2, "one of the two has tried again"


def test_what_is_not_there_or_not_taken(auth_server: Server, valkey_server: Server) -> None:
    locked, free = auth_server.url.removeprefix("redis://"), valkey_server.url
    cases: list[tuple[str, dict[str, Any], str]] = [
        ("127.0.0.1:1", {}, "nothing listens on port 1 of this machine"),
        ("redis://no-such-host.invalid", {}, "'no-such-host.invalid' does not resolve"),
        ("unix:///no/such.sock", {}, "No such file"),
        (f"redis://{locked}", {"password": "wrong1"}, "get-auth-string"),
        (f"redis://bob:hunter2@{locked}", {}, "refuses the user or the password"),
        (f"redis://{locked}", {}, "asks for a password"),
        (free, {"password": "hunter2"}, "the server has none"),
        (free, {"iam": TOKENS}, "iam=True out"),
        (free, {"cluster": True}, "not part of a cluster"),
        (f"{free}/99", {}, "it has no database 99"),
    ]
    for url, given, word in cases:
        message = refused(url, **given)
        assert word in message
        assert not re.search("hunter2|wrong1", message)


@pytest.fixture(scope="module", params=[1, 4])
def misleading_cluster(request: pytest.FixtureRequest) -> Iterator[Cluster]:
    """A cluster, of one database or several, that gives an address nothing listens on."""
    options: dict[str, Any] = {"cluster_databases": request.param, "replicas": 0, "primaries": 1}
    with servers.cluster(cluster_announce_ip="127.0.0.77", **options) as group:
        yield group


def test_a_database_on_a_cluster(misleading_cluster: Cluster) -> None:
    """A cluster has one, also if its server can have more, and none is chosen silently."""
    ways: tuple[dict[str, Any], ...] = ({}, {"cluster": True})
    for options in ways:
        assert "only database 0" in refused(f"{misleading_cluster.url}/1", **options)
    if misleading_cluster.nodes[0].options["cluster-databases"] == 1:
        assert "no database 1" in refused(f"{misleading_cluster.url}/1", cluster=False)
    else:
        said = refused(misleading_cluster.url)
        assert "addresses they give each other" in said
        assert "each node" in said


def test_a_certificate_that_does_not_fit(
    tls_server: Server, modern: Tls, names: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A name that the certificate does not carry is refused, with the authority given too."""
    unknown, given = "an authority this machine does not know", "another authority than those in"
    assert unknown in refused(tls_server.url)
    other = servers.certificates(tmp_path, "memorystore.test").ca
    assert given in refused(tls_server.url, ca_certs=other)
    elsewhere = f"rediss://other.test:{tls_server.port}"
    assert "does not name 'other.test'" in refused(elsewhere, ca_certs=modern.ca)
    monkeypatch.setenv("SSL_CERT_FILE", str(modern.ca))
    tls.tls_context.cache_clear()
    assert "does not name '127.0.0.1'" in refused(tls_server.url)
    # The system's authorities are not trusted beside a given one.
    assert given in refused(tls_server.url, ca_certs=other)
    tls.tls_context.cache_clear()


OLD = b"redis_version:4.0.14\r\nredis_mode:standalone\r\n"
NO_REDIS = "is no Redis or Valkey server"


@pytest.mark.parametrize(
    ("answer", "word", "in_tls"),
    [
        ("HTTP/1.1 400 Bad Request\r\n", NO_REDIS, "does not answer in TLS"),
        ("220 mail ready", NO_REDIS, ""),
        ("-CLUSTERDOWN The cluster is down", "no primary just now", ""),
        ("-NOPERM No permissions to run 'ping'", "No permissions to run 'ping'", ""),
        ("-ERR SELECT is not allowed in cluster mode", "has only database 0", ""),
        ("-ERR odd", "and answers: odd", ""),
        ("-LOADING Redis is loading", "still loading its data", ""),
        ("-ERR max number of clients reached", "as many clients as it takes", ""),
        (None, "at the first command. A TLS port does that", "TLS handshake. Use redis://"),
        (f"${len(OLD)}\r\n{OLD.decode()}", "version 4.0.14, and 5.0 is the oldest", ""),
    ],
)
def test_what_answers(answer: str | None, word: str, in_tls: str) -> None:
    def reply(request: bytes) -> bytes:
        if answer is None:
            raise ConnectionAbortedError  # it hangs up
        if answer.startswith("$") and (b"INFO\r\n" not in request or b"SETINFO" in request):
            return b"+PONG\r\n" if b"PING" in request else b"+OK\r\n" * request.count(b"*")
        return f"{answer}\r\n".encode() * max(1, request.count(b"\r\n*") + 1)

    with answering(reply) as place:
        assert word in refused(place, timeout=20)
        if in_tls:
            assert in_tls in refused(f"rediss://{place}", timeout=20)


@pytest.mark.parametrize("secret", ["hunter2", "ya29." + "a1b2c3d4" * 60])
@pytest.mark.parametrize("kind", ["-ERR", "-WRONGPASS", "+", "?"])
def test_a_server_that_repeats_the_login(secret: str, kind: str) -> None:
    """Neither the password nor a part of it is in the error, its causes or its contexts."""
    answer = f"{kind} unknown command 'AUTH', with args beginning with: '{secret[:128]}'\r\n"
    logins = 0

    def repeat(request: bytes) -> bytes:
        nonlocal logins
        logins += b"AUTH" in request
        return answer.encode()

    ways: list[Callable[..., Any]] = [connect, opened]
    with answering(repeat) as place:
        for way in ways:
            with pytest.raises(ConnectError) as caught:
                way(place, password=secret)
            links: list[BaseException | None] = [caught.value]
            while links:
                if (link := links.pop()) is not None:
                    assert secret[:6] not in f"{link} {link.args}"
                    links += [link.__cause__, link.__context__]
    assert logins == 2, "one of the two has tried again"


async def test_the_pool_is_exhausted(valkey_server: Server, valkey_cluster: Cluster) -> None:
    """Nothing was sent, and the error says so, with a cause that has words; all four clients."""
    for url in (valkey_server.url, valkey_cluster.url):
        with connect(url, max_connections=1) as client:
            async with await connect_async(url, max_connections=1) as async_client:
                for history, give_back in (
                    (MemorystoreChatMessageHistory(client, "busy"), hold(client)),
                    (MemorystoreChatMessageHistory(async_client, "busy"), hold(async_client)),
                ):
                    release = await give_back
                    with pytest.raises(ConnectError, match=r"Nothing was sent.*max_conn") as caught:
                        await history.aget_messages()
                    assert str(caught.value.__cause__)
                    if (waiting := release()) is not None:
                        await waiting
                    assert await history.aget_messages() == []


async def hold(client: Any) -> Callable[[], Any]:
    """Take the connection to the key "busy", and wait for no other; the result gives it back."""
    if hasattr(client, "get_node_from_key"):
        node = client.get_node_from_key("busy")
        if hasattr(node, "acquire_connection"):
            client.retry.patience = 0
            return partial(node.release, node.acquire_connection())
        client = client.get_redis_connection(node)
    client.connection_pool.timeout = 0.1
    connection = client.connection_pool.get_connection()
    if asyncio.iscoroutine(connection):
        connection = await connection
    return partial(client.connection_pool.release, connection)


def test_addresses_are_checked_if_asked_for(tls_server: Server, modern: Tls, names: None) -> None:
    """The certificate names memorystore.test: an address passes, unless it is to be checked."""
    named = f"rediss://memorystore.test:{tls_server.port}"
    trusted: dict[str, Any] = {"ca_certs": modern.ca, "password": "hunter2"}
    with connect(tls_server.url, **trusted), connect(named, check_hostname=True, **trusted):
        pass
    for url in (tls_server.url, f"rediss://localhost:{tls_server.port}"):
        assert "does not name" in refused(url, check_hostname=True, **trusted)


PLACE = "projects/p/locations/europe-west1"
REDIS = Endpoint("h", tls=True, product="redis", resource=f"{PLACE}/instances/chat")
CLUSTER = Endpoint("h", tls=True, product="redis-cluster", resource=f"{PLACE}/clusters/chat")
VALKEY = Endpoint("h", tls=True, product="valkey", resource=f"{PLACE}/instances/chat")
CLUSTER_CA = "gcloud redis clusters get-cluster-certificate-authority"
VALKEY_CA = "gcloud memorystore instances get-certificate-authority"
AUTH_STRING = "gcloud redis instances get-auth-string"
TOKEN = "the token or the user"
IN = "--region=europe-west1"
ROLE, VALKEY_ROLE = "roles/redis.dbConnectionUser", "roles/memorystore.dbConnectionUser"


@pytest.mark.parametrize(
    ("endpoint", "authorities", "password", "role"),
    [
        (REDIS, f"gcloud redis instances describe chat {IN}", f"{AUTH_STRING} chat {IN}", ROLE),
        (CLUSTER, f"{CLUSTER_CA} chat {IN}", TOKEN, f"{ROLE} on"),
        (VALKEY, f"{VALKEY_CA} chat --location=europe-west1", TOKEN, f"{VALKEY_ROLE} on"),
        (Endpoint("h", 6378), "gcloud redis instances describe INSTANCE", AUTH_STRING, ROLE),
        (Endpoint("h", 6379), f"{VALKEY_CA} INSTANCE", AUTH_STRING, f"or {VALKEY_ROLE}"),
    ],
)
def test_hints_name_the_products_own_command(
    endpoint: Endpoint, authorities: str, password: str, role: str
) -> None:
    """Certificates, password, or role: that of the product, and of what is known of it."""
    told = partial(diagnosed, endpoint)
    assert authorities in told(certificate(20))
    refusal = redis.AuthenticationError("invalid username-password pair or user is disabled.")
    assert password in told(refusal, password="x")
    assert role in told(refusal, credential_provider=IamCredentials())


def diagnosed(endpoint: Endpoint, error: BaseException, **login: Any) -> str:
    return str(diagnose(replace(endpoint, **login), error, 5.0))


def certificate(code: int) -> redis.ConnectionError:
    """What redis-py raises if OpenSSL refuses a certificate for a reason with this number."""
    cause = ssl.SSLCertVerificationError(1, "certificate verify failed")
    cause.verify_code, cause.verify_message = code, "a reason"
    error = redis.ConnectionError(f"Error 1 connecting to h:6379. {cause}")
    error.__cause__ = cause
    return error


def test_each_reason_has_a_sentence() -> None:
    """OpenSSL's numbers: no reason but an unknown authority is called one."""
    for code, word, authorities in (
        (9, "not yet valid. Set this machine's clock", False),
        (10, "expired. Check this machine's clock", True),
        (20, "from an authority this machine does not know (a reason)", True),
        (23, "revoked", False),
        (62, "does not name 'h'", False),
        (64, "does not name 'h'", False),
        (66, "too weak", False),
        (68, "too weak", False),
    ):
        said = diagnosed(VALKEY, certificate(code))
        assert word in said
        assert ("another authority" in said or "does not know" in said) == (code == 20)
        assert (VALKEY_CA in said) == authorities
