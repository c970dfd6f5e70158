"""A piece of HTML as a browser would find it, checked for elements that are not ours."""

from collections import Counter
from html.parser import HTMLParser
from typing import Any

ALLOWED = {
    "div": {"class", "role", "aria-label", "style", "dir"},
    "p": {"style"},
    "span": {"style", "dir"},
    "pre": {"style"},
    "summary": {"style"},
    "img": {"src", "alt", "style"},
    "table": {"style"},
    "caption": {"style"},
    "th": {"scope", "style"},
    "td": {"style"},
    **{tag: set() for tag in ("b", "i", "br", "bdi", "details", "thead", "tbody", "tr")},
}


class Page(HTMLParser):
    """The elements and the text of a piece of HTML, as a browser would find them."""

    def __init__(self, shown: Any) -> None:
        super().__init__()
        self.html = shown._repr_html_()
        self.tags: Counter[str] = Counter()
        self.messages = 0
        self.images: list[dict[str, str]] = []
        self.text = ""
        self.open: list[str] = []
        self.folded = ""  # text inside <details>, summaries apart
        self.summaries: list[str] = []
        self.feed(self.html)
        self.close()
        assert self.open == [], "every element is closed"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert tag in ALLOWED, f"<{tag}> is not ours"
        assert {name for name, _ in attrs} <= ALLOWED[tag], f"{attrs} on <{tag}>"
        self.tags[tag] += 1
        self.messages += ("role", "listitem") in attrs
        if tag == "img":
            self.images.append({name: value or "" for name, value in attrs})
            assert self.images[-1]["src"].startswith("data:image/")
        elif tag == "br":
            self.handle_data("\n")
        else:
            self.open.append(tag)
        if tag == "summary":
            self.summaries.append("")

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data
        if "summary" in self.open:
            self.summaries[-1] += data
        elif "details" in self.open:
            self.folded += data
