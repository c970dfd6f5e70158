"""Signals while a client of connect() works: no reply of another call, no hang, nothing lost."""

import os
import random
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest

import servers
from memorystore_chat.connection import connect
from proxy import Proxy
from servers import Cluster, Server

COUNT = int(os.environ.get("MEMORYSTORE_TEST_SIGNALS", "400"))
TIMEOUT = 2.0


class AlarmError(Exception):
    pass


@pytest.fixture
def alarm() -> Iterator[None]:
    def ring(*_: object) -> None:
        raise AlarmError

    before = signal.signal(signal.SIGALRM, ring)
    yield
    signal.signal(signal.SIGALRM, before)


@pytest.fixture(params=["server", "cluster"])
def slow(request: pytest.FixtureRequest) -> Iterator[Callable[..., Any]]:
    """Connect to a server or a cluster through links that add a millisecond."""
    target: Server | Cluster = request.getfixturevalue(f"valkey_{request.param}")
    nodes = target.nodes if isinstance(target, Cluster) else [target]
    with ExitStack() as ways:
        ports = {
            node.port: ways.enter_context(Proxy(node.host, node.port, delay=0.001)).port
            for node in nodes
        }
        remap = {"address_remap": lambda place: (place[0], ports.get(place[1], place[1]))}
        options: dict[str, Any] = remap if isinstance(target, Cluster) else {}
        url = f"redis://127.0.0.1:{ports[nodes[0].port]}"
        yield lambda: ways.enter_context(connect(url, timeout=TIMEOUT, **options))


def pools(client: Any) -> list[Any]:
    nodes = client.get_nodes() if hasattr(client, "get_nodes") else []
    return [n.redis_connection.connection_pool for n in nodes] or [client.connection_pool]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGALRM])
def test_signals_at_random_times(
    slow: Callable[..., Any], key_prefix: str, number: signal.Signals, alarm: None
) -> None:
    client = slow()
    keys = [f"{key_prefix}{n}" for n in range(10)]
    for key in keys:
        client.set(key, key, ex=600)
    ready, done = threading.Event(), threading.Event()
    chance = random.Random(1)

    def disturb() -> None:
        while not done.is_set():
            if ready.wait(0.1):
                ready.clear()
                time.sleep(chance.random() * 0.004)
                signal.pthread_kill(threading.main_thread().ident or 0, number)

    sender = threading.Thread(target=disturb)
    sender.start()
    caught, longest, foreign = 0, 0.0, []
    while caught < COUNT:
        try:
            ready.set()
            while True:
                for key in keys:
                    began = time.monotonic()
                    if (answer := client.get(key)) != key.encode():
                        foreign.append(answer)
                    longest = max(longest, time.monotonic() - began)
        except (AlarmError, KeyboardInterrupt):
            caught += 1
    done.set()
    sender.join()
    assert foreign == []
    assert longest < TIMEOUT
    assert {pool.pool.qsize() for pool in pools(client)} == {20}, "a connection was lost"
    assert [client.get(key) for key in keys] == [key.encode() for key in keys]


def later(*seconds: float) -> threading.Thread:
    """Press Ctrl-C after so many seconds each."""

    def press() -> None:
        for pause in seconds:
            time.sleep(pause)
            signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)

    thread = threading.Thread(target=press)
    thread.start()
    return thread


def test_a_second_interrupt_raises_at_once_and_drops_the_connection() -> None:
    with servers.valkey() as server, connect(server.url, timeout=5) as client:
        client.mset({"a": "a", "b": "b"})
        server.pause()
        began, thread = time.monotonic(), later(0.2, 0.2)
        with pytest.raises(KeyboardInterrupt):
            client.get("a")
        assert 0.3 < time.monotonic() - began < 1.5
        thread.join()
        server.resume()
        assert [client.get("b") for _ in range(3)] == [b"b"] * 3


def test_an_interrupt_ends_the_wait_for_a_server_that_is_gone() -> None:
    with servers.valkey() as server, connect(server.url, timeout=1, patience=30) as client:
        server.kill()
        for _ in range(3):
            began, thread = time.monotonic(), later(0.5)
            with pytest.raises(KeyboardInterrupt):
                client.get("a")
            assert time.monotonic() - began < 2
            thread.join()
        server.restart()
        assert client.get("a") is None
