"""The chat history: one conversation in one Redis list."""

import asyncio
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager
from typing import Any, NamedTuple, TypeVar, cast
from uuid import UUID

from langchain_core.messages import BaseMessage
from redis.exceptions import NoScriptError

from memorystore_chat._chat_history import BaseChatMessageHistory
from memorystore_chat._checks import (
    check_async_client,
    check_client,
    check_count,
    check_text,
    type_name,
)
from memorystore_chat._seams import AS_BYTES, opened_in_another_loop
from memorystore_chat.errors import (
    ANOTHER_LOOP,
    ConnectError,
    CorruptHistoryError,
    MemorystoreChatError,
    explaining,
)
from memorystore_chat.storage import AsyncClient, Client, codec
from memorystore_chat.storage.conversation import is_result, is_users, sendable
from memorystore_chat.storage.interrupts import drop_idle_connections, dropping_interrupted
from memorystore_chat.storage.scripts import APPEND, script, script_async

R = TypeVar("R", int, list[bytes])

CLOCK_ALLOWANCE = 60_000
"""Milliseconds by which the clocks of programs that append to one session may differ."""

SEARCHED_ALWAYS, SEARCHED_AT_MOST = 100, 20_000
"""How many of a session's newest messages are searched for an earlier try of the same append."""


class MemorystoreChatMessageHistory(BaseChatMessageHistory):
    """One conversation, kept in Memorystore for Redis, Redis Cluster or Valkey.

    The session is one Redis list, oldest message first. Reading is one round trip, and so is
    appending any number of messages: they are stored all or none, and once even if the client
    has to send them again because a reply was lost.

    Args:
        client: A connected ``redis.Redis`` or ``redis.cluster.RedisCluster``, with or without
            ``decode_responses=True``. Whoever opened it closes it. Prefer a client of
            ``connect()``: after an interrupt (Ctrl-C, a notebook's stop button, an alarm) in the
            middle of a command, a plain redis-py client may give the next command the reply of
            the one before, and with it another session's messages. A history drops the
            connections that an interrupt of its own methods may have left so, and raises
            ConnectError for an answer that cannot be its own; it cannot do so for other uses of
            the client.
        session_id: Names the conversation; any non-empty text.
        ttl: Seconds until the session expires, counted from its newest message. It is set by the
            same atomic write that appends, and by nothing else: reading does not extend it, and
            neither does an append that is found to be stored already. None leaves the expiry of
            the session as it is.
        key_prefix: The Redis key is ``key_prefix + session_id`` in UTF-8.
        window: Read at most this many of the newest messages. What is handed out begins at a
            user's message, so it can be shorter, and is empty if none of them is the user's;
            choose a window longer than your longest tool exchange. While a tool's result waits
            for the model's answer, the turn is handed out whole, however long, by a second read.
        max_messages: Keep at most this many of the newest messages; older ones are dropped for
            good by the write that exceeds it. Reading then begins at a user's message too.
        async_client: A ``redis.asyncio`` client for the methods that begin with ``a``, used in
            the event loop that opened its connections. Without it they run the synchronous ones
            in a thread.

    Raises:
        TypeError: An argument is of the wrong type; the message says what is accepted.
        ValueError: An argument is not acceptable; the message says what is.

    Example:
        >>> from memorystore_chat import MemorystoreChatMessageHistory, connect
        >>> client = connect("embedded")
        >>> history = MemorystoreChatMessageHistory(client, session_id="docs", ttl=3600)
        >>> history.add_user_message("My name is Ada.")
        >>> history.add_ai_message("Nice to meet you, Ada.")
        >>> [message.type for message in history.messages]
        ['human', 'ai']
        >>> history.clear()
        >>> len(history)
        0
    """

    def __init__(
        self,
        client: Client,
        session_id: str,
        ttl: int | None = None,
        *,
        key_prefix: str = "",
        window: int | None = None,
        max_messages: int | None = None,
        async_client: AsyncClient | None = None,
    ) -> None:
        check_client(client)
        check_async_client(async_client)
        check_text("session_id", session_id)
        if not session_id:
            raise ValueError("session_id is empty; it takes text that names one conversation.")
        check_text("key_prefix", key_prefix)
        check_count("ttl", ttl, "seconds", optional=True)
        check_count("window", window, "messages", optional=True)
        check_count("max_messages", max_messages, "messages", optional=True)
        self.session_id = session_id
        self.key = key_prefix + session_id
        self._key = self.key.encode()
        self._aside = f"{self.key}:corrupt".encode()
        self._client = client
        self._async_client = async_client
        self._ttl = ttl
        self._window = window
        self._max_messages = max_messages

    @property
    def messages(self) -> list[BaseMessage]:  # type: ignore[override]
        """The session's messages, oldest first, at most ``window``; read anew at each access.

        They can be sent to a model as they are. If messages may have been cut off before them
        (by ``window`` or ``max_messages``, or because the session begins inside a tool exchange),
        they begin at a user's message. A tool call without a result, as a program leaves that
        stopped in between, is followed by a ToolMessage that says so, so append a tool's result
        before you read again; a result without its call is left out. What is stored does not
        change, and ``len(history)`` counts it.

        Raises:
            CorruptHistoryError: A stored element is not a message.
            ConnectError: The server cannot be reached or did not answer.
            MemorystoreChatError: The server refused, as for a key of another type.
        """
        elements = self._ask(list, "reading", *self._range())
        conversation = self._conversation(elements)
        if self._lacks_question(elements, conversation):
            return self._turn_under_way(self._ask(list, "reading", *self._everything()))
        return conversation

    async def aget_messages(self) -> list[BaseMessage]:
        """``messages``, without blocking the event loop."""
        if self._async_client is None:
            return await super().aget_messages()
        elements = await self._aask(list, "reading", *self._range())
        conversation = self._conversation(elements)
        if self._lacks_question(elements, conversation):
            return self._turn_under_way(await self._aask(list, "reading", *self._everything()))
        return conversation

    def add_messages(
        self, messages: Sequence[BaseMessage], *, append_id: str | None = None
    ) -> None:
        """Append messages at the end of the session: all or none, in one round trip.

        A client that retries (as those of ``connect()`` do) stores them once, whatever replies
        are lost: each append has an id with its time, and the server looks for it among the
        messages that were appended since. (It looks at the newest 100 in any case, allows clocks
        to differ by a minute, and stops after 20,000 or at ``max_messages``.)

        If this raises ConnectError, the messages may or may not have been stored, and calling it
        again is a new append, unless both calls are given the same ``append_id``: then the second
        changes nothing if the first was stored.

        Args:
            messages: LangChain messages, oldest first; none is fine and does nothing. A message
                chunk is stored as a whole message. A tool's ``artifact`` and
                ``response_metadata``, which no model is sent, are stored in pydantic's JSON form;
                what has none is left out with a logged warning.
            append_id: A UUID of your own for this append, which makes it safe to repeat. Best is
                a UUIDv7, whose time ends the search early. An id belongs to one batch: a batch
                with another last message is stored in addition, and one with the same last
                message is taken for the first.

        Raises:
            TypeError: Something in ``messages`` is not a LangChain message.
            ValueError: A message cannot be stored so that it could be read back; nothing of the
                batch was.
            ConnectError: The server cannot be reached or did not answer.
            MemorystoreChatError: The server refused, as when its memory is full.
        """
        if not (batch := self._batch(messages, append_id)):
            return
        append = script(*APPEND)
        with self._explaining("appending to"), dropping_interrupted(self._client):
            try:
                reply = self._execute("EVALSHA", append.sha, *batch.arguments)
            except NoScriptError:
                reply = self._execute("EVAL", append.text, *batch.arguments)
        if reply != batch.id:
            drop_idle_connections(self._client)
            raise self._not_its_own("appending to")

    async def aadd_messages(
        self, messages: Sequence[BaseMessage], *, append_id: str | None = None
    ) -> None:
        """``add_messages``, without blocking the event loop."""
        if self._async_client is None:
            await asyncio.to_thread(self.add_messages, messages, append_id=append_id)
            return
        if not (batch := self._batch(messages, append_id)):
            return
        append = await script_async(*APPEND)
        with self._explaining("appending to"):
            try:
                reply = await self._aexecute("EVALSHA", append.sha, *batch.arguments)
            except NoScriptError:
                reply = await self._aexecute("EVAL", append.text, *batch.arguments)
        if reply != batch.id:
            raise self._not_its_own("appending to")

    async def aadd_message(self, message: BaseMessage) -> None:
        """``add_message``, without blocking the event loop."""
        await self.aadd_messages([message])

    def clear(self) -> None:
        """Delete the session's messages for good, and what ``repair()`` moved away from it.

        Clearing an empty session is fine. An append whose first try is still under way, because a
        proxy or relay holds it back, is not undone by it: it may arrive afterwards.

        Raises:
            ConnectError: The server cannot be reached or did not answer.
            MemorystoreChatError: The server refused.
        """
        with self._explaining("clearing"), dropping_interrupted(self._client):
            self._client.unlink(self._key, self._aside)

    async def aclear(self) -> None:
        """``clear``, without blocking the event loop."""
        if self._async_client is None:
            await super().aclear()
            return
        with self._explaining("clearing"):
            await cast("Any", self._usable_async_client().unlink(self._key, self._aside))

    def __len__(self) -> int:
        """How many messages are stored, whatever the window."""
        return self._ask(int, "reading", "LLEN", self._key)

    def __bool__(self) -> bool:
        """Always true, so that ``if history:`` asks no server; emptiness is ``len(history)``."""
        return True

    def __repr__(self) -> str:
        return (
            f"{type(self).__name__}(key={self.key!r}, ttl={self._ttl}, window={self._window}, "
            f"max_messages={self._max_messages})"
        )

    def repair(self, *, dry_run: bool = True) -> list[CorruptHistoryError]:
        """Find the elements that cannot be read, and move them out of the way.

        They go to the list ``<key>:corrupt``, which gets the time to live of the session and is
        deleted with it by ``clear()``. Each is copied before it is removed, so an interruption
        loses nothing. What can be read but no model takes, such as a call without a result, needs
        no repair: ``messages`` hands it out mended.

        Args:
            dry_run: Only report.

        Returns:
            One error per broken element, oldest first, with its position before the repair.

        Raises:
            ConnectError: The server cannot be reached or did not answer.
            MemorystoreChatError: The server refused.
        """
        found: list[CorruptHistoryError] = []
        broken: list[bytes] = []
        for index, element in enumerate(self._ask(list, "repairing", "LRANGE", self._key, 0, -1)):
            try:
                codec.decode(element)
            except ValueError as error:
                found.append(CorruptHistoryError(self.key, index, str(error)))
                broken.append(element)
        if broken and not dry_run:
            self._move_aside(broken)
        return found

    def _move_aside(self, broken: list[bytes]) -> None:
        left = self._ask(int, "repairing", "PTTL", self._key)
        if left > 0:  # refused, if it is, before anything is written
            self._ask(int, "repairing", "PEXPIRE", self._aside, left)
        self._ask(int, "repairing", "RPUSH", self._aside, *broken)
        if left > 0:
            self._ask(int, "repairing", "PEXPIRE", self._aside, left)
        for element in broken:
            self._ask(int, "repairing", "LREM", self._key, 1, element)

    def _range(self) -> tuple[str, bytes, int, int]:
        # One more than the window, to see whether it cuts anything off.
        return "LRANGE", self._key, -self._window - 1 if self._window else 0, -1

    def _conversation(self, elements: list[bytes]) -> list[BaseMessage]:
        cut = len(elements) == self._max_messages
        if self._window and len(elements) > self._window:
            elements, cut = elements[1:], True
        start = -len(elements) if self._window else 0
        messages = [self._decoded(element, i) for i, element in enumerate(elements, start)]
        return sendable(messages, cut=cut)

    def _everything(self) -> tuple[str, bytes, int, int]:
        return "LRANGE", self._key, 0, -1

    def _lacks_question(self, elements: list[bytes], conversation: list[BaseMessage]) -> bool:
        """Whether a window cuts the question off from a turn that a model has to go on with."""
        if conversation or not elements or self._window is None:
            return False
        return is_result(self._decoded(elements[-1], -1))

    def _turn_under_way(self, elements: list[bytes]) -> list[BaseMessage]:
        turn: list[BaseMessage] = []
        for position in range(-1, -len(elements) - 1, -1):
            turn.insert(0, self._decoded(elements[position], position))
            if is_users(turn[0]):
                break
        return sendable(turn, cut=True)

    def _decoded(self, element: bytes, position: int) -> BaseMessage:
        try:
            return codec.decode(element)
        except ValueError as error:
            raise CorruptHistoryError(self.key, position, str(error)) from error

    def _batch(self, messages: Sequence[BaseMessage], append_id: str | None) -> "_Batch | None":
        """What to append; None if there is nothing."""
        if isinstance(messages, str | BaseMessage) or not isinstance(messages, Iterable):
            raise TypeError(
                f"messages is a {type_name(messages)}; it takes a list of LangChain messages. "
                "For one message there is add_message()."
            )
        append_id = _checked_append_id(append_id)
        elements = codec.encode(messages, append_id)
        if not elements:
            return None
        limits = (self._ttl or 0, self._max_messages or 0)
        search = (_followers_since(append_id), SEARCHED_ALWAYS, SEARCHED_AT_MOST)
        return _Batch(append_id.encode(), (1, self._key, *limits, *search, *elements))

    def _ask(self, kind: type[R], doing: str, *command: Any) -> R:
        """Send a command; its reply must be of a kind."""
        with self._explaining(doing), dropping_interrupted(self._client):
            reply = self._execute(*command)
        if not _is_of(kind, reply):
            drop_idle_connections(self._client)
            raise self._not_its_own(doing)
        return cast("R", reply)

    async def _aask(self, kind: type[R], doing: str, *command: Any) -> R:
        """`_ask`, without blocking the event loop."""
        with self._explaining(doing):
            reply = await self._aexecute(*command)
        if not _is_of(kind, reply):
            raise self._not_its_own(doing)
        return cast("R", reply)

    def _execute(self, *command: Any) -> object:
        # As bytes, whatever the client decodes: an element that is no longer UTF-8 is a broken
        # element, and not an error inside redis-py.
        return cast("Any", self._client).execute_command(*command, **AS_BYTES)

    async def _aexecute(self, *command: Any) -> object:
        client = cast("Any", self._usable_async_client())
        return await client.execute_command(*command, **AS_BYTES)

    def _usable_async_client(self) -> AsyncClient:
        client = cast("AsyncClient", self._async_client)
        if opened_in_another_loop(client):
            raise MemorystoreChatError(f"Nothing was sent to {self.key!r}. {ANOTHER_LOOP}")
        return client

    def _not_its_own(self, doing: str) -> ConnectError:
        return ConnectError(
            f"While {doing} the session {self.key!r} the client was given an answer to something "
            "else, as happens after an interrupt in the middle of a command. The client's idle "
            "connections were dropped; do it again. A write that ends this way may or may not "
            "have been done. Clients of connect() are safe from this."
        )

    def _explaining(self, doing: str) -> AbstractContextManager[None]:
        return explaining(f"{doing} the session {self.key!r}")


class _Batch(NamedTuple):
    """An append: its id, and the arguments of append.lua from the number of keys on."""

    id: bytes
    arguments: tuple[str | int | bytes, ...]


def _is_of(kind: type, reply: object) -> bool:
    if isinstance(reply, list):
        return kind is list and all(type(element) is bytes for element in reply)
    return isinstance(reply, kind)


def _checked_append_id(append_id: str | None) -> str:
    if append_id is None:
        return codec.new_append_id()
    accepted = "it takes a UUID as text (str), a new one for each append."
    if not isinstance(append_id, str):
        raise TypeError(f"append_id is a {type_name(append_id)}; {accepted}")
    try:
        return str(UUID(append_id))
    except ValueError as error:
        raise ValueError(f"append_id is {append_id!r}; {accepted}") from error


def _followers_since(append_id: str) -> str:
    """The oldest time, as append.lua takes it, that an element behind this append may have."""
    if append_id[14] != "7":
        return ""
    # RFC 9562, section 5.7: the first 48 bits are milliseconds since 1970.
    milliseconds = int(append_id[:8] + append_id[9:13], 16) - CLOCK_ALLOWANCE
    text = f"{max(0, milliseconds):012x}"
    return f"{text[:8]}-{text[8:]}"
