"""Pictures: those of the series, of a conversation that outlives a server, and of a thread."""

import time
from collections import Counter
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib.resources import files
from io import BytesIO
from typing import Any

from langchain_core.messages import AIMessage, HumanMessage

from memorystore_chat.extras import require
from memorystore_chat.history import MemorystoreChatMessageHistory
from memorystore_chat.sessions.report import counted
from memorystore_tutorial import practice

_FOLDER = files("memorystore_tutorial") / "images"  # tools/pictures.py draws them
_KINDS = {"call": "a call", "ai": "an answer", "human": "a question", "tool": "a result"}


def picture(name: str) -> Any:
    """Return one of the series' pictures.

    Args:
        name: ``"turn"``, ``"list"``, ``"life"``, ``"loop"``, ``"memory"``,
            ``"cluster"``, or ``"reach"``.

    Returns:
        An ``IPython.display.Image`` (PNG, 1,440 pixels wide, shown at 720) with an alternative
        text, which shows itself as the last line of a cell.

    Raises:
        ValueError: There is no such picture.
        ModuleNotFoundError: IPython is missing.

    Example:
        >>> picture("turn").width
        720
    """
    names = sorted(each.name[:-4] for each in _FOLDER.iterdir() if each.name.endswith(".png"))
    if name not in names:
        raise ValueError(f"There is no picture {name!r}; there are {', '.join(names)}.")
    words = (_FOLDER / f"{name}.txt").read_text(encoding="utf-8").strip()
    return _shown((_FOLDER / f"{name}.png").read_bytes(), words)


@dataclass(frozen=True, repr=False)
class Failover:
    """What became of the messages, and how long each turn took. Shows itself as a plot.

    Attributes:
        seconds: The time of each turn, the first one first.
        killed_at: The number of the turn in which the primary was killed, from 1.
        account: How many messages were attempted, stored, doubled, and lost.
    """

    seconds: list[float]
    killed_at: int
    account: str

    def __repr__(self) -> str:
        took = f"the longest of {len(self.seconds)} turns took {max(self.seconds):.1f} s"
        return f"{self.account}; {took}."

    def _repr_png_(self) -> Any:
        longest = max(self.seconds)
        axes = _axes(3)
        title = self.account.replace(", ", " · ")
        axes.set_title(title, fontsize="medium", weight="bold", loc="left")
        axes.set(xlabel="turn", ylabel="milliseconds (log scale)", yscale="log", ylim=(0.1, 20_000))
        axes.yaxis.set_major_formatter("{x:,g}")
        turns = range(1, len(self.seconds) + 1)
        axes.plot(turns, [1000 * took for took in self.seconds], color="#1a73e8")
        axes.axvline(self.killed_at, color="#d93025", linestyle="--")
        axes.text(self.killed_at - 1, 9_000, "primary killed", ha="right", color="#d93025")
        words = f"{longest:.1f} s until the replica has taken over"
        axes.text(self.killed_at + 2, 1000 * longest, words, va="center")
        axes.grid(alpha=0.3)
        alt = f"Milliseconds of each turn: flat, one spike, flat. {self!r}"
        return _drawn(axes, alt)._repr_png_()


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
    node, seconds = cluster.primary_of(history.key), []
    with ThreadPoolExecutor(1) as power_cut:
        for number in range(1, turns + 1):
            if number == kill_at:
                print(f"Turn {number}: node {node} is killed.", flush=True)  # noqa: T201
                power_cut.submit(cluster.kill, node)
            turn = [HumanMessage(f"question {number}"), AIMessage(f"answer {number}")]
            began = time.perf_counter()
            history.add_messages(turn)
            seconds.append(time.perf_counter() - began)
            time.sleep(0.01)  # people take longer
    stored = Counter(message.text for message in history.messages)
    print(f"Turn {turns}: node {cluster.primary_of(history.key)} answers.")  # noqa: T201
    account = f"{2 * turns} messages attempted, {stored.total()} stored"
    doubled, lost = stored.total() - len(stored), 2 * turns - len(stored)
    return Failover(seconds, kill_at, f"{account}, {doubled} doubled, {lost} lost")


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
    axes = _axes(0.3 * len(states) + 0.2)
    places: dict[str, tuple[int, int]] = {}  # checkpoint -> its lane and row
    ends: dict[str, int] = {}  # checkpoint without a child -> its lane
    words, lanes = [], 0
    for row, state in enumerate(states):
        configs = state.config, state.parent_config
        own, parent = (one and one["configurable"]["checkpoint_id"] for one in configs)
        ends[own] = lane = ends.pop(parent, lanes)
        lanes = max(lanes, lane + 1)
        start, above = places.get(parent, (lane, row))
        places[own] = lane, row
        rows = [above, min(above + 1, row), row]
        axes.plot([start, lane, lane], rows, color="#5f6368", zorder=1)
        what, color = _step(state)
        axes.plot(lane, row, "o", color=color, markersize=9, markeredgecolor="#202124")
        messages = state.values.get("messages", ())
        kinds = ["call" if getattr(each, "tool_calls", ()) else each.type for each in messages]
        last = f", the last {_KINDS.get(kinds[-1], kinds[-1])}" if kinds else ""
        words.append(f"{what} · {counted(len(kinds), 'message')}{last}")
    for row, line in enumerate(words):
        axes.text(lanes - 0.2, row, line, va="center", parse_math=False)
    axes.set(xlim=(-0.5, lanes + 8), ylim=(len(states) - 0.5, -0.5))
    axes.axis("off")
    return _drawn(axes, f"Checkpoints, the oldest first. {'; '.join(words)}.")


def _step(state: Any) -> tuple[str, str]:
    """Say what comes after a checkpoint, and in which color."""
    if state.interrupts:
        return "pauses for a yes", "#fbbc04"
    if not state.next:
        return "end of the turn", "#34a853"
    return f"next: {', '.join(name.partition('.')[0].strip('_') for name in state.next)}", "#d2e3fc"


def _axes(height: float) -> Any:
    """Begin a plot, so narrow (in inches) that its words are read also where it is halved."""
    figure = require("matplotlib.figure", extra="tutorial").Figure
    return figure((6.4, height), facecolor="white", layout="constrained").subplots()


def _drawn(axes: Any, words: str) -> Any:
    """Return a plot as a picture: PNG of 1,440 pixels, twice what a page shows."""
    out = BytesIO()
    axes.figure.savefig(out, format="png", dpi=225, metadata={"Software": None})
    return _shown(out.getvalue(), words)


def _shown(image: bytes, words: str) -> Any:
    """Return a PNG as a picture, with words for those who can't see it."""
    display = require("IPython.display", extra="tutorial")
    return display.Image(image, format="png", width=720, metadata={"alt": words})
