"""README.md: its links lead somewhere, its pictures have words and show what there is now."""

import re
from pathlib import Path

import screenshots

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_links_and_pictures() -> None:
    """Each leads to a heading or a file that exists, and each picture says what it shows."""
    headings = re.findall(r"^#+ (.+)$", README, re.MULTILINE)
    anchors = {"#" + re.sub(r"[^\w\- ]", "", each.lower()).replace(" ", "-") for each in headings}
    found = re.findall(r"\]\(([^)\s]+)\)|(?:href|src)=\"([^\"]+)\"", README)
    own = [a or b for a, b in found if not re.match(r"https?:|mailto:", a or b)]
    assert len(own) > 10
    lost = [target for target in own if not (ROOT / target.partition("#")[0]).is_file()]
    assert set(lost) <= anchors
    images = re.findall(r"<img\b[^>]*>|!\[[^]]*\]", README)
    assert [image for image in images if image == "![]" or re.search(r'alt=""', image)] == []


def test_series_has_a_row_and_a_badge_for_each_notebook() -> None:
    names = sorted(path.name for path in (ROOT / "notebooks").glob("*.ipynb"))
    assert re.findall(r"^\| \[.+\]\(notebooks/(\w+\.ipynb)\) \|.+$", README, re.M) == names
    assert re.findall(r"<!-- badge (\S+) -->\[!\[Open in Colab\]", README) == names


def test_pictures_show_the_first_notebook() -> None:
    """They were made from the cells that the notebook has now: else run `make screenshots`."""
    made = (ROOT / "docs/_static/tutorial.sha256").read_text().strip()
    assert made == screenshots.shown_code()
