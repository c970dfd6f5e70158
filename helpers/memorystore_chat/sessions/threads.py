"""Threads of a checkpointer, many at once, and sessions that become threads or come from them.

Needs the extra ``agents``. `scan`, `delete`, `expire` and `export` do for many threads what the
methods of `MemorystoreSaver` do for one, a thread at a time; its ``key_prefix`` says which.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any, Literal, cast
from uuid import NAMESPACE_URL, uuid5

from langchain_core.messages import BaseMessage, RemoveMessage

from memorystore_chat import codec
from memorystore_chat.arguments import check_count, check_ids, check_text, type_name
from memorystore_chat.commands import Client, Command
from memorystore_chat.conversation import is_users, sendable
from memorystore_chat.extras import require
from memorystore_chat.history import MemorystoreChatMessageHistory, decoded
from memorystore_chat.sessions.changing import change_those, check_flags
from memorystore_chat.sessions.moving import File, opened
from memorystore_chat.sessions.report import Report
from memorystore_chat.sessions.scanning import Found, Session, ask, check_client

require("langgraph.graph", extra="agents")

from langgraph.checkpoint.base import BaseCheckpointSaver  # noqa: E402
from langgraph.graph import START, MessagesState, StateGraph  # noqa: E402

from memorystore_chat.checkpoint import MemorystoreSaver, ThreadInfo  # noqa: E402


def scan(saver: MemorystoreSaver) -> Sequence[ThreadInfo]:
    """List the saver's threads, by their ids.

    Raises:
        TypeError: ``saver`` is no `MemorystoreSaver` with a synchronous client.
        MemorystoreChatError: A server cannot be reached or refused, or a checkpoint is damaged.

    Example:
        >>> from memorystore_chat import connect
        >>> scan(MemorystoreSaver(connect("embedded"), key_prefix="nothing-here:"))
        []
    """
    _check_kind("saver", saver, MemorystoreSaver)
    return saver.threads()


def delete(
    saver: MemorystoreSaver,
    ids: Iterable[str] | None = None,
    *,
    idle_for: timedelta | float | None = None,
    all_threads: bool = False,
    dry_run: bool = True,
) -> Report:
    """Delete threads with all their checkpoints, by id or by age; by default only count them.

    Each thread is looked at directly before, so one that goes on meanwhile is not idle.

    Args:
        saver: As for `scan`.
        ids: Thread ids; None stands for all of the saver.
        idle_for: Only threads whose newest checkpoint is at least so old: a timedelta or seconds.
        all_threads: Must be True if ``ids`` doesn't say which.
        dry_run: Only say what would be deleted.

    Raises:
        TypeError, ValueError: An argument is not acceptable, or nothing says which threads.
        MemorystoreChatError: As for `scan`; some may be deleted.
    """
    given = (saver, ids, idle_for, all_threads, dry_run)
    return _change("delete", MemorystoreSaver.delete_thread, *given)


def expire(
    saver: MemorystoreSaver,
    ids: Iterable[str] | None = None,
    *,
    ttl: int | None,
    idle_for: timedelta | float | None = None,
    all_threads: bool = False,
    dry_run: bool = True,
) -> Report:
    """Set how long threads have to live from now; by default only count them.

    ``ttl`` is in seconds from now; None lets them stay until they are deleted. It holds until the
    next write of a saver that has a ``ttl`` of its own. The other arguments and the errors are
    those of `delete`.
    """
    check_count("ttl", ttl, "seconds", optional=True)
    change = partial(MemorystoreSaver.expire, ttl=ttl) if ttl else MemorystoreSaver.persist
    return _change("expire", change, saver, ids, idle_for, all_threads, dry_run)


def export(saver: MemorystoreSaver, file: File, *, ids: Iterable[str] | None = None) -> Report:
    """Write the messages of threads to a file, for people and programs that don't know LangGraph.

    A line is one message, ``{"thread_id": ..., "type": ..., "data": {...}}``, as LangChain has it.
    No function here loads it. Arguments and errors are as for `delete` and `sessions.export`.
    """
    counts: Counter[str] = Counter()
    found = [*_find(saver, ids, counts)]  # what is asked is checked before there is a file
    with opened(file, "write") as made:
        for [(session, _)] in found:
            for element in codec.encode(messages_of(saver, session.id), session.id):
                line = b'{"thread_id"' + element.removeprefix(b'{"id"') + b"\n"
                made.write(line)
                counts.update(messages=1, bytes=len(line))
            counts["sessions"] += 1
    return Report("export", "thread", False, **counts)


def take_over(
    history: MemorystoreChatMessageHistory, saver: BaseCheckpointSaver[Any], thread_id: str
) -> int:
    """Make a session the beginning of a thread, which an agent with this checkpointer continues.

    The session stays as it is. Doing it again adds only what the session has gained since, as
    long as it is done before the thread goes on: each message has the id it has in the session,
    or one made of how it is stored. A tool's late result takes the place of what stood in for it.

    Args:
        history: The session, with a synchronous client. Of one with a ``window`` that much is
            taken over, and what is before it from the user's message on that it answers.
        saver: Any checkpointer of LangGraph.
        thread_id: The thread, as ``config["configurable"]["thread_id"]`` names it.

    Returns:
        How many messages are taken over, those that were before included.

    Raises:
        TypeError: An argument is something else.
        MemorystoreChatError: The session cannot be read, or the thread not written.

    Example:
        >>> from langgraph.checkpoint.memory import InMemorySaver
        >>> from memorystore_chat import MemorystoreChatMessageHistory, connect
        >>> history = MemorystoreChatMessageHistory(connect("embedded"), "docs-session")
        >>> history.add_user_message("My name is Ada.")
        >>> take_over(history, InMemorySaver(), "docs-thread")
        1
        >>> history.clear()
    """
    _check_kind("history", history, MemorystoreChatMessageHistory)
    graph, config = _graph(saver, thread_id)
    messages = _with_stable_ids(history)
    there = {message.id or "" for message in messages_of(saver, thread_id)}
    taken = {message.id for message in messages}
    calls = tuple(f"no-result-{id_}-" for id_ in taken)
    answered = [RemoveMessage(id=id_) for id_ in there - taken if id_.startswith(calls)]
    if messages:
        graph.update_state(config, {"messages": [*answered, *messages]}, as_node="session")
    return len(messages)


def messages_of(saver: BaseCheckpointSaver[Any], thread_id: str) -> list[BaseMessage]:
    """The messages of a thread, oldest first; none if there is no such thread.

    ``history.add_messages(messages_of(saver, thread_id))`` makes a session of it. Arguments and
    errors are as for `take_over`.
    """
    graph, config = _graph(saver, thread_id)
    return list(graph.get_state(config).values.get("messages", []))


def _change(
    action: Literal["delete", "expire"],
    change: Callable[[MemorystoreSaver, str], object],
    saver: MemorystoreSaver,
    ids: Iterable[str] | None,
    idle_for: timedelta | float | None,
    all_threads: bool,
    dry_run: bool,
) -> Report:
    check_flags(all_threads=all_threads, dry_run=dry_run)
    if ids is None and not all_threads:
        raise ValueError(
            f"This would {action} every thread of the saver. Say which: ids=[...], or "
            "all_threads=True if you mean all of them."
        )

    def change_all(meant: list[Found]) -> list[Found]:
        for session, _ in meant:
            change(saver, session.id)
        return meant

    counts: Counter[str] = Counter()
    counts += change_those(_find(saver, ids, counts), change_all, idle_for, dry_run)
    return Report(action, "thread", dry_run, **counts)


def _find(
    saver: MemorystoreSaver, ids: Iterable[str] | None, counts: Counter[str]
) -> Iterator[list[Found]]:
    """The saver's threads, or those of the ids, as sessions; ids without one count as missing."""
    _check_kind("saver", saver, MemorystoreSaver)
    names = [one.thread_id for one in saver.threads()] if ids is None else check_ids("ids", ids)
    for name in dict.fromkeys(names):
        found = saver.threads([name])
        counts["missing"] += ids is not None and not found
        for thread in found:
            last = None
            with suppress(ValueError):  # a saver or a graph may have written something else
                last = datetime.fromisoformat(thread.updated)
                last = last.replace(tzinfo=last.tzinfo or UTC)
            numbers = (thread.checkpoints, thread.ttl, thread.size or 0)
            yield [(Session(name, "", *numbers, None, last), b"")]


def _check_kind(name: str, value: object, kind: type) -> None:
    if not isinstance(value, kind):
        raise TypeError(f"{name} is a {type_name(value)}; it takes a {kind.__name__}.")


def _graph(saver: BaseCheckpointSaver[Any], thread_id: str) -> tuple[Any, Any]:
    """The smallest graph that has messages, so that LangGraph itself writes and reads them."""
    _check_kind("saver", saver, BaseCheckpointSaver)
    check_text("thread_id", thread_id)
    graph = StateGraph(MessagesState).add_node("session", lambda _: {}).add_edge(START, "session")
    return graph.compile(checkpointer=saver), {"configurable": {"thread_id": thread_id}}


def _with_stable_ids(history: MemorystoreChatMessageHistory) -> list[BaseMessage]:
    """What a model would be sent of a session, with ids that are the same whenever it is read."""
    check_client(history.client)
    key = history.key
    lrange = Command("LRANGE", (key.encode(),), (0, -1), kind=list)
    [elements] = ask(cast("Client", history.client), f"reading the session {key!r}", [lrange])
    after = Counter(elements)  # an append may hold the same twice
    messages: list[BaseMessage] = []
    used: set[str | None] = set()
    for index, element in enumerate(elements):
        message = decoded(key, index, element)
        after[element] -= 1  # from the end: max_messages drops what is at the beginning
        if not message.id or message.id in used:
            made = uuid5(NAMESPACE_URL, f"{key}\n{after[element]}\n{element!r}")
            message = message.model_copy(update={"id": str(made)})
        used.add(message.id)
        messages.append(message)
    start = max(0, len(messages) - (history.window or len(messages)))
    while start and not is_users(messages[start]):
        start -= 1
    return sendable(messages[start:], cut=start > 0 or len(messages) == history.max_messages)
