"""What the functions of this package are given: checks, and the progress bar."""

import sys
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import Literal, TypeAlias, TypeVar

from memorystore_chat.arguments import check_client, check_text, type_name
from memorystore_chat.extras import require

Progress: TypeAlias = bool | Literal["always"]
T = TypeVar("T")


def check(client: object, progress: object, **texts: object) -> None:
    """Check what all functions take.

    Args:
        client: The client.
        progress: Whether to show a bar.
        **texts: Other arguments, by name, that take text.
    """
    check_client(client)
    for name, value in texts.items():
        check_text(name, value)
    accepted = "it takes True, False or 'always'."
    if not isinstance(progress, bool | str):
        raise TypeError(f"progress is {progress!r}, of type {type_name(progress)}; {accepted}")
    if progress not in (True, False, "always"):
        raise ValueError(f"progress is {progress!r}; {accepted}")


def check_flags(**flags: object) -> None:
    """Raise a TypeError unless each is True or False: None would delete as False does."""
    for name, value in flags.items():
        if not isinstance(value, bool):
            raise TypeError(
                f"{name} is {value!r}, of type {type_name(value)}; it takes True or False."
            )


def checked_ids(ids: Iterable[str] | None) -> Sequence[str] | None:
    """The ids as a list without repetitions."""
    if ids is None:
        return None
    if isinstance(ids, str | bytes) or not isinstance(ids, Iterable):
        raise TypeError(f"ids is {ids!r}; it takes a list of session ids, even for one of them.")
    names = list(dict.fromkeys(ids))
    for name in names:
        check_text("a session id", name)
    return names


def moment_before(idle_for: timedelta | float | None) -> datetime | None:
    """When a session was last used that has been idle for so long."""
    if idle_for is None:
        return None
    accepted = "it takes a timedelta or seconds, more than 0, such as timedelta(days=30)."
    if isinstance(idle_for, bool) or not isinstance(idle_for, timedelta | int | float):
        raise TypeError(f"idle_for is {idle_for!r}; {accepted}")
    now = datetime.now(UTC)
    try:
        moment = now - (
            idle_for if isinstance(idle_for, timedelta) else timedelta(seconds=idle_for)
        )
    except (ValueError, OverflowError) as error:
        raise ValueError(f"idle_for is {idle_for!r}; {accepted}") from error
    if moment >= now:
        raise ValueError(f"idle_for is {idle_for!r}; {accepted}")
    return moment


def with_progress(
    items: Iterable[T],
    progress: Progress,
    doing: str,
    total: int | None,
    *,
    unit: str = " sessions",
) -> Iterator[T]:
    """The items, with a bar on the way if it was asked for and somebody can see it."""
    seen = progress == "always" or sys.stderr.isatty() or "ipykernel" in sys.modules
    if not progress or not seen:
        return iter(items)
    bar = require("tqdm.auto", install="'memorystore-chat[tutorial]'").tqdm
    return iter(bar(items, desc=doing, total=total, unit=unit))
