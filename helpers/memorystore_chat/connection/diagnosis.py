"""Why a connection failed, in words: what happened, the likely cause, the next step."""

import re
import socket
import ssl
from collections.abc import Callable
from typing import Any, NamedTuple

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

_ROLES = {
    "redis-cluster": "roles/redis.dbConnectionUser",
    "valkey": "roles/memorystore.dbConnectionUser",
}
_CLUSTER_CA = "gcloud redis clusters get-cluster-certificate-authority {instance} --region={region}"
_VALKEY_CA = "gcloud memorystore instances get-certificate-authority {instance} --location={region}"
_AUTHORITIES = {
    "redis": "gcloud redis instances describe {instance} --region={region} shows them under "
    "serverCaCerts",
    "redis-cluster": f"{_CLUSTER_CA} shows them",
    "valkey": f"{_VALKEY_CA} shows them",
    "either": f"{_VALKEY_CA} shows them, for a Redis Cluster {_CLUSTER_CA}",
}
_NO_TLS = (
    "Use redis:// if this port is a plain one; Memorystore for Redis has TLS on port 6378, Redis "
    "Cluster and Valkey on 6379."
)


class _Case(NamedTuple):
    """What is known when an error is explained; the arguments of `diagnose`, and the chain."""

    endpoint: Endpoint
    error: BaseException
    timeout: float
    reached: bool
    links: list[BaseException]

    @property
    def iam(self) -> bool:
        return self.endpoint.credential_provider is not None

    def words(self, link: BaseException) -> dict[str, Any]:
        """Return what stands between braces in the sentences below."""
        endpoint = self.endpoint
        region, instance = "REGION", "INSTANCE"
        if endpoint.resource:
            _, _, _, region, _, instance = endpoint.resource.split("/")
        product = endpoint.product or ("redis" if endpoint.port != 6379 else "either")
        cluster, valkey = _ROLES.values()
        authorities = _AUTHORITIES.get(product, _AUTHORITIES["redis"])
        return {
            "authorities": authorities.format(instance=instance, region=region),
            "auth_string": f"gcloud redis instances get-auth-string {instance} --region={region}",
            "authority": "another authority than those in ca_certs"
            if endpoint.ca_certs
            else "an authority this machine does not know",
            "db": endpoint.db,
            "error": link,
            "host": endpoint.host,
            "no_tls": _NO_TLS,
            "one_database": ONE_DATABASE,
            "port": endpoint.port,
            "reason": getattr(link, "verify_message", None) or getattr(link, "strerror", None),
            "role": _ROLES.get(
                endpoint.product or "", f"{cluster} (Redis Cluster) or {valkey} (Valkey)"
            ),
            "waited": f"within {self.timeout:g} s",
            "way_in": way_in(cluster=bool(endpoint.cluster)),
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
    case = _Case(endpoint, error, timeout, reached, list(chain_of(error)))
    # What is certain from any error of the chain comes before what is likely.
    for rows in (_CERTAIN, _LIKELY):
        for link in case.links:
            for kind, applies, say in rows:
                if isinstance(link, kind) and (applies is None or applies(case, link)):
                    reason = _SENTENCES.get(say, say).format(**case.words(link))
                    return ConnectError(f"Cannot connect to {endpoint}: {reason}")
    reason = f"{type(error).__name__}. The cause above says more."
    return ConnectError(f"Cannot connect to {endpoint}: {reason}")


_Test = Callable[[_Case, BaseException], bool]
_Row = tuple[type[BaseException] | tuple[type[BaseException], ...], _Test | None, str]

# Each begins with its name and a colon. What stands between braces is filled in.
_PAGE = """
no IAM: the server has no IAM authentication. Leave iam=True out.
token refused: the server refuses the access token. Give the identity that runs this the role
  {role} on the project; it takes some minutes to have effect.
token unchecked: the server could not check the access token. Too many logins at once do that: try
  again in a minute; if it stays, give this identity {role}.
no password given: the server asks for a password and none was given. Give password= or set
  $MEMORYSTORE_PASSWORD ({auth_string} shows it), or pass iam=True if the instance uses IAM.
has no password: a password was given, and the server has none. Leave it out, also in the URL and
  in $MEMORYSTORE_PASSWORD.
user refused: the server refuses the user or the password. Compare them with the token or the user
  that the instance was given; if it uses IAM, pass iam=True instead.
AUTH string refused: the server refuses the user or the password. Compare it with what
  {auth_string} shows; if the instance uses IAM, pass iam=True instead.
no rights: the login works, but its user may not run PING or INFO. Give the ACL user the commands
  of @connection and INFO.
protected: the server is in protected mode: it has no password and takes connections from its own
  machine only. Set a password on it.
loading: the server is still loading its data. Try again in a few seconds.
failover: it has no primary just now, as during a failover. Try again in a minute.
one database: it is a cluster, {one_database}
no database: it has no database {db}. Leave the number out, or give that of one that it has.
other answer: the server refuses the first command, and answers: {error}
not yet valid: the server's certificate, or its authority's, is not yet valid. Set this machine's
  clock right: it is behind, as after a sleep of WSL or of a virtual machine.
expired: the server's certificate, or its authority's, has expired. Check this machine's clock,
  and give the instance's current authorities as ca_certs= ({authorities}).
revoked: the server's certificate was revoked. Do not trust this server; find out why with whoever
  runs the certificate authority.
other name: the server's certificate does not name {host!r}. Connect to the instance's IP address
  and give its certificate authority as ca_certs=, or check that this is the right server.
weak: the server's certificate has a key or a signature that is too weak for this machine's
  OpenSSL. Have it issued anew, with RSA of 2048 bits or more and SHA-256.
unknown authority: the server's certificate is from {authority} ({reason}). Give all certificate
  authorities of the instance as ca_certs= ({authorities}), or connect by its name,
  projects/.../instances/..., which asks for them.
closed in TLS: the server closed the connection during the TLS handshake. {no_tls}
no TLS: the server does not answer in TLS. {no_tls}
silent in TLS: the port is open, and no TLS handshake came about {waited}. {no_tls}
closed: the server closed the connection at the first command. A TLS port does that to a plain
  client: use rediss:// (port 6378 on Memorystore for Redis) with ca_certs=, or connect by the
  instance's name, projects/.../instances/...
no such name: the name {host!r} does not resolve. Check the spelling; a name from a private DNS
  zone resolves only inside its network.
no nodes: it answers, and the cluster's nodes do not under the addresses they give each other.
  {way_in}
no answer: it accepted the connection and answered nothing {waited}. It is overloaded or no Redis
  or Valkey server; a larger timeout= waits longer.
private: the private address {host} does not answer {waited}: only machines on its network reach
  it. {way_in}
dropped: no answer {waited}. Check the address, and that no firewall drops the packets on the way.
stopped: {reason}. It was stopped meanwhile: connect() again, which starts it anew.
no socket: {reason}. Check the path, and that the server which makes this socket runs under a user
  that lets you in.
not here: nothing listens on port {port} of this machine. Start the server or the tunnel that
  belongs there, or use connect("embedded").
not there: nothing listens on port {port} there. Check address and port; Memorystore for Redis
  with TLS has 6378, everything else 6379.
"""
_SENTENCES = {
    name: " ".join(text.split())
    for name, text in re.findall(r"^(\w[\w ]*): (.+?)$(?!\n  )", _PAGE, re.MULTILINE | re.DOTALL)
}


def _says(pattern: str) -> _Test:
    return lambda _, link: re.search(pattern, str(link)) is not None


def _code(*numbers: int) -> _Test:
    """Match OpenSSL's numbers: docs.openssl.org/3.0/man3/X509_STORE_CTX_get_error."""
    return lambda _, link: getattr(link, "verify_code", 0) in numbers


def _closed(_case: _Case, link: BaseException) -> bool:
    return isinstance(link, ConnectionResetError | BrokenPipeError) or "closed" in str(link)


def _no_nodes(case: _Case, _link: BaseException) -> bool:
    answered = isinstance(case.error, redis.ResponseError)
    return case.reached and bool(case.endpoint.cluster) and not answered


def _accepts(case: _Case, _link: BaseException) -> bool:
    """Whether a TLS endpoint's port is open."""
    if not case.endpoint.tls:
        return False
    try:
        # Shorter than the second that a failed connection may take beyond its own time-out.
        with socket.create_connection((case.endpoint.host, case.endpoint.port), 0.5):
            return True
    except OSError:
        return False


_HAS_NO_PASSWORD = _says("without any password|no password is set")
_TIMEOUTS = (redis.TimeoutError, TimeoutError)
_BAD_CERTIFICATE = ssl.SSLCertVerificationError

_CERTAIN: tuple[_Row, ...] = (
    ((TokenError, TokenServerError), None, "{error}"),
    (redis.BusyLoadingError, None, "loading"),
    (
        redis.AuthenticationError,
        lambda case, link: case.iam and _HAS_NO_PASSWORD(case, link),
        "no IAM",
    ),
    (redis.AuthenticationError, lambda case, _: case.iam, "token refused"),
    (
        redis.AuthenticationError,
        lambda case, _: case.endpoint.password is None,
        "no password given",
    ),
    (redis.AuthenticationError, _HAS_NO_PASSWORD, "has no password"),
    (redis.AuthenticationError, lambda case, _: case.endpoint.product in _ROLES, "user refused"),
    (redis.AuthenticationError, None, "AUTH string refused"),
    ((MasterDownError, ClusterDownError), None, "failover"),
    (InvalidResponse, None, NO_REDIS_HINT),
    (Exception, _says("max number of clients reached"), MAXCLIENTS_HINT),
    (_BAD_CERTIFICATE, _code(9), "not yet valid"),
    (_BAD_CERTIFICATE, _code(10), "expired"),
    (_BAD_CERTIFICATE, _code(23), "revoked"),
    (_BAD_CERTIFICATE, _code(62, 64), "other name"),
    (_BAD_CERTIFICATE, _code(66, 67, 68), "weak"),
    (_BAD_CERTIFICATE, None, "unknown authority"),
    (ssl.SSLEOFError, None, "closed in TLS"),  # asyncio has ConnectionResetError for it
    (ssl.SSLError, None, "no TLS"),
    (socket.gaierror, None, "no such name"),
)

_LIKELY: tuple[_Row, ...] = (
    (Exception, _no_nodes, "no nodes"),
    (_TIMEOUTS, lambda case, _: any("reading" in str(link) for link in case.links), "no answer"),
    (_TIMEOUTS, _accepts, "silent in TLS"),
    (_TIMEOUTS, lambda case, _: case.endpoint.is_private, "private"),
    (_TIMEOUTS, None, "dropped"),
    (OSError, lambda case, _: case.endpoint.product == "embedded", "stopped"),
    (OSError, lambda case, _: case.endpoint.unix_socket is not None, "no socket"),
    (ConnectionRefusedError, lambda case, _: case.endpoint.is_loopback, "not here"),
    (ConnectionRefusedError, None, "not there"),
    (NoPermissionError, None, "no rights"),
    (
        redis.ResponseError,
        lambda case, link: case.iam and _says("(?i)IAM")(case, link),
        "token unchecked",
    ),
    (redis.ResponseError, _says("^(DENIED|Redis is running in protected mode)"), "protected"),
    (redis.ResponseError, _says("in cluster mode"), "one database"),
    (redis.ResponseError, _says("DB index"), "no database"),
    (redis.ResponseError, None, "other answer"),
    (Exception, lambda case, link: case.endpoint.tls and _closed(case, link), "closed in TLS"),
    (Exception, _closed, "closed"),
)
