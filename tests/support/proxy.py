"""A TCP proxy in front of a server that counts requests, delays them and loses their replies.

Example:
    >>> import servers
    >>> with servers.valkey() as server, Proxy(server.host, server.port) as proxy:
    ...     client, before = server.client(port=proxy.port), proxy.round_trips
    ...     client.ping(), proxy.round_trips > before
    (True, True)
"""

import io
import socket
import threading
import time
from contextlib import ExitStack, suppress
from typing import Any

APPENDS = frozenset({b"EVALSHA", b"EVAL", b"RPUSH", b"LPUSH"})


class Proxy(ExitStack):
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

    Attributes:
        port: Where the proxy listens, on the loopback interface.
        requests: How many commands were forwarded.
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
    ) -> None:
        super().__init__()
        self.server = (host, port)
        self.lose_every = lose_every
        self.await_reply = await_reply
        self.delay = delay
        self.lose_reply_to: bytes | None = None
        self.cut_append_at: float | None = None
        self.answer_append_with: list[bytes] = []
        self._lock = threading.Lock()
        self._open: set[socket.socket] = set()
        self.reset()
        listener = socket.create_server(("127.0.0.1", 0), backlog=512)
        self.port: int = listener.getsockname()[1]
        self.callback(self.lead_to, host, port)
        self.callback(_cut, listener)
        threading.Thread(target=self._accept, args=(listener,), daemon=True).start()

    def reset(self) -> None:
        """Count from zero again."""
        with self._lock:
            self.requests = self.round_trips = self.lost = self._appends = 0

    def lead_to(self, host: str, port: int, *, cut: bool = True) -> None:
        """Forward new connections to another server, and cut the old ones or leave them.

        As an address does that moves to another server in a fail-over.
        """
        self.server = (host, port)
        with self._lock:
            still_open = list(self._open) if cut else []
        for connection in still_open:
            _cut(connection)

    def _accept(self, listener: socket.socket) -> None:
        with suppress(OSError):
            while True:
                client, _ = listener.accept()
                try:
                    server = socket.create_connection(self.server)
                except OSError:
                    client.close()
                    continue
                for connection in (client, server):
                    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                with self._lock:
                    self._open |= {client, server}
                given = (client, server, threading.Event())
                for pump in (self._send, self._reply):
                    threading.Thread(target=pump, args=given, daemon=True).start()

    def _send(self, client: socket.socket, server: socket.socket, losing: threading.Event) -> None:
        arriving = _Arriving(client, "r")
        requests = io.BufferedReader(arriving, 1 << 16)
        with suppress(OSError, ValueError):
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
        with suppress(OSError):
            while (reply := server.recv(1 << 16)) and not losing.is_set():
                client.sendall(reply)
        self._end(client, server)

    def _count(self, command: bytes, text: bytes, new: bool) -> bool:
        """Count a request; whether its reply is to be lost."""
        with self._lock:
            self.requests += 1
            self.round_trips += new
            self._appends += command in APPENDS
            lose = bool(
                self.lose_every and command in APPENDS and self._appends % self.lose_every == 0
            )
            if self.lose_reply_to is not None and self.lose_reply_to in text:
                self.lose_reply_to, lose = None, True
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
    parts = [head]
    for _ in range(int(head[1:])):
        parts.append(stream.readline())
        parts.append(stream.read(int(parts[-1][1:]) + 2))
    arriving.new = began
    return parts[2].strip().upper(), b"".join(parts)


def _cut(connection: socket.socket) -> None:
    with suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)
    connection.close()
