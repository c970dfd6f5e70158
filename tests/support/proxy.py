"""A TCP proxy in front of a server that counts requests, delays them and loses their replies."""

import io
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

APPENDS = frozenset({b"EVALSHA", b"EVAL", b"RPUSH", b"LPUSH"})


@contextmanager
def listening(serve: Callable[[socket.socket], object]) -> Iterator[int]:
    """A port of the loopback interface; each connection is served in a thread, then closed."""

    def begin(connection: socket.socket) -> None:
        with suppress(OSError):
            serve(connection)
        _cut(connection)

    def accept() -> None:
        with suppress(OSError):
            while True:
                threading.Thread(target=begin, args=listener.accept()[:1], daemon=True).start()

    with socket.create_server(("127.0.0.1", 0), backlog=512) as listener:
        threading.Thread(target=accept, daemon=True).start()
        yield listener.getsockname()[1]
        _cut(listener)


@dataclass(eq=False)
class Proxy(ExitStack):
    """Forwards every connection to one server; a context manager that ends with its connections.

    Attributes:
        host, server_port: Where the server listens.
        lose_every: Cut the connection instead of handing over the reply at every so many appends,
            counted over all connections; 0 never does.
        await_reply: Cut once the server has replied, so it has certainly acted; otherwise as soon
            as the request is forwarded, so the client's next try may overtake it.
        delay: Seconds to hold each request back, which is what they add to a round trip; those
            that arrive together wait together.
        lose_reply_to: Set it to bytes, and the reply to the next request that holds them is lost.
        cut_append_at: Set it to a share of 1, and only so much of the next append reaches
            the server before the connection is cut.
        answer_append_with: Replies that the next appends get instead of reaching the server.
        port: Where the proxy listens, on the loopback interface.
        requests: How many commands were forwarded.
        round_trips: How often a client sent something and then waited; a pipeline is one.
        lost: How many replies were lost.
    """

    host: str
    server_port: int
    lose_every: int = 0
    await_reply: bool = True
    delay: float = 0.0
    lose_reply_to: bytes | None = None
    cut_append_at: float | None = None
    answer_append_with: list[bytes] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__()
        self._lock = threading.Lock()
        self._open: set[socket.socket] = set()
        self.reset()
        self.callback(self.lead_to, self.host, self.server_port)
        self.port = self.enter_context(listening(self._serve))

    def reset(self) -> None:
        """Count from zero again."""
        with self._lock:
            self.requests = self.round_trips = self.lost = self._appends = 0

    def lead_to(self, host: str, port: int, *, cut: bool = True) -> None:
        """Forward new connections to another server, and cut the old ones or leave them.

        As an address does that moves to another server in a fail-over.
        """
        self.host, self.server_port = host, port
        for connection in [*self._open] if cut else []:
            _cut(connection)

    def _serve(self, client: socket.socket) -> None:
        server = socket.create_connection((self.host, self.server_port))
        losing, both = threading.Event(), {client, server}
        for connection in both:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._open |= both
        replies = threading.Thread(target=self._reply, args=(client, server, losing), daemon=True)
        replies.start()
        with suppress(OSError, ValueError):
            self._send(client, server, losing)
        if losing.is_set():
            replies.join()
        _cut(server)
        self._open -= both

    def _send(self, client: socket.socket, server: socket.socket, losing: threading.Event) -> None:
        for command, text, waited in _requests(client):
            if self._loses(command, text, waited):
                losing.set()
            if self.delay and waited:
                time.sleep(self.delay)
            if command in APPENDS and self.answer_append_with:
                client.sendall(self.answer_append_with.pop(0))
                continue
            if command in APPENDS and self.cut_append_at is not None:
                share, self.cut_append_at = self.cut_append_at, None
                server.sendall(text[: int(len(text) * share)])
                return
            server.sendall(text)
            if losing.is_set():
                if not self.await_reply:
                    _cut(client)
                return

    def _reply(self, client: socket.socket, server: socket.socket, losing: threading.Event) -> None:
        with suppress(OSError):
            while (reply := server.recv(1 << 16)) and not losing.is_set():
                client.sendall(reply)
        _cut(client)

    def _loses(self, command: bytes, text: bytes, waited: bool) -> bool:
        """Count a request; whether its reply is to be lost."""
        with self._lock:
            self.requests += 1
            self.round_trips += waited
            append = command in APPENDS
            self._appends += append
            lose = append and self.lose_every > 0 and self._appends % self.lose_every == 0
            if self.lose_reply_to is not None and self.lose_reply_to in text:
                self.lose_reply_to, lose = None, True
            self.lost += lose
            return lose


class _Arriving(socket.SocketIO):
    """Notices whether reading had to wait for the socket."""

    waited = False

    def readinto(self, buffer: Any) -> int | None:
        self.waited = True
        return super().readinto(buffer)


def _requests(client: socket.socket) -> Iterator[tuple[bytes, bytes, bool]]:
    """Each command as a client sends it, an array of bulk strings: its name and its bytes.

    Also whether it began with new data, and not with what had arrived together with the one before.
    """
    arriving = _Arriving(client, "r")
    stream = io.BufferedReader(arriving, 1 << 16)
    while head := stream.readline():
        waited, parts = arriving.waited, [head]
        for _ in range(int(head[1:])):
            parts.append(stream.readline())
            parts.append(stream.read(int(parts[-1][1:]) + 2))
        arriving.waited = False
        yield parts[2].strip().upper(), b"".join(parts), waited


def _cut(connection: socket.socket) -> None:
    with suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)
    connection.close()
