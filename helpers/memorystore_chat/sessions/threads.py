"""Threads of a checkpointer, many at once, and sessions that become threads or come from them.

Needs the extra ``agents``. `scan`, `delete`, `expire` and `export` do for many threads what the
methods of `MemorystoreSaver` do for one, a thread at a time.
"""

import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from datetime import datetime, timedelta
from typing import Any, Literal
from uuid import NAMESPACE_URL, uuid5

from langchain_core.messages import BaseMessage

from memorystore_chat import codec
from memorystore_chat.arguments import check_count, check_ids, check_text, type_name
from memorystore_chat.commands import Command, Sender, Steps
from memorystore_chat.conversation import is_result, is_users, sendable
from memorystore_chat.errors import CorruptHistoryError
from memorystore_chat.extras import require
from memorystore_chat.history import MemorystoreChatMessageHistory
from memorystore_chat.sessions.changing import check_flag, moment_before
from memorystore_chat.sessions.moving import File, opened_for_writing
from memorystore_chat.sessions.report import ThreadExport, ThreadReport
from memorystore_chat.sessions.servers import check_client

require("langgraph.graph", extra="agents")

from langgraph.checkpoint.base import BaseCheckpointSaver  # noqa: E402
from langgraph.graph import START, MessagesState, StateGraph  # noqa: E402

from memorystore_chat.checkpoint import MemorystoreSaver, ThreadInfo  # noqa: E402


def scan(saver: MemorystoreSaver) -> list[ThreadInfo]:
    """List the saver's threads, by their ids.

    Args:
        saver: A saver with a synchronous client; its ``key_prefix`` says which threads.

    Returns:
        Of each its id, the number of its checkpoints, its size, when it expires, when its newest
        checkpoint was made, and whether it waits for a person.

    Raises:
        TypeError: ``saver`` is something else, or has an asyncio client only.
        MemorystoreChatError: A server cannot be reached or refused, or a checkpoint is damaged.

    Example:
        >>> from memorystore_chat import connect
        >>> scan(MemorystoreSaver(connect("embedded"), key_prefix="nothing-here:"))
        []
    """
    _check_saver(saver, MemorystoreSaver)
    return list(saver.threads())


def delete(
    saver: MemorystoreSaver,
    ids: Iterable[str] | None = None,
    *,
    idle_for: timedelta | float | None = None,
    all_threads: bool = False,
    dry_run: bool = True,
) -> ThreadReport:
    """Delete threads with all their checkpoints, by id or by age; by default only count them.

    By age, a thread is looked at once more directly before; one that goes on in the very moment of
    its deletion is deleted, and what its turn writes afterwards is stored anew.

    Args:
        saver: As for `scan`.
        ids: Thread ids; None stands for all of the saver.
        idle_for: Only threads whose newest checkpoint is at least so old: a timedelta or seconds.
            Those without a checkpoint are kept.
        all_threads: Must be True if ``ids`` doesn't say which.
        dry_run: Only say what would be deleted.

    Raises:
        TypeError, ValueError: An argument is not acceptable, or nothing says which threads.
        MemorystoreChatError: As for `scan`; some may be deleted.
    """
    _check_saver(saver, MemorystoreSaver)
    return _change("delete", saver.delete_thread, saver, ids, idle_for, all_threads, dry_run)


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

    It holds until the next write of a saver that has a ``ttl`` of its own.

    Args:
        saver: As for `scan`.
        ids: As for `delete`.
        ttl: Seconds from now until they are gone; None lets them stay until they are deleted.
        idle_for: As for `delete`.
        all_threads: As for `delete`.
        dry_run: Only say which threads it would concern.

    Raises:
        TypeError, ValueError, MemorystoreChatError: As for `delete`.
    """
    check_count("ttl", ttl, "seconds", optional=True)

    def set_ttl(thread_id: str) -> object:
        return saver.persist(thread_id) if ttl is None else saver.expire(thread_id, ttl)

    return _change("expire", set_ttl, saver, ids, idle_for, all_threads, dry_run)


def export(
    saver: MemorystoreSaver, file: File, *, ids: Iterable[str] | None = None
) -> ThreadReport:
    """Write the messages of threads to a file, for people and programs that don't know LangGraph.

    A line is one message, ``{"thread_id": ..., "type": ..., "data": {...}}``, with LangChain's
    ``type`` and ``data``. Checkpoints are not in the file, and no function here loads it.

    Args:
        saver: As for `scan`.
        file: As for `sessions.export`.
        ids: Thread ids; None stands for all of the saver.

    Raises:
        TypeError, ValueError, MemorystoreChatError: As for `scan` and `sessions.export`.
    """
    counts: Counter[str] = Counter()
    found = _find(saver, ids, counts)
    with opened_for_writing(file) as opened:
        for thread in found:
            messages = codec.encode(messages_of(saver, thread.thread_id), codec.new_append_id())
            for element in messages:
                record = {"thread_id": thread.thread_id, **json.loads(element)}
                del record["id"]
                line = json.dumps(record, ensure_ascii=False).encode() + b"\n"
                opened.write(line)
                counts.update(messages=1, bytes=len(line))
            counts["sessions"] += 1
    return ThreadExport("export", False, **counts)


def take_over(
    history: MemorystoreChatMessageHistory, saver: BaseCheckpointSaver[Any], thread_id: str
) -> int:
    """Make a session the beginning of a thread, which an agent with this checkpointer continues.

    The session stays as it is. Doing it again adds only what the session has gained since, as
    long as it is done before the thread goes on: each message has the id it has in the session,
    or one made of its append. A tool's late result takes the place of what stood in for it.

    Args:
        history: The session, with a synchronous client; at most its ``window`` messages are taken
            over.
        saver: Any checkpointer of LangGraph, such as a ``MemorystoreSaver``.
        thread_id: The thread, as ``config["configurable"]["thread_id"]`` names it.

    Returns:
        How many messages the session has, or its window.

    Raises:
        TypeError: ``history`` or ``saver`` is something else.
        MemorystoreChatError: The session cannot be read, or the thread not written.

    Example:
        >>> from memorystore_chat import MemorystoreChatMessageHistory, connect
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
    there = {message.id for message in messages_of(saver, thread_id)}
    messages = _with_stable_ids(history, there)
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


def _change(
    action: Literal["delete", "expire"],
    change: Callable[[str], object],
    saver: MemorystoreSaver,
    ids: Iterable[str] | None,
    idle_for: timedelta | float | None,
    all_threads: bool,
    dry_run: bool,
) -> ThreadReport:
    check_flag("all_threads", all_threads)
    check_flag("dry_run", dry_run)
    before = moment_before(idle_for)
    if ids is None and not all_threads:
        raise ValueError(
            f"This would {action} every thread of the saver. Say which: ids=[...], or "
            "all_threads=True if you mean all of them."
        )
    counts: Counter[str] = Counter()
    for thread in _find(saver, ids, counts):
        if before is not None:
            if not thread.updated:
                counts["undated"] += 1
                continue
            if datetime.fromisoformat(thread.updated) > before:
                continue
        if not dry_run:
            now = saver.threads([thread.thread_id]) if before else [thread]
            if [one.updated for one in now] != [thread.updated]:
                counts["changed"] += 1
                continue
            change(thread.thread_id)
        counts.update(sessions=1, messages=thread.checkpoints, bytes=thread.size or 0)
    return ThreadReport(action, dry_run, **counts)


def _find(
    saver: MemorystoreSaver, ids: Iterable[str] | None, counts: Counter[str]
) -> list[ThreadInfo]:
    """The saver's threads, or those of the ids; ids without one count as missing."""
    if ids is None:
        return scan(saver)
    _check_saver(saver, MemorystoreSaver)
    names = list(dict.fromkeys(check_ids("ids", ids)))
    found = list(saver.threads(names))
    counts["missing"] += len(names) - len(found)
    return found


def _check_saver(saver: object, kind: type) -> None:
    if not isinstance(saver, kind):
        raise TypeError(f"saver is a {type_name(saver)}; it takes a {kind.__name__}.")


def _graph(saver: BaseCheckpointSaver[Any], thread_id: str) -> tuple[Any, Any]:
    """The smallest graph that has messages, so that LangGraph itself writes and reads them."""
    _check_saver(saver, BaseCheckpointSaver)
    check_text("thread_id", thread_id)
    builder = StateGraph(MessagesState)
    builder.add_node("session", lambda _: {})
    builder.add_edge(START, "session")
    return builder.compile(checkpointer=saver), {"configurable": {"thread_id": thread_id}}


def _with_stable_ids(
    history: MemorystoreChatMessageHistory, there: set[str | None]
) -> list[BaseMessage]:
    """What ``history.messages`` has, with ids that are the same whenever they are made."""
    check_client(history.client)
    doing = f"reading the session {history.key!r}"
    elements = Sender(history.client).run(doing, _elements(history.key), "")
    origins = [codec.id_of_append(element) or element for element in elements]
    left, seen = Counter[object](origins), Counter[object]()
    whole: list[BaseMessage] = []
    used: set[str | None] = set()
    for index, origin in enumerate(origins):
        try:
            message = codec.decode(elements[index])
        except ValueError as error:
            raise CorruptHistoryError(history.key, index, str(error)) from error
        seen[origin] += 1
        left[origin] -= 1
        if not message.id or message.id in used:
            # From an append's end: max_messages drops what is at its beginning.
            number = seen[origin] if isinstance(origin, bytes) else left[origin]
            made = uuid5(NAMESPACE_URL, f"{history.key}\n{number}\n{origin!r}")
            message = message.model_copy(update={"id": str(made)})
        used.add(message.id)
        whole.append(message)
    window = history.window or len(whole)
    cut = len(whole) > window or len(whole) == history.max_messages
    messages = sendable(whole[-window:], cut=cut)
    if not messages:  # the window begins within a turn, which is then taken over as a whole
        asked = [index for index, message in enumerate(whole) if is_users(message)]
        messages = sendable(whole[asked[-1] :] if asked else [], cut=True)
    return [*_in_place(messages, there)]


def _elements(key: str) -> Steps[list[bytes]]:
    [elements] = yield [Command("LRANGE", (key.encode(),), (0, -1), kind=list)]
    return list(elements)


def _in_place(messages: list[BaseMessage], there: set[str | None]) -> Iterator[BaseMessage]:
    """The messages, in which results have the ids of what stands in for them in the thread."""
    call = ""
    for message in messages:
        if is_result(message):
            stand_in = f"no-result-{call}-{getattr(message, 'tool_call_id', message.name)}"
            yield message.model_copy(update={"id": stand_in}) if stand_in in there else message
        else:
            call = str(message.id)
            yield message
