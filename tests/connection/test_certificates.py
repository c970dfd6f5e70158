"""Each reason of a refused certificate has a sentence of its own, with the product's command."""

import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest
import redis
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from connecting import refused
from memorystore_chat.connection import Endpoint, IamCredentials, connect
from memorystore_chat.connection.diagnosis import diagnose
from memorystore_chat.errors import ConnectError
from servers import Server, Tls


@contextmanager
def serving(folder: Path, *, begin: int = -1, end: int = 9, bits: int = 2048) -> Iterator[str]:
    """Serve TLS with a certificate that is its own authority; yield where, and write ca.pem."""
    key = rsa.generate_private_key(65537, bits)
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "ca")])
    names = x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), 1)
        .not_valid_before(now + timedelta(days=begin))
        .not_valid_after(now + timedelta(days=end))
        .add_extension(x509.BasicConstraints(True, None), True)
        .add_extension(names, False)
        .sign(key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    clear = (serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    (folder / "ca.pem").write_bytes(certificate.public_bytes(pem))
    (folder / "key.pem").write_bytes(key.private_bytes(pem, *clear))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.set_ciphers("DEFAULT@SECLEVEL=0")
    context.load_cert_chain(folder / "ca.pem", folder / "key.pem")
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def accept() -> None:
            with suppress(OSError):
                while True:
                    connection, _ = listener.accept()
                    with suppress(OSError), context.wrap_socket(connection, server_side=True):
                        pass

        threading.Thread(target=accept, daemon=True).start()
        yield f"rediss://127.0.0.1:{listener.getsockname()[1]}"
        listener.shutdown(socket.SHUT_RDWR)


@pytest.mark.parametrize(
    ("made", "word"),
    [
        ({"begin": 1}, "not yet valid. Set this machine's clock"),
        ({"begin": -9, "end": -1}, "expired. Check this machine's clock"),
        ({"bits": 1024}, "too weak"),
    ],
)
def test_what_is_wrong_with_a_certificate(tmp_path: Path, made: Any, word: str) -> None:
    with serving(tmp_path, **made) as url:
        said = refused(url, ca_certs=tmp_path / "ca.pem", timeout=2)
    assert word in said
    assert "another authority" not in said


def test_addresses_are_checked_if_asked_for(tls_server: Server, modern: Tls, names: None) -> None:
    """The certificate names memorystore.test: an address passes, unless it is to be checked."""
    with connect(tls_server.url, ca_certs=modern.ca) as client:
        assert client.ping()
    for url in (tls_server.url, f"rediss://localhost:{tls_server.port}"):
        assert "does not name" in refused(url, ca_certs=modern.ca, check_hostname=True)
    named = f"rediss://memorystore.test:{tls_server.port}"
    with connect(named, ca_certs=modern.ca, check_hostname=True) as client:
        assert client.ping()


def told(endpoint: Endpoint, code: int, message: str = "") -> str:
    error = ssl.SSLCertVerificationError(1, message)
    error.verify_code, error.verify_message = code, message
    return str(diagnose(endpoint, error, 5.0))


PLACE = "projects/p/locations/europe-west1"


IN = "--region=europe-west1"
REDIS = Endpoint("h", tls=True, product="redis", resource=f"{PLACE}/instances/chat")
CLUSTER = Endpoint("h", tls=True, product="redis-cluster", resource=f"{PLACE}/clusters/chat")
VALKEY = Endpoint("h", tls=True, product="valkey", resource=f"{PLACE}/instances/chat")


@pytest.mark.parametrize(
    ("endpoint", "command"),
    [
        (REDIS, f"gcloud redis instances describe chat {IN}"),
        (CLUSTER, f"gcloud redis clusters get-cluster-certificate-authority chat {IN}"),
        (VALKEY, "gcloud memorystore instances get-certificate-authority chat --location=europe"),
        (Endpoint("h", 6378), "gcloud redis instances describe INSTANCE --region=REGION"),
        (Endpoint("h", 6379), "gcloud memorystore instances get-certificate-authority INSTANCE"),
    ],
)
def test_the_command_is_that_of_the_product(endpoint: Endpoint, command: str) -> None:
    assert command in told(endpoint, 20, "unable to get local issuer certificate")
    assert command in told(endpoint, 10)
    assert "revoked" in told(endpoint, 23)


AUTH_STRING = "gcloud redis instances get-auth-string"


@pytest.mark.parametrize(
    ("endpoint", "login", "hint"),
    [
        (REDIS, {"password": "x"}, f"{AUTH_STRING} chat {IN}"),
        (REDIS, {}, f"{AUTH_STRING} chat {IN}"),
        (VALKEY, {"password": "x"}, "the token or the user"),
        (CLUSTER, {"password": "x"}, "the token or the user"),
        (Endpoint("h"), {"password": "x"}, f"{AUTH_STRING} INSTANCE --region=REGION"),
        (VALKEY, {"credential_provider": IamCredentials()}, "role roles/memorystore.dbConn"),
        (CLUSTER, {"credential_provider": IamCredentials()}, "role roles/redis.dbConnectionUser"),
        (
            Endpoint("h"),
            {"credential_provider": IamCredentials()},
            "roles/redis.dbConnectionUser (Redis Cluster) or roles/memorystore.dbConnectionUser",
        ),
    ],
)
def test_role_and_password_are_those_of_the_product(
    endpoint: Endpoint, login: Any, hint: str
) -> None:
    refusal = redis.AuthenticationError("invalid username-password pair or user is disabled.")
    assert hint in str(diagnose(replace(endpoint, **login), refusal, 5.0))


def test_both_kinds_of_connection_check_alike(tmp_path: Path) -> None:
    """Without ca_certs=, a certificate of an unknown authority is refused, whatever it names."""
    with serving(tmp_path) as url, pytest.raises(ConnectError, match="does not know"):
        connect(url, timeout=2)
