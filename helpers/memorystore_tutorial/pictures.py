"""The pictures of the series, drawn when they are asked for: `picture`."""

from collections.abc import Callable
from io import BytesIO
from typing import Any

from memorystore_chat.extras import require

INK, QUIET = "#202124", "#5f6368"
BLUE, GREEN, AMBER, RED, GRAY = "#d2e3fc", "#ceead6", "#feefc3", "#fad2cf", "#f1f3f4"
PLOT_FONT = 14  # points; readable where a narrow window halves the picture
_DPI = 160  # twice what a page shows, for sharp screens


class _Canvas:
    """A white page of 9 inches, whose units are hundredths of its width."""

    def __init__(self, height: float) -> None:
        figure = require("matplotlib.figure", install="matplotlib").Figure
        self._patches = require("matplotlib.patches", install="matplotlib")
        self.figure = figure(figsize=(9, height * 0.09), facecolor="white")
        self.axes = self.figure.add_axes((0, 0, 1, 1))
        self.axes.set(xlim=(0, 100), ylim=(0, height))
        self.axes.axis("off")

    def text(self, x: float, y: float, text: str, **options: Any) -> None:
        """Write around a point."""
        style = {"ha": "center", "va": "center", "fontsize": 13, "color": INK} | options
        self.axes.text(x, y, text, **style)

    def box(self, x: float, y: float, width: float, height: float, text: str, color: str) -> None:
        """A box with its lower left corner at a point; the text's first line is bold."""
        look = {"boxstyle": "round,pad=0,rounding_size=1.2", "edgecolor": QUIET, "linewidth": 1}
        patch = self._patches.FancyBboxPatch((x, y), width, height, facecolor=color, **look)
        self.axes.add_patch(patch)
        title, _, more = text.partition("\n")
        middle = y + height / 2
        self.text(x + width / 2, middle + (1.6 if more else 0), title, weight="bold")
        if more:
            self.text(x + width / 2, middle - 1.8, more, fontsize=11.5)

    def arrow(
        self, start: tuple[float, float], end: tuple[float, float], text: str = "", **options: Any
    ) -> None:
        """An arrow with its words above the middle, or where ``at`` says."""
        at = options.pop("at", ((start[0] + end[0]) / 2, (start[1] + end[1]) / 2 + 2))
        line = {"arrowstyle": "-|>", "color": INK, "linewidth": 1.6, "shrinkA": 0, "shrinkB": 0}
        self.axes.annotate("", end, start, arrowprops=line | options)
        if text:
            self.text(at[0], at[1], text, fontsize=11.5)


def _turn(page: _Canvas) -> str:
    page.box(3, 12, 24, 22, "Your program\nload, ask, save", BLUE)
    page.box(70, 27, 27, 15, "Memorystore\none list a session", GREEN)
    page.box(70, 4, 27, 15, "Model\nDemoChatModel or Gemini", AMBER)
    page.arrow((27, 31.5), (70, 38), "1  load the conversation (one read)", at=(48, 38.5))
    page.arrow((27, 17), (70, 12), "2  ask, with the conversation", at=(50, 10.2))
    page.arrow((27, 26.5), (70, 31), "3  save question and answer (one write)", at=(48, 24.6))
    page.text(50, 2, "Two round trips a turn, however long the conversation is.", fontsize=12)
    return (
        "Your program loads the conversation from Memorystore, asks the model with it, and saves "
        "question and answer together: two round trips to Memorystore a turn."
    )


def _list(page: _Canvas) -> str:
    page.text(50, 31, "key  chat:ada", weight="bold", fontsize=14)
    kinds = (("human", BLUE), ("ai", AMBER), ("human", BLUE), ("ai", AMBER))
    words = (
        "Hi! My name\nis Ada.",
        "Nice to meet\nyou, Ada.",
        "How long should\nit steep?",
        "Two to three\nminutes.",
    )
    for index, ((kind, color), text) in enumerate(zip(kinds, words, strict=True)):
        x = 4 + index * 24
        page.box(x, 11, 20, 15, "", color)
        page.text(x + 10, 23, kind, weight="bold", fontsize=12)
        page.text(x + 10, 16, text, fontsize=11.5)
        page.text(x + 10, 8, f"element {index}", fontsize=11, color=QUIET)
        if index:
            page.arrow((x - 4, 18.5), (x, 18.5))
    page.text(14, 3.5, "oldest", fontsize=12)
    page.text(96, 3.5, "newest: an append goes here", fontsize=12, ha="right")
    return (
        "A session is one list on the server. Its elements are the messages, the oldest first; an "
        "append adds to the end."
    )


def _life(page: _Canvas) -> str:
    page.arrow((4, 14), (97, 14))
    page.text(97, 10.5, "time", fontsize=12, ha="right")
    for x, text, color in (
        (12, "first message\nTTL starts", GREEN),
        (36, "next message\nTTL starts anew", GREEN),
        (60, "a copy, with\nsessions.export", BLUE),
        (86, "TTL over, clear(),\nor sessions.delete", RED),
    ):
        page.box(x - 10, 20, 20, 11, "", color)
        page.text(x, 25.5, text, fontsize=12)
        page.arrow((x, 20), (x, 14.6))
    page.text(24, 10.5, "the session exists", fontsize=12)
    page.text(50, 4, "A deleted session is gone for good; only a copy brings it back.", fontsize=12)
    return (
        "A session begins with its first message, and each message starts its time to live anew. "
        "It ends when that is over, or when it is cleared or deleted."
    )


def _loop(page: _Canvas) -> str:
    page.box(3, 18, 20, 13, "Load\nthe session", GREEN)
    page.box(38, 29, 24, 13, "Model\nanswer, or call a tool?", AMBER)
    page.box(38, 6, 24, 13, "Tool\nyour function", BLUE)
    page.box(77, 18, 20, 13, "Save\nthe whole turn", GREEN)
    page.arrow((23, 27), (38, 34), "question", at=(28, 33.8))
    page.arrow((46, 29), (46, 19), "call", at=(42, 24))
    page.arrow((54, 19), (54, 29), "result", at=(59, 24))
    page.arrow((62, 34), (77, 27), "answer", at=(72, 33.8))
    page.text(50, 45, "ChatHistoryMiddleware does the green steps", fontsize=12)
    page.text(
        50, 2, "The call and its result are saved with the question and the answer.", fontsize=12
    )
    return (
        "The middleware loads the session. The model answers or calls a tool, whose result goes "
        "back to the model. Then the middleware saves the whole turn."
    )


def _threads(page: _Canvas) -> str:
    for row, (name, y) in enumerate((("thread ada", 31), ("thread grace", 9))):
        page.text(9, y + 4, name, weight="bold")
        steps = ("input", "model", "tools", "model") if row == 0 else ("input", "model")
        for index, step in enumerate(steps):
            x = 20 + index * 19
            page.box(x, y, 13, 8, "", BLUE if step == "input" else GREEN)
            page.text(x + 6.5, y + 4, step, fontsize=12)
            if index:
                page.arrow((x - 6, y + 4), (x, y + 4))
    page.arrow((45.5, 31), (52, 24))
    page.text(53.5, 23, "go back to a checkpoint, and take another way", fontsize=12, ha="left")
    page.text(64.5, 44, "pause here, and ask a person", fontsize=12)
    page.arrow((64.5, 42.6), (64.5, 39.3))
    page.text(
        50, 4, "Each box is a checkpoint: the whole state of the agent after one step.", fontsize=12
    )
    return (
        "Two threads of checkpoints, one after each step of an agent. A thread can pause before a "
        "tool, and another way can begin at an earlier checkpoint."
    )


def _cluster(page: _Canvas) -> str:
    page.box(36, 37, 28, 10, "Your program", BLUE)
    for index, slots in enumerate(("0-5461", "5461-10922", "10923-16383")):
        x = 5 + index * 32
        page.box(x, 19, 26, 11, f"Primary {index + 1}\nslots {slots}", GREEN)
        page.box(x, 3, 26, 9, f"Replica {index + 4}", GRAY)
        page.arrow((x + 13, 19), (x + 13, 12), "copies", at=(x + 18.5, 15.5))
        page.arrow((50, 37), (x + 13, 30.3), linewidth=2.2 if index == 1 else 0.8)
    page.text(78, 41.5, "A session's key decides\nwhich primary has it.", fontsize=12)
    page.text(21, 41.5, "If a primary dies, its\nreplica takes over.", fontsize=12)
    return (
        "A cluster of three primaries, each with a replica that copies it. A session's key decides "
        "which primary has it."
    )


# Name -> height, and what draws the picture and returns its words.
_PICTURES: dict[str, tuple[int, Callable[[_Canvas], str]]] = {
    "turn": (46, _turn),
    "list": (34, _list),
    "life": (34, _life),
    "loop": (48, _loop),
    "threads": (46, _threads),
    "cluster": (50, _cluster),
}


def picture(name: str) -> Any:
    """Draw one of the series' pictures.

    Args:
        name: ``"turn"``, ``"list"``, ``"life"``, ``"loop"``, ``"threads"``, or ``"cluster"``.

    Returns:
        An ``IPython.display.Image`` (PNG, 1,440 pixels wide, shown at 720) with an alternative
        text, which shows itself as the last line of a cell.

    Raises:
        ValueError: There is no such picture.
        ModuleNotFoundError: matplotlib or IPython is missing.

    Example:
        >>> picture("turn").width
        720
    """
    if name not in _PICTURES:
        raise ValueError(f"There is no picture {name!r}; there are {', '.join(_PICTURES)}.")
    height, draw = _PICTURES[name]
    page = _Canvas(height)
    return shown(page.figure, draw(page))


def plot(height: float, *, title: str, x: str, y: str) -> Any:
    """The matplotlib axes of a white plot, 9 inches wide and so many high, logarithmic upwards."""
    figure = require("matplotlib.figure", install="matplotlib").Figure
    ticker = require("matplotlib.ticker", install="matplotlib")
    axes = figure(figsize=(9, height), facecolor="white", layout="constrained").subplots()
    axes.set_title(title, fontsize=PLOT_FONT, weight="bold", loc="left")
    axes.set_xlabel(x, fontsize=PLOT_FONT)
    axes.set_ylabel(y, fontsize=PLOT_FONT)
    axes.tick_params(labelsize=PLOT_FONT)
    axes.set_yscale("log")
    axes.yaxis.set_major_formatter(ticker.StrMethodFormatter("{x:,g}"))
    return axes


def shown(figure: Any, words: str) -> Any:
    """A matplotlib figure as a picture that shows wherever a notebook is read.

    Args:
        figure: The figure, 9 inches wide; it is shown 720 pixels wide.
        words: What it shows, for those who can't see it.
    """
    out = BytesIO()
    figure.savefig(out, format="png", dpi=_DPI, metadata={"Software": None})
    display = require("IPython.display", install="ipython")
    return display.Image(out.getvalue(), format="png", width=720, metadata={"alt": words})
