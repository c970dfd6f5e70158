"""MemorystoreSaver: LangGraph's contract, on one server and on a cluster, and what it survives."""

import threading
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from typing import Annotated, Any, TypedDict
from uuid import uuid4

import pytest
import redis
from langgraph.channels.delta import DeltaChannel
from langgraph.checkpoint.base import BaseCheckpointSaver, empty_checkpoint
from langgraph.checkpoint.conformance import checkpointer_test, validate
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import END, START, StateGraph

from checkpoints import CONFIG, THREAD, Make, ask, graph_of, newest, put
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
        assert len([*saver.list(None, limit=3)]) == 3
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


def test_what_is_known_is_checked(saver: MemorystoreSaver, make_saver: Make) -> None:
    """A thread that was deleted between two turns' writes is stored in full again."""
    config = put(saver, CONFIG, "1", x="x" * 99)
    make_saver().delete_thread(THREAD)
    kept: Any = {"channel_values": {"x": "x" * 99}, "channel_versions": {"x": "1"}}
    checkpoint: Any = empty_checkpoint() | kept
    saver.put(config, checkpoint, {}, {})
    assert newest(saver).checkpoint == checkpoint


def extend(state: list[str] | None, writes: list[list[str]]) -> list[str]:
    return [*(state or []), *(item for write in writes for item in write)]


class Items(TypedDict):
    items: Annotated[list[str], DeltaChannel(extend, list)]


def parallel(saver: BaseCheckpointSaver[str]) -> Any:
    """A graph whose nodes write one channel at the same time."""
    graph = StateGraph(Items)
    graph.add_node("end", lambda state: {"items": ["end"]})
    for number in range(6):
        graph.add_node(f"n{number}", lambda state, name=f"n{number}": {"items": [name]})
        graph.add_edge(START, f"n{number}")
        graph.add_edge(f"n{number}", "end")
    graph.add_edge("end", END)
    return graph.compile(checkpointer=saver)


@pytest.mark.parametrize(
    ("durability", "keep"), [("sync", None), ("sync", 1), ("async", 1), ("exit", 2)]
)
def test_parallel_nodes_come_back_in_order(
    durability: Any, keep: int | None, make_saver: Make
) -> None:
    """What n0 to n5 wrote to a DeltaChannel stays in order, turn after turn, and after pruning."""
    saver = make_saver(keep=keep)
    graph = parallel(saver)
    for turn in range(1, 5):
        graph.invoke({"items": ["in"]}, CONFIG, durability=durability)
        expected = ["in", "n0", "n1", "n2", "n3", "n4", "n5", "end"] * turn
        assert graph.get_state(CONFIG).values["items"] == expected
        if turn == 3:
            saver.prune([THREAD])
            assert graph.get_state(CONFIG).values["items"] == expected
