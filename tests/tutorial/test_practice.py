"""The practice servers: what they ask of a client, how they fail, and that nothing is left."""

import os
import signal
import socket
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import redis
from redis.cluster import RedisCluster

import servers
from memorystore_chat import ConnectError, connect
from memorystore_chat.connection.iam import IamCredentials
from memorystore_tutorial import launching, practice

# All that a configuration file could misread.
WORDS = "open sesame # \"'\\x41 \u00fc"


@pytest.fixture(autouse=True)
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Servers keep their files here, where a test can see that none is left."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.delenv("MEMORYSTORE_PASSWORD", raising=False)
    return tmp_path


def refuses_connections(endpoint: str) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", int(endpoint.rpartition(":")[2]))) != 0


def test_a_server_is_reached_through_tls_alone(folders: Path) -> None:
    """Who hangs up leaves no connection; at the end open ones are cut, and files are gone."""
    with practice.server(password=WORDS, tls=True) as server, server.nodes[0].admin() as admin:
        assert refuses_connections(f":{admin.config_get('port')['port']}")
        with pytest.raises(ConnectError, match="none was given"):
            connect(server.endpoint, ca_certs=server.ca_cert)
        client = connect(server.endpoint, password=WORDS, ca_certs=server.ca_cert, patience=0)
        client.set("long", "x" * 2_000_000)
        assert len(client.get("long") or "") == 2_000_000
        client.close()
        hung_up = "The end of all connections but the one that asks"
        servers.wait_until(lambda: len(admin.client_list()) == 1, hung_up)
        client.ping()
        assert not any(b"PRIVATE" in p.read_bytes() for p in folders.rglob("*") if p.is_file())
        assert server.running == 1
        with pytest.raises(ValueError, match="iam=True"):
            server.expire_token()
    with pytest.raises(redis.ConnectionError):
        client.ping()
    client.close()
    assert server.running == 0
    servers.wait_until(lambda: refuses_connections(server.endpoint), "the end of the front")
    assert list(folders.iterdir()) == []
    server.stop()
    for wrong in ({"password": "x", "iam": True}, {"password": ""}):
        with pytest.raises(ValueError, match="password"):
            practice.server(**wrong)


def test_access_tokens_expire_and_a_client_goes_on() -> None:
    """Then the old token is refused, and a connected client fetches a new one, as a new one does.

    The server has cut the connection of its TLS front as well.
    """
    with practice.server(iam=True, tls=True) as server:
        credentials: Any = server.credentials
        log_in = partial(connect, server.endpoint, ca_certs=server.ca_cert)
        with log_in(iam=IamCredentials(credentials)) as client:
            client.set("told", "before")
            old = credentials.token
            server.expire_token()
            with pytest.raises(ConnectError, match="refuses the user"):
                log_in(password=old)
            assert client.get("told") == b"before"
            assert credentials.token != old
        with log_in(iam=IamCredentials(credentials)) as client:
            assert client.get("told") == b"before"


def test_a_cluster_loses_a_primary_and_nothing_that_it_acknowledged(
    folders: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Keys are where they say, before and after; what has no copy is not killed."""
    with practice.cluster() as cluster, connect(cluster.endpoint) as client:
        assert isinstance(client, RedisCluster)
        assert (len(client.get_primaries()), len(client.get_replicas())) == (3, 3)
        # Their slots are the first and the last of each primary.
        homes = {"afps": 1, "eail": 1, "alad": 2, "agkb": 2, "bhxl": 3, "bskk": 3}
        assert {name: cluster.primary_of(name) for name in homes} == homes
        for name, home in homes.items():
            with cluster.nodes[home - 1].admin() as node:
                node.set(name, "x")  # refused by a node that is not its home
        cluster.kill(1)
        cluster.kill(1)  # again is no error
        assert (cluster.running, cluster.primary_of("afps")) == (5, 4)
        assert all(client.get(name) for name in homes)
        assert not refuses_connections(cluster.endpoint)
        cluster.kill(4)
        monkeypatch.setattr(practice, "wait_until", partial(launching.wait_until, within=0.3))
        with pytest.raises(ConnectError, match="'afps'"):
            cluster.primary_of("afps")
        with cluster.nodes[1].admin() as node, cluster.nodes[4].admin() as replica:
            replica.execute_command("CLUSTER REPLICATE", "NO", "ONE")
            node.set("{agkb}", "not copied")
            with pytest.raises(ConnectError, match="not killed"):
                cluster.kill(2)
        with pytest.raises(ValueError, match="1 to 6"):
            cluster.kill(7)
    assert cluster.running == 0
    assert list(folders.iterdir()) == []
    assert refuses_connections(cluster.endpoint)


PROGRAM = """
import signal, time
from memorystore_tutorial import practice
def interrupted(*_):
    time.sleep(0.5)  # a server that was interrupted, too, would take as long
    print(server.running, flush=True)
server, secure = practice.server(), practice.server(tls=True)
signal.signal(signal.SIGINT, interrupted)
print(server.endpoint, flush=True)
input()
"""


@pytest.mark.parametrize("killed", [False, True])
def test_servers_end_with_the_program_that_started_them(folders: Path, killed: bool) -> None:
    """Also after a kill -9 no process and no file is left; an interrupt alone ends none."""
    pipes: dict[str, Any] = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    pipes |= {"text": True, "env": {**os.environ, "TMPDIR": str(folders)}}
    command = [sys.executable, "-c", PROGRAM]
    with subprocess.Popen(command, start_new_session=True, **pipes) as program:
        assert program.stdout is not None
        endpoint = program.stdout.readline().strip()
        os.killpg(program.pid, signal.SIGINT)
        assert program.stdout.readline() == "1\n"
        assert not refuses_connections(endpoint)
        assert len(list(folders.iterdir())) == 2
        if killed:
            program.kill()
        assert program.communicate("\n", timeout=20) == ("", "")
    servers.wait_until(lambda: not list(folders.iterdir()), "the removal of the files")
    assert refuses_connections(endpoint)


def test_a_start_that_fails(folders: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A port that was just taken is exchanged; if all are, the log is shown and nothing is left."""
    really = launching.free_ports
    with practice.server() as other:
        taken = int(other.endpoint.rpartition(":")[2])
        given = [[*really(5), taken]]
        monkeypatch.setattr(launching, "free_ports", lambda n: given.pop() if given else really(n))
        with practice.cluster() as cluster:
            assert (cluster.running, given) == (6, [])
            assert len(list(folders.iterdir())) == 7
        monkeypatch.setattr(launching, "free_ports", lambda _: [taken])
        with pytest.raises(ConnectError, match=r"its log ends:\n(.*\n)*.*in use"):
            practice.server()
        assert len(list(folders.iterdir())) == 1
        assert taken not in really(9000)
