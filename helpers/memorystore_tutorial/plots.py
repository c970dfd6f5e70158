"""Plots: `failover`, a conversation that outlives a server, and `checkpoint_chain`, a thread."""

import time
from collections import Counter
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from io import BytesIO
from typing import Any

from langchain_core.messages import AIMessage, BaseMessage, HumanMessage

from memorystore_chat.extras import require
from memorystore_chat.history import MemorystoreChatMessageHistory
from memorystore_chat.sessions.report import counted
from memorystore_tutorial import practice
from memorystore_tutorial.pictures import shown

PLOT_FONT = 14  # points; readable where a narrow window halves the picture


@dataclass(frozen=True, repr=False)
class Failover:
    """What became of the messages, and how long each turn took. Shows itself as a plot.

    Attributes:
        seconds: The time of each turn, the first one first.
        killed_at: The number of the turn in which the primary was killed, from 1.
        attempted: How many messages the turns tried to store; the server acknowledged all.
        stored: How many are stored.
        doubled: How many are stored more than once.
        lost: How many are not stored.
    """

    seconds: tuple[float, ...]
    killed_at: int
    attempted: int
    stored: int
    doubled: int
    lost: int

    def __repr__(self) -> str:
        return (
            f"{self.attempted} messages attempted, {self.stored} stored, {self.doubled} doubled, "
            f"{self.lost} lost; the longest of {len(self.seconds)} turns took "
            f"{max(self.seconds):.1f} s."
        )

    def _repr_mimebundle_(self, **_: object) -> Any:
        data, metadata = self.plot()._repr_mimebundle_()
        return {**data, "text/plain": repr(self)}, metadata

    def plot(self) -> Any:
        """Draw the milliseconds of each turn: a picture, which shows itself in a notebook."""
        title = (
            f"{self.attempted} messages attempted · {self.stored} stored · "
            f"{self.doubled} doubled · {self.lost} lost"
        )
        axes = plot(4.2, title=title, x="turn", y="milliseconds (log scale)")
        turns = range(1, len(self.seconds) + 1)
        longest = max(self.seconds)
        axes.plot(turns, [1000 * took for took in self.seconds], color="#1a73e8", linewidth=2)
        axes.axvline(self.killed_at, color="#d93025", linestyle="--", linewidth=1.5)
        axes.set_ylim(0.1, 20_000)
        text = {"color": "#d93025", "fontsize": PLOT_FONT}
        axes.text(self.killed_at - 1, 9_000, "primary killed", ha="right", **text)
        words = f"{longest:.1f} s until the replica has taken over"
        axes.text(self.killed_at + 2, 1000 * longest, words, va="center", fontsize=PLOT_FONT)
        axes.grid(visible=True, alpha=0.3)
        return shown(drawn(axes), f"Milliseconds of each turn: flat, one spike, flat. {self!r}")


def failover(
    history: MemorystoreChatMessageHistory,
    cluster: practice.Cluster,
    *,
    turns: int = 100,
    kill_at: int = 40,
) -> Failover:
    """Hold a conversation, kill the primary that stores it, and keep account.

    Prints a line when the server is killed and one at the end. The first turn that fails ends the
    conversation with its error.

    Args:
        history: An empty session on the cluster.
        cluster: The cluster.
        turns: How many questions and answers.
        kill_at: In which of them the primary is killed, by a thread of its own.

    Returns:
        The account, which shows itself as a plot.

    Raises:
        ConnectError: No replica took over in time.
        ValueError: ``kill_at`` is not one of the turns, or the session is not empty.
    """
    if not 1 <= kill_at <= turns:
        raise ValueError(f"kill_at is {kill_at!r}; it takes a turn from 1 to {turns}.")
    if len(history):
        raise ValueError("The session is not empty; clear() it first.")
    node = cluster.primary_of(history.key)
    seconds: list[float] = []
    acknowledged: list[str] = []
    with ThreadPoolExecutor(1) as power_cut:
        for number in range(1, turns + 1):
            if number == kill_at:
                print(f"Turn {number}: node {node} is killed.", flush=True)  # noqa: T201
                power_cut.submit(cluster.kill, node)
            turn = [HumanMessage(f"question {number}"), AIMessage(f"answer {number}")]
            began = time.perf_counter()
            history.add_messages(turn)
            seconds.append(time.perf_counter() - began)
            acknowledged += [message.text for message in turn]
            time.sleep(0.01)  # people take longer
    stored = Counter(message.text for message in history.messages)
    print(f"Turn {turns}: node {cluster.primary_of(history.key)} answers.")  # noqa: T201
    return Failover(
        seconds=tuple(seconds),
        killed_at=kill_at,
        attempted=len(acknowledged),
        stored=stored.total(),
        doubled=sum(times - 1 for times in stored.values()),
        lost=sum(text not in stored for text in acknowledged),
    )


def checkpoint_chain(checkpoints: Iterable[Any]) -> Any:
    """Draw a thread's checkpoints as a chain, the oldest on top, with a branch where it forked.

    Args:
        checkpoints: What ``agent.get_state_history(config)`` returns, the newest first.

    Returns:
        A picture, which shows itself as the last line of a cell.

    Raises:
        ValueError: There are no checkpoints.
        ModuleNotFoundError: matplotlib or IPython is missing.
    """
    states = [*checkpoints][::-1]
    if not states:
        raise ValueError("There are no checkpoints. Ask the agent something in this thread first.")
    figure = require("matplotlib.figure", extra="tutorial").Figure
    axes = figure((9, 0.42 * len(states) + 0.3), facecolor="white", layout="constrained").subplots()
    places: dict[str | None, tuple[int, int]] = {}  # checkpoint -> its lane and row
    continued: set[str | None] = set()
    words = []
    for row, state in enumerate(states):
        parent = _checkpoint_id(state.parent_config)
        lane, above = places.get(parent, (0, row))
        lane = max(at for at, _ in places.values()) + 1 if parent in continued else lane
        continued |= {parent} - {None}
        places[_checkpoint_id(state.config)] = lane, row
        if above != row:
            axes.plot(
                [places[parent][0], lane, lane], [above, above + 1, row], color="#5f6368", zorder=1
            )
        what, color = _step(state)
        axes.plot(lane, row, "o", color=color, markersize=13, markeredgecolor="#202124")
        messages = state.values.get("messages", ())
        last = f", the last {_kind(messages[-1])}" if messages else ""
        words.append(f"{what} · {counted(len(messages), 'message')}{last}")
    lanes = 1 + max(lane for lane, _ in places.values())
    for row, line in enumerate(words):
        axes.text(lanes - 0.2, row, line, va="center", fontsize=PLOT_FONT, parse_math=False)
    axes.set(xlim=(-0.5, lanes + 8), ylim=(len(states) - 0.5, -0.5))
    axes.axis("off")
    return shown(drawn(axes), f"Checkpoints, the oldest first. {'; '.join(words)}.")


def _checkpoint_id(config: Any) -> str | None:
    return config["configurable"]["checkpoint_id"] if config else None


def _kind(message: BaseMessage) -> str:
    if isinstance(message, AIMessage):
        return "a call" if message.tool_calls else "an answer"
    return {"human": "a question", "tool": "a result"}.get(message.type, message.type)


def _step(state: Any) -> tuple[str, str]:
    """Say what comes after a checkpoint, and in which color."""
    if state.interrupts:
        return "pauses for a yes", "#fbbc04"
    if not state.next:
        return "end of the turn", "#34a853"
    return f"next: {', '.join(name.partition('.')[0].strip('_') for name in state.next)}", "#d2e3fc"


def plot(height: float, *, title: str, x: str, y: str) -> Any:
    """Return the axes of a white plot, 9 inches wide and so many high, logarithmic upwards."""
    figure = require("matplotlib.figure", extra="tutorial").Figure
    ticker = require("matplotlib.ticker", extra="tutorial")
    axes = figure(figsize=(9, height), facecolor="white", layout="constrained").subplots()
    axes.set_title(title, fontsize=PLOT_FONT, weight="bold", loc="left")
    axes.set_xlabel(x, fontsize=PLOT_FONT)
    axes.set_ylabel(y, fontsize=PLOT_FONT)
    axes.tick_params(labelsize=PLOT_FONT)
    axes.set_yscale("log")
    axes.yaxis.set_major_formatter(ticker.StrMethodFormatter("{x:,g}"))
    return axes


def drawn(axes: Any) -> bytes:
    """Return a plot as PNG, twice as wide as a page shows it, for sharp screens."""
    out = BytesIO()
    axes.figure.savefig(out, format="png", dpi=160, metadata={"Software": None})
    return out.getvalue()
