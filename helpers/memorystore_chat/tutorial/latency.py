"""How long the turns of a conversation take on a server, measured and drawn.

A turn is what a chatbot asks of its memory for one question: load the newest messages, save the
question and its answer. Two round trips; the model's time is not part of it.
"""

import math
import statistics
import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import overload
from urllib.parse import quote

from langchain_core.messages import AIMessage, HumanMessage

from memorystore_chat._checks import check_count
from memorystore_chat.history import MemorystoreChatMessageHistory
from memorystore_chat.storage import Client
from memorystore_chat.tutorial.display import Table, table

_TURN = (
    HumanMessage("Which of the two museums is open on a Sunday, and until when?"),
    AIMessage(
        "The museum of science is: from ten in the morning to six in the evening. The museum of "
        "art is closed on Sundays; on other days it is open until eight."
    ),
)
_WARM_UP = 10

# The drawing, in its own units; light paper and dark ink whatever the theme of the page.
_WIDTH, _HEIGHT = 640, 320
_LEFT, _RIGHT, _TOP, _BOTTOM = 64, 84, 30, 56
_INK, _GRID = "#3c4043", "#dadce0"
_P50, _P99 = "#1558b0", "#a8320a"


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


class Latency(Sequence[Turns]):
    """Measured turns that show themselves: a plot in a notebook, a table elsewhere.

    Made by `measure`. It is a sequence of `Turns`, by ascending window.
    """

    def __init__(self, rows: Sequence[Turns], *, title: str) -> None:
        self._rows = tuple(rows)
        self._title = title

    def __len__(self) -> int:
        return len(self._rows)

    @overload
    def __getitem__(self, index: int) -> Turns: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Turns]: ...
    def __getitem__(self, index: int | slice) -> Turns | Sequence[Turns]:
        return self._rows[index]

    def __str__(self) -> str:
        return str(self._table())

    __repr__ = __str__

    def _repr_html_(self) -> str:
        lines = (f"{row.window}: {_digits(row.p50)} and {_digits(row.p99)}" for row in self._rows)
        text = f"{self._title}. Median and 99th percentile in ms, by window: {'; '.join(lines)}"
        # An image: what cleans HTML before it is shown removes drawings, but lets images pass.
        return (
            f'<img alt="{escape(text)}" style="max-width:100%" width="{_WIDTH}" '
            f'src="data:image/svg+xml,{quote(_draw(self._rows, self._title))}">'
        )

    def _table(self) -> Table[Turns]:
        return table(
            self._rows,
            {"window": "window", "turns": "turns", "p50": "p50, ms", "p99": "p99, ms"},
            title=self._title,
            formats={"p50": _digits, "p99": _digits},
        )


def measure(
    client: Client,
    *,
    key_prefix: str,
    windows: Sequence[int] = (10, 20, 50, 100, 200, 500),
    turns: int = 200,
    seconds: float = 2.0,
    title: str = "A turn's time in memory",
) -> Latency:
    """Measure how long the turns of a conversation take, for several windows.

    It stores a session of its own under the prefix, as long as the largest window, and deletes it.

    Args:
        client: A connected client.
        key_prefix: What the session's key begins with.
        windows: How many messages a turn loads; each is measured.
        turns: How many turns to measure for each window; below 100 the p99 is the slowest.
        seconds: Stop a window after this long, whatever the number of turns.
        title: What to write above the plot.

    Returns:
        The figures, which show themselves.

    Raises:
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
    if not windows:
        raise ValueError("windows is empty; it takes numbers of messages, such as (10, 100).")
    for window in windows:
        check_count("a window", window, "messages", optional=True)
    check_count("turns", turns, "turns")
    if not 0 < seconds < math.inf:
        raise ValueError(f"seconds is {seconds!r}; it takes a number of seconds above 0.")
    session, longest = f"latency-{uuid.uuid4().hex}", max(windows)
    full = MemorystoreChatMessageHistory(client, session, 3600, key_prefix=key_prefix)
    rows = []
    try:
        full.add_messages(_TURN * -(-longest // len(_TURN)))
        for window in sorted(windows):
            history = MemorystoreChatMessageHistory(
                client,
                session,
                3600,
                key_prefix=key_prefix,
                window=window,
                max_messages=longest + len(_TURN),
            )
            rows.append(_measured(history, window, turns, seconds))
    finally:
        full.clear()
    return Latency(rows, title=title)


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


def _draw(rows: Sequence[Turns], title: str) -> str:
    """An SVG of both percentiles against the window, the time on a logarithmic scale."""
    ticks = _ticks(min(row.p50 for row in rows), max(row.p99 for row in rows))
    low, high = math.log(ticks[0]), math.log(ticks[-1])
    plot_width, plot_height = _WIDTH - _LEFT - _RIGHT, _HEIGHT - _TOP - _BOTTOM
    across = [_LEFT + plot_width * (index + 0.5) / len(rows) for index in range(len(rows))]

    def up(value: float) -> float:
        return _TOP + plot_height * (1 - (math.log(value) - low) / (high - low))

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}" '
        f'font-family="system-ui,sans-serif" font-size="13" fill="{_INK}">',
        f'<rect width="{_WIDTH}" height="{_HEIGHT}" rx="8" fill="#fff"/>',
        f'<text x="{_LEFT}" y="19" font-weight="600">{escape(title)}</text>',
    ]
    for tick in ticks:
        y = up(tick)
        parts.append(
            f'<path d="M{_LEFT} {y:.1f}H{_WIDTH - _RIGHT}" stroke="{_GRID}"/>'
            f'<text x="{_LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{tick:g}</text>'
        )
    for x, row in zip(across, rows, strict=True):
        place = f'x="{x:.1f}" y="{_HEIGHT - _BOTTOM + 20}"'
        parts.append(f'<text {place} text-anchor="middle">{row.window}</text>')
    middle = _LEFT + plot_width / 2
    parts.append(
        f'<text x="{middle:.0f}" y="{_HEIGHT - 12}" text-anchor="middle">messages loaded</text>'
        f'<text x="16" y="{_TOP + plot_height / 2:.0f}" text-anchor="middle" '
        f'transform="rotate(-90 16 {_TOP + plot_height / 2:.0f})">milliseconds</text>'
    )
    for name, color, dash, values in (
        ("p50", _P50, "", [row.p50 for row in rows]),
        ("p99", _P99, ' stroke-dasharray="6 4"', [row.p99 for row in rows]),
    ):
        points = [(x, up(value)) for x, value in zip(across, values, strict=True)]
        line = "L".join(f"{x:.1f} {y:.1f}" for x, y in points)
        parts.append(f'<path d="M{line}" fill="none" stroke="{color}" stroke-width="2"{dash}/>')
        parts += [_mark(name, x, y, color) for x, y in points]
        x, y = points[-1]
        label = f"{name} {_digits(values[-1])}"
        parts.append(f'<text x="{x + 12:.1f}" y="{y + 4:.1f}" fill="{color}">{label}</text>')
    return "".join([*parts, "</svg>"])


def _mark(name: str, x: float, y: float, color: str) -> str:
    """A disc for p50, a square for p99, so that color is not the only sign."""
    if name == "p50":
        return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4.5" fill="{color}"/>'
    return f'<rect x="{x - 4:.1f}" y="{y - 4:.1f}" width="8" height="8" fill="{color}"/>'


def _ticks(lowest: float, highest: float) -> list[float]:
    """1, 2 and 5 times the powers of ten, from just below the lowest to just above the highest."""
    powers = range(math.floor(math.log10(lowest)), math.ceil(math.log10(highest)) + 1)
    every = [factor * 10.0**power for power in powers for factor in (1, 2, 5)]
    first = max(index for index, tick in enumerate(every) if tick <= lowest)
    last = min(index for index, tick in enumerate(every) if tick > highest)
    return every[first : last + 1]
