"""What the tests of the checkpointer share: a thread, the smallest graphs, and puts by hand."""

from collections.abc import Callable
from typing import Any

from langchain_core.messages import AIMessage, HumanMessage
from langgraph.checkpoint.base import BaseCheckpointSaver, CheckpointTuple, empty_checkpoint
from langgraph.graph import START, MessagesState, StateGraph

from memorystore_chat.checkpoint import MemorystoreSaver
from scripted import words

THREAD = "ada/{1}"
CONFIG: Any = {"configurable": {"thread_id": THREAD, "checkpoint_ns": ""}}
Make = Callable[..., MemorystoreSaver]
Stored = Callable[[], dict[bytes, bytes]]


def at(checkpoint_id: str) -> Any:
    """The config that names a checkpoint."""
    return {"configurable": {**CONFIG["configurable"], "checkpoint_id": checkpoint_id}}


def put(saver: BaseCheckpointSaver[str], config: Any, name: str, **values: Any) -> Any:
    """Store a checkpoint of which all values are new."""
    versions: Any = dict.fromkeys(values, name)
    checkpoint: Any = empty_checkpoint() | {
        "id": name,
        "channel_values": values,
        "channel_versions": versions,
    }
    return saver.put(config, checkpoint, {"step": 1}, versions)


def newest(saver: BaseCheckpointSaver[str], config: Any = CONFIG) -> CheckpointTuple:
    """The newest checkpoint of a thread that has one."""
    found = saver.get_tuple(config)
    assert found is not None
    return found


def listed(saver: BaseCheckpointSaver[str]) -> list[Any]:
    """The value of the channel "list" in each checkpoint, the newest first."""
    return [found.checkpoint["channel_values"]["list"] for found in saver.list(CONFIG)]


def reply(state: MessagesState) -> Any:
    """A node that answers."""
    return {"messages": [AIMessage(f"answer to {state['messages'][-1].text}")]}


def graph_of(saver: Any, node: Any = reply) -> Any:
    """The smallest graph."""
    builder = StateGraph(MessagesState)
    builder.add_node("node", node)
    builder.add_edge(START, "node")
    return builder.compile(checkpointer=saver)


def ask(graph: Any, text: str, config: Any = CONFIG) -> list[str]:
    """The texts of a thread after a question."""
    found = graph.invoke({"messages": [HumanMessage(text)]}, config, durability="sync")
    return words(found["messages"])
