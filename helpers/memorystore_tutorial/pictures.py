"""The pictures of the series: `picture`. tools/pictures.py draws them."""

from importlib.resources import files
from typing import Any

from memorystore_chat.extras import require

_FOLDER = files("memorystore_tutorial") / "images"


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
    image = (_FOLDER / f"{name}.png").read_bytes()
    words = (_FOLDER / f"{name}.txt").read_text(encoding="utf-8").strip()
    return shown(image, words)


def shown(image: bytes, words: str) -> Any:
    """Return a PNG, 1,440 pixels wide, as a picture that shows wherever a notebook is read.

    Args:
        image: The PNG.
        words: What it shows, for those who can't see it.
    """
    display = require("IPython.display", extra="tutorial")
    return display.Image(image, format="png", width=720, metadata={"alt": words})
