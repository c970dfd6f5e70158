"""README.md: its links lead somewhere, its pictures have words, and fit on a page."""

import re
from itertools import pairwise
from pathlib import Path
from urllib.parse import unquote

import pytest
from markdown_it import MarkdownIt
from PIL import Image, ImageSequence

import screenshots

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
GOOD = "# Read me\n\n[top](#read-me) [license](LICENSE) [out](https://example.com) ![A](LICENSE)"


def problems(text: str) -> list[str]:
    """Links to headings or files that do not exist, and pictures without alternative text."""
    tokens = MarkdownIt().parse(text)
    inline = [child for token in tokens for child in token.children or ()]
    titles = [after.content for token, after in pairwise(tokens)
              if token.type == "heading_open"]  # fmt: skip
    anchors = {"#" + re.sub(r"[^\w\- ]", "", t.lower()).replace(" ", "-") for t in titles}
    html = [token.content for token in (*tokens, *inline) if token.type.startswith("html_")]
    images = [tag for text in html for tag in re.findall(r"<img\b[^>]*>", text)]
    found = [f"no alternative text: {tag}" for tag in images if not re.search(r'\balt="[^"]', tag)]
    found += [f"no alternative text: {token.attrs['src']}" for token in inline
              if token.type == "image" and not token.content]  # fmt: skip
    targets = [str(value) for token in inline for key, value in token.attrs.items()
               if key in ("href", "src")]  # fmt: skip
    targets += re.findall(r"\b(?:href|src)=\"([^\"]+)\"", "\n".join(html))
    for target in targets:
        path = unquote(target.partition("#")[0])
        if target.startswith("#") and target not in anchors:
            found.append(f"no heading for {target}")
        elif not re.match(r"#|https?:|mailto:", target) and not (ROOT / path).exists():
            found.append(f"no file {target}")
    return found


def test_readme() -> None:
    assert problems(README) == []


@pytest.mark.parametrize(
    "bad",
    [
        "[x](#nowhere)",
        "[x](absent.md)",
        "![](LICENSE)",
        '<img src="LICENSE">',
        '<a href="absent.md">x</a>',
        "[x]\n\n[x]: absent.md",
    ],
)
def test_bad_readme_is_noticed(bad: str) -> None:
    assert problems(GOOD) == []
    assert problems(f"{GOOD}\n\n{bad}")


def test_series_has_a_row_and_a_badge_for_each_notebook() -> None:
    rows = re.findall(r"^\| \[.+\]\(notebooks/(\w+\.ipynb)\) \|.+$", README, re.MULTILINE)
    assert rows == sorted(path.name for path in (ROOT / "notebooks").glob("*.ipynb"))
    for name in rows:
        (row,) = (line for line in README.splitlines() if f"(notebooks/{name})" in line)
        assert re.findall(r"<!-- badge (\S+) -->\[!\[Open in Colab\]", row) == [name]


def test_screenshot_fits_on_a_page() -> None:
    path = ROOT / "docs/_static/tutorial.png"
    with Image.open(path) as picture:
        assert picture.width == 1280
        assert 780 <= picture.height <= 840
    assert path.stat().st_size < 300_000


def test_pictures_show_the_first_notebook() -> None:
    """They were made from the cells that the notebook has now: else run `make screenshots`."""
    made = (ROOT / "docs/_static/tutorial.sha256").read_text().strip()
    assert made == screenshots.shown_code()


def test_animation_is_short() -> None:
    path = ROOT / "docs/_static/tutorial.gif"
    with Image.open(path) as picture:
        times = [frame.info["duration"] for frame in ImageSequence.Iterator(picture)]
    assert 6_000 <= sum(times) <= 12_000
    assert times[-1] == max(times)
    assert path.stat().st_size < 1_500_000
