"""connect() and connect_async() on real servers: every way in, and what the clients are like."""

import asyncio
import re
import ssl
import tempfile
from dataclasses import replace
from typing import Any

import pytest
from blockbuster import blockbuster_ctx

import servers
from connecting import BLOCKED
from memorystore_chat.connection import clients, connect, connect_async, tls
from memorystore_chat.connection.endpoint import Endpoint
from memorystore_chat.embedded import server as embedded
from memorystore_chat.history import MemorystoreChatMessageHistory
from servers import Cluster, Server


async def use(*given: Any, cluster: bool = False, **options: Any) -> Any:
    """Write and read a session with both clients, and look at their kinds and manners."""
    options = {"timeout": 3} | options
    with connect(*given, **options) as client:
        history = MemorystoreChatMessageHistory(client, "used")
        history.add_user_message("sync")
        clients.driver_info.cache_clear()
        with blockbuster_ctx():  # no file is read on the event loop, also for a new connection
            async with await connect_async(*given, **options) as async_client:
                again = MemorystoreChatMessageHistory(async_client, "used")
                found, *_ = await asyncio.gather(*(again.aget_messages() for _ in range(30)))
                await again.aadd_messages(found)
                assert isinstance(client, clients.ClusterClient) == cluster
                assert isinstance(async_client, clients.AsyncClusterClient) == cluster
                check(client)
                check(async_client)
        assert [message.content for message in history.messages] == ["sync", "sync"]
        history.clear()
    return client


def check(client: Any) -> None:
    """RESP2, time-outs, a bounded pool, a health check, patience, and no password shown."""
    node = client.get_default_node() if hasattr(client, "get_default_node") else client
    node = getattr(node, "redis_connection", node)
    pool = getattr(node, "connection_pool", node)
    used = pool.connection_kwargs
    assert (used["protocol"], used["health_check_interval"], pool.max_connections) == (2, 30, 20)
    assert used["socket_timeout"] == used["socket_connect_timeout"] == 3
    assert (client.retry if hasattr(client, "retry") else client.get_retry()).patience == 6
    assert not re.search("hunter2|wonder", repr([client, pool]))


@pytest.mark.parametrize(
    ("running", "endpoint", "options"),
    [
        ("redis_server", "valkey://{place}/2", {}),
        ("valkey_server", "unix://{socket}", {"check_hostname": False}),
        ("auth_server", "redis://:hunter2@{place}", {}),
        ("auth_server", "{place}", {"password": "hunter2"}),
        ("auth_server", "redis://alice@{place}", {"password": "wonder"}),
        ("tls_server", "rediss://{place}", {"password": "hunter2"}),
        ("tls_server", "valkeys://:hunter2@localhost:{port}", {}),
        ("valkey_cluster", "{place}", {"decode_responses": True}),
    ],
    indirect=["running"],
)
async def test_each_way(running: Server | Cluster, endpoint: str, options: Any) -> None:
    """Closing the clients leaves no connection to any node."""
    nodes = running.nodes if isinstance(running, Cluster) else [running]
    one, before = nodes[0], connected(nodes)
    url = endpoint.format(place=f"{one.host}:{one.port}", port=one.port, socket=one.socket)
    if one.tls:
        options = options | {"ca_certs": (one.tls.ca, one.tls.cert.read_text())}
    closed = await use(url, cluster=isinstance(running, Cluster), **options)
    servers.wait_until(lambda: closed and connected(nodes) <= before, "the end of every connection")


def connected(nodes: list[Server]) -> set[tuple[int, str]]:
    """The clients of each node, but for who asks; those of other tests may go at any time."""
    found = set[tuple[int, str]]()
    for node in nodes:
        with node.admin() as admin:
            own, listed = str(admin.client_id()), admin.client_list(_type="normal")
            found |= {(node.port, each["id"]) for each in listed if each["id"] != own}
    return found


async def test_ipv6_and_blocked_commands() -> None:
    """What Memorystore blocks is unknown here; two users of the other tests get a NOPERM."""
    blocked = [f'{name} ""' for name in [*BLOCKED, "COMMAND"]]
    with servers.redis7(host="::1", rename_command=blocked) as server:
        await use(f"redis://[::1]:{server.port}")


async def test_environment(auth_server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MEMORYSTORE_PASSWORD", "hunter2")
    place = Endpoint(auth_server.host, auth_server.port)
    for endpoint in (place, replace(place, user="alice", password="wonder")):
        await use(endpoint)
    monkeypatch.setenv("MEMORYSTORE_PASSWORD", "wonder")
    monkeypatch.setenv("MEMORYSTORE_ENDPOINT", auth_server.url.replace("//", "//alice@"))
    await use()


async def test_memorystores_own_authority(
    tls_cluster: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It lacks a key identifier, which Python refuses since 3.13."""
    real = ssl.create_default_context

    def strict(*given: Any, **options: Any) -> ssl.SSLContext:
        context = real(*given, **options)
        context.verify_flags |= ssl.VERIFY_X509_STRICT
        return context

    monkeypatch.setattr(ssl, "create_default_context", strict)
    tls.tls_context.cache_clear()
    guest = tls_cluster.url.replace("//", "//guest:hunter2@")
    await use(guest, cluster=True, ca_certs=tls_cluster.nodes[0].tls.ca)


async def test_embedded(monkeypatch: pytest.MonkeyPatch) -> None:
    """A client from before a restart finds the new server: the socket is where it was."""
    with tempfile.TemporaryDirectory() as folder:
        monkeypatch.setenv("MEMORYSTORE_EMBEDDED_DIR", folder)
        try:
            await use()
            with connect("embedded") as before:
                assert before.info("server")["server_name"] == "valkey"
                before.set("name", "Ada")
                embedded.stop()
                with connect() as after:
                    assert before.get("name") == after.get("name") == b"Ada"
        finally:
            embedded.stop()
