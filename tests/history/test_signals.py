"""Signals at random times: no reply of another call, no hang, no connection lost."""

import os
import random
import signal
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import redis
from redis.connection import Connection

from memorystore_chat import MemorystoreChatMessageHistory
from memorystore_chat.signals import deliver, pause, postponed
from proxy import Proxy
from servers import Server
from stored import said, texts

NUMBER = int(os.environ.get("MEMORYSTORE_TEST_SIGNALS", "150"))


class Alarm(Exception):  # noqa: N818
    """What the tests' handler of SIGALRM raises."""


@pytest.fixture(autouse=True)
def handlers() -> Iterator[None]:
    """SIGALRM and SIGINT raise, whatever the runner set; as it was afterwards."""

    def raising(*_: object) -> None:
        raise Alarm(Signaling.waiting)

    before = {number: signal.getsignal(number) for number in (signal.SIGALRM, signal.SIGINT)}
    timer = signal.setitimer(signal.ITIMER_REAL, 0)  # the runner's own limit for a test
    signal.signal(signal.SIGALRM, raising)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    assert signal.getsignal(signal.SIGALRM) is raising
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    signal.setitimer(signal.ITIMER_REAL, 0)
    for number, handler in before.items():
        signal.signal(number, handler)
    signal.setitimer(signal.ITIMER_REAL, *timer)


@pytest.mark.timeout(0)
@pytest.mark.parametrize("number", [signal.SIGALRM, signal.SIGINT])
def test_signals_at_random_times_harm_nothing(
    valkey_server: Server, key_prefix: str, number: signal.Signals
) -> None:
    """Each session reads its own messages, nothing hangs, no connection is lost.

    Here with redis-py's own client and pool; those of connect() have tests of their own.
    """
    chance = random.Random(7)
    came = 0
    with Proxy(valkey_server.host, valkey_server.port, delay=0.001) as proxy:
        pool = redis.BlockingConnectionPool(
            port=proxy.port, max_connections=20, timeout=2, socket_timeout=5, protocol=2
        )
        client = redis.Redis.from_pool(pool)
        histories = [
            MemorystoreChatMessageHistory(client, f"s{i}", key_prefix=key_prefix, window=3)
            for i in range(3)
        ]
        for history in histories:
            history.add_messages(said(history.session_id))
        send = _alarms() if number == signal.SIGALRM else _interrupts()
        while came < NUMBER:
            history = chance.choice(histories)
            began = time.monotonic()
            try:
                send(chance.uniform(0.0001, 0.004))
                if chance.random() < 0.5:
                    history.add_messages(said(history.session_id))
                assert {*texts(history.messages)} == {history.session_id}
                time.sleep(0.005)
            except (Alarm, KeyboardInterrupt):
                came += 1
            assert time.monotonic() - began < 5
        signal.setitimer(signal.ITIMER_REAL, 0)
        held = [client.connection_pool.get_connection() for _ in range(20)]  # all at once
        assert not any(connection.can_read() for connection in held if connection.is_connected)
        pool.disconnect()


class Signaling(Connection):
    """Is signaled once, after a command was sent and before its reply is read."""

    armed = waiting = False

    def send_packed_command(self, *args: Any, **options: Any) -> None:
        Signaling.waiting = True
        super().send_packed_command(*args, **options)  # type: ignore[no-untyped-call]
        if Signaling.armed:
            Signaling.armed = False
            signal.raise_signal(signal.SIGALRM)

    def read_response(self, *args: Any, **options: Any) -> Any:
        reply = super().read_response(*args, **options)
        Signaling.waiting = False
        return reply


def test_a_signal_between_sending_and_reading_leaves_no_reply(
    valkey_server: Server, key_prefix: str
) -> None:
    """The command ends, then the handler raises; the next one is given its own reply."""
    with Proxy(valkey_server.host, valkey_server.port, delay=0.02) as proxy:
        pool = redis.ConnectionPool(connection_class=Signaling, port=proxy.port, protocol=2)
        with redis.Redis.from_pool(pool) as client:
            one, other = (
                MemorystoreChatMessageHistory(client, name, key_prefix=key_prefix)
                for name in ("one", "other")
            )
            other.add_messages(said("other's"))
            one.add_messages(said("first"))
            Signaling.armed = True
            with pytest.raises(Alarm) as raised:
                one.add_messages(said("second"))
            assert raised.value.args == (False,), "the handler ran before the reply was read"
            assert texts(other.messages) == ["other's"]
            assert texts(one.messages) == ["first", "second"]


def _alarms() -> Callable[[float], None]:
    return lambda seconds: signal.setitimer(signal.ITIMER_REAL, seconds) and None


def _interrupts() -> Callable[[float], None]:
    def send(seconds: float) -> None:
        threading.Timer(seconds, lambda: os.kill(os.getpid(), signal.SIGINT)).start()

    return send


def test_a_second_interrupt_raises_at_once_and_drops_the_connection(
    valkey_server: Server, key_prefix: str
) -> None:
    """As when the server hangs: the first waits for the answer, and nobody is given it later."""
    with valkey_server.client() as client:
        history = MemorystoreChatMessageHistory(client, "s", key_prefix=key_prefix)
        history.add_messages(said("mine"))
        valkey_server.pause()
        try:
            for seconds in (0.2, 0.5):
                threading.Timer(seconds, os.kill, (os.getpid(), signal.SIGINT)).start()
            began = time.monotonic()
            with pytest.raises(KeyboardInterrupt):
                _ = history.messages
            assert 0.4 < time.monotonic() - began < 2
        finally:
            valkey_server.resume()
        assert client.echo("yours") == b"yours"


def test_a_signal_ends_the_wait_for_a_server_after_one_attempt(key_prefix: str) -> None:
    with postponed():
        signal.raise_signal(signal.SIGALRM)
        with pytest.raises(Alarm):
            deliver()
    began = time.monotonic()
    with postponed():
        signal.setitimer(signal.ITIMER_REAL, 0.05)
        with pytest.raises(Alarm):
            pause(5)
    assert time.monotonic() - began < 1


def test_what_a_handler_raises_is_no_error_of_the_server(
    valkey_server: Server, key_prefix: str
) -> None:
    """Each handler runs once, in the order of the signals, when the command has ended."""
    came: list[int] = []

    def handle(number: int, _: object) -> None:
        came.append(number)
        raise LookupError

    before = {n: signal.signal(n, handle) for n in (signal.SIGUSR1, signal.SIGUSR2)}
    try:
        with pytest.raises(LookupError), postponed(), postponed():  # noqa: PT012
            signal.raise_signal(signal.SIGUSR2)
            signal.raise_signal(signal.SIGUSR1)
            assert came == []
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    assert came == [signal.SIGUSR2, signal.SIGUSR1]
