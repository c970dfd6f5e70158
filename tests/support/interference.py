"""A client that lets something happen between two round trips of the function under test."""

from collections.abc import Callable
from typing import Any

import redis
from redis.client import Pipeline

from memorystore_chat.commands import script


class InterferingRedis(redis.Redis):
    """A real client that acts once, just before a command or a script of ours is first sent.

    Attributes:
        before: What to do, by the command's name or the script's.
        trips: How many pipelines were sent.
    """

    before: dict[str, Callable[[], object]]
    trips = 0

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.before = {}

    def execute_command(self, *parts: Any, **options: Any) -> Any:
        self.meet(parts)
        return super().execute_command(*parts, **options)  # type: ignore[no-untyped-call]

    def meet(self, parts: Any) -> None:
        for name in [*self.before]:
            if parts[0] == name or ("/" in name and script(name).sha == parts[1]):
                self.before.pop(name)()

    def pipeline(self, *_args: Any, **_options: Any) -> Any:
        pipeline = _Interfering(self.connection_pool, self.response_callbacks, False, None)
        pipeline.owner = self
        return pipeline


class _Interfering(Pipeline):
    owner: InterferingRedis

    def execute(self, *args: Any, **options: Any) -> Any:
        self.owner.trips += 1
        for parts, _ in self.command_stack:
            self.owner.meet(parts)
        return super().execute(*args, **options)
