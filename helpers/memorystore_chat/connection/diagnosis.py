"""Why a connection failed, in words: what happened, the likely cause, the next step."""

import re
import socket
import ssl
from collections.abc import Callable
from typing import NamedTuple

import redis
from redis.exceptions import (
    ClusterDownError,
    InvalidResponse,
    MasterDownError,
    NoPermissionError,
)

from memorystore_chat.connection.endpoint import Endpoint
from memorystore_chat.connection.environment import way_in
from memorystore_chat.connection.iam import TokenError, TokenServerError
from memorystore_chat.connection.outages import chain_of
from memorystore_chat.errors import MAXCLIENTS_HINT, NO_REDIS_HINT, ConnectError

ONE_DATABASE = "which has only database 0. Leave the number behind the address out."

_NO_TLS = (
    "Use redis:// if this port is a plain one; Memorystore for Redis has TLS on port 6378, Redis "
    "Cluster and Valkey on 6379."
)
_AUTH_STRING = "gcloud redis instances get-auth-string {instance} --region={region}"
_ROLES = {
    "redis-cluster": "roles/redis.dbConnectionUser",
    "valkey": "roles/memorystore.dbConnectionUser",
}
_EITHER_ROLE = (
    "roles/redis.dbConnectionUser (Redis Cluster) or roles/memorystore.dbConnectionUser (Valkey)"
)
_CLUSTER_CA = "gcloud redis clusters get-cluster-certificate-authority {instance} --region={region}"
_VALKEY_CA = "gcloud memorystore instances get-certificate-authority {instance} --location={region}"
_AUTHORITIES = {
    "redis": (
        "gcloud redis instances describe {instance} --region={region} shows them under "
        "serverCaCerts"
    ),
    "redis-cluster": f"{_CLUSTER_CA} shows them",
    "valkey": f"{_VALKEY_CA} shows them",
    "either": f"{_VALKEY_CA} shows them, for a Redis Cluster {_CLUSTER_CA}",
}


def diagnose(
    endpoint: Endpoint, error: BaseException, timeout: float, *, reached: bool = False
) -> ConnectError:
    """Turn what redis-py raised into a `ConnectError` that says what to do.

    Args:
        endpoint: What was connected to; it appears in the message without its password.
        error: The exception, which may have causes.
        timeout: Seconds that were waited.
        reached: Whether the endpoint itself has answered before.

    Example:
        >>> str(diagnose(Endpoint.parse("10.0.0.3"), redis.BusyLoadingError(), 5.0))
        'Cannot connect to redis://10.0.0.3:6379: the server is still loading its data. ...'
    """
    case = _Case(endpoint, error, timeout, reached)
    links = list(chain_of(error))
    for rows in (_CERTAIN, _LIKELY):
        for link in links:
            for row in rows:
                if isinstance(link, row.kind) and re.search(row.text, str(link)) and row.when(case):
                    say = row.say if isinstance(row.say, str) else row.say(case, link)
                    return ConnectError(f"Cannot connect to {endpoint}: {say}")
    return ConnectError(f"Cannot connect to {endpoint}: {_unknown(error)}")


class _Case(NamedTuple):
    """What is known when an error is explained; the arguments of `diagnose`."""

    endpoint: Endpoint
    error: BaseException
    timeout: float
    reached: bool


class _Row(NamedTuple):
    """An error, by its class, its text and the case, and what to say of it."""

    kind: type[BaseException] | tuple[type[BaseException], ...]
    say: str | Callable[[_Case, BaseException], str]
    text: str = ""
    when: Callable[[_Case], bool] = lambda _: True


def _unknown(error: BaseException) -> str:
    return f"{type(error).__name__}. The cause above says more."


def _named(hint: str, endpoint: Endpoint) -> str:
    """Fill the names of an instance into a command, or what stands for them."""
    region, instance = "REGION", "INSTANCE"
    if endpoint.resource:
        _, _, _, region, _, instance = endpoint.resource.split("/")
    return hint.format(instance=instance, region=region)


def _login(case: _Case, error: BaseException) -> str:
    endpoint, answer = case.endpoint, str(error)
    has_none = "without any password" in answer or "no password is set" in answer
    auth_string = _named(_AUTH_STRING, endpoint)
    if endpoint.credential_provider is not None:
        if has_none:
            return "the server has no IAM authentication. Leave iam=True out."
        role = _ROLES.get(endpoint.product or "", _EITHER_ROLE)
        return (
            f"the server refuses the access token. Give the identity that runs this the role "
            f"{role} on the project; it takes some minutes to have effect."
        )
    if endpoint.password is None:
        return (
            "the server asks for a password and none was given. Give password= or set "
            f"$MEMORYSTORE_PASSWORD ({auth_string} shows it), or pass iam=True if the instance "
            "uses IAM."
        )
    if has_none:
        return (
            "a password was given, and the server has none. Leave it out, also in the URL and in "
            "$MEMORYSTORE_PASSWORD."
        )
    if endpoint.product in _ROLES:
        return (
            "the server refuses the user or the password. Compare them with the token or the user "
            "that the instance was given; if it uses IAM, pass iam=True instead."
        )
    return (
        f"the server refuses the user or the password. Compare it with what {auth_string} shows; "
        "if the instance uses IAM, pass iam=True instead."
    )


# By OpenSSL's number of what is wrong: https://docs.openssl.org/3.0/man3/X509_STORE_CTX_get_error/
_CERTIFICATES: dict[int, str] = {
    9: (
        "the server's certificate, or its authority's, is not yet valid. Set this machine's clock "
        "right: it is behind, as after a sleep of WSL or of a virtual machine."
    ),
    10: (
        "the server's certificate, or its authority's, has expired. Check this machine's "
        "clock, and give the instance's current authorities as ca_certs= ({authorities})."
    ),
    23: (
        "the server's certificate was revoked. Do not trust this server; find out why with whoever "
        "runs the certificate authority."
    ),
    62: (
        "the server's certificate does not name {host!r}. Connect to the instance's "
        "IP address and give its certificate authority as ca_certs=, or check that this is "
        "the right server."
    ),
    66: (
        "the server's certificate has a key or a signature that is too weak for this machine's "
        "OpenSSL. Have it issued anew, with RSA of 2048 bits or more and SHA-256."
    ),
}
_CERTIFICATES |= {64: _CERTIFICATES[62], 67: _CERTIFICATES[66], 68: _CERTIFICATES[66]}


def _certificate(case: _Case, error: BaseException) -> str:
    endpoint = case.endpoint
    authority = "an authority this machine does not know"
    if endpoint.ca_certs:
        authority = "another authority than those in ca_certs"
    reason = getattr(error, "verify_message", "")
    unknown = (
        f"the server's certificate is from {authority} ({reason}). Give all "
        "certificate authorities of the instance as ca_certs= ({authorities}), or connect by its "
        "name, projects/.../instances/..., which asks for them."
    )
    say = _CERTIFICATES.get(getattr(error, "verify_code", 0), unknown)
    product = endpoint.product or ("redis" if endpoint.port != 6379 else "either")
    authorities = _named(_AUTHORITIES[product], endpoint)
    return say.format(host=endpoint.host, authorities=authorities)


def _no_socket(case: _Case, error: BaseException) -> str:
    reason = getattr(error, "strerror", None) or "the server closed the connection"
    if case.endpoint.product == "embedded":
        return f"{reason}. It was stopped meanwhile: connect() again, which starts it anew."
    return (
        f"{reason}. Check the path, and that the server which makes this socket runs under a user "
        "that lets you in."
    )


def _closed(case: _Case, error: BaseException) -> str:
    if case.endpoint.unix_socket:
        return _no_socket(case, error)
    if case.endpoint.tls:
        return "the server closed the connection during the TLS handshake. " + _NO_TLS
    return (
        "the server closed the connection at the first command. A TLS port does that to a plain "
        "client: use rediss:// (port 6378 on Memorystore for Redis) with ca_certs=, or connect by "
        "the instance's name, projects/.../instances/..."
    )


def _refused(case: _Case, _error: BaseException) -> str:
    port = case.endpoint.port
    if case.endpoint.is_loopback:
        return (
            f"nothing listens on port {port} of this machine. Start the server or the "
            'tunnel that belongs there, or use connect("embedded").'
        )
    return (
        f"nothing listens on port {port} there. Check address and port; Memorystore for "
        "Redis with TLS has 6378, everything else 6379."
    )


def _silence(case: _Case, error: BaseException) -> str:
    endpoint, waited = case.endpoint, f"within {case.timeout:g} s"
    if any("reading" in str(link) for link in chain_of(case.error)) or "reading" in str(error):
        return (
            f"it accepted the connection and answered nothing {waited}. It is overloaded or no "
            "Redis or Valkey server; a larger timeout= waits longer."
        )
    if endpoint.tls and _accepts(endpoint):
        return f"the port is open, and no TLS handshake came about {waited}. " + _NO_TLS
    if endpoint.is_private:
        return (
            f"the private address {endpoint.host} does not answer {waited}: only machines on its "
            "network reach it. " + way_in(cluster=bool(endpoint.cluster))
        )
    return (
        f"no answer {waited}. Check the address, and that no firewall drops the packets on the way."
    )


def _token_unchecked(case: _Case, _error: BaseException) -> str:
    role = _ROLES.get(case.endpoint.product or "", " or ".join(_ROLES.values()))
    return (
        "the server could not check the access token. Too many logins at once do that: try "
        f"again in a minute; if it stays, give this identity {role}."
    )


# What says why by itself, whatever else is in the chain of errors.
_CERTAIN = (
    _Row((TokenError, TokenServerError), lambda _, error: str(error)),
    _Row(
        redis.BusyLoadingError,
        "the server is still loading its data. Try again in a few seconds.",
    ),
    _Row(redis.AuthenticationError, _login),
    _Row(
        (MasterDownError, ClusterDownError),
        "it has no primary just now, as during a failover. Try again in a minute.",
    ),
    _Row(InvalidResponse, NO_REDIS_HINT),
    _Row(Exception, MAXCLIENTS_HINT, "max number of clients reached"),
    _Row(ssl.SSLCertVerificationError, _certificate),
    _Row(ssl.SSLEOFError, _closed),  # asyncio has ConnectionResetError for it
    _Row(ssl.SSLError, f"the server does not answer in TLS. {_NO_TLS}"),
    _Row(
        socket.gaierror,
        lambda case, _: (
            f"the name {case.endpoint.host!r} does not resolve. Check the spelling; a name from "
            "a private DNS zone resolves only inside its network."
        ),
    ),
)

# What the rest of the case decides about.
_LIKELY = (
    _Row(
        Exception,
        lambda *_: (
            "it answers, and the cluster's nodes do not under the addresses they give each other. "
            + way_in(cluster=True)
        ),
        when=lambda case: (
            case.reached
            and bool(case.endpoint.cluster)
            and not isinstance(case.error, redis.ResponseError)
        ),
    ),
    _Row((redis.TimeoutError, TimeoutError), _silence),
    _Row(OSError, _no_socket, when=lambda case: case.endpoint.unix_socket is not None),
    _Row(ConnectionRefusedError, _refused),
    _Row(
        NoPermissionError,
        "the login works, but its user may not run PING or INFO. Give the ACL user the "
        "commands of @connection and INFO.",
    ),
    _Row(
        redis.ResponseError,
        _token_unchecked,
        "(?i)IAM",
        when=lambda case: case.endpoint.credential_provider is not None,
    ),
    _Row(
        redis.ResponseError,
        "the server is in protected mode: it has no password and takes connections from its "
        "own machine only. Set a password on it.",
        "^(DENIED|Redis is running in protected mode)",
    ),
    _Row(redis.ResponseError, f"it is a cluster, {ONE_DATABASE}", "not allowed in cluster mode"),
    _Row(
        redis.ResponseError,
        lambda case, _: (
            f"it has no database {case.endpoint.db}. Leave the number out, or give that of one "
            "that it has."
        ),
        "DB index",
    ),
    _Row(
        redis.ResponseError,
        lambda _, error: f"the server refuses the first command, and answers: {error}",
    ),
    _Row((ConnectionResetError, BrokenPipeError), _closed),
    _Row(Exception, _closed, "closed"),
)


def _accepts(endpoint: Endpoint) -> bool:
    try:
        # Shorter than the second that a failed connection may take beyond its own time-out.
        with socket.create_connection((endpoint.host, endpoint.port), 0.5):
            return True
    except OSError:
        return False
