"""How long the turns of a conversation take on a server, measured and drawn.

A turn is what a chatbot asks of its memory for one question: load the newest messages, save the
question and its answer. Two round trips; the model's time is not part of it.
"""

import math
import statistics
import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from langchain_core.messages import AIMessage, HumanMessage

from memorystore_chat.commands import Client
from memorystore_chat.extras import require
from memorystore_chat.history import MemorystoreChatMessageHistory
from memorystore_tutorial.pictures import shown
from memorystore_tutorial.plots import PLOT_FONT, drawn, plot
from memorystore_tutorial.tables import Table

WINDOWS = (10, 20, 50, 100, 200, 500)
TURNS = 200  # for each window
SECONDS = 2.0  # for each window, whatever the number of turns
_TURN = (
    HumanMessage("Which of the two museums is open on a Sunday, and until when?"),
    AIMessage(
        "The museum of science is: from ten in the morning to six in the evening. The museum of "
        "art is closed on Sundays; on other days it is open until eight."
    ),
)
_TITLE = "A turn's time in memory"
_WARM_UP = 10


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
            Table(
                self,
                {"window": "window", "turns": "turns", "p50": "p50, ms", "p99": "p99, ms"},
                title=_TITLE,
                formats={"p50": _digits, "p99": _digits},
            )
        )

    def _repr_mimebundle_(self, **_: object) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
        lines = (f"{row.window}: {_digits(row.p50)} and {_digits(row.p99)}" for row in self)
        words = f"{_TITLE}. Median and 99th percentile in ms, by window: {'; '.join(lines)}"
        data, metadata = shown(drawn(self._axes()), words)._repr_mimebundle_()
        return {**data, "text/plain": str(self)}, metadata

    def _axes(self) -> Any:
        """Both percentiles against the window, the time on a logarithmic scale."""
        ticker = require("matplotlib.ticker", extra="tutorial")
        axes = plot(4.5, title=_TITLE, x="messages loaded", y="milliseconds")
        for name, color, look in (("p50", "#1558b0", "o-"), ("p99", "#a8320a", "s--")):
            values = [getattr(row, name) for row in self]
            axes.plot(values, look, color=color, linewidth=2.5, markersize=8)
            label = f" {name} {_digits(values[-1])}"
            at = (len(values) - 1, values[-1])
            axes.annotate(label, at, (8, 0), textcoords="offset points", va="center",
                          color=color, fontsize=PLOT_FONT)  # fmt: skip
        axes.yaxis.set_major_locator(ticker.LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_minor_locator(ticker.NullLocator())
        axes.set_xticks(range(len(self)), [str(row.window) for row in self])
        axes.margins(x=0.05, y=0.15)
        axes.grid(axis="y", color="#dadce0")
        axes.spines[["top", "right"]].set_visible(False)
        return axes


def measure(client: Client, *, key_prefix: str) -> Latency:
    """Measure how long the turns of a conversation take, with windows of 10 to 500 messages.

    It stores a session of its own under the prefix, as long as the largest window, and deletes it.

    Args:
        client: A connected client.
        key_prefix: What the session's key begins with.

    Returns:
        The figures, which show themselves.

    Raises:
        ConnectError: The server cannot be reached or did not answer.
        MemorystoreChatError: The server refused.

    Example:
        >>> from memorystore_chat import connect
        >>> with connect("embedded") as client:  # doctest: +SKIP
        ...     measure(client, key_prefix="docs:")
    """
    history_of = partial(
        MemorystoreChatMessageHistory,
        *(client, f"latency-{uuid.uuid4().hex}", 3600),
        key_prefix=key_prefix,
        max_messages=WINDOWS[-1] + len(_TURN),
    )
    full = history_of()
    try:
        full.add_messages(_TURN * (WINDOWS[-1] // len(_TURN)))
        return Latency(_measured(history_of(window=n), n) for n in WINDOWS)
    finally:
        full.clear()


def _measured(history: MemorystoreChatMessageHistory, window: int) -> Turns:
    """The first turns warm up and are not counted."""
    taken: list[float] = []
    deadline = time.monotonic() + SECONDS
    while len(taken) < _WARM_UP + TURNS and time.monotonic() < deadline:
        began = time.perf_counter()
        _ = history.messages
        history.add_messages(_TURN)
        taken.append((time.perf_counter() - began) * 1000)
    counted = sorted(taken[_WARM_UP:] or taken)
    p99 = counted[math.ceil(0.99 * len(counted)) - 1]
    return Turns(window, len(counted), statistics.median(counted), p99)


def _digits(value: float) -> str:
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"
