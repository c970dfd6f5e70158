"""connect() and connect_async() on real servers: every way in, and every way it fails."""

import asyncio
import inspect
import socket
import ssl
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
import redis
import redis.asyncio
from redis.asyncio.cluster import RedisCluster as AsyncRedisCluster
from redis.cluster import RedisCluster

import servers
from memorystore_chat.connection import tls
from memorystore_chat.connection.endpoint import Endpoint
from memorystore_chat.connection.opening import connect, connect_async
from memorystore_chat.errors import ConnectError, EndpointError
from memorystore_chat.history import MemorystoreChatMessageHistory
from memorystore_chat.local import embedded
from servers import Cluster, Server, Tls

BLOCKED = ["CONFIG", "CLIENT", "ACL", "OBJECT", "DEBUG", "MODULE", "COMMAND"]

Attempt = Callable[..., ConnectError]


@pytest.fixture(autouse=True)
def no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """The endpoint and the password of whoever runs the tests stay out of them."""
    for name in ("MEMORYSTORE_ENDPOINT", "MEMORYSTORE_PASSWORD", "VERTEX_PRODUCT"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(scope="module")
def modern(tmp_path_factory: pytest.TempPathFactory) -> Tls:
    """A certificate for the name memorystore.test only."""
    return servers.certificates(tmp_path_factory.mktemp("modern"), "memorystore.test")


@pytest.fixture(scope="module")
def old_style(tmp_path_factory: pytest.TempPathFactory) -> Tls:
    """The same from an authority without key identifiers, as Memorystore for Redis has."""
    folder = tmp_path_factory.mktemp("old_style")
    return servers.certificates(folder, "memorystore.test", key_identifiers=False)


@pytest.fixture(scope="module")
def tls_server(modern: Tls) -> Iterator[Server]:
    with servers.redis7(tls=modern) as server:
        yield server


@pytest.fixture(scope="module")
def old_tls_server(old_style: Tls) -> Iterator[Server]:
    with servers.redis7(tls=old_style) as server:
        yield server


@pytest.fixture(scope="module")
def tls_auth_server(old_style: Tls) -> Iterator[Server]:
    with servers.redis7(tls=old_style, requirepass="hunter2") as server:
        yield server


@pytest.fixture(scope="module")
def tls_cluster(old_style: Tls) -> Iterator[Cluster]:
    with servers.cluster("redis", replicas=0, tls=old_style, requirepass="hunter2") as group:
        yield group


@pytest.fixture(scope="module", params=["valkey9", "redis7"])
def auth_server(request: pytest.FixtureRequest) -> Iterator[Server]:
    """A server with a password, and a user `alice` with one of her own."""
    start = {"valkey9": servers.valkey, "redis7": servers.redis7}[request.param]
    with start(requirepass="hunter2", user="alice on >wonder ~* &* +@all") as server:
        yield server


@pytest.fixture(scope="module")
def auth_cluster() -> Iterator[Cluster]:
    """A cluster with a password, and a user `guest` who is refused the blocked commands."""
    refused = " ".join(f"-{name.lower()}" for name in BLOCKED if name != "COMMAND")
    rule = f"guest on >pw ~* &* +@all {refused}"
    with servers.cluster(replicas=0, requirepass="hunter2", user=rule) as group:
        yield group


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> None:
    """memorystore.test and other.test are this machine."""
    real = socket.getaddrinfo

    def lookup(host: Any, *rest: Any, **options: Any) -> Any:
        return real("127.0.0.1" if str(host).endswith(".test") else host, *rest, **options)

    monkeypatch.setattr(socket, "getaddrinfo", lookup)


async def use(*given: Any, **options: Any) -> list[type]:
    """Write and read a session with both clients; the classes they have."""
    with connect(*given, **options) as client:
        async_client = await connect_async(*given, **options)
        async with async_client:
            history = MemorystoreChatMessageHistory(client, "used", async_client=async_client)
            history.clear()
            history.add_user_message("sync")
            await history.aadd_messages(history.messages)
            assert [m.content for m in await history.aget_messages()] == ["sync", "sync"]
            history.clear()
        return [type(client), type(async_client)]


@pytest.fixture(params=["sync", "async"])
def attempt(request: pytest.FixtureRequest) -> Attempt:
    """Connect, sync or async, expect a ConnectError, and check its time and its manners."""

    def open_client(*given: Any, **options: Any) -> None:
        if request.param == "sync":
            connect(*given, **options)
        else:
            asyncio.run(connect_async(*given, **options))

    def run(*given: Any, within: float, secrets: tuple[str, ...] = (), **options: Any) -> str:
        started = time.monotonic()
        with pytest.raises(ConnectError) as caught:
            open_client(*given, **options)
        elapsed = time.monotonic() - started
        assert elapsed < within
        message = str(caught.value)
        assert message.startswith(f"Cannot connect to {Endpoint.parse(given[0], **_pw(options))}")
        assert not any(secret in message for secret in secrets)
        return message

    return run


def _pw(options: dict[str, Any]) -> dict[str, Any]:
    return {"password": options["password"]} if "password" in options else {}


# Every way in


async def test_plain(server: Server) -> None:
    """A URL, HOST:PORT, valkey://, a database and an Endpoint connect to a plain server."""
    plain = [redis.Redis, redis.asyncio.Redis]
    place = f"{server.host}:{server.port}"
    for endpoint in (f"redis://{place}", f"valkey://{place}/2", place, Endpoint.parse(place)):
        assert await use(endpoint) == plain
    with connect(f"{server.url}/3") as client:
        assert client.connection_pool.connection_kwargs["db"] == 3


@pytest.mark.own_server
async def test_unix_socket(server: Server) -> None:
    """unix:// connects over a socket."""
    assert await use(f"unix://{server.socket}") == [redis.Redis, redis.asyncio.Redis]


async def test_ipv6() -> None:
    """An IPv6 address connects."""
    with servers.valkey(host="::1") as server:
        await use(f"redis://[::1]:{server.port}")


async def test_cluster_is_found(valkey_cluster: Cluster) -> None:
    """A cluster is found out from the server, or given, for bytes and for text."""
    for options in ({}, {"cluster": True}, {"decode_responses": True}):
        client, async_client = await use(valkey_cluster.url, **options)
        assert issubclass(client, RedisCluster)
        assert issubclass(async_client, AsyncRedisCluster)


def test_cluster_false_talks_to_one_node(valkey_cluster: Cluster) -> None:
    """cluster=False gives a client of that node alone."""
    with connect(valkey_cluster.url, cluster=False) as client:
        assert isinstance(client, redis.Redis)
        assert client.info("server")["tcp_port"] == valkey_cluster.nodes[0].port


async def test_decode_responses(server: Server, valkey_cluster: Cluster) -> None:
    """Options of redis-py are passed on."""
    for url in (server.url, valkey_cluster.url):
        with connect(url, decode_responses=True) as client:
            client.set("text", "grün")
            assert client.get("text") == "grün"
            client.delete("text")
        async with await connect_async(url, decode_responses=True) as async_client:
            assert await async_client.ping() is True
            assert await async_client.get("no such key") is None


@pytest.mark.parametrize("user", ["", "default"])
async def test_password(auth_server: Server, monkeypatch: pytest.MonkeyPatch, user: str) -> None:
    """The password may be in the URL, beside it, or in the environment."""
    place = f"{auth_server.host}:{auth_server.port}"
    login = f"{user}@" if user else ""
    await use(f"redis://{user}:hunter2@{place}")
    await use(f"redis://{login}{place}", password="hunter2")
    monkeypatch.setenv("MEMORYSTORE_PASSWORD", "hunter2")
    await use(f"redis://{login}{place}")
    await use(Endpoint.parse(place))
    monkeypatch.setenv("MEMORYSTORE_ENDPOINT", f"redis://{login}{place}")
    await use()


async def test_acl_user(auth_server: Server) -> None:
    """A user of the server's own is logged in by name."""
    place = f"{auth_server.host}:{auth_server.port}"
    with connect(f"redis://alice@{place}", password="wonder") as client:
        assert client.acl_whoami() in ("alice", b"alice")
    await use(f"redis://alice:wonder@{place}")


async def test_cluster_with_password(auth_cluster: Cluster) -> None:
    """A cluster with AUTH takes the password on every node."""
    await use(auth_cluster.url, password="hunter2")


async def test_tls(tls_server: Server, modern: Tls, tmp_path: Path) -> None:
    """A given authority is trusted as text, as path, and among several."""
    other = servers.certificates(tmp_path, "other.test").ca
    pem = modern.ca.read_text()
    for ca_certs in (pem, modern.ca, str(modern.ca), [other, pem], (modern.ca, other)):
        await use(tls_server.url, ca_certs=ca_certs)
    await use(tls_server.url.replace("rediss", "valkeys"), ca_certs=pem)


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


async def test_tls_with_password(tls_auth_server: Server, old_style: Tls) -> None:
    """AUTH and TLS together."""
    await use(tls_auth_server.url, ca_certs=old_style.ca, password="hunter2")


async def test_tls_cluster(tls_cluster: Cluster, old_style: Tls) -> None:
    """A cluster with TLS on every node, AUTH, and certificates that name no address."""
    classes = await use(tls_cluster.url, ca_certs=old_style.ca, password="hunter2")
    assert issubclass(classes[0], RedisCluster)


async def test_tls_by_name(tls_server: Server, modern: Tls, names: None) -> None:
    """Connecting by name works with the name the certificate carries."""
    await use(f"rediss://memorystore.test:{tls_server.port}", ca_certs=modern.ca)


async def test_tunnel_to_tls(tls_server: Server, modern: Tls) -> None:
    """Through a tunnel, on localhost, the certificate need not name this machine."""
    await use(f"rediss://localhost:{tls_server.port}", ca_certs=modern.ca)


def test_system_authorities_are_not_trusted_beside_a_given_one(
    tls_server: Server, tmp_path: Path, modern: Tls, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where ca_certs is given, an authority that the system trusts opens no other door."""
    other = servers.certificates(tmp_path, "other.test").ca
    monkeypatch.setenv("SSL_CERT_FILE", str(modern.ca))
    tls.trusting.cache_clear()
    with pytest.raises(ConnectError, match="another authority"):
        connect(tls_server.url, ca_certs=other)
    tls.trusting.cache_clear()


async def test_embedded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without an endpoint it is the embedded server."""
    with tempfile.TemporaryDirectory() as folder:
        monkeypatch.setenv("MEMORYSTORE_EMBEDDED_DIR", folder)
        try:
            await use()
            with connect("embedded") as client:
                assert client.info("server")["server_name"] == "valkey"
        finally:
            embedded.stop()


# What every client is like


def test_blocked_commands() -> None:
    """It works where CONFIG, CLIENT, ACL, OBJECT, DEBUG, MODULE and COMMAND are renamed away."""
    renamed = [f'{name} ""' for name in BLOCKED]
    with servers.redis7(rename_command=renamed) as server:
        asyncio.run(use(server.url))


def test_refused_commands() -> None:
    """It works where an ACL refuses those commands, and INFO, with NOPERM."""
    refused = " ".join(f"-{name.lower()}" for name in [*BLOCKED, "INFO"])
    with servers.valkey(user=f"guest on >pw ~* &* +@all {refused}") as server:
        asyncio.run(use(server.url.replace("//", "//guest:pw@")))


async def test_refused_commands_on_a_cluster(auth_cluster: Cluster) -> None:
    """A cluster works where everything but COMMAND is refused."""
    await use(auth_cluster.url.replace("//", "//guest:pw@"))


async def test_manners(server: Server, valkey_cluster: Cluster) -> None:
    """RESP2, time-outs, a bounded pool, a health check, and no client name, for all four."""
    for url in (server.url, valkey_cluster.url):
        with connect(url, timeout=3) as client:
            for connection in sync_connections(client):
                check_manners(connection)
            name = client.execute_command("CLIENT GETNAME", **one_node(client))
            assert name in (None, b"")
        async with await connect_async(url, timeout=3) as async_client:
            for connection in async_connections(async_client):
                check_manners(connection)


async def test_repr_shows_no_password(auth_server: Server, auth_cluster: Cluster) -> None:
    """The repr of a client, its pool and its connections holds no password."""
    for url in (auth_server.url, auth_cluster.url):
        with connect(url, password="hunter2") as client:
            shown = [client, getattr(client, "connection_pool", None), *sync_connections(client)]
            assert "hunter2" not in repr(shown)
        async with await connect_async(url, password="hunter2") as async_client:
            assert "hunter2" not in repr([async_client, *async_connections(async_client)])


async def test_many_tasks_share_a_client(valkey_server: Server, auth_cluster: Cluster) -> None:
    """More tasks than connections wait for their turn, on one server and on a cluster."""
    for url in (valkey_server.url, auth_cluster.url.replace("//", "//:hunter2@")):
        async with await connect_async(url, max_connections=5) as client:
            counts = await asyncio.gather(*(client.incr("many") for _ in range(100)))
            assert sorted(counts) == list(range(1, 101))
            await client.delete("many")


def sync_connections(client: Any) -> list[Any]:
    if isinstance(client, RedisCluster):
        pools = [node.redis_connection.connection_pool for node in client.get_nodes()]
    else:
        pools = [client.connection_pool]
    assert {pool.max_connections for pool in pools} == {20}
    return [connection for pool in pools for connection in pool.idle()]


def async_connections(client: Any) -> list[Any]:
    if isinstance(client, AsyncRedisCluster):
        assert {node.max_connections for node in client.get_nodes()} == {20}
        return [c for node in client.get_nodes() for c in node._connections]
    assert client.connection_pool.max_connections == 20
    return list(client.connection_pool._available_connections)


def one_node(client: Any) -> dict[str, Any]:
    return {"target_nodes": "random"} if isinstance(client, RedisCluster) else {}


def check_manners(connection: Any) -> None:
    assert connection.protocol == 2
    assert connection.socket_timeout == 3
    assert connection.socket_connect_timeout == 3
    assert connection.health_check_interval == 30


def test_pool_is_bounded_and_waits(valkey_server: Server) -> None:
    """More threads than connections wait for their turn instead of failing."""
    with connect(valkey_server.url, max_connections=2) as client:
        failures: list[BaseException] = []

        def work() -> None:
            try:
                for _ in range(20):
                    client.ping()
            except redis.RedisError as error:
                failures.append(error)

        threads = [threading.Thread(target=work) for _ in range(12)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert failures == []
        assert len(client.connection_pool.idle()) == 2


async def test_close_closes_everything(valkey_server: Server, auth_cluster: Cluster) -> None:
    """After close, and after a with block, no connection is left at any server."""
    for url, nodes in (
        (valkey_server.url, [valkey_server]),
        (auth_cluster.url.replace("//", "//:hunter2@"), auth_cluster.nodes),
    ):
        before = [connected(node) for node in nodes]
        client = connect(url)
        for number in range(20):
            client.get(f"key{number}")
        client.close()
        with connect(url) as client:
            client.ping()
        async with await connect_async(url) as async_client:
            for number in range(20):
                await async_client.get(f"key{number}")
        async_client = await connect_async(url)
        await async_client.aclose()
        servers.wait_until(
            lambda nodes=nodes, before=before: [connected(node) for node in nodes] == before,
            "the connections being closed",
            within=3,
        )


def connected(server: Server) -> int:
    with server.admin() as admin:
        return int(admin.info("clients")["connected_clients"])


def test_failed_connect_leaves_nothing_open(valkey_server: Server) -> None:
    """A refused cluster=True closes what it opened."""
    before = connected(valkey_server)
    with pytest.raises(ConnectError, match="not part of one"):
        connect(valkey_server.url, cluster=True)
    servers.wait_until(lambda: connected(valkey_server) == before, "the close", within=3)


def test_idle_connection_that_died_is_replaced() -> None:
    """A connection that the server closed meanwhile is replaced without an error."""
    with servers.valkey() as server, connect(server.url) as client:
        client.ping()
        server.restart()
        assert client.ping()


async def test_restart_in_the_middle_is_waited_for() -> None:
    """A server that is away for half a second is waited for, sync and async."""
    with servers.valkey() as server, connect(server.url) as client:
        async_client = await connect_async(server.url)
        for run in (client.ping, async_client.ping):
            server.kill()
            back = threading.Timer(0.4, server.restart)
            back.start()
            answer = run()
            assert (await answer if inspect.isawaitable(answer) else answer) is True
            back.join()
        await async_client.aclose()


@pytest.mark.parametrize("patience", [0, 1.5])
async def test_server_that_stays_away_is_waited_for_as_promised(patience: float) -> None:
    """Nothing listens any more: an error after the patience, sync and async, not before."""
    with servers.valkey() as server, connect(server.url, patience=patience) as client:
        async_client = await connect_async(server.url, patience=patience)
        server.kill()
        started = time.monotonic()
        with pytest.raises(redis.ConnectionError):
            client.ping()
        middle = time.monotonic()
        with pytest.raises(redis.ConnectionError):
            await async_client.ping()
        for waited in (middle - started, time.monotonic() - middle):
            assert patience <= waited < patience + 2.5
        await async_client.aclose()


async def test_patience_is_twice_the_timeout_unless_given() -> None:
    """A server that comes back after 1.5 times the timeout is still waited for."""
    with servers.valkey() as server, connect(server.url, timeout=1) as client:
        async_client = await connect_async(server.url, timeout=1)
        for run in (client.ping, async_client.ping):
            server.kill()
            back = threading.Timer(1.5, server.restart)
            back.start()
            answer = run()
            assert (await answer if inspect.isawaitable(answer) else answer) is True
            back.join()
        await async_client.aclose()


async def test_server_that_hangs_is_an_error_soon() -> None:
    """A server that hangs is a time-out after about twice the time-out, sync and async."""
    with servers.valkey() as server, connect(server.url, timeout=0.5) as client:
        async_client = await connect_async(server.url, timeout=0.5)
        server.pause()
        started = time.monotonic()
        with pytest.raises(redis.TimeoutError):
            client.ping()
        middle = time.monotonic()
        with pytest.raises(redis.TimeoutError):
            await async_client.ping()
        assert middle - started < 3
        assert time.monotonic() - middle < 3
        server.resume()
        await async_client.aclose()


# Every way it fails


@contextmanager
def silent_server() -> Iterator[str]:
    """An address that accepts connections and never answers."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        yield f"127.0.0.1:{listener.getsockname()[1]}"


@contextmanager
def black_hole() -> Iterator[str]:
    """An address that does not even accept: a listener whose queue is full drops what comes."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        fillers = []
        for _ in range(4):
            filler = socket.socket()
            filler.setblocking(False)
            filler.connect_ex(listener.getsockname())
            fillers.append(filler)
        time.sleep(0.05)
        yield f"127.0.0.1:{listener.getsockname()[1]}"
        for filler in fillers:
            filler.close()


def test_nothing_listens(attempt: Attempt) -> None:
    """Nothing at the port: known within two seconds."""
    message = attempt(f"127.0.0.1:{servers.free_port()}", within=2)
    assert "nothing listens on port" in message
    assert 'connect("embedded")' in message


def test_unknown_name(attempt: Attempt) -> None:
    """A name that does not resolve is named."""
    message = attempt("redis://no-such-host.invalid", within=2)
    assert "'no-such-host.invalid' does not resolve" in message


def test_missing_socket(attempt: Attempt) -> None:
    """A unix socket that does not exist."""
    assert "No such file" in attempt("unix:///no/such.sock", within=1)


def test_no_answer(attempt: Attempt) -> None:
    """A server that accepts and never answers: the time-out, and little more."""
    with silent_server() as place:
        message = attempt(place, timeout=0.5, within=1.5)
    assert "answered nothing within 0.5 s" in message


def test_black_hole(attempt: Attempt) -> None:
    """An address that drops every packet: the time-out, and at most a second more."""
    with black_hole() as place:
        message = attempt(place, timeout=0.5, within=1.5)
        assert "no answer within 0.5 s" in message
        attempt(f"rediss://{place}", timeout=0.5, within=1.5)


@pytest.mark.parametrize(
    ("product", "advice"),
    [
        ("", "tunnel_commands"),
        ("COLAB_ENTERPRISE", "runtime template"),
        ("WORKBENCH_INSTANCE", "Workbench instance on the network"),
    ],
)
def test_private_address(product: str, advice: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A private address that does not answer: the way in from where this runs."""
    # No packet goes to a private network: the time-out is what one there would look like.
    monkeypatch.setenv("VERTEX_PRODUCT", product)

    def no_answer(self: socket.socket, address: Any) -> None:
        raise TimeoutError("timed out")

    monkeypatch.setattr(socket.socket, "connect", no_answer)
    with pytest.raises(ConnectError, match=r"private address 10\.0\.0\.3") as caught:
        connect("10.0.0.3")
    assert advice in str(caught.value)


def test_wrong_password(auth_server: Server, attempt: Attempt) -> None:
    """A wrong password is not tried again: known within a second, and not repeated."""
    message = attempt(auth_server.url, password="wrong", within=1, secrets=("wrong",))
    assert "refuses the user or the password" in message
    assert "get-auth-string" in message


def test_wrong_user(auth_server: Server, attempt: Attempt) -> None:
    """So is a user that does not exist."""
    url = auth_server.url.replace("//", "//bob:hunter2@")
    message = attempt(url, within=1, secrets=("hunter2",))
    assert "refuses the user or the password" in message


def test_password_missing(auth_server: Server, attempt: Attempt) -> None:
    """A server with AUTH and no password given."""
    message = attempt(auth_server.url, within=1)
    assert "asks for a password" in message
    assert "$MEMORYSTORE_PASSWORD" in message


def test_password_too_many(server: Server, attempt: Attempt) -> None:
    """A password given to a server without one."""
    message = attempt(server.url, password="hunter2", within=1, secrets=("hunter2",))
    assert "the server has none" in message


def test_password_is_in_no_cause() -> None:
    """A server that repeats the password in its answer does not get it into the traceback."""

    def repeat(request: bytes) -> bytes:
        return b"-ERR unknown command 'AUTH', with args beginning with: 'hunter2'\r\n"

    secret = "hunter2"
    with answering(repeat) as place, pytest.raises(ConnectError) as caught:
        connect(place, password=secret)
    shown = "".join(traceback.format_exception(caught.value))
    assert secret not in shown
    assert "refuses the first command" in shown


def test_unknown_authority(tls_server: Server, attempt: Attempt) -> None:
    """TLS without the instance's authority."""
    message = attempt(tls_server.url, within=1)
    assert "an authority this machine does not know" in message
    assert "ca_certs=" in message


def test_wrong_authority(tls_server: Server, attempt: Attempt, tmp_path: Path) -> None:
    """TLS with the authority of something else."""
    other = servers.certificates(tmp_path, "memorystore.test").ca
    message = attempt(tls_server.url, ca_certs=other, within=1)
    assert "another authority than those in ca_certs" in message


def test_host_name_mismatch(tls_server: Server, modern: Tls, names: None, attempt: Attempt) -> None:
    """A name that the certificate does not carry is refused, with the authority given too."""
    url = f"rediss://other.test:{tls_server.port}"
    message = attempt(url, ca_certs=modern.ca, within=1)
    assert "does not name 'other.test'" in message
    assert "IP address" in message


def test_address_mismatch_without_authority(
    tls_server: Server, modern: Tls, attempt: Attempt, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An address the certificate does not carry is refused where no authority was given."""
    monkeypatch.setenv("SSL_CERT_FILE", str(modern.ca))
    tls.trusting.cache_clear()
    message = attempt(tls_server.url, within=1)
    tls.trusting.cache_clear()
    assert "does not name '127.0.0.1'" in message


def test_plain_to_tls(tls_server: Server, attempt: Attempt) -> None:
    """A plain client at a TLS port."""
    message = attempt(tls_server.url.replace("rediss", "redis"), within=1)
    assert "use rediss://" in message


def test_tls_to_plain(server: Server, attempt: Attempt) -> None:
    """A TLS client at a plain port."""
    url = server.url.replace("redis:", "rediss:")
    message = attempt(url, timeout=0.5, within=1.5)
    assert "no TLS handshake" in message
    assert "Use redis://" in message


def test_tls_to_http(attempt: Attempt) -> None:
    """A TLS client at a port that answers something else."""
    with answering(lambda _: b"HTTP/1.1 400 Bad Request\r\n\r\n") as place:
        assert "does not answer in TLS" in attempt(f"rediss://{place}", within=1)


@contextmanager
def answering(reply: Callable[[bytes], bytes]) -> Iterator[str]:
    """A loopback server that answers each request with `reply(request)`."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve(connection: socket.socket) -> None:
            with connection, suppress(OSError):
                while request := connection.recv(4096):
                    connection.sendall(reply(request))

        def accept() -> None:
            while True:
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return
                threading.Thread(target=serve, args=(connection,), daemon=True).start()

        threading.Thread(target=accept, daemon=True).start()
        yield f"127.0.0.1:{listener.getsockname()[1]}"
        listener.shutdown(socket.SHUT_RDWR)


def info_of(text: str) -> Callable[[bytes], bytes]:
    """The replies of a server whose INFO is `text`."""

    def reply(request: bytes) -> bytes:
        if b"INFO\r\n" in request and b"SETINFO" not in request:
            return f"${len(text)}\r\n{text}\r\n".encode()
        return b"+PONG\r\n" if b"PING" in request else b"+OK\r\n" * request.count(b"*")

    return reply


def test_too_old(attempt: Attempt) -> None:
    """A server older than 5.0 is refused, with the command that upgrades it."""
    with answering(info_of("redis_version:4.0.14\r\nredis_mode:standalone\r\n")) as place:
        message = attempt(place, within=1)
    assert "version 4.0.14, and 5.0 is the oldest" in message
    assert "gcloud redis instances upgrade" in message


@pytest.mark.parametrize("version", ["5.0.0", "5.0.14", "6.2.6", "10.0.0", "255.255.255"])
def test_old_enough(version: str) -> None:
    """From 5.0 on every version will do."""
    with (
        answering(info_of(f"redis_version:{version}\r\nredis_mode:standalone\r\n")) as place,
        connect(place) as client,
    ):
        assert client.info("server")["redis_version"] == version


def test_still_loading(attempt: Attempt) -> None:
    """A server that loads its data is waited for, and then reported."""
    with servers.valkey() as server:
        with server.admin() as admin:
            pipeline = admin.pipeline()
            for number in range(300):
                pipeline.set(f"key{number}", "x" * 100)
            pipeline.execute()
            admin.save()
        server.kill()
        server.config |= {"key_load_delay": 5000, "loading_process_events_interval_bytes": 1024}
        server.spawn()
        servers.wait_until(lambda: accepts(server), "the port being open")
        message = attempt(server.url, timeout=0.5, within=1.5)
        assert "still loading its data" in message
        with connect(server.url, timeout=15) as client:
            assert client.dbsize() == 300


def accepts(server: Server) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex((server.host, server.port)) == 0


def test_cluster_wanted_and_none_there(server: Server, attempt: Attempt) -> None:
    """cluster=True for a server of its own."""
    message = attempt(server.url, cluster=True, within=1)
    assert "not part of one" in message


@pytest.fixture(scope="module")
def misleading_cluster() -> Iterator[Cluster]:
    """A cluster that gives its clients an address nothing listens on."""
    with servers.cluster(primaries=1, replicas=0, cluster_announce_ip="127.0.0.77") as group:
        yield group


def test_cluster_nodes_out_of_reach(misleading_cluster: Cluster, attempt: Attempt) -> None:
    """A cluster whose nodes give addresses that lead nowhere from here."""
    message = attempt(misleading_cluster.url, within=2)
    assert "addresses they give each other" in message
    assert "each node" in message


def test_not_a_server(attempt: Attempt) -> None:
    """Something that speaks another language."""
    with answering(lambda _: b"HTTP/1.1 400 Bad Request\r\n\r\n") as place:
        assert "Cannot connect" in attempt(place, within=1)


# What makes no sense


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"timeout": 0}, "above 0"),
        ({"timeout": -1}, "above 0"),
        ({"timeout": float("inf")}, "above 0"),
        ({"timeout": float("nan")}, "above 0"),
        ({"timeout": True}, "number of seconds"),
        ({"timeout": "5"}, "number of seconds"),
        ({"patience": -1}, "from 0 up"),
        ({"patience": float("inf")}, "from 0 up"),
        ({"patience": True}, "number of seconds"),
        ({"patience": "5"}, "number of seconds"),
        ({"timeout": None}, "number of seconds"),
        ({"cluster": "yes"}, "True, False, or None"),
        ({"iam": "yes"}, "True or an IamCredentials"),
        ({"password": ""}, "password is empty"),
        ({"password": 5}, "it takes text"),
        ({"password": "x", "iam": True}, "keep one"),
        ({"ca_certs": "no-such-file.pem"}, "no TLS endpoint|cannot be read"),
        ({"ssl_cert_reqs": "none"}, "always verified"),
        ({"ssl_check_hostname": False}, "always verified"),
        ({"protocol": 3}, "RESP2"),
        ({"client_name": "me"}, "CLIENT SETNAME"),
        ({"host": "h"}, "the endpoint"),
        ({"username": "me"}, "USER:PASSWORD"),
        ({"socket_timeout": 1}, "timeout="),
        ({"retry": None}, "trying again"),
    ],
)
async def test_arguments_are_checked(given: dict[str, Any], message: str) -> None:
    """An argument that makes no sense is refused before anything is opened, sync and async."""
    with pytest.raises((ValueError, TypeError), match=message):
        connect("redis://127.0.0.1:1", **given)
    with pytest.raises((ValueError, TypeError), match=message):
        await connect_async("redis://127.0.0.1:1", **given)


@pytest.mark.parametrize(
    ("endpoint", "given", "message"),
    [
        ("http://h", {}, "http://"),
        ("h:99999", {}, "not a port"),
        ("", {}, "is empty"),
        ("redis://me@h", {}, "no password"),
        ("redis://me:x@h", {"password": "y"}, "keep one"),
        ("redis://me:x@h", {"iam": True}, "keep one"),
        ("embedded", {"password": "x"}, "embedded server takes no password="),
        ("embedded", {"iam": True}, "embedded server takes no iam="),
        ("embedded", {"cluster": True}, "embedded server takes no cluster="),
        ("rediss://h", {"ca_certs": []}, "is empty"),
        ("rediss://h", {"ca_certs": "no-such-file.pem"}, "cannot be read"),
        ("rediss://h", {"ca_certs": "-----BEGIN CERTIFICATE-----\nno"}, "no certificate"),
        ("rediss://h", {"ca_certs": __file__}, "no certificate"),
        (
            "rediss://h",
            {"ca_certs": "-----BEGIN CERTIFICATE-----\nbm8=\n-----END CERTIFICATE-----"},
            "cannot be read",
        ),
        ("rediss://h", {"ca_certs": [5]}, "not int"),
        ("rediss://h", {"ca_certs": 5}, "not int"),
        ("redis://h", {"ca_certs": "x"}, "cannot be read|no TLS"),
    ],
)
def test_endpoints_are_checked(endpoint: str, given: dict[str, Any], message: str) -> None:
    """What cannot be understood is an EndpointError and a ValueError."""
    with pytest.raises(EndpointError, match=message) as caught:
        connect(endpoint, **given)
    assert isinstance(caught.value, ValueError)


def test_both_have_the_same_signature() -> None:
    """The twins take the same arguments."""
    one, other = inspect.signature(connect), inspect.signature(connect_async)
    assert one.parameters == other.parameters


def test_a_typing_error_in_an_option_is_a_type_error(valkey_server: Server) -> None:
    """An option redis-py does not know is named."""
    with pytest.raises(TypeError, match="decode_response"):
        connect(valkey_server.url, decode_response=True)
