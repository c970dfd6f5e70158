"""Make the pictures anew: diagrams for the notebooks, and README.md's screenshot of the real thing.

``make screenshots`` calls this. Notebooks show PNG, as JupyterLab attaches no SVG to a cell.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from playwright.sync_api import sync_playwright

from counting import ROOT

IMAGES = ROOT / "notebooks" / "images"
SHOWN = "02_basic_usage"


def draw_diagrams(chromium: str) -> None:
    """Each SVG of the folder as a PNG beside it."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        page = browser.new_page()
        for source in sorted(IMAGES.glob("*.svg")):
            page.set_content(f"<body style='margin:0'>{source.read_text(encoding='utf-8')}")
            drawing = page.locator("svg").first
            drawing.screenshot(path=source.with_suffix(".png"), omit_background=True)
        browser.close()


def shoot_notebook() -> int:
    """A notebook in JupyterLab, as `make tutorial` starts it, after Run All."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "pytest", "--quiet", "-m", "browser", "-k"]
        status = subprocess.run(
            [*command, f"test_run_all and {SHOWN}", ROOT / "tests/notebooks/test_jupyterlab.py"],
            cwd=ROOT,
            env=os.environ | {"SCREENSHOTS": folder, "CI": "true"},
            check=False,
        ).returncode
        if status == 0:
            shutil.copy(Path(folder, f"{SHOWN}.png"), IMAGES / "screenshot.png")
    return status


def main() -> int:
    """Draw and shoot; returns the exit status."""
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    if chromium is None:
        print("screenshots: install Chromium first", file=sys.stderr)
        return 1
    draw_diagrams(chromium)
    return shoot_notebook()


if __name__ == "__main__":
    sys.exit(main())
