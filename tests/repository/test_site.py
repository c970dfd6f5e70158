"""The site: it builds without a warning, and axe finds no barrier on its pages."""

import itertools
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGES = ("index", "api/history", "how_to/index", "notebooks/01_setup")
# https://www.w3.org/WAI/WCAG22/quickref/, levels A and AA.
RULES = {"runOnly": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa"]}


@pytest.mark.browser
def test_pages_have_no_barrier(browser: Any, tmp_path: Path) -> None:
    """Axe finds nothing against WCAG A and AA, in light and dark; nothing is wider than a phone."""
    from axe_playwright_python.sync_playwright import Axe

    build = [sys.executable, "-m", "sphinx", "--quiet", "--fail-on-warning", "--nitpicky"]
    done = subprocess.run([*build, "docs", tmp_path], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for name, scheme in itertools.product(PAGES, ("light", "dark")):
        page = browser.new_page(viewport={"width": 1280, "height": 900}, color_scheme=scheme)
        page.goto(f"file://{tmp_path}/{name}.html", wait_until="networkidle")
        if folder := os.environ.get("SCREENSHOTS"):
            page.screenshot(path=Path(folder, f"site_{name.replace('/', '_')}_{scheme}.png"))
        found = Axe().run(page, options=RULES)
        assert found.violations_count == 0, found.generate_report()
        page.set_viewport_size({"width": 480, "height": 900})
        widths = page.evaluate("[document.documentElement.scrollWidth, window.innerWidth]")
        assert widths[0] <= widths[1]
        page.close()
