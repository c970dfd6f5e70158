"""A piece of HTML as a browser would find it, checked for elements that are not ours."""

from collections import Counter
from html.parser import HTMLParser
from typing import Any

ALLOWED = {
    "div": {"class", "role", "aria-label", "style"},
    "span": {"style", "dir"},
    "th": {"scope", "style"},
    **{tag: {"style"} for tag in ("p", "pre", "summary", "table", "caption", "td")},
    **{tag: set() for tag in ("b", "i", "br", "bdi", "details", "thead", "tbody", "tr")},
}


class Page(HTMLParser):
    """The elements and the text of a piece of HTML.

    Attributes:
        tags: How often each element occurs, and each role.
        text: All of its text.
    """

    def __init__(self, shown: Any) -> None:
        super().__init__()
        self.tags: Counter[str] = Counter()
        self.text = ""
        self._open: list[str] = []
        self.feed(shown._repr_html_())
        self.close()
        assert self._open == [], "every element is closed"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert {name for name, _ in attrs} <= ALLOWED[tag], f"{attrs} on <{tag}>"
        self.tags.update([tag, dict(attrs).get("role") or ""])
        if tag == "br":
            self.handle_data("\n")
        else:
            self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data
