"""Draw the pictures of the series into the tutorial package.

Each is a PNG of 1,440 pixels, shown at 720, beside a text file with its alternative text.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch

FOLDER = Path(__file__).parents[1] / "helpers" / "memorystore_tutorial" / "images"
INK, QUIET = "#202124", "#5f6368"
BLUE, GREEN, AMBER, RED, GRAY = "#d2e3fc", "#ceead6", "#feefc3", "#fad2cf", "#f1f3f4"


class _Canvas:
    """A white page of 9 inches, whose units are hundredths of its width."""

    def __init__(self, height: float) -> None:
        self.figure = Figure(figsize=(9, height * 0.09), facecolor="white")
        self.axes = self.figure.add_axes((0, 0, 1, 1))
        self.axes.set(xlim=(0, 100), ylim=(0, height))
        self.axes.axis("off")

    def text(self, x: float, y: float, text: str, **options: Any) -> None:
        """Write around a point."""
        style: dict[str, Any] = {
            "ha": "center",
            "va": "center",
            "fontsize": 13,
            "color": INK,
        } | options
        self.axes.text(x, y, text, **style)

    def box(self, x: float, y: float, width: float, height: float, text: str, color: str) -> None:
        """A box with its lower left corner at a point; the text's first line is bold."""
        look: dict[str, Any] = {
            "boxstyle": "round,pad=0,rounding_size=1.2",
            "edgecolor": QUIET,
            "linewidth": 1,
        }
        patch = FancyBboxPatch((x, y), width, height, facecolor=color, **look)
        self.axes.add_patch(patch)
        title, _, more = text.partition("\n")
        middle = y + height / 2
        self.text(x + width / 2, middle + (1.6 if more else 0), title, weight="bold")
        if more:
            self.text(x + width / 2, middle - 1.8, more, fontsize=11)

    def arrow(
        self, start: tuple[float, float], end: tuple[float, float], text: str = "", **options: Any
    ) -> None:
        """An arrow with its words above the middle, or where ``at`` says."""
        at = options.pop("at", ((start[0] + end[0]) / 2, (start[1] + end[1]) / 2 + 2))
        line = {"arrowstyle": "-|>", "color": INK, "linewidth": 1.6, "shrinkA": 0, "shrinkB": 0}
        self.axes.annotate("", end, start, arrowprops=line | options)
        if text:
            self.text(at[0], at[1], text, fontsize=11)


def _turn(page: _Canvas) -> str:
    page.box(2, 12, 25, 18, "Server\none list per session", GREEN)
    page.box(40, 12, 20, 18, "Your program\nload, ask, save", BLUE)
    page.box(73, 12, 25, 18, "Model\ndemo model or Gemini", AMBER)
    page.arrow((27, 27), (40, 27), "1  load", at=(33.5, 33))
    page.arrow((60, 27), (73, 27), "2  ask:\npast + question", at=(66.5, 33.5))
    page.arrow((73, 16), (60, 16), "answer", at=(66.5, 9))
    page.arrow((40, 16), (27, 16), "3  save", at=(33.5, 9))
    page.text(50, 3, "Two round trips to the server per turn: one read, one write.", fontsize=12)
    return (
        "From left to right: the server, your program, the model. 1: the program loads the "
        "conversation from the server. 2: it sends the past and the question to the model, and "
        "gets the answer. 3: it saves both on the server. That is two round trips per turn."
    )


def _list(page: _Canvas) -> str:
    page.text(50, 31, "key  tutorial-basic:ada", weight="bold", fontsize=14)
    kinds = (("human", BLUE), ("ai", AMBER), ("human", BLUE), ("ai", AMBER))
    words = (
        "Hi! My name\nis Ada.",
        "Welcome to Hotel\nKamo, Ada.",
        "How long should\ngreen tea steep?",
        "Two to three minutes,\nin water at 80 °C.",
    )
    for index, ((kind, color), text) in enumerate(zip(kinds, words, strict=True)):
        x = 4 + index * 24
        page.box(x, 11, 20, 15, "", color)
        page.text(x + 10, 23, kind, weight="bold", fontsize=12)
        page.text(x + 10, 16, text, fontsize=10.5)
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
    page.arrow((23, 27), (38, 34), "past + question", at=(27, 34.5))
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


def _memory(page: _Canvas) -> str:
    page.box(3, 22, 26, 13, "In May\nthread ada/may", BLUE)
    page.box(71, 22, 26, 13, "In October\nthread ada/october", BLUE)
    page.box(35, 4, 30, 13, "Store\nwhat is known about Ada", GREEN)
    page.arrow((16, 22), (35, 11), "remember\n(a tool)", at=(19, 12))
    page.arrow((65, 11), (84, 22), "what you know\n(the prompt)", at=(83, 12))
    page.text(50, 28.5, "a thread knows\nnothing of another", fontsize=12)
    return (
        "Two conversations with Ada, in May and in October. Neither knows the other. In May a tool "
        "puts a fact into the store; in October the prompt reads it from there."
    )


def _cluster(page: _Canvas) -> str:
    page.box(36, 37, 28, 10, "Your program", BLUE)
    for index, slots in enumerate(("0-5460", "5461-10922", "10923-16383")):
        x = 5 + index * 32
        page.box(x, 19, 26, 11, f"Primary {index + 1}\nhash slots {slots}", GREEN)
        page.box(x, 3, 26, 9, f"Replica {index + 4}", GRAY)
        page.arrow((x + 13, 19), (x + 13, 12), "copies", at=(x + 18.5, 15.5))
        page.arrow((50, 37), (x + 13, 30.3), linewidth=2.2 if index == 1 else 0.8)
    page.text(78, 41.5, "A session's key decides\nwhich primary has it.", fontsize=12)
    page.text(21, 41.5, "If a primary dies, its\nreplica takes over.", fontsize=12)
    return (
        "A cluster of three primaries, each with a replica that copies it. A session's key decides "
        "which primary has it."
    )


def _reach(page: _Canvas) -> str:
    page.box(33, 3, 65, 39, "", "white")
    page.text(64, 38.5, "your VPC network", fontsize=12, color=QUIET)
    page.box(36, 24, 26, 11, "Workbench\nor Colab Enterprise", BLUE)
    page.box(36, 7, 26, 11, "Jump VM\nno public address", GRAY)
    page.box(74, 14, 20, 14, "Memorystore\nprivate address", GREEN)
    page.box(2, 7, 20, 11, "Your laptop\n127.0.0.1:6380", BLUE)
    page.arrow((62, 29.5), (74, 24), "by name", at=(69, 30.5))
    page.arrow((62, 12.5), (74, 18))
    page.arrow((22, 12.5), (36, 12.5), "IAP tunnel", at=(27.4, 15))
    return (
        "Inside your VPC network, Workbench and Colab Enterprise reach Memorystore's private "
        "address by the instance's name. A laptop outside of it goes through an IAP tunnel to a "
        "jump VM, and from there to Memorystore."
    )


PICTURES: dict[str, tuple[int, Callable[[_Canvas], str]]] = {
    "turn": (40, _turn),
    "list": (34, _list),
    "life": (34, _life),
    "loop": (48, _loop),
    "memory": (39, _memory),
    "cluster": (50, _cluster),
    "reach": (45, _reach),
}
"""Name -> its height, and what draws it and returns its words."""


def main() -> None:
    """Draw all pictures."""
    FOLDER.mkdir(exist_ok=True)
    for name, (height, draw) in PICTURES.items():
        page = _Canvas(height)
        words = draw(page)
        file = FOLDER / f"{name}.png"
        page.figure.savefig(file, dpi=160, metadata={"Software": None})
        file.with_suffix(".txt").write_text(f"{words}\n")
        print(file)


if __name__ == "__main__":
    main()
