"""What a turn of an agent is: which messages are new in a call, and which were said until it ended.

Messages are told apart by their ids, which LangGraph gives to all that have none.
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
        whole: Turn = left if "noted" in right else right
        return whole
    known = {message.id for message in left["messages"]}
    added = [message for message in right["noted"] if message.id not in known]
    return {**left, "messages": [*left["messages"], *added], "step": right["step"]}


def open_turn(messages: Sequence[BaseMessage], turn: Turn | None) -> Sequence[BaseMessage]:
    """The agent's messages that came after the last turn that it noted."""
    newest = turn and _newest(turn, messages)
    return messages[newest[0] + 1 :] if newest else messages


def of_this_call(
    messages: Sequence[BaseMessage],
    turn: Turn | None,
    step: int,
    checkpoints: Iterable[CheckpointTuple],
) -> list[BaseMessage]:
    """Leave out, of the messages after the last turn, the input of calls that did not get there.

    A call that is cancelled or fails early leaves its input in the checkpoint, and one that runs
    at the same time has put its own there already.
    """
    begin: set[str | None] | None = None  # the ids that were there when this call began
    by_hand: set[str | None] = set()  # added between calls, with update_state()
    expected, newer = step - 2, None
    for checkpoint in checkpoints:
        values = checkpoint.checkpoint["channel_values"]
        ids = {message.id for message in values.get("messages") or []}
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
        # The thread was begun without the middleware: its turns, each up to an answer, move into
        # the session.
        before = [m for m in messages if m.id in begin]
        while before and not (isinstance(before[-1], AIMessage) and not before[-1].tool_calls):
            before.pop()
        return before + new
    return new


def new_messages(
    given: Sequence[BaseMessage], stored: Sequence[BaseMessage], *, whole_conversation: bool
) -> list[BaseMessage]:
    """The messages of a call that the session does not hold."""
    known = {message.id for message in stored}
    if whole_conversation and stored:
        # Those after the last answer are new, and so are all instructions, which are not stored.
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

    That is so if a new message is an answer, or stands before one that is known. Instructions are
    in no session.
    """
    ids = {message.id for message in new}
    order = [m.type if m.id in ids else "known" for m in given if not isinstance(m, SystemMessage)]
    while order and order[-1] == "human":
        order.pop()
    return any(kind != "known" for kind in order)


def said(
    turn: Turn, messages: Sequence[BaseMessage], *, before_model: bool = False
) -> list[BaseMessage]:
    """All messages of the turn, in their present form.

    What is missing before the newest noted one that the agent still has was trimmed away, and
    belongs to the turn; what is missing after it was taken back. Before a further call of the
    model nothing is taken back of a tool call that has its results, and a result stays as long as
    its call does.
    """
    noted, newest = turn["messages"], _newest(turn, messages)
    if newest is None:
        return noted
    index, place = newest
    kept, missing = noted[: place + 1], noted[place + 1 :]
    if before_model:
        results = {m.tool_call_id for m in missing if isinstance(m, ToolMessage)}
        kept += [m for m in missing if _calls(m) and _calls(m) <= results]
    called = set().union(*map(_calls, kept))
    kept += [m for m in missing if isinstance(m, ToolMessage) and m.tool_call_id in called]
    present = {message.id: message for message in messages}
    answered = {m.tool_call_id for m in messages if isinstance(m, ToolMessage)}
    # In the place of a result that is missing there may be another one of the same call.
    gone = {m.id for m in kept if isinstance(m, ToolMessage) and m.tool_call_id in answered}
    staying = {message.id for message in kept} - (gone - present.keys())
    said = [present.get(message.id, message) for message in noted if message.id in staying]
    return [*said, *messages[index + 1 :]]


def _newest(turn: Turn, messages: Sequence[BaseMessage]) -> tuple[int, int] | None:
    """Where the newest of the messages stands that was noted, and its place in the turn.

    -1 is the place of the message before the turn.
    """
    places = {message.id: place for place, message in enumerate(turn["messages"])}
    if turn["after"]:
        places.setdefault(turn["after"], -1)
    for index in range(len(messages) - 1, -1, -1):
        if (place := places.get(messages[index].id)) is not None:
            return index, place
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
                    "The call was not carried out.",
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
    there = {message.id: (message.type, message.content) for message in present}
    ids = [message.id for message in wanted]
    gone = there.keys() - set(ids)
    staying = [message.id for message in present if message.id not in gone]
    if staying != ids[: len(staying)]:
        return [RemoveMessage(id=REMOVE_ALL_MESSAGES), *wanted]
    removals = [RemoveMessage(id=message.id or "") for message in present if message.id in gone]
    return [*removals, *(m for m in wanted if there.get(m.id) != (m.type, m.content))]
