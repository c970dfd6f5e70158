"""How much goes into one round trip."""

from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

T = TypeVar("T")

MOST = 500
"""How many sessions are asked about in one round trip."""

BUDGET = 8 * 1024 * 1024
"""About how many bytes of messages one round trip may carry."""


def batches(
    items: Iterable[T], size: Callable[[T], int], *, alone: Callable[[T], bool] = lambda _: False
) -> Iterator[list[T]]:
    """Group items so that a group fits into one round trip.

    Args:
        items: What to group, in order.
        size: An item's bytes; a group has at most `BUDGET` bytes and `MOST` items.
        alone: Whether an item must be a group of its own, as one larger than the budget is.

    Example:
        >>> list(batches("abc", lambda _: BUDGET // 2))
        [['a', 'b'], ['c']]
    """
    group: list[T] = []
    total = 0
    for item in items:
        weight = BUDGET + 1 if alone(item) else size(item)
        if group and (total + weight > BUDGET or len(group) == MOST):
            yield group
            group, total = [], 0
        group.append(item)
        total += weight
    if group:
        yield group
