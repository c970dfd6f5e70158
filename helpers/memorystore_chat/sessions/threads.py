"""Sessions of the history as threads of a checkpointer, and back. Needs the extra ``agents``."""

from collections import Counter
from typing import Any
from uuid import NAMESPACE_URL, uuid5

from langchain_core.messages import BaseMessage

from memorystore_chat.arguments import check_text, type_name
from memorystore_chat.extras import require
from memorystore_chat.history import MemorystoreChatMessageHistory

require("langgraph.graph", install="langgraph")

from langgraph.checkpoint.base import BaseCheckpointSaver  # noqa: E402
from langgraph.graph import START, MessagesState, StateGraph  # noqa: E402


def take_over(
    history: MemorystoreChatMessageHistory, saver: BaseCheckpointSaver[Any], thread_id: str
) -> int:
    """Make a session the beginning of a thread, which an agent with this checkpointer continues.

    The session stays as it is. Doing it again adds only what the session has gained since, as
    long as it is done before the thread goes on: each message has the id it has in the session,
    or one made from its content.

    Args:
        history: The session; at most its ``window`` messages are taken over.
        saver: Any checkpointer of LangGraph, such as a ``MemorystoreSaver``.
        thread_id: The thread, as ``config["configurable"]["thread_id"]`` names it.

    Returns:
        How many messages the session has.

    Raises:
        TypeError: ``history`` or ``saver`` is something else.
        MemorystoreChatError: The session cannot be read, or the thread not written.

    Example:
        >>> from memorystore_chat import MemorystoreChatMessageHistory, connect
        >>> from memorystore_chat.checkpoint import MemorystoreSaver
        >>> client = connect("embedded")
        >>> history = MemorystoreChatMessageHistory(client, "docs-session")
        >>> history.add_user_message("My name is Ada.")
        >>> saver = MemorystoreSaver(client)
        >>> take_over(history, saver, "docs-thread")
        1
        >>> [message.text for message in messages_of(saver, "docs-thread")]
        ['My name is Ada.']
        >>> saver.delete_thread("docs-thread")
        >>> history.clear()
    """
    if not isinstance(history, MemorystoreChatMessageHistory):
        raise TypeError(
            f"history is a {type_name(history)}; it takes a MemorystoreChatMessageHistory."
        )
    graph, config = _graph(saver, thread_id)
    messages = _with_ids(history.key, history.messages)
    if messages:
        graph.update_state(config, {"messages": messages}, as_node="session")
    return len(messages)


def messages_of(saver: BaseCheckpointSaver[Any], thread_id: str) -> list[BaseMessage]:
    """The messages of a thread, oldest first; none if there is no such thread.

    ``history.add_messages(messages_of(saver, thread_id))`` makes a session of it.

    Args:
        saver: Any checkpointer of LangGraph.
        thread_id: The thread.

    Raises:
        TypeError: ``saver`` is something else.
        MemorystoreChatError: The thread cannot be read.
    """
    graph, config = _graph(saver, thread_id)
    return list(graph.get_state(config).values.get("messages", []))


def _graph(saver: BaseCheckpointSaver[Any], thread_id: str) -> tuple[Any, Any]:
    """The smallest graph that has messages, so that LangGraph itself writes and reads them."""
    if not isinstance(saver, BaseCheckpointSaver):
        raise TypeError(f"saver is a {type_name(saver)}; it takes a checkpointer of LangGraph.")
    check_text("thread_id", thread_id)
    builder = StateGraph(MessagesState)
    builder.add_node("session", lambda _: {})
    builder.add_edge(START, "session")
    return builder.compile(checkpointer=saver), {"configurable": {"thread_id": thread_id}}


def _with_ids(key: str, messages: list[BaseMessage]) -> list[BaseMessage]:
    seen: Counter[str] = Counter()
    named = []
    for message in messages:
        content = message.model_dump_json()
        seen[content] += 1
        made = str(uuid5(NAMESPACE_URL, f"{key}\n{seen[content]}\n{content}"))
        named.append(message if message.id else message.model_copy(update={"id": made}))
    return named
