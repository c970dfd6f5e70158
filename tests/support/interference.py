"""A client that lets something happen between two round trips of the function under test."""

from typing import TYPE_CHECKING, Any, cast

import redis
from redis.client import Pipeline

from memorystore_chat.commands import script

if TYPE_CHECKING:
    from collections.abc import Callable


class InterferingRedis(redis.Redis):
    """A real client that acts once, just before a command or a script of ours is first sent.

    Attributes:
        before: What to do, by the command's name or the script's.
        trips: How many pipelines were sent.
    """

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.before: dict[str, Callable[[], object]] = {}
        self.trips = 0

    def execute_command(self, *parts: Any, **options: Any) -> Any:
        self.meet(parts)
        return cast("Any", super()).execute_command(*parts, **options)

    def meet(self, parts: Any) -> None:
        for name in [*self.before]:
            if parts[0] == name or ("/" in name and script(name).sha == parts[1]):
                self.before.pop(name)()

    def pipeline(self, *_args: Any, **_options: Any) -> Any:
        return _InterferingPipeline(self)


class _InterferingPipeline(Pipeline):
    def __init__(self, client: InterferingRedis) -> None:
        super().__init__(client.connection_pool, client.response_callbacks, False, None)
        self._client = client

    def execute(self, *args: Any, **options: Any) -> Any:
        self._client.trips += 1
        for parts, _ in self.command_stack:
            self._client.meet(parts)
        return super().execute(*args, **options)
