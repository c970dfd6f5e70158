"""MemorystoreSaver: LangGraph's contract, on one server and on a cluster, and what it survives."""

import threading
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from uuid import uuid4

import redis
from langgraph.checkpoint.base import BaseCheckpointSaver, empty_checkpoint
from langgraph.checkpoint.conformance import checkpointer_test, validate
from langgraph.checkpoint.memory import InMemorySaver

from checkpoints import CONFIG, ask, graph_of
from memorystore_chat.checkpoint import MemorystoreSaver
from scripted import words


class TestConformance:
    """The official suite: all 81 of its tests."""

    async def check(self, saver: BaseCheckpointSaver[str]) -> None:
        @checkpointer_test(name=str(uuid4()))
        async def make() -> AsyncIterator[BaseCheckpointSaver[str]]:
            yield saver

        report = await validate(make)
        failures = [failure for found in report.results.values() for failure in found.failures]
        assert failures == []
        assert sum(found.tests_passed for found in report.results.values()) == 81

    async def test_each_client(self, place: Any, key_prefix: str) -> None:
        """An asyncio client's own methods pass, and a synchronous one's in threads."""
        await self.check(MemorystoreSaver(place.client, key_prefix=key_prefix, ttl=600))


class TestThreads:
    """All of them, one of another saver, and turns that meet."""

    def test_all_threads(self, saver: MemorystoreSaver, client: redis.Redis) -> None:
        """Listing without a config reads every thread under the prefix, until the limit."""
        for number in range(20):
            config: Any = {"configurable": {"thread_id": f"t{number}", "checkpoint_ns": ""}}
            saver.put(config, empty_checkpoint(), {"step": number}, {})
        assert sorted(each.metadata["step"] for each in saver.list(None)) == [*range(20)]
        client.config_resetstat()
        assert [len([*saver.list(None, limit=most)]) for most in (3, 0, -1)] == [3, 0, 0]
        assert client.info("commandstats")["cmdstat_evalsha"]["calls"] <= 9

    def test_one_of_another_saver_goes_on(self, saver: MemorystoreSaver) -> None:
        """Checkpoints copied from InMemorySaver are read, and the conversation continues."""
        other = InMemorySaver()
        first = ask(graph_of(other), "one")
        for found in reversed(list(other.list(CONFIG))):
            versions = found.checkpoint["channel_versions"]
            saver.put(found.parent_config or CONFIG, found.checkpoint, found.metadata, versions)
        assert ask(graph_of(saver), "two") == [*first, "two", "answer to two"]

    def test_turns_that_meet(self, saver: MemorystoreSaver) -> None:
        """Eight turns at once on a thread: every write is whole, each turn ends on its branch."""
        barrier = threading.Barrier(8)

        def turn(number: int) -> list[str]:
            barrier.wait()
            return ask(graph_of(saver), f"I am number {number}.")

        with ThreadPoolExecutor(8) as threads:
            answers = [*threads.map(turn, range(8))]
        values = [found.checkpoint["channel_values"] for found in saver.list(CONFIG)]
        ends = [words(each.get("messages", [])) for each in values]
        assert all(answer in ends for answer in answers)
