"""Signals, put off while a command is under way.

A handler that raises between sending and reading (Ctrl-C, a notebook's stop button, an alarm) would
leave a reply on the connection, and the next caller would be given it. So handlers run before a
command is sent, between its attempts, and once it is answered or out of time.
"""

import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from types import FrameType
from typing import Any

_NAMES = ("INT", "TERM", "ALRM", "HUP", "QUIT", "USR1", "USR2", "PROF", "VTALRM", "CHLD", "WINCH")
_NUMBERS = tuple(getattr(signal, f"SIG{n}") for n in _NAMES if hasattr(signal, f"SIG{n}"))

_handlers: dict[int, Callable[..., Any]] = {}  # what `_note` stands in for
_came: list[tuple[int, Callable[[], Any]]] = []  # signals, and their handlers that have to run
_waiting = False  # whether an attempt is under way


@contextmanager
def postponed() -> Iterator[None]:
    """Put the handlers of signals off until the block ends, or `deliver` is called in it.

    It does so in the main thread, where Python runs them; elsewhere, and inside another such
    block, it changes nothing. A second Ctrl-C runs its handler at once, in the middle of whatever
    is under way. Only the usual signals are put off, and only if they have a handler in Python.
    """
    global _waiting
    if _waiting or threading.current_thread() is not threading.main_thread():
        yield
        return
    try:
        _waiting = True
        for number in _NUMBERS:
            handler = signal.getsignal(number)
            if callable(handler) and handler is not _note:
                _handlers[number] = handler
                signal.signal(number, _note)
        yield
    finally:
        _finish()


def deliver() -> None:
    """Run the handlers of the signals that came in, in their order; for the main thread only."""
    if _came:
        try:
            _came.pop(0)[1]()
        finally:
            deliver()


def pause(seconds: float) -> None:
    """Sleep between two attempts; what came in and what comes now is delivered at once."""
    global _waiting
    if not _waiting or threading.current_thread() is not threading.main_thread():
        time.sleep(seconds)
        return
    _waiting = False
    try:
        deliver()
        time.sleep(seconds)
    finally:
        _waiting = True


def _note(number: int, frame: FrameType | None) -> None:
    run = partial(_handlers[number], number, frame)
    if not _waiting:
        run()
    elif number == signal.SIGINT and (number in (came for came, _ in _came)):
        _came.clear()
        _finish()  # it may raise where the block's own end is never reached
        run()
    else:
        _came.append((number, run))


def _finish() -> None:
    global _waiting
    try:
        _waiting = False  # from here on a signal may raise, which leaves the rest to `finally`
        while _handlers:
            number = next(iter(_handlers))
            if signal.getsignal(number) is _note:
                signal.signal(number, _handlers[number])
            del _handlers[number]
        deliver()
    finally:
        if _handlers or _came:
            _finish()
