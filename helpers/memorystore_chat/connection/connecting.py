"""`connect` and `connect_async`: an endpoint becomes a checked, ready redis-py client."""

import asyncio
import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from typing import Any

import redis
import redis.asyncio

from memorystore_chat.arguments import check_seconds, type_name
from memorystore_chat.connection import clients
from memorystore_chat.connection.diagnosis import ONE_DATABASE, diagnose
from memorystore_chat.connection.endpoint import Endpoint, with_login
from memorystore_chat.connection.iam import IamCredentials
from memorystore_chat.connection.outages import FAILURES
from memorystore_chat.connection.tls import CaCerts, certificates, tls_context
from memorystore_chat.errors import ConnectError, EndpointError

# Options of redis-py that connect() decides itself, from the endpoint and its own arguments.
_DECIDED = re.compile(
    "host|port|db|url|path|unix_socket_path|startup_nodes|username|credential_provider|protocol|"
    "socket(_connect)?_timeout|client_name|retry.*|connection_(pool|class)|redis_connect_func|ssl.*"
)


def connect(
    endpoint: str | Endpoint | None = None,
    *,
    password: str | None = None,
    iam: bool | redis.CredentialProvider | None = None,
    ca_certs: CaCerts | None = None,
    check_hostname: bool | None = None,
    cluster: bool | None = None,
    timeout: float = 5.0,
    patience: float | None = None,
    **client_options: Any,
) -> clients.ServerClient | clients.ClusterClient:
    """Connect to a server and return a client that is ready to use.

    The client has been pinged and its server is at least version 5.0. It speaks RESP2, tries again
    after an outage (with growing, random pauses) but not after a refused login, checks a connection
    that was idle, and keeps at most 20 connections a node. An interrupt (Ctrl-C, an alarm) waits
    until the command under way is answered or out of time, a second Ctrl-C doesn't; pipelines have
    no such protection. The client is a context manager that closes all its connections.

    Args:
        endpoint: What `Endpoint.parse` reads, or an `Endpoint`. A name (``projects/...``) is looked
            up in Google Cloud. None takes ``$MEMORYSTORE_ENDPOINT``; if that is not set, the
            embedded server, but not in a container, with which its data would go.
        password: AUTH string or ACL password; by default that in the URL, or
            ``$MEMORYSTORE_PASSWORD``.
        iam: True, or an `IamCredentials` that several clients share, logs in with Google access
            tokens. False does not, whatever Google Cloud says about the instance.
        ca_certs: The certificate authorities to trust instead of the system's: PEM text, the path
            of a PEM file, or several of them. The certificate must then name the host unless that
            is an IP address or localhost: an instance's own authority signs for no other server.
        check_hostname: True also checks IP addresses and localhost against the certificate: for
            authorities that sign for several instances (shared in a region, or managed by you).
            An instance that is connected by its name is asked for its kind of authority.
        cluster: Whether to use a cluster client; None asks the server.
        timeout: Seconds to wait for a connection and for each answer.
        patience: Seconds that a command goes on trying after its first failure, while the server
            cannot be reached or is no primary. None takes twice ``timeout``, 0 never tries again.
            A failover of Memorystore takes "a few seconds", an update may take longer. This call
            itself tries once.
        **client_options: What redis-py takes besides, such as ``decode_responses=True``,
            ``max_connections=50`` or ``address_remap=``.

    Raises:
        EndpointError: The endpoint, or what is given with it, makes no sense (a `ValueError`).
        ConnectError: The server cannot be reached, refuses the login, or is too old.
        TypeError, ValueError: An option is of the wrong type, or not acceptable.

    Example:
        >>> with connect("embedded") as client:
        ...     client.ping()
        True
    """
    patience = _checked_patience(timeout, patience, client_options)
    target = _found(endpoint, password, iam, ca_certs, check_hostname, cluster, timeout)
    # A cluster has no other database than 0, and could not say so.
    plain = replace(target, cluster=None, db=0)
    reached = False
    try:
        probe = clients.open_client(plain, timeout, 0, max_connections=1)
        with probe, suppress(redis.ResponseError):  # an ACL may forbid INFO
            target = _checked(target, probe.info("server"))
        reached = True
        return clients.open_client(target, timeout, patience, **client_options)
    except FAILURES as error:
        raise diagnose(target, error, timeout, reached=reached) from error


async def connect_async(
    endpoint: str | Endpoint | None = None,
    *,
    password: str | None = None,
    iam: bool | redis.CredentialProvider | None = None,
    ca_certs: CaCerts | None = None,
    check_hostname: bool | None = None,
    cluster: bool | None = None,
    timeout: float = 5.0,  # noqa: ASYNC109 - what `connect` has, not a limit for this call
    patience: float | None = None,
    **client_options: Any,
) -> redis.asyncio.Redis | clients.AsyncClusterClient:
    """`connect` for ``redis.asyncio``: the same arguments and errors, an asynchronous client.

    The client belongs to the event loop it was made in, which is asyncio's;
    ``await client.aclose()`` closes it.
    """
    patience = _checked_patience(timeout, patience, client_options)
    try:
        asyncio.get_running_loop()
    except RuntimeError as error:
        raise ConnectError(
            "connect_async() runs in asyncio's event loop, and here is another one or none. Under "
            "trio, use connect() in a thread: await trio.to_thread.run_sync(connect, ENDPOINT)."
        ) from error
    # Finding the endpoint may read files, start a server and ask Google.
    given = (endpoint, password, iam, ca_certs, check_hostname, cluster, timeout)
    target = await asyncio.to_thread(_found, *given)
    plain = replace(target, cluster=None, db=0)
    reached = False
    try:
        async with await clients.open_client_async(plain, timeout, 0, max_connections=1) as probe:
            with suppress(redis.ResponseError):
                target = _checked(target, await probe.info("server"))
        reached = True
        return await clients.open_client_async(target, timeout, patience, **client_options)
    except FAILURES as error:
        raise diagnose(target, error, timeout, reached=reached) from error


def _checked_patience(
    timeout: float, patience: float | None, client_options: Mapping[str, Any]
) -> float:
    """Return the patience, once it, the timeout and the options are found acceptable."""
    check_seconds("timeout", timeout)
    patience = 2 * timeout if patience is None else patience
    check_seconds("patience", patience, zero=True)
    for name in client_options:
        if _DECIDED.fullmatch(name):
            raise ValueError(
                f"connect() does not take {name}=: the endpoint, password=, iam=, ca_certs=, "
                "timeout=, and patience= decide about that, and a certificate is always verified."
            )
    return patience


def _found(
    endpoint: str | Endpoint | None,
    password: str | None,
    iam: bool | redis.CredentialProvider | None,
    ca_certs: CaCerts | None,
    check_hostname: bool | None,
    cluster: bool | None,
    timeout: float,
) -> Endpoint:
    """Return the endpoint with everything that is given beside it, its address found.

    What is read from disk for a connection is read here: in a thread, and not on an event loop.
    """
    for name, value, accepted, words in (
        ("password", password, str | None, "text (str)"),
        ("iam", iam, bool | redis.CredentialProvider | None, "True or an IamCredentials"),
        ("check_hostname", check_hostname, bool | None, "True or None"),
        ("cluster", cluster, bool | None, "True, False, or None to ask the server"),
    ):
        if not isinstance(value, accepted):
            raise TypeError(f"{name} is a {type_name(value)}; it takes {words}.")
    clients.driver_info()
    target = with_login(endpoint, password, iam)
    # The two modules are imported for those who use them: they bring more than this package needs.
    if target.product == "embedded":
        secure = {"ca_certs": ca_certs, "check_hostname": check_hostname}
        given = {"password": password, "iam": iam, "cluster": cluster} | secure
        if names := [name for name, value in given.items() if value not in (None, False)]:
            raise EndpointError(f"The embedded server takes no {names[0]}=: leave it out.")
        from memorystore_chat.embedded.server import ensure_running

        return replace(target, unix_socket=ensure_running())
    authorities = target.ca_certs if ca_certs is None else certificates(ca_certs)
    checked = bool(check_hostname) or target.check_hostname
    target = replace(target, ca_certs=authorities, check_hostname=checked)
    if not target.host and not target.unix_socket:
        from memorystore_chat.connection.discovery import discover

        target = discover(target, timeout=max(timeout, 15.0))
    if password is not None and target.password != password:
        raise EndpointError(
            f"password= is left out where {target} has a password already or AUTH switched off."
        )
    if iam is not None:
        provider = IamCredentials() if iam is True else iam or None
        target = replace(target, credential_provider=provider)
    if target.tls:
        tls_context("\n".join(target.ca_certs) or None, target.host, target.check_hostname)
    elif ca_certs is not None or check_hostname:
        raise EndpointError(
            f"ca_certs= and check_hostname= are for TLS, and {target} has none: write rediss://."
        )
    return target if cluster is None else replace(target, cluster=cluster)


def _checked(target: Endpoint, info: Mapping[str, Any]) -> Endpoint:
    """Return the endpoint as a cluster or not, once its server is found fit."""
    version = str(info.get("redis_version", ""))
    # Valkey renamed the field.
    mode = info.get("server_mode") or info.get("redis_mode")
    cluster = mode == "cluster" if target.cluster is None else target.cluster
    reason = ""
    if version.partition(".")[0] in ("2", "3", "4"):
        reason = (
            f"the server is version {version}, and 5.0 is the oldest supported. Upgrade it: gcloud "
            "redis instances upgrade INSTANCE --region=REGION --redis-version=redis_7_2"
        )
    elif cluster and mode == "standalone":
        reason = "the server is not part of a cluster. Leave cluster=True out."
    elif cluster and target.db:
        # Valkey 9 can be set to have several; redis-py's cluster clients always use the first.
        reason = f"it is a cluster, {ONE_DATABASE}"
    if reason:
        raise ConnectError(f"Cannot connect to {target}: {reason}")
    return replace(target, cluster=cluster)
