"""Signals while a command is under way: no reply of another call, no connection lost."""

import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from types import FrameType
from typing import Any

import pytest

from memorystore_chat import MemorystoreChatMessageHistory
from memorystore_chat.signals import pause, postponed
from servers import Server
from stored import said, texts

WATCHED = ("redis.", "memorystore_chat.signals")


class Alarm(Exception):  # noqa: N818
    """What the tests' handler of SIGALRM raises."""


@pytest.fixture(autouse=True)
def handlers() -> Iterator[dict[int, Any]]:
    """SIGALRM and SIGINT raise, whatever the runner set; each test leaves them so."""

    def raising(*_: object) -> None:
        raise Alarm

    timer = signal.setitimer(signal.ITIMER_REAL, 0)  # the runner's own limit for a test
    tested: dict[int, Any] = {
        signal.SIGALRM: raising,
        signal.SIGINT: signal.default_int_handler,
    }
    before = {number: signal.signal(number, handler) for number, handler in tested.items()}
    yield tested
    assert {number: signal.getsignal(number) for number in tested} == tested
    for number, handler in before.items():
        signal.signal(number, handler)
    signal.setitimer(signal.ITIMER_REAL, *timer)


class SignalAt:
    """Sends this process a signal at one of the lines that redis-py and ours run in a block."""

    def __init__(self, number: int, line: int) -> None:
        self.number, self.left = number, line

    def __enter__(self) -> None:
        self.before = sys.gettrace()
        sys.settrace(self.trace)

    def __exit__(self, *_: object) -> None:
        sys.settrace(self.before)

    def trace(self, frame: FrameType, event: str, _: Any) -> Any:
        if not frame.f_globals["__name__"].startswith(WATCHED):
            return None
        self.left -= event == "line"
        if event == "line" and self.left == 0:
            signal.raise_signal(self.number)
        return self.trace


@pytest.mark.timeout(0)
@pytest.mark.parametrize("number", [signal.SIGALRM, signal.SIGINT])
@pytest.mark.parametrize("running", ["valkey_server", "valkey_cluster"])
def test_a_signal_at_any_line_of_a_command_harms_nothing(
    request: pytest.FixtureRequest,
    handlers: dict[int, Any],
    key_prefix: str,
    running: str,
    number: int,
) -> None:
    """The command ends, then the handler raises; the next command is given its own reply."""
    with request.getfixturevalue(running).client(max_connections=2) as client:
        mine, other = (
            MemorystoreChatMessageHistory(client, name, key_prefix=key_prefix)
            for name in ("{s}mine", "{s}other")
        )
        other.add_messages(said("other's"))
        line, at = 0, SignalAt(number, 0)
        while at.left <= 0:
            line += 1
            at = SignalAt(number, line)
            with suppress(Alarm, KeyboardInterrupt), at:
                mine.add_messages(said(line))
            assert signal.getsignal(number) is handlers[number]
            assert texts(other.messages) == ["other's"]
        assert line > 200
        assert len(mine) > line - 20, "it raised before the command had ended"


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


@pytest.mark.parametrize("seconds", [0, 0.05])
def test_a_pause_between_attempts_ends_with_a_signal(seconds: float) -> None:
    """One that came in before, or comes while it waits."""
    began = time.monotonic()
    with postponed():
        if seconds:
            signal.setitimer(signal.ITIMER_REAL, seconds)
        else:
            signal.raise_signal(signal.SIGALRM)
        with pytest.raises(Alarm):
            pause(5)
        signal.raise_signal(signal.SIGINT)  # put off again
        with pytest.raises(KeyboardInterrupt):
            pause(5)
    assert time.monotonic() - began < 1


def test_each_handler_runs_once_in_the_order_of_the_signals() -> None:
    """Whatever the handlers raise, also in a block inside another one."""
    came: list[int] = []

    def handle(number: int, _: object) -> None:
        came.append(number)
        raise LookupError

    numbers = (signal.SIGUSR2, signal.SIGUSR1)
    before = {number: signal.signal(number, handle) for number in numbers}
    try:
        with pytest.raises(LookupError), postponed():  # noqa: PT012
            with postponed():
                for number in numbers:
                    signal.raise_signal(number)
            assert came == []
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    assert came == [*numbers]
