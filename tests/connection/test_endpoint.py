"""What an endpoint can be written as, what it never shows, and what is refused."""

import copy
import dataclasses
import pickle
import socket
from collections.abc import Callable

import pytest
import redis

from memorystore_chat.connection.endpoint import Endpoint
from memorystore_chat.connection.iam import IamCredentials
from memorystore_chat.errors import EndpointError

INSTANCE = "projects/my-project/locations/europe-west1/instances/chat"
CLUSTER = "projects/my-project/locations/europe-west1/clusters/chat"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("redis://10.0.0.3", Endpoint("10.0.0.3")),
        ("redis://10.0.0.3:6380", Endpoint("10.0.0.3", 6380)),
        ("redis://10.0.0.3:6380/2", Endpoint("10.0.0.3", 6380, db=2)),
        ("redis://10.0.0.3/", Endpoint("10.0.0.3")),
        ("rediss://10.0.0.3:6378", Endpoint("10.0.0.3", 6378, tls=True)),
        ("valkey://chat.internal", Endpoint("chat.internal")),
        ("VALKEYS://chat.internal:6379", Endpoint("chat.internal", tls=True)),
        ("redis://:secret@10.0.0.3", Endpoint("10.0.0.3", password="secret")),
        ("redis://me:secret@h", Endpoint("h", user="me", password="secret")),
        ("redis://me:a%40b%2Fc@h", Endpoint("h", user="me", password="a@b/c")),
        ("redis://me:a@b/c?d#e@h:1", Endpoint("h", 1, user="me", password="a@b/c?d#e")),
        ("redis://[::1]:6380", Endpoint("::1", 6380)),
        ("[fd00::3]", Endpoint("fd00::3")),
        ("fd00::3", Endpoint("fd00::3")),
        ("10.0.0.3:6380", Endpoint("10.0.0.3", 6380)),
        ("10.0.0.3", Endpoint("10.0.0.3")),
        ("localhost", Endpoint("localhost")),
        ("my_host.example.com.", Endpoint("my_host.example.com.")),
        (" 10.0.0.3\n", Endpoint("10.0.0.3")),
        ("unix:///run/valkey.sock", Endpoint(unix_socket="/run/valkey.sock")),
        ("unix:///run/my%20socket", Endpoint(unix_socket="/run/my socket")),
        ("unix://:pw@/run/s", Endpoint(unix_socket="/run/s", password="pw")),
        ("embedded", Endpoint(product="embedded", cluster=False)),
        (INSTANCE, Endpoint(resource=INSTANCE)),
        (f"//redis.googleapis.com/{INSTANCE}", Endpoint(resource=INSTANCE, product="redis")),
        (f"//memorystore.googleapis.com/{INSTANCE}", Endpoint(resource=INSTANCE, product="valkey")),
        (CLUSTER, Endpoint(resource=CLUSTER, product="redis-cluster")),
        (
            f"//redis.googleapis.com/{CLUSTER}",
            Endpoint(resource=CLUSTER, product="redis-cluster"),
        ),
    ],
)
def test_every_form_is_read(text: str, expected: Endpoint) -> None:
    assert Endpoint.parse(text) == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is empty"),
        ("  ", "is empty"),
        ("http://10.0.0.3", "http://10.0.0.3.*not known"),
        ("https://console.cloud.google.com/memorystore", "https://.*not known"),
        ("redis://10.0.0.3:99999", "10.0.0.3:99999.*not a port"),
        ("10.0.0.3:0", "not a port"),
        ("10.0.0.3:port", "not a port"),
        ("10.0.0.3:", "not a port"),
        ("redis://", "names no host"),
        ("redis://:6379", "names no host"),
        ("redis://[::1", "IPv6"),
        ("redis://[zz]:6379", "IPv6"),
        ("redis://[10.0.0.3]:6379", "IPv6"),
        ("[::1]6379", "IPv6"),
        ("::1::2", "names no host"),
        ("redis://fc00::2121:6379", r"\[fc00::2121\]:6379"),
        ("fc00::2121:6379", r"\[fc00::2121\]:6379"),
        ("10.0.0.300", "not an IPv4 address"),
        ("6379", "not an IPv4 address"),
        ("my host", "no host name"),
        ("redis://höst", "no host name"),
        ("a" * 254, "no host name"),
        ("redis://10.0.0.3/two", "number of a database"),
        ("redis://10.0.0.3/0/1", "number of a database"),
        ("redis://10.0.0.3?ssl_cert_reqs=none", "options"),
        ("unix://run/valkey.sock", "no absolute path"),
        ("me:secret@10.0.0.3", "no scheme"),
        ("redis://me@10.0.0.3", "no password"),
        ("redis://me:@10.0.0.3", "password is empty"),
        ("redis://:@10.0.0.3", "password is empty"),
        ("projects/p/instances/i", "not the full name"),
        ("projects/p/locations/r/databases/d", "not the full name"),
        ("//sql.googleapis.com/projects/p/locations/r/instances/i", "not the full name"),
        (f"//memorystore.googleapis.com/{CLUSTER}", "no clusters"),
        ("chat\n.internal", "no host name"),
    ],
)
def test_nonsense_is_refused(text: str, message: str) -> None:
    with pytest.raises(EndpointError, match=message) as caught:
        Endpoint.parse(text)
    assert isinstance(caught.value, ValueError)


@pytest.mark.parametrize("value", [None, 6379, b"redis://h", ["h"], 1.5])
def test_what_is_no_text_is_refused(value: object) -> None:
    with pytest.raises(TypeError, match=f"not {type(value).__name__}"):
        Endpoint.parse(value)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "text",
    [
        "http://me:hunter2@10.0.0.3",
        "redis://me:hunter2@10.0.0.3:99999",
        "redis://:hunter2@h/x",
        "redis://me:hunter2@h?x=1",
        "me:hunter2@h",
        "redis://me:hunter2@",
        "redis://me:hunter2@[::1",
        "redis://hunter2@h",
        "redis://:hunter2",
        "redis://10.0.0.3:hunter2",
        "10.0.0.3:hunter2",
        "10.0.0.3:6379/hunter2",
        "redis://10.0.0.3/hunter2",
        "redis://h?password=hunter2",
        "projects/p/locations/r/instances/i?password=hunter2",
        "projects/p/locations/r/instances/i/hunter2",
        "//hunter2",
        "hunter2://10.0.0.3",
        "unix://hunter2",
        "correct hunter2",
        "redis://hunter2!",
    ],
)
def test_errors_hold_no_password(text: str) -> None:
    with pytest.raises(EndpointError) as caught:
        Endpoint.parse(text)
    assert "hunter2" not in str(caught.value)
    assert caught.value.__cause__ is None


def test_str_and_repr_hold_no_password() -> None:
    endpoint = Endpoint.parse("rediss://me:hunter2@[fd00::3]:6378/2")
    assert str(endpoint) == "rediss://me:***@[fd00::3]:6378/2"
    assert repr(endpoint) == "Endpoint('rediss://me:***@[fd00::3]:6378/2')"
    assert "hunter2" not in f"{endpoint!r} {endpoint}"


@pytest.mark.parametrize(
    ("endpoint", "text"),
    [
        (Endpoint.parse("embedded"), "Endpoint('embedded', cluster=False)"),
        (Endpoint.parse("unix:///run/s"), "Endpoint('unix:///run/s')"),
        (Endpoint.parse(CLUSTER), f"Endpoint('{CLUSTER}', product='redis-cluster')"),
        (
            Endpoint("h", tls=True, ca_certs=("PEM",), credential_provider=IamCredentials()),
            "Endpoint('rediss://h:6379', ca_certs=1, iam=True)",
        ),
    ],
)
def test_repr_says_what_is_known(endpoint: Endpoint, text: str) -> None:
    assert repr(endpoint) == text


def test_parsing_does_no_io(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("network")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(socket, "socket", refuse)
    assert Endpoint.parse("redis://no-such-host.invalid").host == "no-such-host.invalid"
    assert Endpoint.parse("unix:///no/such/socket").unix_socket == "/no/such/socket"


def test_it_is_frozen() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        Endpoint.parse("h").host = "other"  # type: ignore[misc]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"host": "h", "port": 0}, "Port 0"),
        ({"host": "h", "port": 65536}, "Port 65536"),
        ({"host": "h", "db": -1}, "Database -1"),
        ({"host": "h", "user": "me"}, "no password"),
        ({"host": "h", "password": ""}, "password is empty"),
        (
            {"host": "h", "password": "x", "credential_provider": IamCredentials()},
            "credential provider",
        ),
    ],
)
def test_fields_are_checked(fields: dict[str, object], message: str) -> None:
    with pytest.raises(EndpointError, match=message):
        Endpoint(**fields)  # type: ignore[arg-type]


def test_password_beside_the_text() -> None:
    assert Endpoint.parse("redis://me@h", password="x") == Endpoint("h", user="me", password="x")
    assert Endpoint.parse("redis://me:y@h", password="x").password == "y"
    assert Endpoint.parse("embedded", password="x").password is None


def test_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MEMORYSTORE_ENDPOINT", "rediss://10.0.0.3")
    monkeypatch.setenv("MEMORYSTORE_PASSWORD", "x")
    assert Endpoint.from_environment() == Endpoint("10.0.0.3", tls=True, password="x")
    monkeypatch.setenv("MEMORYSTORE_ENDPOINT", "unix:///run/s")
    assert Endpoint.from_environment() == Endpoint(unix_socket="/run/s")
    monkeypatch.delenv("MEMORYSTORE_ENDPOINT")
    assert Endpoint.from_environment() == Endpoint.parse("embedded")
    monkeypatch.setenv("MEMORYSTORE_ENDPOINT", "")
    assert Endpoint.from_environment() == Endpoint.parse("embedded")


@pytest.mark.parametrize(
    ("host", "loopback", "private"),
    [
        ("10.0.0.3", False, True),
        ("192.168.1.1", False, True),
        ("8.8.8.8", False, False),
        ("127.0.0.1", True, False),
        ("::1", True, False),
        ("localhost", True, False),
        ("chat.internal", False, False),
    ],
)
def test_kind_of_address(host: str, loopback: bool, private: bool) -> None:
    endpoint = Endpoint(host)
    assert (endpoint.is_loopback, endpoint.is_private) == (loopback, private)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("redis://me:p@ss@10.0.0.3:1", "redis://***@10.0.0.3:1"),
        ("me:secret@localhost", "***@localhost"),
        ("me:secret@h", "***@***"),
        ("redis://10.0.0.3/secret", "redis://10.0.0.3***"),
        ("redis://[::1]:99999", "redis://[::1]:99999"),
        ("redis://10.0.0.3:6379", "redis://10.0.0.3:6379"),
        ("projects/p/instances/i", "projects/p/instances/i"),
    ],
)
def test_redact(text: str, shown: str) -> None:
    assert redact(text) == shown


@pytest.mark.parametrize("take", [copy.copy, copy.deepcopy, pickle.dumps, vars])
def test_password_does_not_come_along(take: Callable[[Endpoint], object]) -> None:
    provider = redis.UsernamePasswordCredentialProvider("me", "hunter2")
    for endpoint in (Endpoint.parse("redis://:hunter2@h"), Endpoint(credential_provider=provider)):
        with pytest.raises(TypeError):
            take(endpoint)


def test_asdict_and_repr_of_the_password_hide_it() -> None:
    endpoint = Endpoint.parse("redis://:hunter2@h")
    assert "hunter2" not in repr(dataclasses.asdict(endpoint))
    assert "hunter2" not in repr(endpoint.password)
    assert dataclasses.replace(endpoint, port=1).password == "hunter2"


def test_endpoint_without_a_password_is_copied() -> None:
    endpoint = Endpoint.parse("rediss://10.0.0.3")
    assert copy.deepcopy(endpoint) == pickle.loads(pickle.dumps(endpoint)) == endpoint
