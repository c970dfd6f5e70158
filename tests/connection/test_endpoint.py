"""What an endpoint can be written as, what it never shows, and what is refused."""

import dataclasses
import re

import pytest

from memorystore_chat.connection import Endpoint, IamCredentials, connect
from memorystore_chat.errors import EndpointError

INSTANCE = "projects/my-project/locations/europe-west1/instances/chat"
CLUSTER = "projects/my-project/locations/europe-west1/clusters/chat"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("redis://10.0.0.3:6380/2", Endpoint("10.0.0.3", 6380, db=2)),
        ("redis://10.0.0.3/", Endpoint("10.0.0.3")),
        ("rediss://10.0.0.3:6378", Endpoint("10.0.0.3", 6378, tls=True)),
        ("valkey://chat.internal", Endpoint("chat.internal")),
        ("VALKEYS://chat.internal:6379", Endpoint("chat.internal", tls=True)),
        ("redis://:secret@10.0.0.3", Endpoint("10.0.0.3", password="secret")),
        ("redis://me:a%40b%2Fc@h", Endpoint("h", user="me", password="a@b/c")),
        ("redis://me:a@b/c?d#e:f@h:1", Endpoint("h", 1, user="me", password="a@b/c?d#e:f")),
        ("redis://[::1]:6380", Endpoint("::1", 6380)),
        ("[fd00::3]", Endpoint("fd00::3")),
        ("10.0.0.3:6380", Endpoint("10.0.0.3", 6380)),
        (" localhost\n", Endpoint("localhost")),
        ("my_host.example.com.", Endpoint("my_host.example.com.")),
        ("unix:///run/my%20socket", Endpoint(unix_socket="/run/my socket")),
        ("unix://:pw@/run/s", Endpoint(unix_socket="/run/s", password="pw")),
        ("embedded", Endpoint(product="embedded", cluster=False)),
        (INSTANCE, Endpoint(resource=INSTANCE)),
        (f"//redis.googleapis.com/{INSTANCE}", Endpoint(resource=INSTANCE, product="redis")),
        (f"//memorystore.googleapis.com/{INSTANCE}", Endpoint(resource=INSTANCE, product="valkey")),
        (CLUSTER, Endpoint(resource=CLUSTER, product="redis-cluster")),
        (f"//redis.googleapis.com/{CLUSTER}", Endpoint(resource=CLUSTER, product="redis-cluster")),
    ],
)
def test_every_form_is_read(text: str, expected: Endpoint) -> None:
    assert Endpoint.parse(text) == expected


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("", "Accepted"),
        ("https://console.cloud.google.com/memorystore", "scheme"),
        ("http://me:hunter2@10.0.0.3", "scheme"),
        ("hunter2://10.0.0.3", "scheme"),
        ("redis://me:hunter2@10.0.0.3:99999", "not a port"),
        ("10.0.0.3:hunter2", "not a port"),
        ("10.0.0.3:0", "not a port"),
        ("redis://:hunter2", "cannot be read"),
        ("redis://me:hunter2@", "cannot be read"),
        ("redis://me:hunter2@[::1", "cannot be read"),
        ("redis://[10.0.0.3]:6379", "cannot be read"),
        ("redis://fc00::2121:6379", r"\[fc00::2121\]:6379"),
        ("::1", r"\[::1\]"),
        ("10.0.0.300", "IP address"),
        ("6379", "IP address"),
        ("redis://hunter2!", "host name"),
        ("correct hunter2", "host name"),
        ("chat\n.internal", "host name"),
        ("a" * 254, "host name"),
        ("redis://10.0.0.3/hunter2", "cannot be read"),
        ("10.0.0.3:6379/hunter2", "not a port"),
        ("redis://h?password=hunter2", "by name"),
        ("projects/p/locations/r/instances/i?password=hunter2", "not a full one"),
        ("projects/p/instances/i", "not a full one"),
        ("//sql.googleapis.com/projects/p/locations/r/instances/i", "not a full one"),
        (f"//memorystore.googleapis.com/{CLUSTER}", "no clusters"),
        ("unix://hunter2", "path"),
        ("me:hunter2@h", "needs a scheme"),
        ("redis://hunter2@h", "A login is"),
        ("redis://me:@10.0.0.3", "not empty"),
    ],
)
def test_nonsense_is_refused_and_no_password_shown(text: str, word: str) -> None:
    with pytest.raises(EndpointError, match=word) as caught:
        Endpoint.parse(text)
    assert isinstance(caught.value, ValueError)
    assert "hunter2" not in str(caught.value)
    assert caught.value.__cause__ is caught.value.__context__ is None


@pytest.mark.parametrize("value", [None, b"redis://h"])
def test_what_is_no_text_is_refused(value: object) -> None:
    with pytest.raises(TypeError, match=f"not {type(value).__name__}"):
        Endpoint.parse(value)  # type: ignore[arg-type]


def test_no_password_is_shown_or_lost() -> None:
    endpoint = Endpoint.parse("rediss://me:hunter2@[fd00::3]:6378/2")
    assert str(endpoint) == "rediss://me:***@[fd00::3]:6378/2"
    assert "hunter2" not in f"{endpoint!r} {endpoint.password!r} {dataclasses.asdict(endpoint)}"
    assert dataclasses.replace(endpoint, port=1).password == "hunter2"
    for text in ("embedded", "unix:///run/s", CLUSTER):
        assert repr(Endpoint.parse(text)) == f"Endpoint({text!r})"


def test_two_logins_are_refused() -> None:
    with pytest.raises(EndpointError, match="keep one"):
        Endpoint("h", password="x", credential_provider=IamCredentials())


def test_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    assert Endpoint.parse("redis://me@h", password="x") == Endpoint("h", user="me", password="x")
    assert Endpoint.parse("redis://me:y@h", password="x").password == "y"
    monkeypatch.setenv("MEMORYSTORE_PASSWORD", "x")
    for text, expected in (
        ("rediss://10.0.0.3", Endpoint("10.0.0.3", tls=True, password="x")),
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
        with pytest.raises(EndpointError, match=re.escape("Set MEMORYSTORE_ENDPOINT")):
            attempt()
    assert Endpoint.parse("embedded").product == "embedded"
    monkeypatch.setenv("MEMORYSTORE_ENDPOINT", "10.0.0.3")
    assert Endpoint.from_environment() == Endpoint("10.0.0.3")
