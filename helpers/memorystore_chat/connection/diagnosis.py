"""Why a connection failed, in words: what happened, the likely cause, the next step."""

import socket
import ssl

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
from memorystore_chat.connection.retries import chain_of
from memorystore_chat.errors import MAXCLIENTS_HINT, NO_REDIS_HINT, ConnectError

_NO_TLS = (
    "Use redis:// if this port is a plain one; Memorystore for Redis has TLS on port 6378, Redis "
    "Cluster and Valkey on 6379."
)
ONE_DATABASE = "which has only database 0. Leave the number behind the address out."


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
    reason = _reason(endpoint, error, timeout, reached)
    return ConnectError(f"Cannot connect to {endpoint}: {reason}")


def _reason(endpoint: Endpoint, error: BaseException, timeout: float, reached: bool) -> str:
    links = list(chain_of(error))
    for link in links:
        if isinstance(link, TokenError | TokenServerError):
            return str(link)
        if isinstance(link, redis.BusyLoadingError):
            return "the server is still loading its data. Try again in a few seconds."
        if isinstance(link, redis.AuthenticationError):
            return _login(endpoint, str(link))
        if isinstance(link, MasterDownError | ClusterDownError):
            return "it has no primary just now, as during a fail-over. Try again in a minute."
        if isinstance(link, InvalidResponse):
            return NO_REDIS_HINT
        if "max number of clients reached" in str(link):
            return MAXCLIENTS_HINT
        if isinstance(link, ssl.SSLCertVerificationError):
            return _certificate(endpoint, link)
        if isinstance(link, ssl.SSLEOFError):  # asyncio has ConnectionResetError for it
            return _closed(endpoint)
        if isinstance(link, ssl.SSLError):
            return f"the server does not answer in TLS. {_NO_TLS}"
        if isinstance(link, socket.gaierror):
            return (
                f"the name {endpoint.host!r} does not resolve. Check the spelling; a name from "
                "a private DNS zone resolves only inside its network."
            )
    if reached and endpoint.cluster and not isinstance(error, redis.ResponseError):
        return (
            "it answers, and the cluster's nodes do not under the addresses they give each other. "
            + way_in(cluster=True)
        )
    for link in links:
        if isinstance(link, redis.TimeoutError | TimeoutError):
            return _silence(endpoint, links, timeout)
        if isinstance(link, OSError) and endpoint.unix_socket:
            return _no_socket(endpoint, link.strerror or type(link).__name__)
        if isinstance(link, ConnectionRefusedError):
            return _refused(endpoint)
    if isinstance(error, NoPermissionError):
        return (
            "the login works, but its user may not run PING or INFO. Give the ACL user the "
            "commands of @connection and INFO."
        )
    if isinstance(error, redis.ResponseError):
        return _refused_command(endpoint, str(error))
    if any(
        isinstance(link, ConnectionResetError | BrokenPipeError) or "closed" in str(link)
        for link in links
    ):
        return _closed(endpoint)
    return f"{type(error).__name__}. The cause above says more."


def _login(endpoint: Endpoint, answer: str) -> str:
    has_none = "without any password" in answer or "no password is set" in answer
    if endpoint.credential_provider is not None:
        if has_none:
            return "the server has no IAM authentication. Leave iam=True out."
        return (
            "the server refuses the access token. Give the identity that runs this the role "
            "roles/redis.dbConnectionUser (Redis Cluster) or roles/memorystore.dbConnectionUser "
            "(Valkey) on the project; it takes some minutes to have effect."
        )
    if endpoint.password is None:
        return (
            "the server asks for a password and none was given. Give password= or set "
            "$MEMORYSTORE_PASSWORD (gcloud redis instances get-auth-string INSTANCE "
            "--region=REGION shows it), or pass iam=True if the instance uses IAM."
        )
    if has_none:
        return (
            "a password was given, and the server has none. Leave it out, also in the URL and in "
            "$MEMORYSTORE_PASSWORD."
        )
    return (
        "the server refuses the user or the password. Compare it with what gcloud redis "
        "instances get-auth-string INSTANCE --region=REGION shows; if the instance uses IAM, "
        "pass iam=True instead."
    )


def _certificate(endpoint: Endpoint, error: ssl.SSLCertVerificationError) -> str:
    if "mismatch" in error.verify_message:
        return (
            f"the server's certificate does not name {endpoint.host!r}. Connect to the instance's "
            "IP address and give its certificate authority as ca_certs=, or check that this is "
            "the right server."
        )
    if error.verify_message == "certificate has expired":
        return (
            "the server's certificate, or its authority's, has expired. Check this machine's "
            "clock, and give the instance's current authorities as ca_certs=."
        )
    authority = "an authority this machine does not know"
    if endpoint.ca_certs:
        authority = "another authority than those in ca_certs"
    return (
        f"the server's certificate is from {authority} ({error.verify_message}). Give all "
        "certificate authorities of the instance as ca_certs= (gcloud redis instances describe "
        "INSTANCE --region=REGION shows them under serverCaCerts), or connect by its name, "
        "projects/.../instances/..., which asks for them."
    )


def _no_socket(endpoint: Endpoint, reason: str) -> str:
    if endpoint.product == "embedded":
        return f"{reason}. It was stopped meanwhile: connect() again, which starts it anew."
    return (
        f"{reason}. Check the path, and that the server which makes this socket runs under a user "
        "that lets you in."
    )


def _closed(endpoint: Endpoint) -> str:
    at_once = "the server closed the connection at the first command"
    if endpoint.unix_socket:
        return _no_socket(endpoint, at_once)
    if endpoint.tls:
        return "the server closed the connection during the TLS handshake. " + _NO_TLS
    return (
        f"{at_once}. A TLS port does that to a plain client: use rediss:// (port 6378 on "
        "Memorystore for Redis) with ca_certs=, or connect by the instance's name, "
        "projects/.../instances/..."
    )


def _refused(endpoint: Endpoint) -> str:
    if endpoint.is_loopback:
        return (
            f"nothing listens on port {endpoint.port} of this machine. Start the server or the "
            'tunnel that belongs there, or use connect("embedded").'
        )
    return (
        f"nothing listens on port {endpoint.port} there. Check address and port; Memorystore for "
        "Redis with TLS has 6378, everything else 6379."
    )


def _silence(endpoint: Endpoint, links: list[BaseException], timeout: float) -> str:
    waited = f"within {timeout:g} s"
    if any("reading" in str(link) for link in links):
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


def _refused_command(endpoint: Endpoint, answer: str) -> str:
    if endpoint.credential_provider is not None and "IAM" in answer.upper():
        return (
            "the server could not check the access token. Too many logins at once do that: try "
            "again in a minute; if it stays, give this identity roles/redis.dbConnectionUser or "
            "roles/memorystore.dbConnectionUser."
        )
    if answer.startswith(("DENIED", "Redis is running in protected mode")):
        return (
            "the server is in protected mode: it has no password and takes connections from its "
            "own machine only. Set a password on it."
        )
    if "SELECT is not allowed in cluster mode" in answer:
        return f"it is a cluster, {ONE_DATABASE}"
    if "DB index" in answer:
        return (
            f"it has no database {endpoint.db}. Leave the number out, or give that of one "
            "that it has (0 to 15 unless it is set otherwise)."
        )
    return f"the server refuses the first command, and answers: {answer}"


def _accepts(endpoint: Endpoint) -> bool:
    try:
        # Shorter than the second that a failed connection may take beyond its own time-out.
        with socket.create_connection((endpoint.host, endpoint.port), 0.5):
            return True
    except OSError:
        return False
