"""Text for readers: nothing in it can reorder, hide or control what stands around it."""

import re
import textwrap
import unicodedata

from memorystore_chat.errors import COLUMNS

# Both names keep MathJax from reading "$5 and $6" as a formula (version 2, then 3 and later).
NO_MATH = 'class="tex2jax_ignore mathjax_ignore"'

# Controls, line separators, bidi overrides and isolates, lone surrogates (which no UTF-8 file can
# hold), and what Unicode calls default-ignorable: invisible, so that it can carry hidden text.
# Joiners, direction marks and U+FE0F stay: Persian, Arabic, Hebrew and emoji need them.
_UNSAFE = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u00ad\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b"
    "\u2028-\u202e\u2060-\u206f\u3164\ud800-\udfff\ufe00-\ufe0e\ufeff\uffa0\ufff0-\ufffb"
    "\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0000-\U000e0fff]"
)


def wrapped(text: str, width: int = COLUMNS) -> str:
    """Wrap a text into lines that fit a narrow window; its own line breaks and spaces stay."""
    wrapper = textwrap.TextWrapper(
        width, expand_tabs=False, replace_whitespace=False,
        break_long_words=False, break_on_hyphens=False,
    )  # fmt: skip
    return "\n".join("\n".join(wrapper.wrap(each)) for each in text.split("\n"))


def say(text: object) -> None:
    """Print a text, an error or a report in lines that fit a notebook in a narrow window."""
    print(wrapped(str(text)), flush=True)  # noqa: T201


def visible(text: str) -> str:
    """Return a text in which nothing can reorder, hide or control its surroundings."""
    return _UNSAFE.sub(lambda m: f"[U+{ord(m[0]):04X}]", text.replace("\r\n", "\n"))


def line(text: str, limit: int = 200) -> str:
    """Return a text as one line of at most ``limit`` characters."""
    one = " ".join(visible(text[: limit + 1]).split())
    return one if len(text) <= limit else f"{one[: limit - 1]}\N{HORIZONTAL ELLIPSIS}"


def columns_of(text: str) -> int:
    """Count the columns that a terminal needs: two for wide characters, none for combining ones."""
    spacing = [c for c in text if unicodedata.category(c) not in {"Mn", "Me", "Cf"}]
    return len(spacing) + sum(unicodedata.east_asian_width(c) in "WF" for c in spacing)
