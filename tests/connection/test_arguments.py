"""What connect() does not take."""

import inspect
from typing import Any

import pytest

from memorystore_chat.connection import Endpoint, connect, connect_async
from memorystore_chat.errors import ConnectError, EndpointError
from servers import Server


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"timeout": 0}, "above 0"),
        ({"timeout": -1}, "above 0"),
        ({"timeout": float("inf")}, "above 0"),
        ({"timeout": float("nan")}, "above 0"),
        ({"timeout": True}, "number of seconds"),
        ({"timeout": "5"}, "number of seconds"),
        ({"patience": -1}, "from 0 up"),
        ({"patience": float("inf")}, "from 0 up"),
        ({"patience": True}, "number of seconds"),
        ({"patience": "5"}, "number of seconds"),
        ({"timeout": None}, "number of seconds"),
        ({"cluster": "yes"}, "True, False, or None"),
        ({"iam": "yes"}, "True or an IamCredentials"),
        ({"password": ""}, "password is empty"),
        ({"password": 5}, "it takes text"),
        ({"password": "x", "iam": True}, "keep one"),
        ({"ca_certs": "no-such-file.pem"}, "no TLS endpoint|cannot be read"),
        ({"ssl_cert_reqs": "none"}, "always verified"),
        ({"ssl_check_hostname": False}, "always verified"),
        ({"ca_certs": 5}, "not int"),
        ({"check_hostname": False}, "True or None"),
        ({"check_hostname": True}, "no TLS endpoint"),
        ({"protocol": 3}, "RESP2"),
        ({"client_name": "me"}, "CLIENT SETNAME"),
        ({"host": "h"}, "the endpoint"),
        ({"username": "me"}, "USER:PASSWORD"),
        ({"socket_timeout": 1}, "timeout="),
        ({"retry": None}, "trying again"),
    ],
)
async def test_arguments_are_checked(given: dict[str, Any], message: str) -> None:
    """An argument that makes no sense is refused before anything is opened, sync and async."""
    with pytest.raises((ValueError, TypeError), match=message):
        connect("redis://127.0.0.1:1", **given)
    with pytest.raises((ValueError, TypeError), match=message):
        await connect_async("redis://127.0.0.1:1", **given)


@pytest.mark.parametrize(
    ("endpoint", "given", "message"),
    [
        ("http://h", {}, "http://"),
        ("h:99999", {}, "not a port"),
        ("", {}, "is empty"),
        ("redis://me@h", {}, "no password"),
        ("redis://me:x@h", {"password": "y"}, "keep one"),
        ("redis://me:x@h", {"iam": True}, "keep one"),
        ("embedded", {"password": "x"}, "embedded server takes no password="),
        ("embedded", {"iam": True}, "embedded server takes no iam="),
        ("embedded", {"cluster": True}, "embedded server takes no cluster="),
        ("rediss://h", {"ca_certs": []}, "is empty"),
        ("rediss://h", {"ca_certs": "no-such-file.pem"}, "cannot be read"),
        ("rediss://h", {"ca_certs": "-----BEGIN CERTIFICATE-----\nno"}, "no certificate"),
        ("rediss://h", {"ca_certs": __file__}, "no certificate"),
        (
            "rediss://h",
            {"ca_certs": "-----BEGIN CERTIFICATE-----\nbm8=\n-----END CERTIFICATE-----"},
            "cannot be read",
        ),
        ("redis://h", {"ca_certs": "x"}, "cannot be read|no TLS"),
    ],
)
def test_endpoints_are_checked(endpoint: str, given: dict[str, Any], message: str) -> None:
    with pytest.raises(EndpointError, match=message) as caught:
        connect(endpoint, **given)
    assert isinstance(caught.value, ValueError)


@pytest.mark.parametrize("name", ["K_SERVICE", "KUBERNETES_SERVICE_HOST"])
def test_no_endpoint_in_a_container(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """An embedded server would lose its data there, so nothing starts one by accident."""
    monkeypatch.setenv(name, "10.0.0.1")
    for attempt in (connect, Endpoint.from_environment):
        with pytest.raises(EndpointError, match="MEMORYSTORE_ENDPOINT"):
            attempt()
    assert Endpoint.parse("embedded").product == "embedded"
    monkeypatch.setenv("MEMORYSTORE_ENDPOINT", "10.0.0.3")
    assert Endpoint.from_environment() == Endpoint("10.0.0.3")


def test_outside_of_asyncio() -> None:
    """Under trio, or driven by hand, connect_async() says which loop it needs."""
    with pytest.raises(ConnectError, match="trio"):
        connect_async("redis://127.0.0.1:1").send(None)


def test_both_have_the_same_signature() -> None:
    one, other = inspect.signature(connect), inspect.signature(connect_async)
    assert one.parameters == other.parameters


def test_a_typing_error_in_an_option_is_a_type_error(valkey_server: Server) -> None:
    with pytest.raises(TypeError, match="decode_response"):
        connect(valkey_server.url, decode_response=True)
