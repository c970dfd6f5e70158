"""What ChatHistoryMiddleware does before and after an agent runs.

Each coroutine works with an agent's asynchronous calls, and with ``waits=False`` for `at_once`.
"""

from collections.abc import Coroutine
from copy import copy
from typing import Any, TypeVar, cast
from uuid import uuid4

from langchain.agents.middleware import AgentState
from langchain_core.messages import AIMessage, BaseMessage, RemoveMessage
from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.base import BaseCheckpointSaver
from langgraph.config import get_config
from langgraph.graph.message import REMOVE_ALL_MESSAGES
from langgraph.runtime import Runtime
from langgraph.types import Command

from memorystore_chat import _turns, codec
from memorystore_chat._turns import Turn
from memorystore_chat.history import MemorystoreChatMessageHistory

# LangGraph hands these to each task of a run, and has no public names for them.
CHECKPOINTER = "__pregel_checkpointer"
RESUMING = "__pregel_resuming"

CHECKPOINTS_SEARCHED = 30
"""How many checkpoints are read to tell the input of this call from that of failed ones."""

REWOUND = (
    "The call goes back to an earlier checkpoint, and the session has gone on since. A session "
    "is a list that only grows: to try another way, copy it to a new thread_id, or use a "
    "checkpointer without ChatHistoryMiddleware."
)

T = TypeVar("T")


def at_once(coroutine: Coroutine[Any, Any, T]) -> T:
    """The outcome of a coroutine that waits for nothing."""
    try:
        coroutine.send(None)
    except StopIteration as finished:
        return cast("T", finished.value)
    raise RuntimeError("The coroutine waits.")


async def begin(
    history: MemorystoreChatMessageHistory,
    state: AgentState[Any],
    runtime: Runtime[Any],
    whole_conversation: bool,
    *,
    waits: bool,
) -> Command[Any]:
    """Load the session, and make the state update that begins a turn."""
    config, before = get_config(), turn_of(state)
    present: list[BaseMessage] = list(state["messages"])
    given = [*_turns.open_turn(present, before)]
    stored = await _read(history, waits)
    if search := _search(config, runtime, before):
        saver, options = search
        checkpoints = (
            [found async for found in saver.alist(**options)] if waits else saver.list(**options)
        )
        given = _turns.of_this_call(given, before, step_of(config), checkpoints)
    known = stored
    new = _new(history, given, known, whole_conversation)
    if history.window is not None and _turns.may_be_old(given, new):
        known = await _read(_whole(history), waits)
        new = _new(history, given, known, whole_conversation)
    if before and len(given) < len(present):
        new += _turns.replaced(present[: -len(given) or None], known)
    turn, wanted = _turn(config, present, stored, new), [*stored, *new]
    if names_checkpoint(config) and stored and stored[-1].id not in {m.id for m in present}:
        raise ValueError(REWOUND)
    if not new and wanted and isinstance(wanted[-1], AIMessage):
        raise ValueError(
            f"The call asks nothing: its messages are all in the session {history.key!r} "
            "already, and the last of them is an answer. Pass a new message, without an id or "
            "with one of its own."
        )
    return _update(turn, _turns.change(present, wanted))


async def end(
    history: MemorystoreChatMessageHistory, state: AgentState[Any], *, waits: bool
) -> Command[Any]:
    """Append a turn to the session, and make the state update that ends it."""
    config, turn = get_config(), turn_of(state)
    present: list[BaseMessage] = list(state["messages"])
    if turn is None:  # a middleware before this one has jumped past the beginning
        stored = await _read(history, waits)
        turn = _turn(config, present, stored, _new(history, present, stored))
    messages = _turns.said(turn, present)
    # A call that goes on from a checkpoint may have stored its turn already.
    resumed = bool(config["configurable"].get(RESUMING)) or names_checkpoint(config)
    if not resumed or not _stored_already(messages, await _read(_whole(history), waits)):
        kept, append_id = _turns.to_store(messages), turn["append_id"]
        if waits:
            await history.aadd_messages(kept, append_id=append_id)
        else:
            history.add_messages(kept, append_id=append_id)
    change: list[BaseMessage] = []
    if turn["given"]:
        # The parent graph appends what it does not know, so it gets its own messages and what
        # is new, and not the session's.
        current = {message.id: message for message in messages}
        given = [current.pop(message.id, message) for message in turn["given"]]
        present = [*given, *current.values()]
        change = [RemoveMessage(id=REMOVE_ALL_MESSAGES), *present]
    ended: Turn = {
        "append_id": None,
        "messages": [],
        "after": present[-1].id if present else None,
        "step": step_of(config),
        "given": [],
    }
    return _update(ended, change)


def turn_of(state: Any) -> Turn | None:
    """The turn that a state holds, if one is under way."""
    return state.get("memorystore_turn") or None


def step_of(config: RunnableConfig) -> int:
    """The number of the step that a task runs in."""
    return int(config["metadata"]["langgraph_step"])


def names_checkpoint(config: RunnableConfig) -> bool:
    """Whether the call names an earlier checkpoint to go on from."""
    return "checkpoint_id" in config["metadata"]


async def _read(history: MemorystoreChatMessageHistory, waits: bool) -> list[BaseMessage]:
    return await history.aget_messages() if waits else history.messages


def _whole(history: MemorystoreChatMessageHistory) -> MemorystoreChatMessageHistory:
    """The history without its window."""
    whole = copy(history)
    whole.window = None
    return whole


def _search(
    config: RunnableConfig, runtime: Runtime[Any], turn: Turn | None
) -> tuple[BaseCheckpointSaver[Any], dict[str, Any]] | None:
    """How to find the checkpoints before this call if calls may have failed since the last turn."""
    saver = config["configurable"].get(CHECKPOINTER)
    checkpoint_id = runtime.execution_info and runtime.execution_info.checkpoint_id
    begun = turn["step"] if turn else 1 - _turns.START_STEPS
    if (
        not isinstance(saver, BaseCheckpointSaver)
        or not checkpoint_id
        or step_of(config) == begun + _turns.START_STEPS
    ):
        return None
    place = {
        "thread_id": config["configurable"].get("thread_id"),
        # A task's namespace is the agent's, with the task behind it.
        "checkpoint_ns": str(config["configurable"]["checkpoint_ns"]).rpartition("|")[0],
    }
    return saver, {
        "config": {"configurable": place},
        "before": {"configurable": place | {"checkpoint_id": checkpoint_id}},
        "limit": CHECKPOINTS_SEARCHED,
    }


def _new(
    history: MemorystoreChatMessageHistory,
    given: list[BaseMessage],
    stored: list[BaseMessage],
    whole_conversation: bool = False,
) -> list[BaseMessage]:
    if history.max_messages is not None and stored:
        # What stands before the session's first message was dropped from it.
        given = next((given[i:] for i, m in enumerate(given) if m.id == stored[0].id), given)
    return _turns.new_messages(given, stored, whole_conversation=whole_conversation)


def _stored_already(messages: list[BaseMessage], stored: list[BaseMessage]) -> bool:
    """Whether a resumed turn was stored before its run was interrupted."""
    known = {message.id for message in stored}
    found = [message.id in known for message in messages]
    if any(found) and not all(found):  # another ending of it was
        raise ValueError(REWOUND)
    return any(found)


def _turn(
    config: RunnableConfig,
    present: list[BaseMessage],
    stored: list[BaseMessage],
    new: list[BaseMessage],
) -> Turn:
    for message in stored:
        message.id = message.id or str(uuid4())
    return {
        "append_id": codec.new_append_id(),
        "messages": new,
        "after": stored[-1].id if stored else None,
        "step": step_of(config),
        "given": present if "|" in config["configurable"]["checkpoint_ns"] else [],
    }


def _update(turn: Turn, messages: list[BaseMessage]) -> Command[Any]:
    """The state update of a turn and a change of the messages."""
    # As pairs and not as a dict, because stream_mode="messages" would show every message in a
    # dict's lists: the old conversation again, at the beginning of each turn.
    pairs: list[tuple[str, Any]] = [("memorystore_turn", turn)]
    return Command(update=[("messages", messages), *pairs] if messages else pairs)
