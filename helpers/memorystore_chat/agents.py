"""Memory for agents: a middleware for LangChain's ``create_agent``. Needs the extra ``agents``."""

from collections import deque
from collections.abc import Callable, Generator
from copy import copy
from typing import Annotated, Any, NamedTuple, NotRequired, TypeAlias, TypedDict, TypeVar, cast
from uuid import uuid4

from langchain_core.messages import (
    AIMessage,
    BaseMessage,
    HumanMessage,
    RemoveMessage,
    SystemMessage,
    ToolMessage,
)

from memorystore_chat.arguments import thread_id_of, type_name
from memorystore_chat.codec import new_append_id
from memorystore_chat.conversation import NO_RESULT
from memorystore_chat.extras import require
from memorystore_chat.history import MemorystoreChatMessageHistory

require("langchain.agents", extra="agents")

from langchain.agents.middleware import AgentMiddleware, AgentState  # noqa: E402
from langchain.agents.middleware.types import PrivateStateAttr  # noqa: E402
from langgraph.config import get_config  # noqa: E402
from langgraph.graph.message import REMOVE_ALL_MESSAGES  # noqa: E402
from langgraph.runtime import Runtime  # noqa: E402
from langgraph.types import Command  # noqa: E402
from typing_extensions import override  # noqa: E402

__all__ = ["ChatHistoryMiddleware"]

T = TypeVar("T")

_Messages: TypeAlias = list[BaseMessage]


class Turn(TypedDict):
    """What the agent's state holds of a turn between the hooks."""

    append_id: str | None  # None once the turn is stored
    call: str  # names the call that asked
    asked: bool  # whether a model was about to be asked
    after: str | None  # id of the state's last message before the turn
    noted: _Messages  # the turn when it was last whole
    given: list[str | None] | None  # ids that a parent graph passed in


class _State(AgentState[Any]):
    memorystore_session: NotRequired[Annotated[Turn | None, PrivateStateAttr]]


class _Request(NamedTuple):
    history: MemorystoreChatMessageHistory
    messages: _Messages | None = None  # None asks for the session's
    append_id: str | None = None


_Steps: TypeAlias = Generator[_Request, _Messages, T]


class ChatHistoryMiddleware(AgentMiddleware[AgentState[Any], Any, Any]):
    """Gives an agent a memory in Memorystore.

    Alone, the session is the memory: it is loaded before the agent runs (at most the history's
    ``window``), and the turn is appended after it, in two round trips. Beside a checkpointer, the
    checkpoint is the memory and the session is the record: it is loaded by a thread's first call
    only, and what a finished turn added is appended. A turn is what the agent's own messages have
    of it in the end, tool calls and results included, without system messages and summaries.

    - **Pass only what is new**, or what an earlier call returned: messages with an id that the
      session holds are not stored again. A call that asks nothing new is a ValueError.
    - **A turn is stored when it ends**, all or none, and not before a person's answer for which it
      waits. A model or tool that raises, a canceled task or a stream left early stores nothing. A
      new message drops such a turn.
    - **What fails raises.** The agent's call raises a MemorystoreChatError for a read or write that
      failed, and a ValueError for a config without a ``thread_id``. Beside a checkpointer,
      ``agent.invoke(None, config)`` tries a write again, and the turn is stored once.
    - **A tool call without a result** is stored as it is. Reading the session adds a result that
      says so; a result that comes with the next call follows the call.
    - **Order:** put middleware that redacts before this one in ``middleware=[...]``, and what
      trims, summarizes or guards after it. What those remove is stored all the same, unless it is
      a question that was taken back or a result that was exchanged.
    - **In a graph** the agent is a node like any other, and its session is its memory. Give each
      agent of a graph, or one that is called inside a tool, histories with a ``key_prefix``.

    What it does not do beside a checkpointer: ``clear()`` and ``ttl`` of the session don't make
    the agent forget (delete the thread too). ``window`` doesn't bound the prompt (trim or
    summarize). What others write into the session is not seen. An outage of the session shows at
    the write. Going back in time makes the record grow. A message under the id of an old one
    replaces that in the thread. One turn at a time is meant to run on a thread: those of one
    process are told apart, and those of several may store a question twice.

    Whoever chooses the ``thread_id`` chooses the conversation: build it from your own login (such
    as ``"ada/1"``), not from what a request claims.

    Args:
        history: Makes the history of a session from the call's ``thread_id``, or one history for
            an agent that has only one conversation.

    Raises:
        TypeError: ``history`` is neither.

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
    ) -> None:
        super().__init__()
        if not (isinstance(history, MemorystoreChatMessageHistory) or callable(history)):
            raise TypeError(
                f"history is a {type_name(history)}; it takes a MemorystoreChatMessageHistory, "
                "or a function that makes one from a thread_id."
            )
        self._source = history
        # The newest questions and the calls that asked them, to tell calls at once apart.
        self._asked = deque[tuple[tuple[str, str | None], str]](maxlen=1000)

    @override
    def before_agent(self, state: Any, runtime: Runtime[Any]) -> Any:
        """Begin a turn, and load the session if it is the memory."""
        return _run(self._before_agent(state, runtime))

    @override
    async def abefore_agent(self, state: Any, runtime: Runtime[Any]) -> Any:
        """``before_agent``, without blocking the event loop."""
        return await _arun(self._before_agent(state, runtime))

    @override
    def before_model(self, state: Any, runtime: Runtime[Any]) -> Any:
        """Note the turn so far, before another middleware shortens it."""
        return _run(self._before_model(state, runtime))

    @override
    async def abefore_model(self, state: Any, runtime: Runtime[Any]) -> Any:
        """``before_model``, without blocking the event loop."""
        return await _arun(self._before_model(state, runtime))

    @override
    def after_agent(self, state: Any, runtime: Runtime[Any]) -> Any:
        """Append the messages of this turn, in one write."""
        return _run(self._after_agent(state, runtime))

    @override
    async def aafter_agent(self, state: Any, runtime: Runtime[Any]) -> Any:
        """``after_agent``, without blocking the event loop."""
        return await _arun(self._after_agent(state, runtime))

    def _before_agent(self, state: Any, runtime: Runtime[Any]) -> _Steps[Command[Any]]:
        turn, messages = yield from self._turn(state, runtime, begins=True)
        return _update(turn, state["messages"], messages)

    def _before_model(self, state: Any, runtime: Runtime[Any]) -> _Steps[Command[Any]]:
        self._history()  # a turn that cannot be stored asks no model
        turn, messages = yield from self._turn(state, runtime)
        noted = yield from self._said(turn, messages)
        # The id tells the time, and a person's answer can take days.
        turn = {**turn, "append_id": new_append_id(), "asked": True, "noted": noted}
        return _update(turn, state["messages"], _results_behind_calls(messages))

    def _after_agent(self, state: Any, runtime: Runtime[Any]) -> _Steps[Command[Any]]:
        turn, messages = yield from self._turn(state, runtime)
        said = yield from self._said(turn, messages)
        record = [_storable(message) for message in said if not isinstance(message, SystemMessage)]
        yield _Request(self._history(), record, turn["append_id"])
        if turn["given"] is not None:
            # The parent graph gets its own messages back and what is new, not the session's.
            given = set(turn["given"]) - {message.id for message in said}
            returned = [message for message in messages if message.id in given]
            return _update(None, state["messages"], [*returned, *said])
        messages = _results_behind_calls(messages)
        after = messages[-1].id if messages else None
        ended: Turn = {**turn, "append_id": None, "asked": False, "after": after, "noted": []}
        return _update(ended, state["messages"], messages)

    def _turn(
        self, state: Any, runtime: Runtime[Any], *, begins: bool = False
    ) -> _Steps[tuple[Turn, _Messages]]:
        """The turn, which begins unless it is under way, and what the messages have to be."""
        messages: _Messages = list(state["messages"])
        before: Turn | None = state.get("memorystore_session")
        unfinished = before if before and before["append_id"] else None
        if unfinished and not begins:
            return unfinished, messages
        call, info = new_append_id(), runtime.execution_info
        node = info is not None and "|" in info.checkpoint_ns
        given = [message.id for message in messages] if node else None
        last = messages[-1] if messages else None
        if isinstance(last, HumanMessage):
            self._asked.append((_name(last), call))
        if before is None:
            old, new = yield from self._loaded(messages, call)
        else:
            present = yield from self._present(before, messages)
            if not unfinished and any(isinstance(message, AIMessage) for message in present):
                # Added by hand, or by turns at the same time, which stored it themselves.
                stored = yield _Request(self._history(window=False))
                present = [*_unknown(present[:-1], stored), *present[-1:]]
            calls = set[str | None]().union(*map(_calls, present))
            if unfinished and last and _answers(last) in calls:
                return unfinished, messages  # it goes on with a result of a front end
            new = present[self._end_of_others(present, call, unfinished) :]
            old = _unknown(messages, present)
        messages = [*old, *new]
        if not new and messages and isinstance(messages[-1], AIMessage):
            raise ValueError(
                "The call asks nothing: the conversation holds its messages, and the last is an "
                "answer. Pass a new message, without an id or with one of its own."
            )
        after = old[-1].id if old else None
        turn = Turn(append_id=call, call=call, asked=False, after=after, noted=new, given=given)
        return turn, _results_behind_calls(messages)

    def _loaded(self, given: _Messages, call: str) -> _Steps[tuple[_Messages, _Messages]]:
        """The session's messages, and those given that it does not hold."""
        history = self._history()
        stored = yield _Request(history)
        if history.max_messages is not None and stored:
            # What stands before the session's first message was dropped from it.
            given = next((given[i:] for i, m in enumerate(given) if m.id == stored[0].id), given)
        session, new = stored, _unknown(given, stored)
        plain = new == given[len(given) - len(new) :] and all(
            isinstance(message, HumanMessage | SystemMessage) for message in new
        )
        if history.window is not None and not plain:  # it may hide what is known
            session = yield _Request(self._history(window=False))
            new = _unknown(given, session)
        if get_config()["metadata"]["langgraph_step"] > 2:  # beside a checkpointer
            new = new[self._end_of_others(new, call) :]
        before = {message.id for message in session[:-1]}
        if given and isinstance(given[-1], HumanMessage) and given[-1].id in before:
            new.append(given[-1].model_copy(update={"id": str(uuid4())}))  # it is asked again
        for message in stored:
            message.id = message.id or str(uuid4())
        # What stands in for results is not loaded where this call brings them.
        brought = {_answers(message) for message in new} - {None}
        return [m for m in stored if m.text != NO_RESULT or _answers(m) not in brought], new

    def _present(self, turn: Turn, messages: _Messages) -> _Steps[_Messages]:
        """The messages of the agent that belong to a turn."""
        places = {message.id: index for index, message in enumerate(messages)}
        noted = {message.id for message in turn["noted"]}
        if turn["after"] is None or turn["after"] in places:
            start = places.get(turn["after"], -1) + 1
        elif there := [places[name] for name in noted if name in places]:
            start = min(there)
        else:
            stored = yield _Request(self._history(window=False))
            start = 1 + max((places.get(message.id, -1) for message in stored), default=-1)
        turns = [m for i, m in enumerate(messages) if i >= start or m.id in noted]
        return [m for m in turns if m.additional_kwargs.get("lc_source") != "summarization"]

    def _said(self, turn: Turn, messages: _Messages) -> _Steps[_Messages]:
        """All messages of the turn, in the agent's order and present form."""
        present = yield from self._present(turn, messages)
        present = present[self._end_of_others(present, turn["call"]) :]
        there, noted = {message.id for message in messages}, turn["noted"]
        ids = {message.id for message in noted}
        answered = {_answers(message) for message in present} - {None}
        exchanged = {message.id for message in noted if _answers(message) in answered}
        missing = ids - there - exchanged
        instead = next((message for message in present if message.id not in ids), None)
        if not turn["asked"] or instead is None or isinstance(instead, AIMessage):
            for message in reversed(noted):  # a question that was taken back
                if not isinstance(message, HumanMessage) or message.id not in missing:
                    break
                missing.remove(message.id)
        said, place = present.copy(), 0  # what is missing stays behind what stood before it
        for message in noted if missing else []:
            if message.id in missing:
                said.insert(place, message)
            places = {message.id: index for index, message in enumerate(said, start=1)}
            place = places.get(message.id, place)
        return _results_behind_calls(said)

    def _end_of_others(self, messages: _Messages, call: str, unfinished: Turn | None = None) -> int:
        """Where a turn that did not end is over, and other calls' questions without an answer."""
        # Such a call failed before its turn began, or runs at the same time and stores its own.
        noted = {message.id for message in unfinished["noted"]} if unfinished else set()
        askers, end = dict(self._asked.copy()), 0
        for index, message in enumerate(messages, start=1):
            left = isinstance(message, AIMessage | ToolMessage) or message.id in noted
            unanswered = index < len(messages) and isinstance(messages[index], HumanMessage)
            asked = askers.get(_name(message), call) != call
            end = index if (unfinished and left) or (unanswered and asked) else end
        return end

    def _history(self, *, window: bool = True) -> MemorystoreChatMessageHistory:
        history = self._source
        if not isinstance(history, MemorystoreChatMessageHistory):
            history = history(thread_id_of(get_config(), "ChatHistoryMiddleware"))
        if not isinstance(history, MemorystoreChatMessageHistory):
            raise TypeError(
                f"The function given to ChatHistoryMiddleware returned a {type_name(history)}; it "
                "has to return a MemorystoreChatMessageHistory."
            )
        if not window:
            history = copy(history)
            history.window = None
        return history


def _run(steps: _Steps[T]) -> T:
    try:
        request = next(steps)
        while True:
            history, messages, append_id = request
            if messages is not None:
                history.add_messages(messages, append_id=append_id)
            request = steps.send(history.messages if messages is None else [])
    except StopIteration as finished:
        return cast("T", finished.value)


async def _arun(steps: _Steps[T]) -> T:
    try:
        request = next(steps)
        while True:
            history, messages, append_id = request
            if messages is not None:
                await history.aadd_messages(messages, append_id=append_id)
            request = steps.send(await history.aget_messages() if messages is None else [])
    except StopIteration as finished:
        return cast("T", finished.value)


def _update(turn: Turn | None, present: _Messages, wanted: _Messages) -> Command[Any]:
    """The state update that notes a turn and makes the agent's messages the wanted ones."""
    # As pairs: stream_mode="messages" would show each message in a dict's lists once more.
    pairs: list[tuple[str, Any]] = [("memorystore_session", turn)]
    if [message.id for message in present] != [message.id for message in wanted]:
        pairs.append(("messages", [RemoveMessage(id=REMOVE_ALL_MESSAGES), *wanted]))
    return Command(update=pairs)


def _name(message: BaseMessage) -> tuple[str, str | None]:
    """What tells a message from those of other threads, whose ids may be the same."""
    return str(get_config().get("configurable", {}).get("thread_id")), message.id


def _calls(message: BaseMessage) -> set[str | None]:
    calls = getattr(message, "tool_calls", []) + getattr(message, "invalid_tool_calls", [])
    return {call["id"] for call in calls} - {None}


def _answers(message: BaseMessage) -> str | None:
    """The call whose result a message is."""
    return message.tool_call_id if isinstance(message, ToolMessage) else None


def _unknown(given: _Messages, known: _Messages) -> _Messages:
    ids = {message.id for message in known}
    return [message for message in given if message.id not in ids]


def _results_behind_calls(messages: _Messages) -> _Messages:
    """The messages with each result directly behind its call, as models want them."""
    groups: list[_Messages] = []
    callers: dict[str | None, _Messages] = {}
    for message in messages:
        group = callers.get(_answers(message), [])
        if not group:
            groups.append(group)
        group.append(message)
        callers |= dict.fromkeys(_calls(message), group)
    return [message for group in groups for message in group]


def _storable(message: BaseMessage) -> BaseMessage:
    """The message with text as a checkpoint gives it back, so that a write repeated is the same."""
    return message.model_copy(update={k: _plain(value) for k, value in vars(message).items()})


def _plain(value: Any) -> Any:
    if isinstance(value, str):
        return value.encode(errors="replace").decode()
    if isinstance(value, dict):
        return {_plain(key): _plain(inner) for key, inner in value.items()}
    return [_plain(inner) for inner in value] if isinstance(value, list) else value
