"""Threads of a checkpointer, many at once, and sessions that become threads or come from them.

Needs the extra ``agents``. `scan`, `delete`, `expire` and `export` do for many threads what the
methods of `MemorystoreSaver` do for one, a thread at a time; its ``key_prefix`` says which.
"""

import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any, Literal, cast
from uuid import NAMESPACE_URL, uuid5

from langchain_core.messages import BaseMessage, RemoveMessage

from memorystore_chat import codec
from memorystore_chat.arguments import check_count, check_ids, check_text, type_name
from memorystore_chat.commands import Client, Command
from memorystore_chat.conversation import is_users, sendable
from memorystore_chat.errors import CorruptHistoryError
from memorystore_chat.extras import require
from memorystore_chat.history import MemorystoreChatMessageHistory
from memorystore_chat.sessions.changing import change_those, check_flags
from memorystore_chat.sessions.moving import File, opened
from memorystore_chat.sessions.report import ThreadReport
from memorystore_chat.sessions.scanning import Found, Session
from memorystore_chat.sessions.servers import ask, check_client

require("langgraph.graph", extra="agents")

from langgraph.checkpoint.base import BaseCheckpointSaver  # noqa: E402
from langgraph.graph import START, MessagesState, StateGraph  # noqa: E402

from memorystore_chat.checkpoint import MemorystoreSaver, ThreadInfo  # noqa: E402


def scan(saver: MemorystoreSaver) -> list[ThreadInfo]:
    """List the saver's threads, by their ids.

    Raises:
        TypeError: ``saver`` is no `MemorystoreSaver` with a synchronous client.
        MemorystoreChatError: A server cannot be reached or refused, or a checkpoint is damaged.

    Example:
        >>> from memorystore_chat import connect
        >>> scan(MemorystoreSaver(connect("embedded"), key_prefix="nothing-here:"))
        []
    """
    return [thread for [(_, thread)] in _find(saver, None, Counter())]


def delete(
    saver: MemorystoreSaver,
    ids: Iterable[str] | None = None,
    *,
    idle_for: timedelta | float | None = None,
    all_threads: bool = False,
    dry_run: bool = True,
) -> ThreadReport:
    """Delete threads with all their checkpoints, by id or by age; by default only count them.

    By age, a thread is looked at once more directly before.

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
) -> ThreadReport:
    """Set how long threads have to live from now; by default only count them.

    ``ttl`` is in seconds from now; None lets them stay until they are deleted. It holds until the
    next write of a saver that has a ``ttl`` of its own. The other arguments and the errors are
    those of `delete`.
    """
    check_count("ttl", ttl, "seconds", optional=True)

    def change(saver: MemorystoreSaver, thread_id: str) -> object:
        return saver.persist(thread_id) if ttl is None else saver.expire(thread_id, ttl)

    return _change("expire", change, saver, ids, idle_for, all_threads, dry_run)


def export(
    saver: MemorystoreSaver, file: File, *, ids: Iterable[str] | None = None
) -> ThreadReport:
    """Write the messages of threads to a file, for people and programs that don't know LangGraph.

    A line is one message, ``{"thread_id": ..., "type": ..., "data": {...}}``, as LangChain has it.
    No function here loads it. Arguments and errors are as for `delete` and `sessions.export`.
    """
    counts: Counter[str] = Counter()
    found = [*_find(saver, ids, counts)]  # what is asked is checked before there is a file
    with opened(file, "write") as made:
        for [(session, _)] in found:
            for element in codec.encode(messages_of(saver, session.id), ""):
                record = {"thread_id": session.id, **json.loads(element)}
                del record["id"]
                line = json.dumps(record, ensure_ascii=False).encode() + b"\n"
                made.write(line)
                counts.update(messages=1, bytes=len(line))
            counts["sessions"] += 1
    return ThreadReport("export", False, **counts)


def take_over(
    history: MemorystoreChatMessageHistory, saver: BaseCheckpointSaver[Any], thread_id: str
) -> int:
    """Make a session the beginning of a thread, which an agent with this checkpointer continues.

    The session stays as it is. Doing it again adds only what the session has gained since, as
    long as it is done before the thread goes on: each message has the id it has in the session,
    or one made of its append. A tool's late result takes the place of what stood in for it.

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
) -> ThreadReport:
    check_flags(all_threads=all_threads, dry_run=dry_run)
    if ids is None and not all_threads:
        raise ValueError(
            f"This would {action} every thread of the saver. Say which: ids=[...], or "
            "all_threads=True if you mean all of them."
        )

    def change_one(meant: list[Found]) -> list[Found]:
        """Change a thread that, if its age counts, did not go on meanwhile."""
        for session, thread in meant:
            again = saver.threads([session.id]) if idle_for else [thread]
            if [now.updated for now in again] != [thread.updated]:
                return []
            change(saver, session.id)
        return meant

    counts: Counter[str] = Counter()
    counts += change_those(_find(saver, ids, counts), change_one, idle_for, dry_run)
    return ThreadReport(action, dry_run, **counts)


def _find(
    saver: MemorystoreSaver, ids: Iterable[str] | None, counts: Counter[str]
) -> Iterator[list[Found]]:
    """The saver's threads, or those of the ids, as sessions; ids without one count as missing."""
    _check_kind("saver", saver, MemorystoreSaver)
    names = None if ids is None else list(dict.fromkeys(check_ids("ids", ids)))
    found = saver.threads(names)
    counts["missing"] += len(names or found) - len(found)
    for thread in found:
        last = _moment(thread.updated)
        size, numbers = thread.size or 0, (thread.checkpoints, thread.ttl)
        yield [(Session(thread.thread_id, "", *numbers, size, None, last), thread)]


def _moment(written: str | None) -> datetime | None:
    """A time as a checkpoint has it; None if a saver or a graph wrote something else."""
    try:
        at = datetime.fromisoformat(written or "")
    except ValueError:
        return None
    return at if at.tzinfo else at.replace(tzinfo=UTC)


def _check_kind(name: str, value: object, kind: type) -> None:
    if not isinstance(value, kind):
        raise TypeError(f"{name} is a {type_name(value)}; it takes a {kind.__name__}.")


def _graph(saver: BaseCheckpointSaver[Any], thread_id: str) -> tuple[Any, Any]:
    """The smallest graph that has messages, so that LangGraph itself writes and reads them."""
    _check_kind("saver", saver, BaseCheckpointSaver)
    check_text("thread_id", thread_id)
    builder = StateGraph(MessagesState)
    builder.add_node("session", lambda _: {})
    builder.add_edge(START, "session")
    return builder.compile(checkpointer=saver), {"configurable": {"thread_id": thread_id}}


def _with_stable_ids(history: MemorystoreChatMessageHistory) -> list[BaseMessage]:
    """What a model would be sent of a session, with ids that are the same whenever it is read."""
    check_client(history.client)
    key = history.key
    lrange = Command("LRANGE", (key.encode(),), (0, -1), kind=list)
    [elements] = ask(cast("Client", history.client), f"reading the session {key!r}", [lrange])
    origins = [codec.id_of_append(element) or element for element in elements]
    after = Counter[object](origins)
    messages: list[BaseMessage] = []
    used: set[str | None] = set()
    for index, (element, origin) in enumerate(zip(elements, origins, strict=True)):
        try:
            message = codec.decode(element)
        except ValueError as error:
            raise CorruptHistoryError(key, index, str(error)) from error
        after[origin] -= 1  # from an append's end: max_messages drops what is at its beginning
        if not message.id or message.id in used:
            made = uuid5(NAMESPACE_URL, f"{key}\n{after[origin]}\n{origin!r}")
            message = message.model_copy(update={"id": str(made)})
        used.add(message.id)
        messages.append(message)
    start = max(0, len(messages) - (history.window or len(messages)))
    while start and not is_users(messages[start]):
        start -= 1
    return sendable(messages[start:], cut=start > 0 or len(messages) == history.max_messages)
