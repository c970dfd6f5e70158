"""A TCP proxy in front of a server that counts requests, delays them and loses their replies.

Example:
    >>> import servers
    >>> with servers.valkey() as server, Proxy(server.host, server.port) as proxy:
    ...     client = server.client(port=proxy.port)
    ...     client.ping(), proxy.requests[b"PING"]
    (True, 1)
"""

import contextlib
import io
import socket
import threading
import time
from collections import Counter
from typing import Any, Self

APPENDS = frozenset({b"EVALSHA", b"EVAL", b"RPUSH", b"LPUSH"})


class Proxy:
    """Forwards every connection to one server; a context manager that ends with its connections.

    Args:
        host: Where the server listens.
        port: Where the server listens.
        lose_every: Cut the connection instead of handing over the reply at every so many appends,
            counted over all connections; 0 never does.
        await_reply: Cut once the server has replied, so it has certainly acted; otherwise as soon
            as the request is forwarded, so the client's next try may overtake it.
        delay: Seconds to hold each request back, which is what they add to a round trip; those
            that arrive together wait together.
        at: The port to listen on, or 0 for a free one.

    Attributes:
        port: Where the proxy listens, on the loopback interface.
        requests: How often each command was forwarded.
        round_trips: How often a client sent something and then waited; a pipeline is one.
        lost: How many replies were lost.
        lose_reply_to: Set it to bytes, and the reply to the next request that holds them is lost.
        cut_append_at: Set it to a share of 1, and only so much of the next append reaches
            the server before the connection is cut.
        answer_append_with: Replies that the next appends get instead of reaching the server.
    """

    def __init__(
        self,
        host: str,
        port: int,
        *,
        lose_every: int = 0,
        await_reply: bool = True,
        delay: float = 0.0,
        at: int = 0,
    ) -> None:
        self.server = (host, port)
        self.lose_every = lose_every
        self.await_reply = await_reply
        self.delay = delay
        self.requests: Counter[bytes] = Counter()
        self.round_trips = 0
        self.lost = 0
        self.lose_reply_to: bytes | None = None
        self.cut_append_at: float | None = None
        self.answer_append_with: list[bytes] = []
        self._appends = 0
        self._lock = threading.Lock()
        self._open: set[socket.socket] = set()
        self._listener = socket.create_server(("127.0.0.1", at), backlog=512)
        self.port: int = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def reset(self) -> None:
        """Count from zero again."""
        with self._lock:
            self.requests.clear()
            self.lost = self.round_trips = self._appends = 0

    def lead_to(self, host: str, port: int, *, cut: bool = True) -> None:
        """Forward new connections to another server, and cut the old ones or leave them.

        As an address does that moves to another server in a fail-over.
        """
        self.server = (host, port)
        if cut:
            self._cut_all()

    def close(self) -> None:
        """Stop listening and cut every connection."""
        _cut(self._listener)
        self._cut_all()

    def _cut_all(self) -> None:
        with self._lock:
            still_open = list(self._open)
        for connection in still_open:
            _cut(connection)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            try:
                server = socket.create_connection(self.server)
            except OSError:
                client.close()
                continue
            for connection in (client, server):
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            with self._lock:
                self._open |= {client, server}
            losing = threading.Event()
            for pump in (self._send, self._reply):
                threading.Thread(target=pump, args=(client, server, losing), daemon=True).start()

    def _send(self, client: socket.socket, server: socket.socket, losing: threading.Event) -> None:
        arriving = _Arriving(client, "r")
        requests = io.BufferedReader(arriving, 1 << 16)
        with contextlib.suppress(OSError, ValueError):
            while request := _read_request(requests, arriving):
                command, text = request
                lose = self._count(command, text, arriving.new)
                if lose:
                    losing.set()
                if self.delay and arriving.new:
                    time.sleep(self.delay)
                if command in APPENDS and self.answer_append_with:
                    client.sendall(self.answer_append_with.pop(0))
                    continue
                if command in APPENDS and self.cut_append_at is not None:
                    share, self.cut_append_at = self.cut_append_at, None
                    server.sendall(text[: int(len(text) * share)])
                    break
                server.sendall(text)
                if lose:
                    if not self.await_reply:
                        _cut(client)
                    return
        if not losing.is_set():
            self._end(client, server)

    def _reply(self, client: socket.socket, server: socket.socket, losing: threading.Event) -> None:
        with contextlib.suppress(OSError):
            while reply := server.recv(1 << 16):
                if losing.is_set():
                    break
                client.sendall(reply)
        self._end(client, server)

    def _count(self, command: bytes, text: bytes, new: bool) -> bool:
        """Count a request; whether its reply is to be lost."""
        with self._lock:
            self.requests[command] += 1
            self.round_trips += new
            if self.lose_reply_to is not None and self.lose_reply_to in text:
                self.lose_reply_to = None
                self.lost += 1
                return True
            if command not in APPENDS or not self.lose_every:
                return False
            self._appends += 1
            lose = self._appends % self.lose_every == 0
            self.lost += lose
            return lose

    def _end(self, *connections: socket.socket) -> None:
        for connection in connections:
            _cut(connection)
            with self._lock:
                self._open.discard(connection)


class _Arriving(socket.SocketIO):
    """Notices whether reading had to wait for the socket."""

    new = False

    def readinto(self, buffer: Any) -> int | None:
        self.new = True
        return super().readinto(buffer)


def _read_request(
    stream: "io.BufferedReader[_Arriving]", arriving: _Arriving
) -> tuple[bytes, bytes] | None:
    """The name and the bytes of one command as a client sends it: an array of bulk strings.

    Afterwards ``arriving.new`` says whether it began with new data, and not with the rest of what
    had arrived together with the command before.
    """
    arriving.new = False
    head = stream.readline()
    began = arriving.new
    if not head:
        return None
    parts, name = [head], b""
    for index in range(int(head[1:])):
        length = stream.readline()
        value = stream.read(int(length[1:]) + 2)
        parts += (length, value)
        if index == 0:
            name = value.strip().upper()
    arriving.new = began
    return name, b"".join(parts)


def _cut(connection: socket.socket) -> None:
    with contextlib.suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)
    connection.close()
