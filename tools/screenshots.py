"""Make README.md's pictures anew from the real thing: a screenshot, and an animation.

``make screenshots`` calls this. Chromium drives JupyterLab, as ``make tutorial`` starts it, through
the first minutes of the first notebook.
"""

import hashlib
import io
import json
import sys
from typing import Any

import numpy as np
from PIL import Image

from run_notebooks import ROOT

sys.path.insert(0, str(ROOT / "tests/support"))
from jupyter_page import CELLS, chromium, command, open_notebook, run_cell, tutorial, wait_for

PICTURES = ROOT / "docs" / "_static"
FIELD = ".jp-OutputArea input[type=text]"
RESTART = '.lm-Menu-itemLabel:text-is("Restart Kernel…")'
SCROLL = """async ([text, place]) => {
  const notebook = window.jupyterapp.shell.currentWidget.content;
  const index = notebook.widgets.findIndex(
    cell => cell.model.sharedModel.source.includes(text));
  await notebook.scrollToItem(index, place, 0);
}"""


def run(page: Any, text: str) -> None:
    """Run the first code cell that has this text."""
    sources = ["".join(cell["source"]) for cell in page.evaluate(CELLS)["cells"]]
    cells = run_cell(page, next(i for i, source in enumerate(sources) if text in source))
    if any(o["output_type"] == "error" for cell in cells for o in cell["outputs"]):
        raise RuntimeError(f"the notebook's cell with {text!r} failed")


def scroll(page: Any, text: str, place: str) -> None:
    """Scroll until the cell that has this text is at the ``"start"`` or the ``"end"``."""
    page.evaluate(SCROLL, [text, place])
    page.wait_for_timeout(1000)


def screenshot(page: Any, **how: str) -> Any:
    """What the page shows, as rows of pixels."""
    return np.asarray(Image.open(io.BytesIO(page.screenshot(**how))).convert("RGB"))


def still(page: Any) -> None:
    """The chat box after a question, in ``tutorial.png``."""
    for text in ("connect()", "ask(question)", "favorite drink", "chat_box("):
        run(page, text)
    page.fill(FIELD, "What is my favorite drink?")
    page.press(FIELD, "Enter")
    page.wait_for_selector('caption:text("a list of 6 elements"):visible')
    scroll(page, "### Your turn", "start")
    picture = Image.fromarray(screenshot(page)).quantize(256, dither=Image.Dither.NONE)
    picture.save(PICTURES / "tutorial.png", optimize=True)


def animation(page: Any) -> None:
    """A turn in the chat box, and a restart that the conversation outlives: ``tutorial.gif``."""
    frames: list[Any] = []
    times: list[int] = []

    def show(milliseconds: int) -> None:
        frames.append(screenshot(page, caret="initial"))
        times.append(milliseconds)

    for text in ("connect()", "ask(question)", "chat_box("):
        run(page, text)
    scroll(page, "chat_box(", "start")
    page.click(FIELD)
    show(900)
    for letter in "My favorite drink is green tea.":
        page.keyboard.type(letter)
        show(60)
    page.press(FIELD, "Enter")
    page.wait_for_selector('caption:text("a list of 4 elements"):visible')
    show(2000)
    page.click('.lm-MenuBar-itemLabel:text-is("Kernel")')
    page.hover(RESTART)
    show(900)
    page.click(RESTART)
    page.wait_for_selector(".jp-Dialog")
    show(900)
    page.click(".jp-Dialog .jp-mod-warn")
    wait_for(page, lambda state: state["status"] == "idle")
    scroll(page, "What is my name?", "end")
    show(900)
    run(page, "What is my name?")
    page.wait_for_selector('pre:text("Your name is Ada.")')
    scroll(page, "What is my name?", "end")
    show(3000)
    # One palette for all of them, or colors flicker.
    strip = Image.fromarray(np.vstack(frames)).quantize(255, dither=Image.Dither.NONE)
    height, width, _ = frames[0].shape
    tops = range(0, strip.height, height)
    first, *others = (strip.crop((0, top, width, top + height)) for top in tops)
    more: dict[str, Any] = {"append_images": others, "duration": times, "loop": 0}
    first.save(PICTURES / "tutorial.gif", optimize=True, **more)


def shown_code() -> str:
    """Return a digest of the first notebook's cells, which the pictures show."""
    cells = json.loads((ROOT / "notebooks/01_setup.ipynb").read_text(encoding="utf-8"))["cells"]
    sources = [cell["source"] for cell in cells if cell["cell_type"] == "code"][1:]
    return hashlib.sha256(json.dumps(sources).encode()).hexdigest()


def main() -> None:
    """Make both, each on a new first notebook, and note what they show."""
    large = {"viewport": {"width": 1067, "height": 680}, "device_scale_factor": 1.2}
    small = {"viewport": {"width": 880, "height": 740}}
    with chromium() as browser:
        for make, look in ((still, large), (animation, small)):
            with tutorial() as address, browser.new_context(color_scheme="light", **look) as window:
                page = window.new_page()
                open_notebook(page, address, "01_setup.ipynb")
                command(page, "application:toggle-left-area")
                make(page)
    (PICTURES / "tutorial.sha256").write_text(f"{shown_code()}\n")


if __name__ == "__main__":
    main()
