"""Every way in which connect() fails: with the likely cause and the next step, and tried once."""

import asyncio
import re
import socket
import ssl
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
import redis

import servers
from connecting import answering, refused
from memorystore_chat.connection import Endpoint, IamCredentials, connect, connect_async, tls
from memorystore_chat.connection.diagnosis import diagnose
from memorystore_chat.errors import ConnectError
from memorystore_tutorial.launching import HOST
from servers import Server

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

    monkeypatch.setattr(socket.socket, "connect", Mock(side_effect=TimeoutError))
    assert re.search(word, refused(endpoint, timeout=0.1))


@pytest.mark.parametrize(
    ("running", "endpoint", "given", "word"),
    [
        ("", "127.0.0.1:1", {}, "nothing listens on port 1 of this machine"),
        ("", "127.0.0.1:1", {"cluster": True}, "nothing listens on port 1"),
        ("", "redis://no-such-host.invalid", {}, "'no-such-host.invalid' does not resolve"),
        ("", "unix:///no/such.sock", {}, "No such file"),
        ("auth_server", "{url}", {"password": "wrong1"}, "get-auth-string"),
        ("auth_server", "redis://bob:hunter2@{place}", {}, "refuses the user or the password"),
        ("auth_server", "{url}", {}, "asks for a password"),
        ("valkey_server", "{url}", {"password": "hunter2"}, "the server has none"),
        ("valkey_server", "{url}", {"iam": TOKENS}, "iam=True out"),
        ("valkey_server", "{url}", {"cluster": True}, "not part of a cluster"),
        ("valkey_server", "{url}/99", {}, "it has no database 99"),
        ("misleading_node", "{url}/1", {}, "only database 0"),
        ("valkey_cluster", "{url}/1", {}, "only database 0"),
        ("misleading_node", "{url}", {}, "addresses they give each other.*each node"),
    ],
    indirect=["running"],
)
def test_what_is_not_there_or_not_taken(running: Any, endpoint: str, given: Any, word: str) -> None:
    url = running.url if running else ""
    endpoint = endpoint.format(url=url, place=url.removeprefix("redis://"))
    assert re.search(word, refused(endpoint, **given))


@pytest.fixture(scope="module")
def misleading_node() -> Iterator[Server]:
    """A cluster of several databases that gives an address nothing listens on."""
    options: dict[str, Any] = {"cluster_enabled": "yes", "cluster_config_file": "new.conf"}
    options |= {"cluster_databases": 4, "cluster_announce_ip": "127.0.0.77"}
    with servers.valkey(**options) as node, node.admin() as admin:
        admin.execute_command("CLUSTER ADDSLOTSRANGE", 0, 16383)
        yield node


def test_a_certificate_that_does_not_fit(
    tls_server: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It names memorystore.test: an address passes, unless it is to be checked, too."""
    given, url = tls_server.tls.ca, tls_server.url
    other = servers.certificates(tmp_path, "memorystore.test").ca
    checked = {"check_hostname": True}
    real, another = socket.getaddrinfo, "another authority than those in"
    monkeypatch.setattr(socket, "getaddrinfo", lambda _, *rest, **how: real(HOST, *rest, **how))
    for endpoint, options, word in (
        (url, {}, "authority this machine does not know"),
        (url, {"ca_certs": other}, another),
        (url, {"ca_certs": given} | checked, "does not name '127.0.0.1'"),
        (url.replace(HOST, "other.test"), {"ca_certs": given}, "does not name 'other.test'"),
    ):
        assert word in refused(endpoint, password="hunter2", **options)
    named = url.replace(HOST, "memorystore.test")
    connect(named, ca_certs=given, password="hunter2", **checked).close()
    # The system's authorities are not trusted beside a given one.
    monkeypatch.setenv("SSL_CERT_FILE", str(given))
    tls.tls_context.cache_clear()
    assert "does not name '127.0.0.1'" in refused(url)
    assert another in refused(url, ca_certs=other)
    tls.tls_context.cache_clear()


async def test_waiting_for_many_answers_at_once() -> None:
    """No thread is taken by a server that does not answer, and the attempts can be canceled."""
    with answering(lambda _: b"") as place:
        attempts = [connect_async(place, timeout=0.5) for _ in range(60)]
        began = time.monotonic()
        ends = await asyncio.gather(*attempts, return_exceptions=True)
        assert {type(end) for end in ends} == {ConnectError}
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(connect_async(place, timeout=60), 0.1)
        assert time.monotonic() - began < 2.5


SECRET = "ya29." + "a1b2c3d4" * 60
TOLD = f"unknown command 'AUTH', beginning with: '{SECRET[:128]}'"
OLD = "redis_version:4.0.14\r\nredis_mode:standalone\r\n"


@pytest.mark.parametrize(
    ("answer", "word", "in_tls"),
    [
        ("HTTP/1.1 400 Bad Request\r\n", "is no Redis or Valkey server", "does not answer in TLS"),
        ("-CLUSTERDOWN The cluster is down", "no primary just now", ""),
        ("-ERR odd", "and answers: odd", ""),
        ("-ERR SELECT is not allowed in cluster mode", "only database 0", ""),
        ("-LOADING Redis is loading", "still loading its data", ""),
        ("-ERR max number of clients reached", "as many clients as it takes", ""),
        ("", "answered nothing within 0.5 s", ""),
        (None, "at the first command. A TLS port does that", "TLS handshake. Use redis://"),
        (f"-ERR {TOLD}", "and answers: the answer repeats the login", ""),
        (f"-ERR odd '{SECRET[9:16]}'", "and answers: the answer repeats the login", ""),
        (f"-WRONGPASS {TOLD}", "refuses the user or the password", ""),
        (f"+{TOLD}", "refuses the user or the password", ""),
        (f"?{TOLD}", "is no Redis or Valkey server", ""),
        (f"${len(OLD)}\r\n{OLD}", "version 4.0.14, and 5.0 is the oldest", ""),
    ],
)
def test_what_answers(answer: str | None, word: str, in_tls: str) -> None:
    """Neither the password nor a part of it is told, also if all that is wrong is the server."""

    def reply(request: bytes) -> bytes:
        if answer is None:
            raise ConnectionAbortedError  # it hangs up
        if answer.startswith("$") and (b"AUTH" in request or b"PING" in request):
            return b"+OK\r\n" if b"AUTH" in request else b"+PONG\r\n"
        return f"{answer}\r\n".encode() * (request.count(b"\r\n*") + 1) if answer else b""

    timeout = 0.5 if answer == "" else 20
    with answering(asked := Mock(side_effect=reply)) as place:
        assert word in refused(place, password=SECRET, timeout=timeout)
        assert str(asked.mock_calls).count("AUTH") == 2, "one of the two has tried again"
        if in_tls:
            assert in_tls in refused(f"rediss://{place}", password=SECRET, timeout=timeout)


IN = "projects/p/locations/europe-west1"
REDIS = Endpoint("h", tls=True, product="redis", resource=f"{IN}/instances/chat")
CLUSTER = Endpoint("h", tls=True, product="redis-cluster", resource=f"{IN}/clusters/chat")
VALKEY = Endpoint("h", tls=True, product="valkey", resource=f"{IN}/instances/chat")
HUNG_UP = redis.ConnectionError("Connection closed by server.")
ROLE, VALKEY_ROLE = "roles/redis.dbConnectionUser", "roles/memorystore.dbConnectionUser"


def diagnosed(endpoint: Endpoint, error: BaseException, **login: Any) -> str:
    return str(diagnose(replace(endpoint, **login), error, 5.0))


def certificate(code: int) -> ssl.SSLCertVerificationError:
    """What is raised if OpenSSL refuses a certificate for a reason with this number."""
    error = ssl.SSLCertVerificationError(1, "certificate verify failed")
    error.verify_code, error.verify_message = code, "a reason"
    return error


@pytest.mark.parametrize(
    ("endpoint", "authorities", "login", "role"),
    [
        (REDIS, "describe chat --region=europe-west1", "get-auth-string chat", ROLE),
        (CLUSTER, "cluster-certificate-authority chat", "the token or the user", f"{ROLE} on"),
        (VALKEY, "get-certificate-authority chat", "the token or the user", f"{VALKEY_ROLE} on"),
        (Endpoint("h", 6378), "describe INSTANCE", "get-auth-string INSTANCE", ROLE),
        (Endpoint("h"), "get-certificate-authority INST", "get-auth-string", f"or {VALKEY_ROLE}"),
    ],
)
def test_hints_name_the_products_own_command(
    endpoint: Endpoint, authorities: str, login: str, role: str
) -> None:
    """Certificates, password, or role: that of the product, and of what is known of it."""
    assert authorities in diagnosed(endpoint, certificate(20))
    refusal = redis.AuthenticationError("invalid username-password pair or user is disabled.")
    assert login in diagnosed(endpoint, refusal, password="x")
    assert role in diagnosed(endpoint, refusal, credential_provider=IamCredentials())


def test_each_reason_has_a_sentence() -> None:
    """OpenSSL's numbers."""
    for code, word in (
        (9, "not yet valid. Set this machine's clock"),
        (10, "expired.*get-certificate-authority"),
        (20, "from an authority this machine does not know .a reason.*get-certificate-authority"),
        (23, "revoked"),
        (62, "does not name 'h'"),
        (64, "does not name 'h'"),
        (66, "too weak"),
    ):
        assert re.search(word, diagnosed(VALKEY, certificate(code)))
    nodes = diagnose(replace(CLUSTER, cluster=True), HUNG_UP, 5.0, reached=True)
    assert "addresses they give each other" in str(nodes)
