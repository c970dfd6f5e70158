"""Memory for agents: a middleware for LangChain's ``create_agent``. Needs the extra ``agents``."""

from collections.abc import Awaitable, Callable, Sequence
from itertools import dropwhile
from typing import Annotated, Any, NotRequired, TypedDict, cast
from uuid import uuid4

from langchain_core.messages import BaseMessage, RemoveMessage, SystemMessage, ToolMessage

from memorystore_chat._extras import require
from memorystore_chat.history import MemorystoreChatMessageHistory
from memorystore_chat.storage import codec

require("langchain.agents", install="langchain")

from langchain.agents.middleware import (  # noqa: E402
    AgentMiddleware,
    AgentState,
    ExtendedModelResponse,
    ModelRequest,
    ModelResponse,
)
from langchain.agents.middleware.types import PrivateStateAttr  # noqa: E402
from langgraph.config import get_config  # noqa: E402
from langgraph.graph.message import REMOVE_ALL_MESSAGES  # noqa: E402
from langgraph.runtime import Runtime  # noqa: E402
from langgraph.types import Command  # noqa: E402
from typing_extensions import override  # noqa: E402


class _Turn(TypedDict):
    """One turn of the conversation, kept in the agent's state between the hooks.

    ``messages`` sits inside a dict so that ``stream_mode="messages"`` does not show it again.
    """

    append_id: str | None  # None once the turn is stored
    messages: list[BaseMessage]
    after: str | None  # id of the newest message before the turn


class _State(AgentState[Any]):
    memorystore_turn: NotRequired[Annotated[_Turn, PrivateStateAttr]]


class ChatHistoryMiddleware(AgentMiddleware[_State, Any, Any]):
    """Gives an agent a memory in Memorystore: two round trips a turn, whatever its length.

    Before the agent runs it loads the session; after it, it appends the messages of this turn
    (the user's, the model's, tool calls and their results) in one write, all or none.

    Put it first in ``middleware=[...]``, so that the others see the whole conversation and it
    stores what they made of the turn.

    - **The session is the truth.** The agent sees the session's messages (at most the history's
      ``window``, no tool result without its call), then what is new in the call. Messages passed
      in again, up to the newest one that is stored, are recognized by their ids and neither
      doubled nor stored twice. A message without an id is a new one, so pass only what is new,
      or the messages an earlier call returned.
    - **With a checkpointer** beside it the same holds. The checkpoint keeps a turn that is under
      way; a session that was cleared or has expired is forgotten, though the checkpoint still has
      its messages.
    - **A turn is stored when it ends**, and with ``stream`` and ``astream`` when they have been
      read to the end. A model or tool that raises, a cancelled task or a stream left early stores
      nothing. An interrupted turn is stored when it is resumed to its end; a new message instead
      drops it, as it drops one that failed.
    - **A failing read or write raises.** After a failed write ``agent.invoke(None, config)``, with
      a checkpointer, tries just the write again, and the turn is stored once.
    - **Two turns at once** on a session do not see each other; each is stored in one piece.
    - **Trimming and summarizing** change what the model sees, not what is stored: the messages
      that ``SummarizationMiddleware`` removes are stored and its summary is not. It summarizes
      anew in each turn that begins past its trigger, so choose a ``window`` below that, or a
      checkpointer alone where a running summary is the memory you want. A message that another
      middleware changed is stored as changed; the newest ones of a turn, if it removed them, are
      not stored.
    - **System messages** are instructions and not stored; ``create_agent(system_prompt=...)`` is
      the place for them.

    Whoever chooses the ``thread_id`` chooses the conversation: build it from your own login (such
    as ``"ada/1"``), not from what a request claims. An agent called inside a tool inherits it;
    give that agent's histories a ``key_prefix`` of their own.

    Args:
        history: Makes the history of a session from the call's ``thread_id``, or one history for
            an agent that has only one conversation.

    Raises:
        TypeError: ``history`` is neither.

    Example:
        >>> from langchain.agents import create_agent
        >>> from memorystore_chat import DemoChatModel, MemorystoreChatMessageHistory, connect
        >>> client = connect("embedded")
        >>> memory = ChatHistoryMiddleware(
        ...     lambda thread_id: MemorystoreChatMessageHistory(client, thread_id, ttl=3600)
        ... )
        >>> agent = create_agent(DemoChatModel(), middleware=[memory])
        >>> ada = {"configurable": {"thread_id": "ada/docs"}}
        >>> answer = agent.invoke({"messages": [("user", "My name is Ada.")]}, ada)
        >>> answer = agent.invoke({"messages": [("user", "What is my name?")]}, ada)
        >>> "Ada" in answer["messages"][-1].text
        True
        >>> MemorystoreChatMessageHistory(client, "ada/docs").clear()
    """

    state_schema = _State

    def __init__(
        self,
        history: MemorystoreChatMessageHistory | Callable[[str], MemorystoreChatMessageHistory],
    ) -> None:
        super().__init__()
        if not (isinstance(history, MemorystoreChatMessageHistory) or callable(history)):
            raise TypeError(
                f"history is a {type(history).__name__}; it takes a MemorystoreChatMessageHistory, "
                "or a function that makes one from a thread_id."
            )
        self._source = history

    @override
    def before_agent(  # type: ignore[override]
        self, state: _State, runtime: Runtime[Any]
    ) -> Command[Any]:
        """Load the session, and put what is new in this call after it.

        Raises:
            ValueError: The config has no usable ``thread_id``.
            MemorystoreChatError: The session cannot be read.
        """
        return _loaded(state, self._history().messages)

    @override
    async def abefore_agent(  # type: ignore[override]
        self, state: _State, runtime: Runtime[Any]
    ) -> Command[Any]:
        """``before_agent``, without blocking the event loop."""
        return _loaded(state, await self._history().aget_messages())

    @override
    def wrap_model_call(
        self,
        request: ModelRequest[Any],
        handler: Callable[[ModelRequest[Any]], ModelResponse[Any]],
    ) -> ExtendedModelResponse[Any]:
        """Note the turn so far, before another middleware trims it away."""
        return _noted(request, handler(request))

    @override
    async def awrap_model_call(
        self,
        request: ModelRequest[Any],
        handler: Callable[[ModelRequest[Any]], Awaitable[ModelResponse[Any]]],
    ) -> ExtendedModelResponse[Any]:
        """``wrap_model_call``, without blocking the event loop."""
        return _noted(request, await handler(request))

    @override
    def after_agent(self, state: _State, runtime: Runtime[Any]) -> dict[str, Any]:
        """Append the messages of this turn, in one write.

        Raises:
            MemorystoreChatError: The turn cannot be stored.
        """
        history = self._history()
        # There is none where a middleware before this one has jumped past before_agent.
        turn = state.get("memorystore_turn") or _begun(state, history.messages)
        messages = _of_turn(turn, state["messages"])
        history.add_messages(_to_store(messages), append_id=turn["append_id"])
        return {"memorystore_turn": _ended(turn, messages)}

    @override
    async def aafter_agent(self, state: _State, runtime: Runtime[Any]) -> dict[str, Any]:
        """``after_agent``, without blocking the event loop."""
        history = self._history()
        turn = state.get("memorystore_turn") or _begun(state, await history.aget_messages())
        messages = _of_turn(turn, state["messages"])
        await history.aadd_messages(_to_store(messages), append_id=turn["append_id"])
        return {"memorystore_turn": _ended(turn, messages)}

    def _history(self) -> MemorystoreChatMessageHistory:
        if isinstance(self._source, MemorystoreChatMessageHistory):
            return self._source
        thread_id = get_config().get("configurable", {}).get("thread_id")
        if not isinstance(thread_id, str) or not thread_id:
            given = "no thread_id" if thread_id is None else f"thread_id={thread_id!r}"
            raise ValueError(
                f"The agent was called with {given}, so ChatHistoryMiddleware cannot tell which "
                "conversation this is. Name it in each call, as text: agent.invoke({...}, "
                '{"configurable": {"thread_id": "ada/1"}}).'
            )
        history = self._source(thread_id)
        if not isinstance(history, MemorystoreChatMessageHistory):
            raise TypeError(
                f"The function given to ChatHistoryMiddleware returned a {type(history).__name__} "
                f"for the thread_id {thread_id!r}; it has to return a "
                "MemorystoreChatMessageHistory."
            )
        return history


def _loaded(state: _State, stored: list[BaseMessage]) -> Command[Any]:
    """The state update that begins a turn."""
    turn = _begun(state, stored)
    messages = [RemoveMessage(id=REMOVE_ALL_MESSAGES), *stored, *turn["messages"]]
    # As pairs and not as a dict, because stream_mode="messages" would show every message in a
    # dict's lists: the old conversation again, at the beginning of each turn.
    return Command(update=[("messages", messages), ("memorystore_turn", turn)])


def _begun(state: _State, stored: list[BaseMessage]) -> _Turn:
    """A turn that holds what is new in this call."""
    for message in stored:
        message.id = message.id or str(uuid4())
    given: Sequence[BaseMessage] = state["messages"]
    last = state.get("memorystore_turn")
    if last and (split := _split(last, given)):
        given = split[1]
        if last["append_id"]:  # it never ended, and may have left results of its tools
            given = [*dropwhile(lambda message: isinstance(message, ToolMessage), given)]
    known = {message.id for message in stored}
    start = next((i for i in range(len(given), 0, -1) if given[i - 1].id in known), 0)
    return {
        "append_id": codec.new_append_id(),
        "messages": [*given[start:]],
        "after": stored[-1].id if stored else None,
    }


def _noted(request: ModelRequest[Any], response: ModelResponse[Any]) -> ExtendedModelResponse[Any]:
    """The model's response, with the turn up to it as a state update."""
    state = cast("_State", request.state)
    turn = state.get("memorystore_turn")
    if turn is None:
        return ExtendedModelResponse(response)
    noted: _Turn = {
        "append_id": codec.new_append_id(),  # it tells the time, and an interrupt can last days
        "messages": [*_of_turn(turn, state["messages"]), *response.result],
        "after": turn["after"],
    }
    return ExtendedModelResponse(response, Command(update={"memorystore_turn": noted}))


def _of_turn(turn: _Turn, messages: Sequence[BaseMessage]) -> list[BaseMessage]:
    """All messages of the turn, those another middleware trimmed away included."""
    split = _split(turn, messages)
    return [*split[0], *split[1]] if split else turn["messages"]


def _split(
    turn: _Turn, messages: Sequence[BaseMessage]
) -> tuple[list[BaseMessage], Sequence[BaseMessage]] | None:
    """The noted part of the turn and what came after it; None where neither shows.

    Of the noted messages all are kept up to the newest that is still among the agent's
    ``messages``, in their present form: what is missing before it was trimmed, what is missing
    after it was taken back.
    """
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


def _to_store(messages: Sequence[BaseMessage]) -> list[BaseMessage]:
    return [message for message in messages if not isinstance(message, SystemMessage)]


def _ended(turn: _Turn, messages: Sequence[BaseMessage]) -> _Turn:
    after = messages[-1].id if messages else turn["after"]
    return {"append_id": None, "messages": [], "after": after}
