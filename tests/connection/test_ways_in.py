"""connect() and connect_async() on real servers: every way in."""

import ssl
import tempfile
from pathlib import Path

import pytest
import redis
import redis.asyncio
from redis.asyncio.cluster import RedisCluster as AsyncRedisCluster
from redis.cluster import RedisCluster

import servers
from connecting import BLOCKED, use
from memorystore_chat.connection import connect
from memorystore_chat.connection.clients import ServerClient
from memorystore_chat.connection.endpoint import Endpoint
from memorystore_chat.embedded import server as embedded
from servers import Cluster, Server, Tls


async def test_plain(server: Server) -> None:
    plain = [ServerClient, redis.asyncio.Redis]
    place = f"{server.host}:{server.port}"
    for endpoint in (f"valkey://{place}/2", place, Endpoint.parse(place)):
        assert await use(endpoint) == plain


async def test_unix_socket_and_ipv6(valkey_server: Server) -> None:
    await use(f"unix://{valkey_server.socket}")
    with servers.valkey(host="::1") as server:
        await use(f"redis://[::1]:{server.port}")


async def test_cluster_is_found(valkey_cluster: Cluster) -> None:
    for options in ({}, {"cluster": True, "decode_responses": True}):
        client, async_client = await use(valkey_cluster.url, **options)
        assert issubclass(client, RedisCluster)
        assert issubclass(async_client, AsyncRedisCluster)


@pytest.mark.parametrize(("user", "password"), [("", "hunter2"), ("alice", "wonder")])
async def test_password(
    auth_server: Server, monkeypatch: pytest.MonkeyPatch, user: str, password: str
) -> None:
    place = f"{auth_server.host}:{auth_server.port}"
    await use(f"redis://{user}:{password}@{place}")
    without = f"redis://{user}@{place}" if user else f"redis://{place}"
    await use(without, password=password)
    monkeypatch.setenv("MEMORYSTORE_PASSWORD", password)
    await use(Endpoint(auth_server.host, auth_server.port) if not user else without)
    monkeypatch.setenv("MEMORYSTORE_ENDPOINT", without)
    await use()


async def test_tls_and_a_password(
    tls_server: Server, modern: Tls, names: None, tmp_path: Path
) -> None:
    other = servers.certificates(tmp_path, "other.test").ca
    await use(tls_server.url, password="hunter2", ca_certs=(modern.ca, other))
    for place in ("memorystore.test", "localhost"):
        url = f"valkeys://:hunter2@{place}:{tls_server.port}"
        await use(url, ca_certs=modern.ca.read_text())


async def test_tls_and_a_password_on_every_node(
    auth_cluster: Cluster, tls_cluster: Cluster, old_style: Tls
) -> None:
    """Memorystore's authority works on every Python, also where a plain client refuses it."""
    await use(auth_cluster.url, password="hunter2")
    with tls_cluster.nodes[0].client(ssl_check_hostname=False) as naive:
        if ssl.create_default_context().verify_flags & ssl.VERIFY_X509_STRICT:
            with pytest.raises(redis.ConnectionError, match="Missing Authority Key Identifier"):
                naive.ping()
        else:
            assert naive.ping()
    await use(tls_cluster.url, password="hunter2", ca_certs=old_style.ca)


async def test_blocked_commands(auth_cluster: Cluster) -> None:
    """It works where what Memorystore blocks is unknown, or refused with NOPERM, and INFO too."""
    with servers.redis7(rename_command=[f'{name} ""' for name in BLOCKED]) as server:
        await use(server.url)
    rights = " ".join(f"-{name.lower()}" for name in [*BLOCKED, "INFO"])
    with servers.valkey(user=f"guest on >pw ~* &* +@all {rights}") as server:
        await use(server.url.replace("//", "//guest:pw@"))
    await use(auth_cluster.url.replace("//", "//guest:pw@"))


async def test_embedded(monkeypatch: pytest.MonkeyPatch) -> None:
    with tempfile.TemporaryDirectory() as folder:
        monkeypatch.setenv("MEMORYSTORE_EMBEDDED_DIR", folder)
        try:
            await use()
            with connect("embedded") as client:
                assert client.info("server")["server_name"] == "valkey"
        finally:
            embedded.stop()
