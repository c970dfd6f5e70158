"""The beginning of an agent's turn: what of the messages it was called with is new."""

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple
from uuid import uuid4

from langchain.agents.middleware import AgentState
from langchain_core.messages import AIMessage, BaseMessage
from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.base import BaseCheckpointSaver, CheckpointTuple
from langgraph.config import get_config
from langgraph.runtime import Runtime
from langgraph.types import Command

from memorystore_chat import _turns
from memorystore_chat._turns import Turn
from memorystore_chat.history import MemorystoreChatMessageHistory
from memorystore_chat.storage import codec

# LangGraph hands this to each task of a run, and has no public name for it.
_CHECKPOINTER = "__pregel_checkpointer"

CHECKPOINTS_SEARCHED = 30
"""How many checkpoints are read to tell the input of this call from that of failed ones."""

REWOUND = (
    "The call goes back to an earlier checkpoint, and the session has gone on since. A session "
    "is a list that only grows: to try another way, copy it to a new thread_id, or use a "
    "checkpointer without ChatHistoryMiddleware."
)


class Search(NamedTuple):
    """Where a call's checkpoints are found."""

    saver: BaseCheckpointSaver[Any]
    arguments: dict[str, Any]


class Beginning:
    """The beginning of a turn: from the agent's messages and the session's to what is new."""

    def __init__(
        self,
        history: MemorystoreChatMessageHistory,
        state: AgentState[Any],
        runtime: Runtime[Any],
        whole_conversation: bool,
    ) -> None:
        self.history = history
        self.session: list[BaseMessage] | None = None
        self._present: list[BaseMessage] = list(state["messages"])
        self._turn = turn_of(state)
        self._config = get_config()
        self._whole_conversation = whole_conversation
        self._given = [*_turns.open_turn(self._present, self._turn)]
        self._checkpoint_id = runtime.execution_info and runtime.execution_info.checkpoint_id

    @property
    def search(self) -> Search | None:
        """The checkpoints to read if calls may have failed since the last turn, else None."""
        saver = self._config["configurable"].get(_CHECKPOINTER)
        begun = self._turn["step"] if self._turn else 1 - _turns.START_STEPS
        if (
            not isinstance(saver, BaseCheckpointSaver)
            or not self._checkpoint_id
            or step_of(self._config) == begun + _turns.START_STEPS
        ):
            return None
        place = {
            "thread_id": self._config["configurable"].get("thread_id"),
            "checkpoint_ns": _namespace(self._config),
        }
        return Search(
            saver,
            {
                "config": {"configurable": place},
                "before": {"configurable": place | {"checkpoint_id": self._checkpoint_id}},
                "limit": CHECKPOINTS_SEARCHED,
            },
        )

    def narrow(self, checkpoints: Iterable[CheckpointTuple]) -> None:
        """Leave out the input of other calls."""
        self._given = _turns.of_this_call(
            self._given, self._turn, step_of(self._config), checkpoints
        )

    def needs_whole_session(self, stored: list[BaseMessage]) -> bool:
        """Whether only messages that the window does not show tell what is new."""
        return self.history._window is not None and _turns.may_be_old(
            self._given, self._new(stored)
        )

    def update(self, stored: list[BaseMessage]) -> Command[Any]:
        """The state update that begins the turn."""
        turn = self.turn(stored)
        wanted = [*stored, *turn["messages"]]
        if (
            names_checkpoint(self._config)
            and stored
            and stored[-1].id not in {message.id for message in self._present}
        ):
            raise ValueError(REWOUND)
        if not turn["messages"] and wanted and isinstance(wanted[-1], AIMessage):
            raise ValueError(
                f"The call asks nothing: its messages are all in the session {self.history.key!r} "
                "already, and the last of them is an answer. Pass a new message, without an id or "
                "with one of its own."
            )
        return update_of(turn, _turns.change(self._present, wanted))

    def turn(self, stored: list[BaseMessage]) -> Turn:
        """A turn that holds what is new in this call."""
        for message in stored:
            message.id = message.id or str(uuid4())
        return {
            "append_id": codec.new_append_id(),
            "messages": self._new(self.session or stored),
            "after": stored[-1].id if stored else None,
            "step": step_of(self._config),
            "given": self._present if "|" in self._config["configurable"]["checkpoint_ns"] else [],
        }

    def _new(self, stored: list[BaseMessage]) -> list[BaseMessage]:
        given: Sequence[BaseMessage] = self._given
        if self.history._max_messages is not None:
            given = _turns.without_dropped(given, stored)
        new = _turns.new_messages(given, stored, whole_conversation=self._whole_conversation)
        if self._turn and len(self._given) < len(self._present):
            new += _turns.replaced(self._present[: -len(self._given) or None], stored)
        return new


def turn_of(state: Any) -> Turn | None:
    """The turn that a state holds, if one is under way."""
    return state.get("memorystore_turn") or None


def step_of(config: RunnableConfig) -> int:
    """The number of the step that a task runs in."""
    return int(config["metadata"]["langgraph_step"])


def _namespace(config: RunnableConfig) -> str:
    """The namespace of the agent's checkpoints; a task's has the task behind it."""
    return str(config["configurable"]["checkpoint_ns"]).rpartition("|")[0]


def names_checkpoint(config: RunnableConfig) -> bool:
    """Whether the call names an earlier checkpoint to go on from."""
    return "checkpoint_id" in config["metadata"]


def update_of(turn: Turn, messages: list[BaseMessage]) -> Command[Any]:
    """The state update of a turn and a change of the messages."""
    # As pairs and not as a dict, because stream_mode="messages" would show every message in a
    # dict's lists: the old conversation again, at the beginning of each turn.
    pairs: list[tuple[str, Any]] = [("memorystore_turn", turn)]
    return Command(update=[("messages", messages), *pairs] if messages else pairs)
