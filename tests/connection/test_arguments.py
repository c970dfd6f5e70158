"""What connect() does not take."""

import inspect
from typing import Any

import pytest

from memorystore_chat.connection import connect, connect_async
from memorystore_chat.errors import ConnectError, EndpointError
from servers import Server

NO_PEM = "-----BEGIN CERTIFICATE-----\nbm8=\n-----END CERTIFICATE-----"


@pytest.mark.parametrize(
    ("given", "kind", "word"),
    [
        ({"timeout": 0}, ValueError, "above 0"),
        ({"timeout": float("nan")}, ValueError, "above 0"),
        ({"timeout": "5"}, TypeError, "number of seconds"),
        ({"patience": -1}, ValueError, "from 0 up"),
        ({"patience": True}, TypeError, "number of seconds"),
        ({"cluster": "yes"}, TypeError, "True, False, or None"),
        ({"iam": "yes"}, TypeError, "IamCredentials"),
        ({"password": 5}, TypeError, "text"),
        ({"password": ""}, EndpointError, "empty"),
        ({"password": "x", "iam": True}, EndpointError, "keep one"),
        ({"check_hostname": "no"}, TypeError, "True or None"),
        ({"check_hostname": True}, EndpointError, "for TLS"),
        ({"ca_certs": NO_PEM}, EndpointError, "no certificate"),
        ({"ca_certs": __file__}, EndpointError, "no certificate"),
        ({"ca_certs": "no-such-file.pem"}, EndpointError, "cannot be read"),
        ({"ca_certs": []}, EndpointError, "empty"),
        ({"ca_certs": 5}, TypeError, "not int"),
        ({"ssl_cert_reqs": "none"}, ValueError, "always verified"),
        ({"protocol": 3}, ValueError, "does not take protocol="),
        ({"socket_timeout": 1}, ValueError, "timeout="),
        ({"endpoint": "h:99999"}, EndpointError, "not a port"),
        ({"endpoint": "redis://me:x@h", "password": "y"}, EndpointError, "has a password already"),
        ({"endpoint": "redis://me:x@h", "iam": True}, EndpointError, "keep one"),
        ({"endpoint": "embedded", "password": "x"}, EndpointError, "takes no password="),
        ({"endpoint": "embedded", "cluster": True}, EndpointError, "takes no cluster="),
    ],
)
async def test_arguments_are_checked(given: Any, kind: type[Exception], word: str) -> None:
    """An argument that makes no sense is refused before anything is opened, sync and async."""
    options: dict[str, Any] = {"endpoint": "redis://127.0.0.1:1"} | given
    with pytest.raises(kind, match=word):
        connect(**options)
    with pytest.raises(kind, match=word):
        await connect_async(**options)


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
