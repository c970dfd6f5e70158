"""What an endpoint and the arguments beside it can be, what is refused, and never shown."""

import inspect
from dataclasses import asdict, replace
from typing import Any

import pytest
import redis

from connecting import refused
from memorystore_chat.connection import Endpoint, IamCredentials, connect, connect_async
from memorystore_chat.embedded import server
from memorystore_chat.errors import ConnectError, EndpointError
from servers import Server

INSTANCE = "projects/my-project/locations/europe-west1/instances/chat"
CLUSTER = "projects/my-project/locations/europe-west1/clusters/chat"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("redis://10.0.0.3:6380/2", Endpoint("10.0.0.3", 6380, db=2)),
        ("VALKEYS://chat.internal:6379", Endpoint("chat.internal", tls=True)),
        ("redis://me:a@b/c?d#e:f@h:1", Endpoint("h", 1, user="me", password="a@b/c?d#e:f")),
        ("[fd00::3]:6380", Endpoint("fd00::3", 6380)),
        (" localhost\n", Endpoint("localhost")),
        ("unix://:p%40w@/run/my%20s", Endpoint(unix_socket="/run/my s", password="p@w")),
        ("embedded", Endpoint(product="embedded", cluster=False)),
        (INSTANCE, Endpoint(resource=INSTANCE)),
        (f"//redis.googleapis.com/{INSTANCE}", Endpoint(resource=INSTANCE, product="redis")),
        (f"//memorystore.googleapis.com/{INSTANCE}", Endpoint(resource=INSTANCE, product="valkey")),
        (CLUSTER, Endpoint(resource=CLUSTER, product="redis-cluster")),
    ],
)
def test_every_form_is_read(text: str, expected: Endpoint) -> None:
    assert Endpoint.parse(text) == expected


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("hunter2://10.0.0.3", "scheme"),
        ("10.0.0.3:0", "not a port"),
        ("10.0.0.3:65536", "not a port"),
        ("redis://me:hunter2@", "cannot be read"),
        ("redis://[10.0.0.3]:6379", "cannot be read"),
        ("redis://fc00::2121:6379", "brackets"),
        ("fe80::1%eth0", "brackets"),
        ("fd00:1:2:3:4:5:6:7", "brackets"),
        ("abc:6379:6379", "not a port"),
        ("10.0.0.300", "IP address"),
        ("a" * 254, "host name"),
        ("redis://h?password=hunter2", "by name"),
        ("projects/p/instances/i", "not a full one"),
        (f"//memorystore.googleapis.com/{CLUSTER}", "no clusters"),
        ("unix://hunter2", "path"),
        ("me:hunter2@h", "needs a scheme"),
        ("redis://hunter2@h", "A login is"),
    ],
)
def test_nonsense_is_refused_and_no_password_shown(text: str, word: str) -> None:
    with pytest.raises(EndpointError, match=word) as caught:
        Endpoint.parse(text)
    assert isinstance(caught.value, ValueError)
    assert "hunter2" not in str(caught.value)
    assert caught.value.__cause__ is caught.value.__context__ is None


def test_no_password_is_shown_or_lost() -> None:
    endpoint = Endpoint.parse("rediss://me:hunter2@[fd00::3]:6378/2")
    assert str(endpoint) == "rediss://me:***@[fd00::3]:6378/2"
    assert "hunter2" not in f"{endpoint!r} {endpoint.password!r} {asdict(endpoint)}"
    assert replace(endpoint, port=1).password == "hunter2"
    for text in ("embedded", "unix:///run/s", CLUSTER):
        assert repr(Endpoint.parse(text)) == f"Endpoint({text!r})"
    with pytest.raises(EndpointError, match="keep one"):
        replace(endpoint, credential_provider=IamCredentials())


def test_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    assert Endpoint.parse("redis://me@h", password="x") == Endpoint("h", user="me", password="x")
    assert Endpoint.parse("redis://me:y@h", password="x").password == "y"
    monkeypatch.setenv("MEMORYSTORE_PASSWORD", "x")
    for text, expected in (
        ("10.0.0.3", Endpoint("10.0.0.3", password="x")),
        ("unix:///run/s", Endpoint(unix_socket="/run/s")),
        ("", Endpoint.parse("embedded")),
    ):
        monkeypatch.setenv("MEMORYSTORE_ENDPOINT", text)
        assert Endpoint.from_environment() == expected


@pytest.mark.parametrize("name", ["K_SERVICE", "CLOUD_RUN_JOB", "KUBERNETES_SERVICE_HOST"])
def test_no_endpoint_in_a_container(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """An embedded server would lose its data there, so nothing starts one by accident."""
    monkeypatch.setenv(name, "10.0.0.1")
    for attempt in (connect, Endpoint.from_environment):
        with pytest.raises(EndpointError, match="Set MEMORYSTORE_ENDPOINT"):
            attempt()
    monkeypatch.setenv("MEMORYSTORE_ENDPOINT", "10.0.0.3")
    assert Endpoint.from_environment() == Endpoint("10.0.0.3")


NO_PEM = "-----BEGIN CERTIFICATE-----\nbm8=\n-----END CERTIFICATE-----"


@pytest.mark.parametrize(
    ("given", "kind", "word"),
    [
        ({"endpoint": b"redis://h"}, TypeError, "not bytes"),
        ({"timeout": 0}, ValueError, "above 0"),
        ({"timeout": "5"}, TypeError, "number of seconds"),
        ({"patience": -1}, ValueError, "from 0 up"),
        ({"iam": "yes"}, TypeError, "IamCredentials"),
        ({"password": ""}, EndpointError, "empty"),
        ({"password": "x", "iam": True}, EndpointError, "keep one"),
        ({"check_hostname": True}, EndpointError, "for TLS"),
        ({"ca_certs": NO_PEM}, EndpointError, "no certificate"),
        ({"ca_certs": "no-such-file.pem"}, EndpointError, "cannot be read"),
        ({"ca_certs": []}, EndpointError, "empty"),
        ({"ca_certs": 5}, TypeError, "not int"),
        ({"ssl_cert_reqs": "none"}, ValueError, "always verified"),
        ({"endpoint": "redis://me:x@h", "password": "y"}, EndpointError, "has a password already"),
    ],
)
def test_arguments_are_checked(given: Any, kind: type[Exception], word: str) -> None:
    """An argument that makes no sense is refused before anything is opened, sync and async."""
    options = {"endpoint": "redis://127.0.0.1:1"} | given
    assert word in refused(kind=kind, **options)


@pytest.mark.parametrize("endpoint", [None, "embedded"])
@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("password", "x"),
        ("iam", redis.UsernamePasswordCredentialProvider(password="token")),
        ("ca_certs", NO_PEM),
        ("check_hostname", True),
        ("cluster", True),
    ],
)
def test_what_the_embedded_server_does_not_take(
    endpoint: str | None, name: str, value: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is not even started: an endpoint may have been forgotten."""
    monkeypatch.setattr(server, "ensure_running", None)
    said = refused(endpoint, kind=EndpointError, **{name: value})
    assert f"embedded server takes no {name}=" in said


def test_outside_of_asyncio() -> None:
    """Under trio, or driven by hand, connect_async() says which loop it needs."""
    with pytest.raises(ConnectError, match="trio"):
        connect_async("redis://127.0.0.1:1").send(None)


def test_what_redis_py_takes_besides(valkey_server: Server) -> None:
    """It is handed on; a typing error is a TypeError; both functions have one signature."""
    assert inspect.signature(connect).parameters == inspect.signature(connect_async).parameters
    with connect(f"{valkey_server.url}/3", decode_responses=True, max_connections=2) as client:
        assert client.echo("x") == "x"
        assert client.get_connection_kwargs()["db"] == 3
    with pytest.raises(TypeError, match="decode_response"):
        connect(valkey_server.url, decode_response=True)
