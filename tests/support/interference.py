"""A client that lets something happen between two round trips of the function under test."""

from typing import TYPE_CHECKING, Any

import redis

if TYPE_CHECKING:
    from collections.abc import Callable


class InterferingRedis(redis.Redis):
    """A real client that calls ``actions[n]`` just before its nth pipeline, counted from 1."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.actions: dict[int, Callable[[], object]] = {}
        self.pipelines = 0

    def pipeline(self, *args: Any, **options: Any) -> Any:
        self.pipelines += 1
        if action := self.actions.get(self.pipelines):
            action()
        return super().pipeline(*args, **options)
