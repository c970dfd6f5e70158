"""MemorystoreSaver: LangGraph's contract, on one server and on a cluster, and what it survives."""

import operator
import threading
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from typing import Annotated, Any, TypedDict
from uuid import uuid4

import pytest
from langchain_core.messages import HumanMessage
from langgraph.channels.delta import DeltaChannel
from langgraph.checkpoint.base import BaseCheckpointSaver, Checkpoint, empty_checkpoint
from langgraph.checkpoint.conformance import checkpointer_test, validate
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import END, START, StateGraph

from checkpoints import CONFIG, THREAD, Make, Stored, ask, at, graph_of, listed, newest, put, words
from memorystore_chat.checkpoint import MemorystoreSaver


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

    async def test_each_server(self, saver: MemorystoreSaver) -> None:
        """The server of $MEMORYSTORE_TEST_SERVER passes, too."""
        await self.check(saver)


class TestThreads:
    """All of them, one of another saver, and turns that meet."""

    def test_all_threads(self, saver: MemorystoreSaver) -> None:
        """Listing without a config reads every thread under the prefix, and no other key."""
        for number in range(20):
            config: Any = {"configurable": {"thread_id": f"t{number}", "checkpoint_ns": ""}}
            saver.put(config, empty_checkpoint(), {"step": number}, {})
        found = {each.config["configurable"]["thread_id"] for each in saver.list(None)}
        assert found == {f"t{number}" for number in range(20)}
        assert [each.metadata["step"] for each in saver.list(None, filter={"step": 7})] == [7]
        assert len([*saver.list(None, limit=3)]) == 3

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


class TestLists:
    """Lists are stored by their elements, and come back as they were."""

    def test_every_edit(self, saver: MemorystoreSaver) -> None:
        """Appended to, cut, changed in the middle, turned around: each version stays readable."""
        history = [f"{number} " + "x" * (number % 5 * 100) for number in range(600)]
        edits: list[list[Any]] = [
            history,
            [*history, "new"],
            history[10:],
            [*history[:7], "changed" * 50, *history[8:]],
            list(reversed(history)),
            [],
            history * 2,
            [number * 1.5 for number in range(3000)],
            [[1, [2, {"a": b"b"}]], None, b"y" * 300, True, "x" * 5000],
        ]
        config = CONFIG
        for number, value in enumerate(edits):
            config = put(saver, config, f"{number:04}", list=value)
        assert listed(saver) == edits[::-1]

    def test_changed_in_place(self, saver: MemorystoreSaver) -> None:
        """A message that a node changes in place is stored as changed, and as it was before."""

        def change(state: Any) -> Any:
            state["messages"][0].content = "changed"
            state["messages"][1].note = "changed"
            return {"messages": state["messages"]}

        given = [HumanMessage("first", id="1"), HumanMessage("second", id="2", note="same")]
        graph_of(saver, change).invoke({"messages": given}, CONFIG, durability="sync")
        values = [each.checkpoint["channel_values"] for each in saver.list(CONFIG)]
        found = [[(one.text, one.model_extra) for one in each["messages"]] for each in values[:2]]
        assert found == [
            [("changed", {}), ("second", {"note": "changed"})],
            [("first", {}), ("second", {"note": "same"})],
        ]

    @pytest.mark.parametrize("value", [["a" * 99, "b" * 99], ["b" * 99]])
    def test_what_is_known_is_checked(
        self, saver: MemorystoreSaver, make_saver: Make, value: Any
    ) -> None:
        """A thread that was deleted between two turns' writes is stored in full again."""
        config = put(saver, CONFIG, "1", list=["a" * 99], other="x" * 99)
        make_saver().delete_thread(THREAD)
        checkpoint: Checkpoint = {
            **empty_checkpoint(),
            "id": "2",
            "channel_values": {"list": value, "other": "x" * 99},
            "channel_versions": {"list": "2", "other": "1"},
        }
        saver.put(config, checkpoint, {}, {"list": "2"})
        assert newest(saver).checkpoint["channel_values"] == checkpoint["channel_values"]


def extend(state: list[str] | None, writes: list[list[str]]) -> list[str]:
    return [*(state or []), *(item for write in writes for item in write)]


class Items(TypedDict):
    items: Annotated[list[str], DeltaChannel(extend, list)]
    plain: Annotated[list[str], operator.add]


def parallel(saver: BaseCheckpointSaver[str], nodes: int = 6) -> Any:
    """A graph whose nodes n0, n1, ... write one DeltaChannel at the same time."""
    graph = StateGraph(Items)
    graph.add_node("end", lambda state: {"items": ["end"]})
    for number in range(nodes):
        graph.add_node(f"n{number}", lambda state, name=f"n{number}": {"items": [name]})
        graph.add_edge(START, f"n{number}")
        graph.add_edge(f"n{number}", "end")
    graph.add_edge("end", END)
    return graph.compile(checkpointer=saver)


def items(graph: Any) -> Any:
    return graph.get_state(CONFIG).values["items"]


class TestDeltaChannel:
    """A channel that is stored as what was written to it, and computed from that."""

    TURN = ("in", "n0", "n1", "n2", "n3", "n4", "n5", "end")

    @pytest.mark.parametrize(
        ("durability", "keep"), [("sync", None), ("sync", 1), ("async", 1), ("exit", 2)]
    )
    def test_parallel_nodes_come_back_in_order(
        self, durability: Any, keep: int | None, make_saver: Make
    ) -> None:
        """n0 to n5 are in order, without a snapshot, after several turns, after pruning."""
        saver = make_saver(keep=keep)
        graph = parallel(saver)
        for turn in range(1, 4):
            graph.invoke({"items": ["in"], "plain": ["p"]}, CONFIG, durability=durability)
            assert items(graph) == [*self.TURN] * turn
        saver.prune([THREAD])
        assert items(graph) == [*self.TURN] * 3
        graph.invoke({"items": ["in"]}, CONFIG, durability=durability)
        assert items(graph) == [*self.TURN] * 4

    def test_deleting_runs_does_not_break_it(self, saver: MemorystoreSaver, stored: Stored) -> None:
        """A run whose writes a later checkpoint is computed from goes when that goes."""
        graph = parallel(saver)
        for run in ("r1", "r2", "r3"):
            graph.invoke({"items": ["in"]}, {**CONFIG, "metadata": {"run_id": run}})
        saver.delete_for_runs(["r3"])
        assert items(graph) == [*self.TURN] * 2
        saver.delete_for_runs(["r1"])
        assert items(graph) == [*self.TURN] * 2
        assert {each.metadata["run_id"] for each in saver.list(CONFIG)} == {"r2"}
        saver.delete_for_runs(["r1", "r2"])
        assert saver.get_tuple(CONFIG) is None
        assert stored() == {}


def test_late_writes_leave_nothing(make_saver: Make, stored: Stored) -> None:
    """What is written to a checkpoint that `keep` dropped is forgotten; early writes wait."""
    saver = make_saver(keep=1)
    first = put(saver, CONFIG, "1", x=1)
    second = put(saver, first, "2", x=2)
    before = stored()
    saver.put_writes(first, [("x", ["late" * 50])], "task")
    assert stored() == before
    saver.put_writes(at("3"), [("x", ["early" * 50])], "task")
    put(saver, second, "3", x=3)
    (found,) = saver.list(CONFIG)
    assert found.pending_writes == [("task", "x", ["early" * 50])]
