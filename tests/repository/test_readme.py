"""README.md: its links lead somewhere, its pictures have words and show what there is now."""

import re
from itertools import pairwise
from pathlib import Path
from urllib.parse import unquote

from markdown_it import MarkdownIt

import screenshots

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_links_and_pictures() -> None:
    """Each leads to a heading or a file that exists, and each picture says what it shows."""
    tokens = MarkdownIt().parse(README)
    inline = [child for token in tokens for child in token.children or ()]
    titles = [after.content for token, after in pairwise(tokens)
              if token.type == "heading_open"]  # fmt: skip
    anchors = {"#" + re.sub(r"[^\w\- ]", "", t.lower()).replace(" ", "-") for t in titles}
    html = "\n".join(t.content for t in (*tokens, *inline) if t.type.startswith("html_"))
    images = [t for t in inline if t.type == "image"]
    assert all(image.content for image in images)
    assert all('alt="' in tag and 'alt=""' not in tag for tag in re.findall(r"<img\b[^>]*>", html))
    targets = [str(v) for t in inline for k, v in t.attrs.items() if k in ("href", "src")]
    targets += re.findall(r"\b(?:href|src)=\"([^\"]+)\"", html)
    own = [target for target in targets if not re.match(r"https?:|mailto:", target)]
    assert len(own) > 10
    anchored = [target for target in own if target.startswith("#")]
    assert set(anchored) <= anchors
    files = {unquote(target.partition("#")[0]) for target in set(own) - set(anchored)}
    assert [name for name in files if not (ROOT / name).exists()] == []


def test_series_has_a_row_and_a_badge_for_each_notebook() -> None:
    names = sorted(path.name for path in (ROOT / "notebooks").glob("*.ipynb"))
    assert re.findall(r"^\| \[.+\]\(notebooks/(\w+\.ipynb)\) \|.+$", README, re.M) == names
    assert re.findall(r"<!-- badge (\S+) -->\[!\[Open in Colab\]", README) == names


def test_pictures_show_the_first_notebook() -> None:
    """They were made from the cells that the notebook has now: else run `make screenshots`."""
    made = (ROOT / "docs/_static/tutorial.sha256").read_text().strip()
    assert made == screenshots.shown_code()
