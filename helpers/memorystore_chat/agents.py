"""Memory for agents: a middleware for LangChain's ``create_agent``. Needs the extra ``agents``."""

from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Annotated, Any, NotRequired
from uuid import uuid4

from langchain_core.messages import ToolMessage

from memorystore_chat import codec
from memorystore_chat.arguments import thread_id_of
from memorystore_chat.extras import require
from memorystore_chat.history import MemorystoreChatMessageHistory

require("langchain.agents", install="langchain")

from langchain.agents.middleware import (  # noqa: E402
    AgentMiddleware,
    AgentState,
    ExtendedModelResponse,
    ModelRequest,
    ModelResponse,
    ToolCallRequest,
)
from langchain.agents.middleware.types import PrivateStateAttr  # noqa: E402
from langgraph.config import get_config  # noqa: E402
from langgraph.runtime import Runtime  # noqa: E402
from langgraph.types import Command  # noqa: E402
from typing_extensions import override  # noqa: E402

from memorystore_chat import _turns  # noqa: E402
from memorystore_chat._middleware import at_once, begin, end, step_of, turn_of  # noqa: E402
from memorystore_chat._turns import Turn  # noqa: E402


class _State(AgentState[Any]):
    memorystore_turn: NotRequired[Annotated[Turn, PrivateStateAttr, _turns.merged]]


class ChatHistoryMiddleware(AgentMiddleware[AgentState[Any], Any, Any]):
    """Gives an agent a memory in Memorystore: two round trips a turn, whatever its length.

    Before the agent runs it loads the session; after it, it appends the messages of this turn
    (the user's, the model's, tool calls and their results) in one write, all or none.

    Put it first in ``middleware=[...]``, so that the others see the whole conversation and it
    stores what they made of the turn.

    - **The session is the truth.** The agent sees the session's messages (at most the history's
      ``window``), then what is new in the call. New is what has an id that the session does not
      hold, wherever it stands; a message without an id is new, so pass only what is new, or the
      messages an earlier call returned. A question under an id that is taken is asked under
      another. A call that asks nothing new raises a ValueError.
    - **A front end that resends the whole conversation** without ids in each call needs
      ``whole_conversation=True``: the messages after the last answer are new, the rest is taken
      from the session. An answer that was edited there is therefore not noticed; an empty
      session, as after its expiry, takes everything over.
    - **With a checkpointer** beside it the same holds. The checkpoint keeps a turn that is under
      way; a session that was cleared or has expired is forgotten, though the checkpoint still has
      its messages. Going back to an earlier checkpoint raises a ValueError once the session has
      gone on: a session only grows.
    - **A turn is stored when it ends**, and with ``stream`` and ``astream`` when they have been
      read to the end. A model or tool that raises, a canceled task or a stream left early stores
      nothing. An interrupted turn is stored when it is resumed to its end; a new message instead
      drops it, as it drops one that failed, before or after the session was loaded.
    - **An answer that another middleware gives** in the model's place is stored as the answer that
      the user got, also "Model call failed" of ``ModelRetryMiddleware``. With its
      ``on_failure="error"`` a failed model stores nothing.
    - **A failing read or write raises.** After a failed write ``agent.invoke(None, config)``, with
      a checkpointer, tries just the write again, and the turn is stored once.
    - **A tool call without a result** is neither stored nor replayed as it is, because models
      refuse it: a turn that ends before its calls are carried out is stored with results that
      say "The call was not carried out."
    - **In a graph** the agent is a node like any other. The parent graph gets its own messages
      back and what is new, not the rest of the session, so that they stay in order. Give each
      agent of a graph histories with a ``key_prefix`` of their own.
    - **Two turns at once** on a session do not see each other; each is stored in one piece.
    - **Trimming and summarizing** change what the model sees, not what is stored: the messages
      that ``SummarizationMiddleware`` removes are stored and its summary is not. It summarizes
      anew in each turn that begins past its trigger, so choose a ``window`` below that, or a
      checkpointer alone if a running summary is the memory you want. A message that another
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
        whole_conversation: Whether each call passes the whole conversation, as many front ends
            do, and not only what is new.

    Raises:
        TypeError: ``history`` is neither, or ``whole_conversation`` is not a bool.

    Example:
        >>> from langchain.agents import create_agent
        >>> from memorystore_chat import MemorystoreChatMessageHistory, connect
        >>> from memorystore_tutorial import DemoChatModel
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

    state_schema: type[AgentState[Any]] = _State

    def __init__(
        self,
        history: MemorystoreChatMessageHistory | Callable[[str], MemorystoreChatMessageHistory],
        *,
        whole_conversation: bool = False,
    ) -> None:
        super().__init__()
        if not (isinstance(history, MemorystoreChatMessageHistory) or callable(history)):
            raise TypeError(
                f"history is a {type(history).__name__}; it takes a MemorystoreChatMessageHistory, "
                "or a function that makes one from a thread_id."
            )
        if not isinstance(whole_conversation, bool):
            raise TypeError(
                f"whole_conversation is a {type(whole_conversation).__name__}; it takes a bool."
            )
        self._source = history
        self._whole_conversation = whole_conversation

    @override
    def before_agent(  # type: ignore[override]
        self, state: AgentState[Any], runtime: Runtime[Any]
    ) -> Command[Any]:
        """Load the session, and put what is new in this call after it.

        Raises:
            ValueError: The config has no usable ``thread_id``, the call asks nothing new, or it
                goes back to a checkpoint that the session has left behind.
            MemorystoreChatError: The session cannot be read.
        """
        return at_once(
            begin(self._history(), state, runtime, self._whole_conversation, waits=False)
        )

    @override
    async def abefore_agent(  # type: ignore[override]
        self, state: AgentState[Any], runtime: Runtime[Any]
    ) -> Command[Any]:
        """``before_agent``, without blocking the event loop."""
        return await begin(self._history(), state, runtime, self._whole_conversation, waits=True)

    @override
    def wrap_model_call(
        self, request: ModelRequest[Any], handler: Callable[[ModelRequest[Any]], ModelResponse[Any]]
    ) -> ExtendedModelResponse[Any]:
        """Note the turn so far, before another middleware trims it away."""
        return _with_turn(request, handler(request))

    @override
    async def awrap_model_call(
        self,
        request: ModelRequest[Any],
        handler: Callable[[ModelRequest[Any]], Awaitable[ModelResponse[Any]]],
    ) -> ExtendedModelResponse[Any]:
        """``wrap_model_call``, without blocking the event loop."""
        return _with_turn(request, await handler(request))

    @override
    def wrap_tool_call(
        self,
        request: ToolCallRequest,
        handler: Callable[[ToolCallRequest], ToolMessage | Command[Any]],
    ) -> ToolMessage | Command[Any]:
        """Note a tool's result, before another middleware or the tool itself removes it."""
        return _with_result(request, handler(request))

    @override
    async def awrap_tool_call(
        self,
        request: ToolCallRequest,
        handler: Callable[[ToolCallRequest], Awaitable[ToolMessage | Command[Any]]],
    ) -> ToolMessage | Command[Any]:
        """``wrap_tool_call``, without blocking the event loop."""
        return _with_result(request, await handler(request))

    @override
    def after_agent(  # type: ignore[override]
        self, state: AgentState[Any], runtime: Runtime[Any]
    ) -> Command[Any]:
        """Append the messages of this turn, in one write.

        Raises:
            ValueError: The call went back to a checkpoint that the session has left behind.
            MemorystoreChatError: The turn cannot be stored.
        """
        return at_once(end(self._history(), state, waits=False))

    @override
    async def aafter_agent(  # type: ignore[override]
        self, state: AgentState[Any], runtime: Runtime[Any]
    ) -> Command[Any]:
        """``after_agent``, without blocking the event loop."""
        return await end(self._history(), state, waits=True)

    def _history(self) -> MemorystoreChatMessageHistory:
        if isinstance(self._source, MemorystoreChatMessageHistory):
            return self._source
        thread_id = thread_id_of(get_config(), "ChatHistoryMiddleware")
        history = self._source(thread_id)
        if not isinstance(history, MemorystoreChatMessageHistory):
            raise TypeError(
                f"The function given to ChatHistoryMiddleware returned a {type(history).__name__} "
                f"for the thread_id {thread_id!r}; it has to return a "
                "MemorystoreChatMessageHistory."
            )
        return history


def _with_turn(
    request: ModelRequest[Any], response: ModelResponse[Any]
) -> ExtendedModelResponse[Any]:
    """The model's response, with the turn up to it as a state update."""
    turn = turn_of(request.state)
    if turn is None:
        return ExtendedModelResponse(response)
    for message in response.result:
        message.id = message.id or str(uuid4())
    said = _turns.said(turn, request.state["messages"], before_model=True)
    noted: Turn = {
        **turn,
        "append_id": codec.new_append_id(),  # it tells the time, and an interrupt can last days
        "messages": [*said, *response.result],
        "step": step_of(get_config()),
    }
    return ExtendedModelResponse(response, Command(update={"memorystore_turn": noted}))


def _with_result(
    request: ToolCallRequest, result: ToolMessage | Command[Any]
) -> ToolMessage | Command[Any]:
    """A tool's result, with a note of it as a state update."""
    if not isinstance(request.state, dict) or turn_of(request.state) is None:
        return result
    if isinstance(result, ToolMessage):
        result = Command(update={"messages": [result]})
    if result.graph is not None or not isinstance(result.update, dict):
        return result
    messages = result.update.get("messages") or []
    several = messages if isinstance(messages, list | tuple) else [messages]
    noted = [message for message in several if isinstance(message, ToolMessage)]
    for message in noted:
        message.id = message.id or str(uuid4())
    note = {"noted": noted, "step": step_of(get_config())}
    return replace(result, update={**result.update, "memorystore_turn": note})
