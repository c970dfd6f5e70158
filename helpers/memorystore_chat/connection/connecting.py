"""`connect` and `connect_async`: an endpoint becomes a checked, ready redis-py client."""

import asyncio
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import redis
import redis.asyncio
from redis.cluster import RedisCluster

from memorystore_chat.arguments import check_seconds, type_name
from memorystore_chat.connection import clients
from memorystore_chat.connection.diagnosis import ONE_DATABASE, diagnose
from memorystore_chat.connection.endpoint import (
    Endpoint,
    environment_endpoint,
    environment_password,
)
from memorystore_chat.connection.iam import IamCredentials
from memorystore_chat.connection.outages import FAILURES, Attempts
from memorystore_chat.connection.tls import CaCerts, certificates
from memorystore_chat.errors import ConnectError, EndpointError

# Google's services take longer to answer than a server of one's own.
_LEAST_FOR_GOOGLE = 15.0

# Options of redis-py that connect() decides itself, and what takes their place.
_DECIDED = {
    "host port db url path unix_socket_path startup_nodes username": (
        "the endpoint, as in redis://USER:PASSWORD@HOST:PORT/2 or unix:///PATH"
    ),
    "credential_provider": "iam=",
    "socket_timeout socket_connect_timeout": "timeout=",
    "protocol": "RESP2, which every supported server speaks",
    "client_name": "no name, as Memorystore blocks CLIENT SETNAME",
    "retry": "its own rules for trying again",
    "connection_pool": "its own pool, which max_connections= bounds",
    "connection_class redis_connect_func": "its own connections",
}


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

    The client has been pinged and its server is at least version 5.0. It speaks RESP2, waits at
    most ``timeout`` seconds for a connection or an answer, tries again after an outage (with
    growing, random pauses, for ``patience`` seconds) but not after a refused login, checks a
    connection that was idle, and keeps at most 20 connections a node. An interrupt (Ctrl-C, an
    alarm) waits until the command under way is answered or out of time, a second Ctrl-C doesn't;
    pipelines have no such protection. The client is a context manager; closing it closes all
    connections.

    Args:
        endpoint: What `Endpoint.parse` reads, or an `Endpoint`. None takes
            ``$MEMORYSTORE_ENDPOINT``; if that is not set, the embedded server, except on Cloud Run
            and Kubernetes, where its data would go with the container. A name (``projects/...``)
            is looked up in Google Cloud.
        password: AUTH string or ACL password, instead of one in the URL. Without either,
            ``$MEMORYSTORE_PASSWORD`` is used.
        iam: True logs in with Google access tokens (`memorystore_chat.connection.IamCredentials`);
            so does an ``IamCredentials`` that several clients share. False does not, whatever
            Google Cloud says about the instance.
        ca_certs: The certificate authorities to trust instead of the system's: PEM text, the path
            of a PEM file, or several of them. The certificate must then name the host if the
            endpoint has a host name, and not if it has an IP address or localhost: an instance's
            own authority signs for no other server. Without ``ca_certs`` it must name either.
        check_hostname: True also checks IP addresses and localhost against the certificate: for
            authorities that sign for several instances (shared in a region, or managed by you).
            An instance that is connected by its name is asked for its kind of authority.
        cluster: Whether to use a cluster client; None asks the server. With False, a node of a
            cluster is treated like a server of its own.
        timeout: Seconds to wait for a connection and for each answer.
        patience: Seconds that a command goes on trying after its first failure, while the server
            cannot be reached or is no primary; then it raises. None takes twice ``timeout``, 0
            never tries again. A failover of Memorystore drops the connections and takes "a few
            seconds" (https://cloud.google.com/memorystore/docs/redis/high-availability), an
            update may take longer: a program that would rather wait gives ``patience=60``. This
            call itself does not wait: it tries once.
        **client_options: Anything else that ``redis.Redis`` or ``redis.cluster.RedisCluster``
            takes, such as ``decode_responses=True``, ``max_connections=50`` or ``address_remap=``.

    Raises:
        EndpointError: The endpoint, or what is given with it, makes no sense (a `ValueError` too),
            or Google Cloud cannot say where the resource is.
        ConnectError: The server cannot be reached, refuses the login, or is too old. The message
            names the likely cause and the next step.
        TypeError, ValueError: An option is of the wrong type, or not acceptable.

    Example:
        >>> with connect("embedded") as client:
        ...     client.ping()
        True
    """
    patience = _checked_options(timeout, patience, client_options)
    target = _resolve(endpoint, password, iam, ca_certs, check_hostname, cluster, timeout)
    client: clients.ServerClient | clients.ClusterClient | None = None
    info: Mapping[str, Any] | None = None
    once = Attempts()
    try:
        with clients.open_server(**_probe(target, timeout)) as probe:
            probe.ping()
            try:
                info = probe.info("server")
            except redis.ResponseError as error:
                info = _without_info(error)
        target = _checked(target, info)
        open_client = clients.open_cluster if target.cluster else clients.open_server
        with once.attempt():
            client = open_client(target, timeout, patience, **client_options)
            client.ping(**_one_node(target))
    except FAILURES as error:
        if client is not None:
            client.close()
        cause = once.presentable(error) or error
        told = diagnose(target, cause, timeout, reached=info is not None)
    else:
        return client
    raise told from cause


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

    The client belongs to the event loop it was made in; ``await client.aclose()`` closes it. The
    pipelines of an asynchronous cluster client are redis-py's and do not try again.

    Raises:
        ConnectError: Also if this is not asyncio's event loop.

    Example:
        >>> import asyncio
        >>> async def greet() -> bool:
        ...     async with await connect_async("embedded") as client:
        ...         return await client.ping()
        >>> asyncio.run(greet())
        True
    """
    patience = _checked_options(timeout, patience, client_options)
    _check_loop()
    # Finding the endpoint may read files, start a server and ask Google.
    given = (endpoint, password, iam, ca_certs, check_hostname, cluster, timeout)
    target = await asyncio.to_thread(_resolve, *given)
    await asyncio.to_thread(clients.warm_up, target)
    client: redis.asyncio.Redis | clients.AsyncClusterClient | None = None
    info: Mapping[str, Any] | None = None
    once = Attempts()
    try:
        async with clients.open_server_async(**_probe(target, timeout)) as probe:
            await probe.ping()
            try:
                info = await probe.info("server")
            except redis.ResponseError as error:
                info = _without_info(error)
        target = _checked(target, info)
        open_client = clients.open_cluster_async if target.cluster else clients.open_server_async
        with once.attempt():
            client = open_client(target, timeout, patience, **client_options)
            await client.ping(**_one_node(target))
    except FAILURES as error:
        if client is not None:
            await client.aclose()
        cause = once.presentable(error) or error
        reached = info is not None
        told = await asyncio.to_thread(diagnose, target, cause, timeout, reached=reached)
    else:
        return client
    raise told from cause


def _check_loop() -> None:
    try:
        asyncio.get_running_loop()
    except RuntimeError as error:
        raise ConnectError(
            "connect_async() runs in asyncio's event loop, and here is another one or none. Under "
            "trio, use connect() in a thread: await trio.to_thread.run_sync(connect, ENDPOINT)."
        ) from error


def _probe(target: Endpoint, timeout: float) -> dict[str, Any]:
    """Return the options of a client that asks the server what it is, once it has its data."""
    # In database 0, as a cluster has no other and could not say so.
    return {
        "endpoint": replace(target, db=0),
        "timeout": timeout,
        "patience": timeout,
        "unreachable": False,
        "max_connections": 1,
    }


def _one_node(target: Endpoint) -> dict[str, Any]:
    return {"target_nodes": RedisCluster.DEFAULT_NODE} if target.cluster else {}


def _without_info(error: redis.ResponseError) -> dict[str, Any]:
    """Return nothing if only INFO is forbidden, by an ACL or a renamed command."""
    if "info" in str(error).lower():
        return {}
    raise error


def _checked(target: Endpoint, info: Mapping[str, Any]) -> Endpoint:
    """Return the endpoint as a cluster or not, once its server is found fit."""
    version = str(info.get("redis_version", ""))
    numbers = tuple(int(part) for part in version.split(".")[:2] if part.isdigit())
    if numbers and numbers < (5, 0):
        raise ConnectError(
            f"Cannot connect to {target}: the server is version {version}, and 5.0 is the oldest "
            "supported. Upgrade it: gcloud redis instances upgrade INSTANCE --region=REGION "
            "--redis-version=redis_7_2"
        )
    # Valkey renamed the field.
    mode = info.get("server_mode") or info.get("redis_mode")
    if target.cluster and mode == "standalone":
        raise ConnectError(
            f"Cannot connect to {target} as a cluster: the server is not part of one. "
            "Leave cluster=True out."
        )
    found = mode == "cluster" if target.cluster is None else target.cluster
    if found and target.db:
        # Valkey 9 can be set to have several; redis-py's cluster clients always use the first.
        raise ConnectError(f"Cannot connect to {target}: it is a cluster, {ONE_DATABASE}")
    return replace(target, cluster=found)


def _checked_options(timeout: float, patience: float | None, client_options: Any) -> float:
    """Return the patience, once everything is found acceptable."""
    check_seconds("timeout", timeout)
    if patience is None:
        patience = 2 * timeout
    check_seconds("patience", patience, zero=True)
    for name in client_options:
        if name.startswith("ssl"):
            raise ValueError(
                f"connect() does not take {name}=: a rediss:// endpoint and ca_certs= decide "
                "about TLS, and the certificate is always verified."
            )
        for names, instead in _DECIDED.items():
            if name in names.split():
                raise ValueError(f"connect() does not take {name}=: it uses {instead}.")
    return patience


def _check_type(name: str, value: object, accepted: Any, words: str) -> None:
    if not isinstance(value, accepted):
        raise TypeError(f"{name} is a {type_name(value)}; it takes {words}.")


def _resolve(
    endpoint: str | Endpoint | None,
    password: str | None,
    iam: bool | redis.CredentialProvider | None,
    ca_certs: CaCerts | None,
    check_hostname: bool | None,
    cluster: bool | None,
    timeout: float,
) -> Endpoint:
    """Return the endpoint with everything that is given beside it, its address found."""
    providers = bool | redis.CredentialProvider | None
    _check_type("endpoint", endpoint, str | Endpoint | None, "text or an Endpoint")
    _check_type("password", password, str | None, "text (str)")
    _check_type("iam", iam, providers, "True or an IamCredentials")
    _check_type("cluster", cluster, bool | None, "True, False, or None to ask the server")
    if not (check_hostname is None or check_hostname is True):
        raise ValueError(f"check_hostname is {check_hostname!r}; it takes True or None.")
    if password is not None and iam:
        raise EndpointError("Both password= and iam= are given: keep one of them.")
    target = _with_login(endpoint, password, iam)
    secure = {"ca_certs": ca_certs, "check_hostname": check_hostname}
    if target.product == "embedded":
        given = {"password": password, "iam": iam, "cluster": cluster} | secure
        for name, value in given.items():
            if value not in (None, False):
                raise EndpointError(f"The embedded server takes no {name}=: leave it out.")
        from memorystore_chat.embedded.server import ensure_running

        return replace(target, unix_socket=ensure_running())
    if ca_certs is not None:
        target = replace(target, ca_certs=certificates(ca_certs))
    if check_hostname:
        target = replace(target, check_hostname=True)
    if not target.host and not target.unix_socket:
        # Discovery is for few callers and brings Google's libraries.
        from memorystore_chat.connection.discovery import discover

        target = discover(target, timeout=max(timeout, _LEAST_FOR_GOOGLE))
    if password is not None and target.password != password:
        raise EndpointError(
            f"password= is given beside the one in {target}: keep one of them."
            if target.password
            else f"password= is given, and {target.resource} has AUTH switched off: leave it out."
        )
    if iam is not None:
        provider = IamCredentials() if iam is True else iam or None
        target = replace(target, credential_provider=provider)
    for name, value in secure.items():
        if value is not None and not target.tls:
            raise EndpointError(
                f"{name}= is given, and {target} is no TLS endpoint: write rediss://."
            )
    return target if cluster is None else replace(target, cluster=cluster)


def _with_login(
    endpoint: str | Endpoint | None,
    password: str | None,
    iam: bool | redis.CredentialProvider | None,
) -> Endpoint:
    """Return the endpoint with the password for it, given or from the environment."""
    if endpoint is None:
        endpoint = environment_endpoint()
    if password is None and not iam:
        password = environment_password(endpoint)
    if isinstance(endpoint, str):
        return Endpoint.parse(endpoint, password=password)
    if endpoint.password or endpoint.credential_provider or endpoint.resource:
        # What Google Cloud was asked about is known to have AUTH or not.
        return endpoint
    return replace(endpoint, password=password)
