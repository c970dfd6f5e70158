"""Interrupts while a client of connect() works: no reply of another call, no hang, nothing lost."""

import signal
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
from redis.connection import Connection

import servers
from memorystore_chat.connection import connect
from servers import Cluster, Server


@pytest.fixture(autouse=True)
def interruptible() -> Iterator[None]:
    """Ctrl-C raises, whatever the runner set; each test leaves it so."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    assert signal.signal(signal.SIGINT, before) is signal.default_int_handler


@pytest.mark.parametrize("interrupts", [1, 2])
@pytest.mark.parametrize("running", ["valkey_server", "valkey_cluster"])
def test_interrupts_between_sending_and_reading(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, running: str, interrupts: int
) -> None:
    """One waits for the answer, the second doesn't; the next command has its own reply.

    The only connection can be used again, so none is lost.
    """
    target: Server | Cluster = request.getfixturevalue(running)
    node = target.node_of("a") if isinstance(target, Cluster) else target
    send: Any = Connection.send_packed_command
    left = list[int]()

    def interrupted(*given: object, **options: object) -> None:
        send(*given, **options)
        while left:
            signal.raise_signal(left.pop())

    monkeypatch.setattr(Connection, "send_packed_command", interrupted)
    with connect(target.url, max_connections=1) as client:
        client.set("a", "a", ex=60)
        for number in range(1, 3):
            left += [signal.SIGINT] * interrupts
            node.pause()
            answering = threading.Timer(0.2, node.resume)
            answering.start()
            with pytest.raises(KeyboardInterrupt):
                client.append("a", "!")
            assert answering.is_alive() == (interrupts == 2)
            assert client.get("{a}b") is None
            answering.join()
            assert client.get("a") == b"a" + b"!" * number


def test_an_interrupt_ends_the_wait_for_a_server_that_is_gone() -> None:
    main, began = threading.main_thread().ident or 0, time.monotonic()
    with servers.valkey() as server, connect(server.url, timeout=20, patience=40) as client:
        server.kill()
        threading.Timer(0.3, signal.pthread_kill, (main, signal.SIGINT)).start()
        with pytest.raises(KeyboardInterrupt):
            client.get("a")
        assert time.monotonic() - began < 15
        server.restart()
        assert client.ping()
