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
from connecting import use
from memorystore_chat.connection import connect
from memorystore_chat.connection.clients import ServerClient
from memorystore_chat.connection.endpoint import Endpoint
from memorystore_chat.embedded import server as embedded
from servers import Cluster, Server, Tls


async def test_plain(server: Server) -> None:
    plain = [ServerClient, redis.asyncio.Redis]
    place = f"{server.host}:{server.port}"
    for endpoint in (f"redis://{place}", f"valkey://{place}/2", place, Endpoint.parse(place)):
        assert await use(endpoint) == plain
    with connect(f"{server.url}/3") as client:
        assert client.get_connection_kwargs()["db"] == 3


@pytest.mark.own_server
async def test_unix_socket(server: Server) -> None:
    assert await use(f"unix://{server.socket}") == [ServerClient, redis.asyncio.Redis]


async def test_ipv6() -> None:
    with servers.valkey(host="::1") as server:
        await use(f"redis://[::1]:{server.port}")


async def test_cluster_is_found(valkey_cluster: Cluster) -> None:
    for options in ({}, {"cluster": True}, {"decode_responses": True}):
        client, async_client = await use(valkey_cluster.url, **options)
        assert issubclass(client, RedisCluster)
        assert issubclass(async_client, AsyncRedisCluster)


@pytest.mark.parametrize("user", ["", "alice"])
async def test_password(auth_server: Server, monkeypatch: pytest.MonkeyPatch, user: str) -> None:
    place = f"{auth_server.host}:{auth_server.port}"
    login, password = (f"{user}@", "wonder") if user else ("", "hunter2")
    await use(f"redis://{user}:{password}@{place}")
    await use(f"redis://{login}{place}", password=password)
    monkeypatch.setenv("MEMORYSTORE_PASSWORD", password)
    await use(f"redis://{login}{place}")
    monkeypatch.setenv("MEMORYSTORE_ENDPOINT", f"redis://{login}{place}")
    await use()


async def test_tls(tls_server: Server, modern: Tls, names: None, tmp_path: Path) -> None:
    other = servers.certificates(tmp_path, "other.test").ca
    pem = modern.ca.read_text()
    for ca_certs in (pem, str(modern.ca), (modern.ca, other)):
        await use(tls_server.url, ca_certs=ca_certs)
    for place in ("memorystore.test", "localhost"):
        await use(f"valkeys://{place}:{tls_server.port}", ca_certs=pem)


async def test_authority_without_key_identifier(old_tls_server: Server, old_style: Tls) -> None:
    """Memorystore's authority works on every Python, also where a plain client refuses it."""
    naive = old_tls_server.client(ssl_check_hostname=False)
    if ssl.create_default_context().verify_flags & ssl.VERIFY_X509_STRICT:
        with pytest.raises(redis.ConnectionError, match="Missing Authority Key Identifier"):
            naive.ping()
    else:
        assert naive.ping()
    naive.close()
    await use(old_tls_server.url, ca_certs=old_style.ca)


@pytest.mark.parametrize("name", ["auth_cluster", "tls_auth_server", "tls_cluster"])
async def test_tls_and_a_password_on_every_node(
    request: pytest.FixtureRequest, name: str, old_style: Tls
) -> None:
    target: Server | Cluster = request.getfixturevalue(name)
    secure = {"ca_certs": old_style.ca} if name.startswith("tls") else {}
    classes = await use(target.url, password="hunter2", **secure)
    assert issubclass(classes[0], RedisCluster) == isinstance(target, Cluster)


async def test_embedded(monkeypatch: pytest.MonkeyPatch) -> None:
    with tempfile.TemporaryDirectory() as folder:
        monkeypatch.setenv("MEMORYSTORE_EMBEDDED_DIR", folder)
        try:
            await use()
            with connect("embedded") as client:
                assert client.info("server")["server_name"] == "valkey"
        finally:
            embedded.stop()
