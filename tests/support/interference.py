"""A client that lets something happen between two round trips of the function under test."""

from typing import TYPE_CHECKING, Any

import redis
from redis.client import Pipeline

if TYPE_CHECKING:
    from collections.abc import Callable


class InterferingRedis(redis.Redis):
    """A real client that calls ``actions[n]`` just before its nth pipeline, counted from 1.

    Pipelines that only look for servers or keys (CLUSTER NODES, SCAN) do not count.
    """

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.actions: dict[int, Callable[[], object]] = {}
        self.pipelines = 0

    def pipeline(self, *_args: Any, **_options: Any) -> Any:
        return _InterferingPipeline(self)


class _InterferingPipeline(Pipeline):
    def __init__(self, client: InterferingRedis) -> None:
        super().__init__(client.connection_pool, client.response_callbacks, False, None)
        self._client = client

    def execute(self, *args: Any, **options: Any) -> Any:
        names = {command[0][0] for command in self.command_stack}
        if not names & {"CLUSTER NODES", "SCAN"}:
            self._client.pipelines += 1
            if action := self._client.actions.get(self._client.pipelines):
                action()
        return super().execute(*args, **options)
