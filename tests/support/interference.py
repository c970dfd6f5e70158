"""A client that lets something happen between two round trips of the function under test."""

from collections.abc import Callable
from typing import Any

import redis

from memorystore_chat.commands import script


class InterferingRedis(redis.Redis):
    """A real client that acts once, just before a command or a script of ours is first sent.

    Attributes:
        before: What to do, by the command's name or the script's.
        trips: How many pipelines were sent.
    """

    before: dict[str, Callable[[], object]]
    trips = 0

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.before = {}

    def execute_command(self, *parts: Any, **options: Any) -> Any:
        self.meet(parts)
        return super().execute_command(*parts, **options)  # type: ignore[no-untyped-call]

    def meet(self, parts: Any) -> None:
        for name in [*self.before]:
            if parts[0] == name or ("/" in name and script(name).sha in parts):
                self.before.pop(name)()

    def pipeline(self, *given: Any, **options: Any) -> Any:
        pipeline: Any = super().pipeline(*given, **options)
        execute = pipeline.execute

        def interfered() -> Any:
            self.trips += 1
            for parts, _ in pipeline.command_stack:
                self.meet(parts)
            return execute()

        pipeline.execute = interfered
        return pipeline
