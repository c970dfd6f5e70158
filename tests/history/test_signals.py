"""Signals while a command is under way: no reply of another call, no connection lost."""

import gc
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from types import FrameType
from typing import Any, NoReturn

import pytest

from memorystore_chat import MemorystoreChatMessageHistory
from memorystore_chat.signals import pause, postponed
from stored import said

WATCHED = ("redis.", "memorystore_chat.signals")
came: list[int] = []


class Alarm(Exception):  # noqa: N818
    """What the tests' handlers raise."""


def raising(number: int, _: object) -> NoReturn:
    came.append(number)
    raise Alarm


RAISING = (signal.SIGALRM, signal.SIGUSR1, signal.SIGUSR2)
HANDLERS: dict[int, Any] = dict.fromkeys(RAISING, raising)
HANDLERS |= {signal.SIGINT: signal.default_int_handler}


def present() -> dict[int, Any]:
    return {number: signal.getsignal(number) for number in HANDLERS}


@pytest.fixture(autouse=True)
def handlers() -> Iterator[None]:
    """Signals raise, whatever the runner set; each test leaves them so."""
    timer, before = signal.setitimer(signal.ITIMER_REAL, 0), present()  # its limit for a test
    for number, handler in HANDLERS.items():
        signal.signal(number, handler)
    came.clear()
    yield
    # What a tracer raises may leave a lock of redis-py's to this thread, where no signal would; in
    # another one, the end of such a client would wait for it forever.
    gc.collect()
    assert present() == HANDLERS
    for number, handler in before.items():
        signal.signal(number, handler)
    signal.setitimer(signal.ITIMER_REAL, *timer)


class SignalAt:
    """Sends this process signals at one of the lines that redis-py and ours run in a block."""

    def __init__(self, line: int, *numbers: int) -> None:
        self.left, self.numbers = line, numbers

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
            for number in self.numbers:
                signal.raise_signal(number)
        return self.trace


@pytest.mark.timeout(0)
@pytest.mark.parametrize("numbers", [[signal.SIGALRM], [signal.SIGINT], [signal.SIGINT] * 2])
@pytest.mark.parametrize("running", ["valkey_server", "valkey_cluster"])
def test_a_signal_at_any_line_of_a_command_harms_nothing(
    request: pytest.FixtureRequest, key_prefix: str, running: str, numbers: list[int]
) -> None:
    """The command ends before the handler runs; the next command is given its own reply.

    A second interrupt raises at once, and drops the connections that may hold a reply.
    """
    second, step = len(numbers) == 2, 3 if running == "valkey_cluster" else 1
    limit = 1000 if second else 2
    with request.getfixturevalue(running).client(max_connections=limit) as client:
        mine, other = (
            MemorystoreChatMessageHistory(client, name, key_prefix=key_prefix)
            for name in ("{s}mine", "{s}other")
        )
        other.add_messages(said("other's"))

        def append() -> Iterator[None]:
            # A generator: what a tracer raises would else count as being handled ever after.
            mine.add_messages(said(line))
            yield

        line, at = 0, SignalAt(0)
        while at.left <= 0:
            line += step
            at = SignalAt(line, *numbers)
            with suppress(Alarm, KeyboardInterrupt), at:
                next(append())
            assert present() == HANDLERS
            assert other.messages == said("other's")
        assert line > 200
        ended = len(mine) > line // step - 20
        assert ended != second


def test_a_pause_between_attempts_ends_with_a_signal() -> None:
    """One that came in before, or comes while it waits; afterwards they are put off again."""
    began = time.monotonic()
    with postponed():
        signal.raise_signal(signal.SIGALRM)
        with pytest.raises(Alarm):
            pause(20)
        signal.setitimer(signal.ITIMER_REAL, 0.05)
        with pytest.raises(Alarm):
            pause(20)
    assert time.monotonic() - began < 10


def test_each_handler_runs_once_in_the_order_of_the_signals() -> None:
    """Whatever the handlers raise, also in a block inside another one."""
    numbers = [signal.SIGUSR2, signal.SIGUSR1]
    with pytest.raises(Alarm), postponed():  # noqa: PT012
        with postponed():
            for number in numbers:
                signal.raise_signal(number)
        assert came == []
    assert came == numbers
