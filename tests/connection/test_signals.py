"""Signals while a client of connect() works: no reply of another call, no hang, nothing lost."""

import signal
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
from redis.connection import Connection

import servers
from connecting import answering
from memorystore_chat.connection import clients, connect
from servers import Cluster, Server

MAIN = threading.main_thread().ident or 0


class Alarm(Exception):  # noqa: N818
    """What the tests' handler raises."""


@pytest.fixture(autouse=True)
def handlers() -> Iterator[None]:
    """SIGUSR1 and SIGINT raise; as it was afterwards."""

    def ring(*_: object) -> None:
        raise Alarm

    before = {number: signal.signal(number, ring) for number in (signal.SIGUSR1, signal.SIGINT)}
    yield
    for number, handler in before.items():
        assert signal.getsignal(number) is ring
        signal.signal(number, handler)


def once(
    monkeypatch: pytest.MonkeyPatch, owner: Any, name: str, numbers: list[int], when: str
) -> None:
    """Send signals to this thread as it enters or leaves a method for the first time."""
    real = getattr(owner, name)
    sent = False

    def signals() -> None:
        for number in numbers:
            signal.raise_signal(number)

    def method(*given: Any, **options: Any) -> Any:
        nonlocal sent
        if when == "before" and not sent:
            sent = True
            signals()
        answer = real(*given, **options)
        if not sent:
            sent = True
            signals()
        return answer

    monkeypatch.setattr(owner, name, method)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGUSR1])
@pytest.mark.parametrize("kind", ["server", "cluster"])
def test_a_signal_at_any_moment_of_a_command(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, kind: str, number: int
) -> None:
    """The command ends, then the handler raises; the next one has its own reply and connection."""
    target: Server | Cluster = request.getfixturevalue(f"valkey_{kind}")
    moments = [
        (clients.Pool, "get_connection"),
        (Connection, "send_packed_command"),
        (Connection, "read_response"),
        (clients.Pool, "release"),
    ]
    with connect(target.url, max_connections=2, timeout=5) as client:
        for owner, name in moments:
            for when in ("before", "after"):
                for key in ("a", "b"):
                    client.set(key, f"{name} {when} {key}", ex=60)
                with monkeypatch.context() as signaling:
                    once(signaling, owner, name, [number], when)
                    with pytest.raises(Alarm):
                        client.append("a", "!")
                answers = [client.get(key) for key in ("b", "a")]
                assert answers == [f"{name} {when} b".encode(), f"{name} {when} a!".encode()]
        nodes: list[Any] = getattr(client, "get_nodes", lambda: [client])()
        for node in nodes:
            pool: Any = getattr(node, "redis_connection", node).connection_pool
            assert pool.pool.qsize() == 2, "a connection was lost"


@pytest.mark.parametrize("kind", ["server", "cluster"])
def test_a_second_interrupt_leaves_no_reply(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """It raises where it comes, here between sending and reading; the connection is dropped."""
    with connect(request.getfixturevalue(f"valkey_{kind}").url, max_connections=2) as client:
        client.set("a", "a", ex=60)
        client.delete("{a}b")
        with monkeypatch.context() as signaling:
            once(signaling, Connection, "send_packed_command", [signal.SIGINT] * 2, "after")
            with pytest.raises(Alarm):
                client.get("a")
        assert [client.get("{a}b") for _ in range(3)] == [None] * 3


def test_a_second_interrupt_raises_at_once_and_drops_the_connection() -> None:
    """As when the server hangs: the first waits for the answer, and nobody is given it later."""
    told: list[str] = []
    raised = threading.Event()

    def reply(request: bytes) -> bytes:
        if b"GET\r\n" not in request:
            return b"$1\r\nb\r\n" if b"ECHO" in request else b"+PONG\r\n" * request.count(b"*")
        for name in ("first", "second"):
            if not raised.is_set():
                told.append(name)
                signal.pthread_kill(MAIN, signal.SIGINT)
                time.sleep(0.5)  # so that it is not one signal for Python
        if not raised.wait(10):
            told.append("an answer")
        return b"$1\r\na\r\n"

    with answering(reply) as place, connect(place, timeout=20, patience=0) as client:
        with pytest.raises(Alarm):
            client.get("a")
        raised.set()
        assert told == ["first", "second"]
        assert client.echo("b") == b"b"


def test_an_interrupt_ends_the_wait_for_a_server_that_is_gone() -> None:
    with servers.valkey() as server, connect(server.url, timeout=1, patience=40) as client:
        server.kill()
        began = time.monotonic()

        def interrupted() -> None:
            threading.Timer(0.3, signal.pthread_kill, (MAIN, signal.SIGINT)).start()
            client.get("a")

        with pytest.raises(Alarm):
            interrupted()
        assert time.monotonic() - began < 30
        server.restart()
        assert client.get("a") is None
