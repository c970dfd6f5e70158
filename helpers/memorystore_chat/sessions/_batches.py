"""How much goes into one round trip."""

from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

T = TypeVar("T")

MOST = 500
"""How many sessions are asked about in one round trip."""

BUDGET = 8 * 1024 * 1024
"""About how many bytes of messages one round trip may carry."""


def batches(items: Iterable[T], size: Callable[[T], int]) -> Iterator[list[T]]:
    """Group items, in order, so that a group fits into one round trip.

    Args:
        items: What to group.
        size: An item's bytes. A group has at most `BUDGET` of them and `MOST` items; an item that
            is larger is a group of its own.

    Example:
        >>> list(batches("abc", lambda _: BUDGET // 2))
        [['a', 'b'], ['c']]
    """
    group: list[T] = []
    total = 0
    for item in items:
        weight = size(item)
        if group and (total + weight > BUDGET or len(group) == MOST):
            yield group
            group, total = [], 0
        group.append(item)
        total += weight
    if group:
        yield group
