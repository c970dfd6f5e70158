"""How long the turns of a conversation take on a server, measured and drawn.

A turn is what a chatbot asks of its memory for one question: load the newest messages, save the
question and its answer. Two round trips; the model's time is not part of it.
"""

import math
import statistics
import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from langchain_core.messages import AIMessage, HumanMessage

from memorystore_chat._checks import check_count, check_seconds, type_name
from memorystore_chat._extras import require
from memorystore_chat.history import MemorystoreChatMessageHistory
from memorystore_chat.storage import Client
from memorystore_chat.tutorial.pictures import shown
from memorystore_chat.tutorial.tables import table

_TURN = (
    HumanMessage("Which of the two museums is open on a Sunday, and until when?"),
    AIMessage(
        "The museum of science is: from ten in the morning to six in the evening. The museum of "
        "art is closed on Sundays; on other days it is open until eight."
    ),
)
_TITLE = "A turn's time in memory"
_WARM_UP = 10
_FONT = 16  # points; readable where a narrow window halves the picture


@dataclass(frozen=True)
class Turns:
    """How long turns with one window took.

    Attributes:
        window: How many messages each turn loaded.
        turns: How many were measured.
        p50: Milliseconds that half of them stayed below: the median.
        p99: Milliseconds that 99 of 100 stayed below.
    """

    window: int
    turns: int
    p50: float
    p99: float


class Latency(list[Turns]):
    """Measured turns that show themselves: a plot in a notebook, a table elsewhere.

    Made by `measure`. It is a list of `Turns`, by ascending window.
    """

    def __repr__(self) -> str:
        return repr(
            table(
                self,
                {"window": "window", "turns": "turns", "p50": "p50, ms", "p99": "p99, ms"},
                title=_TITLE,
                formats={"p50": _digits, "p99": _digits},
            )
        )

    def _repr_mimebundle_(self, **_: object) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
        lines = (f"{row.window}: {_digits(row.p50)} and {_digits(row.p99)}" for row in self)
        words = f"{_TITLE}. Median and 99th percentile in ms, by window: {'; '.join(lines)}"
        data, metadata = shown(self._figure(), words)._repr_mimebundle_()
        return {**data, "text/plain": str(self)}, metadata

    def _figure(self) -> Any:
        """Both percentiles against the window, the time on a logarithmic scale."""
        ticker = require("matplotlib.ticker", install="matplotlib")
        figure = require("matplotlib.figure", install="matplotlib").Figure(
            figsize=(9, 4.5), facecolor="white", layout="constrained"
        )
        axes = figure.subplots()
        for name, color, look in (("p50", "#1558b0", "o-"), ("p99", "#a8320a", "s--")):
            values = [getattr(row, name) for row in self]
            axes.plot(values, look, color=color, linewidth=2.5, markersize=8)
            label = f" {name} {_digits(values[-1])}"
            at = (len(values) - 1, values[-1])
            axes.annotate(label, at, (8, 0), textcoords="offset points", va="center",
                          color=color, fontsize=_FONT)  # fmt: skip
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(ticker.LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_major_formatter(ticker.StrMethodFormatter("{x:g}"))
        axes.yaxis.set_minor_locator(ticker.NullLocator())
        axes.set_xticks(range(len(self)), [str(row.window) for row in self])
        axes.margins(x=0.05, y=0.15)
        axes.set_title(_TITLE, fontsize=_FONT, weight="bold", loc="left")
        axes.set_xlabel("messages loaded", fontsize=_FONT)
        axes.set_ylabel("milliseconds", fontsize=_FONT)
        axes.tick_params(labelsize=_FONT)
        axes.grid(axis="y", color="#dadce0")
        axes.spines[["top", "right"]].set_visible(False)
        return figure


def measure(
    client: Client,
    *,
    key_prefix: str,
    windows: Sequence[int] = (10, 20, 50, 100, 200, 500),
    turns: int = 200,
    seconds: float = 2.0,
) -> Latency:
    """Measure how long the turns of a conversation take, for several windows.

    It stores a session of its own under the prefix, as long as the largest window, and deletes it.

    Args:
        client: A connected client.
        key_prefix: What the session's key begins with.
        windows: How many messages a turn loads; each is measured.
        turns: How many turns to measure for each window; below 100 the p99 is the slowest.
        seconds: Stop a window after this long, whatever the number of turns.

    Returns:
        The figures, which show themselves.

    Raises:
        TypeError: ``windows`` is not a list of numbers, or ``seconds`` is not a number.
        ValueError: An argument is not acceptable.
        ConnectError: The server cannot be reached or did not answer.
        MemorystoreChatError: The server refused.

    Example:
        >>> from memorystore_chat import connect
        >>> with connect("embedded") as client:
        ...     latency = measure(client, key_prefix="docs:", windows=(10, 100), turns=20)
        >>> [row.window for row in latency]
        [10, 100]
    """
    _check(windows, turns, seconds)
    longest = max(windows)
    history_of = partial(
        MemorystoreChatMessageHistory,
        *(client, f"latency-{uuid.uuid4().hex}", 3600),
        key_prefix=key_prefix,
        max_messages=longest + len(_TURN),
    )
    full = history_of()
    try:
        full.add_messages(_TURN * -(-longest // len(_TURN)))
        return Latency(_measured(history_of(window=n), n, turns, seconds) for n in sorted(windows))
    finally:
        full.clear()


def _check(windows: object, turns: object, seconds: object) -> None:
    if isinstance(windows, str) or not isinstance(windows, Sequence):
        raise TypeError(
            f"windows is a {type_name(windows)}; it takes numbers of messages, such as (10, 100)."
        )
    if not windows:
        raise ValueError("windows is empty; it takes numbers of messages, such as (10, 100).")
    for window in windows:
        check_count("a window", window, "messages")
    check_count("turns", turns, "turns")
    check_seconds("seconds", seconds)


def _measured(
    history: MemorystoreChatMessageHistory, window: int, turns: int, seconds: float
) -> Turns:
    """The first turns warm up and are not counted."""
    taken: list[float] = []
    deadline = time.monotonic() + seconds
    for _ in range(_WARM_UP + turns):
        began = time.perf_counter()
        _ = history.messages
        history.add_messages(_TURN)
        taken.append((time.perf_counter() - began) * 1000)
        if time.monotonic() > deadline:
            break
    counted = sorted(taken[_WARM_UP:] or taken)
    p99 = counted[math.ceil(0.99 * len(counted)) - 1]
    return Turns(window, len(counted), statistics.median(counted), p99)


def _digits(value: float) -> str:
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"
