"""Draw the pictures of the series, as pictures.toml describes them, into the tutorial package.

Each is a PNG of 1,440 pixels, shown at 720. The text file beside it is its alternative text.
"""

import tomllib
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch

DESCRIBED = Path(__file__).with_suffix(".toml")
FOLDER = Path(__file__).parents[1] / "helpers/memorystore_tutorial/images"
COLORS = {
    "ink": "#202124", "quiet": "#5f6368", "white": "white", "blue": "#d2e3fc", "green": "#ceead6",
    "amber": "#feefc3", "red": "#fad2cf", "gray": "#f1f3f4",
}  # fmt: skip


def write(axes: Axes, x: float, y: float, text: str, **options: Any) -> None:
    """Write around a point."""
    color = COLORS[options.pop("color", "ink")]
    style: dict[str, Any] = {"ha": "center", "va": "center", "fontsize": 13}
    axes.text(x, y, text, color=color, **style | options)


def draw(axes: Axes, *, text: str = "", at: Any = None, **shape: Any) -> None:
    """Draw a box, an arrow, or a text alone."""
    if box := shape.pop("box", None):
        x, y, width, height = box
        look: dict[str, Any] = {"boxstyle": "round,pad=0,rounding_size=1.2", "linewidth": 1}
        look |= {"edgecolor": COLORS["quiet"], "facecolor": COLORS[shape["fill"]]}
        axes.add_patch(FancyBboxPatch((x, y), width, height, **look))
        title, _, more = text.partition("\n")
        middle = y + height / 2
        write(axes, x + width / 2, middle + (1.6 if more else 0), title, weight="bold")
        write(axes, x + width / 2, middle - 1.8, more, fontsize=11)
    elif arrow := shape.pop("arrow", None):
        start, end = arrow[:2], arrow[2:]
        line = {"arrowstyle": "-|>", "color": COLORS["ink"], "linewidth": 1.6}
        axes.annotate("", end, start, arrowprops=line | {"shrinkA": 0, "shrinkB": 0} | shape)
        middle_x, middle_y = at or ((start[0] + end[0]) / 2, (start[1] + end[1]) / 2 + 2)
        write(axes, middle_x, middle_y, text, fontsize=11)
    else:
        write(axes, at[0], at[1], text, **shape)


def main() -> None:
    """Draw all pictures."""
    for name, picture in tomllib.loads(DESCRIBED.read_text(encoding="utf-8")).items():
        figure = Figure(figsize=(9, picture["height"] * 0.09), facecolor="white")
        axes = figure.add_axes((0, 0, 1, 1))
        axes.set(xlim=(0, 100), ylim=(0, picture["height"]))
        axes.axis("off")
        for shape in picture["shapes"]:
            draw(axes, **shape)
        figure.savefig(FOLDER / f"{name}.png", dpi=160, metadata={"Software": None})


if __name__ == "__main__":
    main()
