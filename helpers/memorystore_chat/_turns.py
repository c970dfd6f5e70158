"""What a turn of an agent is: which messages are new in a call, and which were said until it ended.

Messages are told apart by their ids, which LangGraph gives to all that have none. Nothing here
asks a server; `agents` does.
"""

from collections.abc import Iterable, Sequence
from typing import Any, TypedDict
from uuid import uuid4

from langchain_core.messages import (
    AIMessage,
    BaseMessage,
    HumanMessage,
    RemoveMessage,
    SystemMessage,
    ToolMessage,
)
from langgraph.checkpoint.base import CheckpointTuple
from langgraph.graph.message import REMOVE_ALL_MESSAGES

NOT_CARRIED_OUT = "The call was not carried out."
"""The answer to a tool call that a turn ended without."""

START_STEPS = 3
"""Steps from the end of one run to the first node of the next: LangGraph takes one for the input,
one to write it into the state, and the node itself is the third."""


class Turn(TypedDict):
    """One turn of the conversation, kept in the agent's state between the hooks.

    ``messages`` sits inside a dict so that ``stream_mode="messages"`` does not show it again.
    """

    append_id: str | None  # None once the turn is stored
    messages: list[BaseMessage]
    after: str | None  # id of the newest message before the turn
    step: int  # LangGraph's number of the step in which this was noted
    given: list[BaseMessage]  # what a parent graph passed in


def merged(left: Turn, right: Any) -> Turn:
    """The reducer of the turn in the state: a whole turn replaces, ``{"noted": [...]}`` adds.

    Tools that run side by side each add their results.
    """
    if not left or "noted" not in right:
        return right if "noted" not in right else left
    known = {message.id for message in left["messages"]}
    added = [message for message in right["noted"] if message.id not in known]
    return {**left, "messages": [*left["messages"], *added], "step": right["step"]}


def open_turn(messages: Sequence[BaseMessage], turn: Turn | None) -> Sequence[BaseMessage]:
    """The agent's messages that came after the last turn that it noted."""
    if turn and (split := _split(turn, messages)):
        return split[1]
    return messages


def of_this_call(
    messages: Sequence[BaseMessage],
    turn: Turn | None,
    step: int,
    checkpoints: Iterable[CheckpointTuple],
) -> list[BaseMessage]:
    """Leave out the input of calls that failed before the session was loaded.

    A call that is cancelled or fails early leaves its input in the checkpoint, and one that runs
    at the same time has put its own there already.

    Args:
        messages: The agent's messages after the last noted turn.
        turn: The last noted turn.
        step: The present step.
        checkpoints: The thread's checkpoints before the present one, newest first.
    """
    begin: set[str | None] | None = None  # the ids that were there when this call began
    by_hand: set[str | None] = set()  # added between calls, with update_state()
    expected, newer = step - 2, None
    for checkpoint in checkpoints:
        ids = {message.id for message in _messages_of(checkpoint)}
        source, at = checkpoint.metadata.get("source"), checkpoint.metadata.get("step", 0)
        if begin is None:
            if at == expected and source != "input":
                expected -= 1
                continue
            begin = ids
        if newer and newer[0] == "update":
            by_hand |= newer[1] - ids
        newer = (source, ids)
        if turn and at <= turn["step"]:
            break
    if begin is None:
        return [*messages]
    new = [m for m in messages if m.id not in begin or m.id in by_hand]
    if turn is None:
        # The thread was begun without the middleware: its turns move into the session.
        before = [m for m in messages if m.id in begin]
        return [*_whole_turns(before), *new]
    return new


def _messages_of(checkpoint: CheckpointTuple) -> list[BaseMessage]:
    return checkpoint.checkpoint["channel_values"].get("messages") or []


def _whole_turns(messages: Sequence[BaseMessage]) -> Sequence[BaseMessage]:
    """The messages up to the last answer of a model that calls no tool."""
    for index in range(len(messages), 0, -1):
        message = messages[index - 1]
        if isinstance(message, AIMessage) and not message.tool_calls:
            return messages[:index]
    return []


def new_messages(
    given: Sequence[BaseMessage],
    stored: Sequence[BaseMessage],
    *,
    whole_conversation: bool,
) -> list[BaseMessage]:
    """The messages of a call that the session does not hold.

    Args:
        given: What the call may have brought.
        stored: What was read of the session.
        whole_conversation: Whether each call passes all messages, so that those after the last
            answer are new. Instructions before it are given anew, because none is stored.
    """
    known = {message.id for message in stored}
    if whole_conversation and stored:
        answered = next((i for i in range(len(given), 0, -1) if given[i - 1].type == "ai"), 0)
        instructions = [m for m in given[:answered] if isinstance(m, SystemMessage)]
        given = [*instructions, *given[answered:]]
    new = [message for message in given if message.id not in known]
    last = given[-1] if given else None
    if isinstance(last, HumanMessage) and last.id in known and last.id != stored[-1].id:
        # It has its answer already, and is asked again.
        new.append(last.model_copy(update={"id": str(uuid4())}))
    return new


def replaced(messages: Sequence[BaseMessage], stored: Sequence[BaseMessage]) -> list[BaseMessage]:
    """The user's messages that took the id, and in a checkpoint the place, of a stored one."""
    known = {message.id: message.content for message in stored}
    return [
        message.model_copy(update={"id": str(uuid4())})
        for message in messages
        if isinstance(message, HumanMessage)
        and message.id in known
        and message.content != known[message.id]
    ]


def may_be_old(given: Sequence[BaseMessage], new: Sequence[BaseMessage]) -> bool:
    """Whether messages that a window does not show may still be in the session.

    That is so if an unknown message is an answer, or stands before a message that is no new one.
    Instructions are in no session.
    """
    given = [message for message in given if not isinstance(message, SystemMessage)]
    ids = {message.id for message in new}
    last_known = max((i for i, m in enumerate(given) if m.id not in ids), default=-1)
    return any(m.id in ids and (m.type != "human" or i < last_known) for i, m in enumerate(given))


def without_dropped(
    given: Sequence[BaseMessage], stored: Sequence[BaseMessage]
) -> Sequence[BaseMessage]:
    """Leave out what stands before the session's first message: ``max_messages`` dropped it."""
    first = stored[0].id if stored else None
    return next((given[i:] for i, message in enumerate(given) if message.id == first), given)


def said(
    turn: Turn, messages: Sequence[BaseMessage], *, before_model: bool = False
) -> list[BaseMessage]:
    """All messages of the turn, those another middleware trimmed away included.

    Of the noted messages all are kept up to the newest that is still among the agent's
    ``messages``, in their present form: what is missing before it was trimmed, what is missing
    after it was taken back. Before a further call of the model nothing is taken back of a tool
    call that has its results, and a result stays as long as its call does.
    """
    split = _split(turn, messages)
    if split is None:
        return turn["messages"]
    kept, rest = split
    missing = turn["messages"][len(kept) :]
    if before_model:
        results = {m.tool_call_id for m in missing if isinstance(m, ToolMessage)}
        kept += [m for m in missing if _calls(m) and _calls(m) <= results]
    called = set().union(*map(_calls, kept))
    answered = {m.tool_call_id for m in messages if isinstance(m, ToolMessage)}
    kept += [
        m for m in missing if isinstance(m, ToolMessage) and m.tool_call_id in called - answered
    ]
    order = {message.id: place for place, message in enumerate(turn["messages"])}
    present = {message.id for message in messages}
    return [
        *(
            m
            for m in sorted(kept, key=lambda m: order[m.id])
            # Another result of the call has taken the place of this one.
            if not (
                isinstance(m, ToolMessage) and m.id not in present and m.tool_call_id in answered
            )
        ),
        *rest,
    ]


def _split(
    turn: Turn, messages: Sequence[BaseMessage]
) -> tuple[list[BaseMessage], Sequence[BaseMessage]] | None:
    """The noted part of the turn and what came after it; None if neither shows."""
    places = {message.id: place for place, message in enumerate(turn["messages"])}
    if turn["after"]:
        places.setdefault(turn["after"], -1)
    for index in range(len(messages) - 1, -1, -1):
        place = places.get(messages[index].id)
        if place is not None:
            current = {message.id: message for message in messages}
            kept = [current.get(m.id, m) for m in turn["messages"][: place + 1]]
            return kept, messages[index + 1 :]
    return None


def to_store(messages: Sequence[BaseMessage]) -> list[BaseMessage]:
    """What of a turn goes into the session: no instructions, and no call without an answer."""
    kept = [m for m in messages if not isinstance(m, SystemMessage)]
    answered = {m.tool_call_id for m in kept if isinstance(m, ToolMessage)}
    stored: list[BaseMessage] = []
    pending: list[BaseMessage] = []
    for message in kept:
        if not isinstance(message, ToolMessage):
            stored += pending
            pending = []
        stored.append(message)
        if isinstance(message, AIMessage):
            pending = [
                ToolMessage(
                    NOT_CARRIED_OUT,
                    name=call["name"],
                    tool_call_id=call["id"],
                    status="error",
                    # The same each time, so that a repeated append is recognized.
                    id=f"{message.id}-{call['id']}",
                )
                for call in message.tool_calls
                if call["id"] not in answered
            ]
    return [*stored, *pending]


def _calls(message: BaseMessage) -> set[str | None]:
    return {call["id"] for call in message.tool_calls} if isinstance(message, AIMessage) else set()


def change(present: Sequence[BaseMessage], wanted: Sequence[BaseMessage]) -> list[BaseMessage]:
    """The update that makes the agent's messages the wanted ones; empty if they are.

    A checkpointer stores each update, so what is there already is not written again.
    """
    ids = {message.id for message in wanted}
    staying = [message for message in present if message.id in ids]
    if any(old.id != new.id for old, new in zip(staying, wanted, strict=False)):
        return [RemoveMessage(id=REMOVE_ALL_MESSAGES), *wanted]
    gone = [RemoveMessage(id=message.id or "") for message in present if message.id not in ids]
    changed = [
        new
        for old, new in zip(staying, wanted, strict=False)
        if (old.type, old.content) != (new.type, new.content)
    ]
    return [*gone, *changed, *wanted[len(staying) :]]


def results(messages: Any) -> list[BaseMessage]:
    """The tool results in an update of the agent's messages."""
    several = messages if isinstance(messages, list | tuple) else [messages]
    return [message for message in several if isinstance(message, ToolMessage)]
