"""Why a connection failed, in words: what happened, the likely cause, the next step."""

import re
from collections.abc import Iterator
from typing import Any

from memorystore_chat.connection.endpoint import Endpoint, parse_address
from memorystore_chat.connection.environment import way_in
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

# What an error's class or text says, and the word for it in the table below.
_SAYS = {
    "has-none": "without any password|no password is set",
    "full": "max number of clients reached",
    "cluster-mode": "in cluster mode",
    "DB-index": "DB index",
    "closed": "closed|EOF|Reset|BrokenPipe",
    "reading": "reading",
}

# A sentence fits if all its words are known of the endpoint or of one error of the chain (see
# `_known`). The first that fits is taken; what is likely comes after what is certain. The numbers
# are OpenSSL's: https://docs.openssl.org/3.0/man3/X509_STORE_CTX_get_error
_SENTENCES = {
    "TokenError": "{error}",
    "TokenServerError": "{error}",
    "BusyLoadingError": "the server is still loading its data. Try again in a few seconds.",
    "AuthenticationError has-none": "a login was given, and the server has none. Leave password= "
    "or iam=True out, also the password in the URL and in $MEMORYSTORE_PASSWORD.",
    "AuthenticationError iam": "the server refuses the access token. Give the identity that runs "
    "this the role {role} on the project; it takes some minutes to have effect.",
    "AuthenticationError no-password": "the server asks for a password and none was given. Give "
    "password= or set $MEMORYSTORE_PASSWORD ({auth_string} shows it), or pass iam=True if the "
    "instance uses IAM.",
    "AuthenticationError users": "the server refuses the user or the password. Compare them with "
    "the token or the user that the instance was given; if it uses IAM, pass iam=True instead.",
    "AuthenticationError": "the server refuses the user or the password. Compare it with what "
    "{auth_string} shows (Memorystore for Redis); if the instance uses IAM, pass iam=True instead.",
    "ClusterDownError": "it has no primary just now, as during a failover. Try again in a minute.",
    "InvalidResponse": NO_REDIS_HINT,
    "full": MAXCLIENTS_HINT,
    "X509-9": "the server's certificate, or its authority's, is not yet valid. Set this machine's "
    "clock right: it is behind, as after a sleep of WSL or of a virtual machine.",
    "X509-10": "the server's certificate, or its authority's, has expired. Check this machine's "
    "clock, and give the instance's current authorities as ca_certs= ({authorities}).",
    "X509-23": "the server's certificate was revoked. Do not trust this server; find out why with "
    "whoever runs the certificate authority.",
    "X509-name": "the server's certificate does not name {host!r}. Connect to the instance's IP "
    "address and give its certificate authority as ca_certs=, or check that this is the right "
    "server.",
    "X509-weak": "the server's certificate has a key or a signature that is too weak for this "
    "machine's OpenSSL. Have it issued anew, with RSA of 2048 bits or more and SHA-256.",
    "SSLCertVerificationError": "the server's certificate is from {authority} ({reason}). Give all "
    "certificate authorities of the instance as ca_certs= ({authorities}), or connect by its "
    "name, projects/.../instances/..., which asks for them.",
    "gaierror": "the name {host!r} does not resolve. Check the spelling; a name from a private DNS "
    "zone resolves only inside its network.",
    "ResponseError cluster-mode": f"it is a cluster, {ONE_DATABASE}",
    "ResponseError DB-index": "it has no database {db}. Leave the number out, or give that "
    "of one that it has.",
    "ResponseError": "the server refuses the first command, and answers: {error}",
    "no-nodes": "it answers, and the cluster's nodes do not under the addresses they give each "
    "other. {way_in}",
    "tls closed": "the server closed the connection during the TLS handshake. {no_tls}",
    "SSLError": "the server does not answer in TLS. {no_tls}",
    "TimeoutError reading": "it accepted the connection and answered nothing {waited}. It is "
    "overloaded or no Redis or Valkey server; a larger timeout= waits longer.",
    "TimeoutError private": "the private address {host} does not answer {waited}: only machines on "
    "its network reach it. {way_in} {no_tls}",
    "TimeoutError": "no answer {waited}. Check the address, and that no firewall drops the packets "
    "on the way. {no_tls}",
    "OSError unix": "{reason}. Check the path, and that the server which makes this socket runs "
    "under a user that lets you in.",
    "ConnectionRefusedError here": "nothing listens on port {port} of this machine. Start the "
    'server or the tunnel that belongs there, or use connect("embedded").',
    "ConnectionRefusedError": "nothing listens on port {port} there. Check address and port; "
    "Memorystore for Redis with TLS has 6378, everything else 6379.",
    "closed": "the server closed the connection at the first command. A TLS port does that to a "
    "plain client: use rediss:// (port 6378 on Memorystore for Redis) with ca_certs=, or connect "
    "by the instance's name, projects/.../instances/...",
}


def diagnose(
    endpoint: Endpoint, error: BaseException, timeout: float, *, reached: bool = False
) -> ConnectError:
    """Turn what redis-py raised into a `ConnectError` that says what to do.

    Example:
        >>> str(diagnose(Endpoint("10.0.0.3", 1), ConnectionRefusedError(), 5.0))
        'Cannot connect to redis://10.0.0.3:1: nothing listens on port 1 there. ...'
    """
    links = list(chain_of(error))
    shared = _known_of(endpoint, reached)
    fitting = (
        (link, sentence)
        for words, sentence in _SENTENCES.items()
        for link in links
        if shared.union(_known(link)).issuperset(words.split())
    )
    link, sentence = next(fitting, (error, f"{type(error).__name__}. The cause above says more."))
    reason = sentence.format(**_words(endpoint, link, timeout)).strip()
    return ConnectError(f"Cannot connect to {endpoint}: {reason}")


def _known_of(endpoint: Endpoint, reached: bool) -> set[str]:
    """Return words for what is known of an endpoint."""
    address = parse_address(endpoint.host)
    here = endpoint.host == "localhost" or (address is not None and address.is_loopback)
    words = {
        "no-nodes": reached and endpoint.cluster,
        "tls": endpoint.tls,
        "iam": endpoint.credential_provider,
        "no-password": endpoint.password is None,
        "users": endpoint.product in _ROLES,
        "unix": endpoint.unix_socket,
        "here": here,
        "private": address is not None and address.is_private and not here,
    }
    return {word for word, applies in words.items() if applies}


def _known(link: BaseException) -> Iterator[str]:
    """Yield words for what is known of an error: its classes, what it says, its number."""
    yield from (kind.__name__ for kind in type(link).__mro__)
    said = f"{type(link).__name__} {link}"
    yield from (word for word, text in _SAYS.items() if re.search(text, said))
    code = getattr(link, "verify_code", 0)
    names = {62: "name", 64: "name", 66: "weak", 67: "weak", 68: "weak"}
    yield f"X509-{names.get(code, code)}"


def _words(endpoint: Endpoint, link: BaseException, timeout: float) -> dict[str, Any]:
    """Return what stands between braces in the sentences."""
    region, instance = "REGION", "INSTANCE"
    if endpoint.resource:
        _, _, _, region, _, instance = endpoint.resource.split("/")
    product = endpoint.product or ("redis" if endpoint.port == 6378 else "either")
    authorities = _AUTHORITIES.get(product, _AUTHORITIES["redis"])
    either = "{redis-cluster} (Redis Cluster) or {valkey} (Valkey)".format(**_ROLES)
    return {
        "authorities": authorities.format(instance=instance, region=region),
        "auth_string": f"gcloud redis instances get-auth-string {instance} --region={region}",
        "authority": "another authority than those in ca_certs"
        if endpoint.ca_certs
        else "an authority this machine does not know",
        "db": endpoint.db,
        "error": link,
        "host": endpoint.host,
        "no_tls": _NO_TLS if endpoint.tls else "",
        "port": endpoint.port,
        "reason": getattr(link, "verify_message", None) or getattr(link, "strerror", None),
        "role": _ROLES.get(product, either),
        "waited": f"within {timeout:g} s",
        "way_in": way_in(cluster=bool(endpoint.cluster)),
    }
