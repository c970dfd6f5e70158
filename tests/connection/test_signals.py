"""Interrupts while a client of connect() works: no reply of another call, no hang, nothing lost."""

import signal
import threading
import time
from collections.abc import Iterator
from typing import Any
from unittest.mock import Mock

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
@pytest.mark.parametrize("running", ["valkey_server", "valkey_cluster"], indirect=True)
def test_interrupts_between_sending_and_reading(
    running: Server | Cluster, monkeypatch: pytest.MonkeyPatch, interrupts: int
) -> None:
    """One waits for the answer, the second doesn't; the next command has its own reply.

    The only connection can be used again, so none is lost.
    """
    node = running.node_of("a") if isinstance(running, Cluster) else running
    send: Any = Connection.send_packed_command
    left = list[int]()

    def interrupted(*given: object, **options: object) -> None:
        send(*given, **options)
        while left:
            signal.raise_signal(left.pop())

    monkeypatch.setattr(Connection, "send_packed_command", interrupted)
    with connect(running.url, max_connections=1) as client:
        client.set("a", "a", ex=60)
        for number in range(1, 3):
            left += [signal.SIGINT] * interrupts
            node.pause()
            resume = Mock(side_effect=node.resume)
            answering = threading.Timer(0.2 if interrupts == 1 else 1, resume)
            answering.start()
            with pytest.raises(KeyboardInterrupt):
                client.append("a", "!")
            assert resume.called == (interrupts == 1)
            assert client.get("{a}b") is None
            assert client.get("a") == b"a" + b"!" * number


def test_an_interrupt_ends_the_wait_for_a_server_that_is_gone() -> None:
    main = threading.main_thread().ident or 0
    with servers.valkey() as server, connect(server.url, timeout=20, patience=60) as client:

        def wait() -> None:
            threading.Timer(0.3, signal.pthread_kill, (main, signal.SIGINT)).start()
            client.get("a")

        server.kill()
        began = time.monotonic()
        with pytest.raises(KeyboardInterrupt):
            wait()
        assert time.monotonic() - began < 30
        server.restart()
        assert client.ping()
