"""Signals while a client of connect() works: no reply of another call, no hang, nothing lost."""

import signal
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from redis.connection import Connection

import servers
from memorystore_chat.connection import clients, connect
from servers import Cluster, Server

MAIN = threading.main_thread().ident or 0
both_kinds = pytest.mark.parametrize("kind", ["server", "cluster"])


class Alarm(Exception):  # noqa: N818
    """What the tests' handler of SIGUSR1 raises."""


RAISED = (Alarm, KeyboardInterrupt)


@pytest.fixture(autouse=True)
def handlers() -> Iterator[None]:
    """SIGUSR1 and SIGINT raise; as it was afterwards."""

    def ring(*_: object) -> None:
        raise Alarm

    ours: dict[int, Any] = {signal.SIGUSR1: ring, signal.SIGINT: signal.default_int_handler}
    before = {number: signal.signal(number, handler) for number, handler in ours.items()}
    yield
    for number, handler in before.items():
        assert signal.getsignal(number) is ours[number]
        signal.signal(number, handler)


@pytest.fixture
def client(request: pytest.FixtureRequest, kind: str) -> Iterator[Any]:
    """A client with two connections to a node."""
    with connect(request.getfixturevalue(f"valkey_{kind}").url, max_connections=2) as client:
        yield client


def once(
    monkeypatch: pytest.MonkeyPatch, owner: Any, name: str, numbers: list[int], when: str
) -> None:
    """Send signals to this thread as it enters or leaves a method for the first time."""
    real, left = getattr(owner, name), [*numbers]

    def raised() -> None:
        while left:
            signal.raise_signal(left.pop())

    def method(*given: Any, **options: Any) -> Any:
        if when == "before":
            raised()
        answer = real(*given, **options)
        raised()
        return answer

    monkeypatch.setattr(owner, name, method)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGUSR1])
@both_kinds
def test_a_signal_at_any_moment_of_a_command(
    client: Any, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """The command ends, then the handler raises; the next one has its own reply and connection."""
    for owner, name in (
        (clients.Pool, "get_connection"),
        (Connection, "send_packed_command"),
        (Connection, "read_response"),
        (clients.Pool, "release"),
    ):
        for when in ("before", "after"):
            for key in ("a", "b"):
                client.set(key, f"{name} {when} {key}", ex=60)
            with monkeypatch.context() as signaling:
                once(signaling, owner, name, [number], when)
                with pytest.raises(RAISED):
                    client.append("a", "!")
            answers = [client.get(key) for key in ("b", "a")]
            assert answers == [f"{name} {when} b".encode(), f"{name} {when} a!".encode()]
    for node in getattr(client, "get_nodes", lambda: [client])():
        pool = getattr(node, "redis_connection", node).connection_pool
        assert pool.pool.qsize() == 2, "a connection was lost"


@both_kinds
def test_a_second_interrupt_leaves_no_reply(
    request: pytest.FixtureRequest, client: Any, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """It raises where it comes, here between sending and reading; the connection is dropped."""
    target: Server | Cluster = request.getfixturevalue(f"valkey_{kind}")
    node = target.node_of("a") if isinstance(target, Cluster) else target
    client.set("a", "a", ex=60)
    client.delete("{a}b")
    with monkeypatch.context() as signaling:
        once(signaling, Connection, "send_packed_command", [signal.SIGINT] * 2, "after")
        node.pause()
        with pytest.raises(RAISED):
            client.get("a")
    threading.Timer(0.2, node.resume).start()  # the reply comes when another one is waited for
    assert client.get("{a}b") is None


@pytest.mark.parametrize(
    ("leave", "come_back", "interrupts"),
    [(Server.kill, Server.restart, [0.3]), (Server.pause, Server.resume, [0.3, 0.6])],
)
def test_interrupts_end_the_wait_for_a_server(
    leave: Callable[[Server], None], come_back: Callable[[Server], object], interrupts: list[float]
) -> None:
    """One is enough if it is gone; the second, if an answer may still come: nobody is given it."""
    with servers.valkey() as server, connect(server.url, timeout=20, patience=40) as client:
        leave(server)
        began = time.monotonic()

        def interrupted() -> None:
            for after in interrupts:
                threading.Timer(after, signal.pthread_kill, (MAIN, signal.SIGINT)).start()
            client.get("a")

        with pytest.raises(RAISED):
            interrupted()
        assert interrupts[-1] <= time.monotonic() - began < 15
        come_back(server)
        assert client.echo("b") == b"b"
