"""The chat history: one conversation in one Redis list."""

from collections.abc import Iterable, Sequence
from uuid import UUID

from langchain_core.chat_history import BaseChatMessageHistory
from langchain_core.messages import BaseMessage, ToolMessage
from redis.crc import key_slot

from memorystore_chat import codec
from memorystore_chat.arguments import check_count, check_text, type_name
from memorystore_chat.commands import (
    AsyncClient,
    Client,
    Command,
    ForeignReplyError,
    Sender,
    Steps,
    script,
)
from memorystore_chat.conversation import is_users, sendable
from memorystore_chat.errors import CorruptHistoryError

CLOCK_ALLOWANCE = 60_000
"""Milliseconds by which the clocks of programs that append to one session may differ."""

SEARCHED_ALWAYS, SEARCHED_AT_MOST = 100, 20_000
"""How many of a session's newest messages are searched for an earlier try of the same append."""


class MemorystoreChatMessageHistory(BaseChatMessageHistory):
    """One conversation, kept in Memorystore for Redis, Redis Cluster or Valkey.

    The session is one Redis list, oldest message first. Reading is one round trip, and so is
    appending any number of messages: they are stored all or none, and once even if the client
    has to send them again because a reply was lost. A signal that arrives in the middle of a
    command (Ctrl-C, an alarm) is handled once the command ends.

    Args:
        client: A connected ``redis.Redis`` or ``redis.cluster.RedisCluster``, or one of their
            asyncio kinds, with or without ``decode_responses=True``. Whoever opened it closes it.
            With an asyncio client only the methods that begin with ``a`` work.
        session_id: Names the conversation; any non-empty text.
        ttl: Seconds until the session expires, counted from its newest message: the write that
            appends sets it, reading does not extend it. None leaves the session's expiry as it is.
        key_prefix: The Redis key is ``key_prefix + session_id`` in UTF-8.
        window: Read at most this many of the newest messages. What is handed out begins at a
            user's message, so it can be shorter, or empty; choose a window longer than your
            longest tool exchange. While a tool's result waits for the model's answer, the turn is
            handed out whole, however long, by a second read.
        max_messages: Keep at most this many of the newest messages; older ones are dropped for
            good by the write that exceeds it. Reading then begins at a user's message too.
        async_client: A ``redis.asyncio`` client beside a synchronous one, for the methods that
            begin with ``a``. Without it they use the synchronous one in a thread.

    Attributes:
        key: The Redis key of the session. The options are attributes, too.

    Raises:
        TypeError: An argument is of the wrong type.
        ValueError: An argument is not acceptable.
        ConnectError: From every method: the server cannot be reached or did not answer.
        MemorystoreChatError: From every method: the server refused, as when its memory is full.

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
        client: Client | AsyncClient,
        session_id: str,
        ttl: int | None = None,
        *,
        key_prefix: str = "",
        window: int | None = None,
        max_messages: int | None = None,
        async_client: AsyncClient | None = None,
    ) -> None:
        self._sender = Sender(client, async_client)
        check_text("session_id", session_id)
        if not session_id:
            raise ValueError("session_id is empty; it takes text that names one conversation.")
        check_text("key_prefix", key_prefix)
        check_count("ttl", ttl, "seconds", optional=True)
        check_count("window", window, "messages", optional=True)
        check_count("max_messages", max_messages, "messages", optional=True)
        self.client = client
        self.session_id = session_id
        self.key = key_prefix + session_id
        self.ttl = ttl
        self.window = window
        self.max_messages = max_messages
        self._key = self.key.encode()

    @property
    def messages(self) -> list[BaseMessage]:  # type: ignore[override]
        """The session's messages, oldest first, at most ``window``; read anew at each access.

        They can be sent to a model as they are. If messages may have been cut off before them
        (by ``window`` or ``max_messages``, or because the session begins inside a tool exchange),
        they begin at a user's message. A tool call without a result is followed by a ToolMessage
        that says so; a result without its call is left out. What is stored does not change, and
        ``len(history)`` counts it.

        Raises:
            CorruptHistoryError: A stored element is not a message.
        """
        return self._sender.run(self._doing("reading"), self._reading(), "aget_messages")

    async def aget_messages(self) -> list[BaseMessage]:
        """Return ``messages``, without blocking the event loop."""
        return await self._sender.arun(self._doing("reading"), self._reading())

    def add_messages(
        self, messages: Sequence[BaseMessage], *, append_id: str | None = None
    ) -> None:
        """Append messages at the end of the session: all or none, in one round trip.

        A client that retries (as those of ``connect()`` do) stores them once, whatever replies
        are lost: each append has an id with its time, and the server looks for it among the
        messages that were appended since (the newest 100 in any case, 20,000 or ``max_messages``
        at most; clocks may differ by a minute).

        If this raises ConnectError, the messages may or may not have been stored. Calling it again
        is a new append, unless both calls are given the same ``append_id``.

        Args:
            messages: LangChain messages, oldest first; none is fine and does nothing. A message
                chunk is stored as a whole message. What has no JSON form is refused; in a tool's
                ``artifact`` and in ``response_metadata``, which no model is sent, it becomes None.
            append_id: A UUID of your own for this batch of messages, which makes the append safe
                to repeat. Best is a UUIDv7, whose time ends the search early.

        Raises:
            TypeError: Something in ``messages`` is not a LangChain message.
            ValueError: A message cannot be stored so that it could be read back; nothing of the
                batch was.
        """
        steps = self._appending(messages, append_id)
        self._sender.run(self._doing("appending to"), steps, "aadd_messages")

    async def aadd_messages(
        self, messages: Sequence[BaseMessage], *, append_id: str | None = None
    ) -> None:
        """Do as ``add_messages``, without blocking the event loop."""
        steps = self._appending(messages, append_id)
        await self._sender.arun(self._doing("appending to"), steps)

    def clear(self) -> None:
        """Delete the session's messages for good, and what ``repair()`` moved away from it.

        An append that a proxy still holds back may arrive afterwards.
        """
        self._sender.run(self._doing("clearing"), self._clearing(), "aclear")

    async def aclear(self) -> None:
        """Do as ``clear``, without blocking the event loop."""
        await self._sender.arun(self._doing("clearing"), self._clearing())

    def repair(self, *, dry_run: bool = True) -> list[CorruptHistoryError]:
        """Find the elements that cannot be read, and move them out of the way.

        They go to a list of their own, ``codec.aside_key(history.key)``, which gets the time to
        live of the session and is deleted with it by ``clear()``. Each element is copied before
        it is removed, so an interruption loses nothing.

        Args:
            dry_run: Only report.

        Returns:
            One error per broken element, oldest first, with its position before the repair.
        """
        return self._sender.run(self._doing("repairing"), self._repairing(dry_run), "arepair")

    async def arepair(self, *, dry_run: bool = True) -> list[CorruptHistoryError]:
        """Do as ``repair``, without blocking the event loop."""
        return await self._sender.arun(self._doing("repairing"), self._repairing(dry_run))

    def __len__(self) -> int:
        """How many messages are stored, whatever the window."""
        return self._sender.run(self._doing("reading"), self._count(), "aget_messages")

    def __bool__(self) -> bool:
        """Always true, so that ``if history:`` asks no server; emptiness is ``len(history)``."""
        return True

    def __repr__(self) -> str:
        return (
            f"{type(self).__name__}(key={self.key!r}, ttl={self.ttl}, window={self.window}, "
            f"max_messages={self.max_messages})"
        )

    def _doing(self, what: str) -> str:
        return f"{what} the session {self.key!r}"

    def _reading(self) -> Steps[list[BaseMessage]]:
        # One more than the window, to see whether it cuts anything off.
        elements = yield from self._elements(-self.window - 1 if self.window else 0)
        cut = len(elements) == self.max_messages
        if self.window and len(elements) > self.window:
            elements, cut = elements[1:], True
        start = -len(elements) if self.window else 0
        messages = [decoded(self.key, i, element) for i, element in enumerate(elements, start)]
        conversation = sendable(messages, cut=cut)
        if conversation or not (self.window and messages and isinstance(messages[-1], ToolMessage)):
            return conversation
        # The window cuts the question off from a turn that a model has to go on with.
        elements = yield from self._elements(0)
        turn: list[BaseMessage] = []
        while len(turn) < len(elements) and not (turn and is_users(turn[0])):
            position = -len(turn) - 1
            turn.insert(0, decoded(self.key, position, elements[position]))
        return sendable(turn, cut=True)

    def _elements(self, start: int) -> Steps[list[bytes]]:
        [elements] = yield [Command("LRANGE", (self._key,), (start, -1), kind=list)]
        return [*elements]

    def _count(self) -> Steps[int]:
        [count] = yield [Command("LLEN", (self._key,), kind=int)]
        return int(count)

    def _clearing(self) -> Steps[None]:
        keys = (self._key, codec.aside_key(self.key))
        together = key_slot(keys[0]) == key_slot(keys[1])
        yield [Command("UNLINK", part, kind=int) for part in ([keys] if together else zip(keys))]

    def _repairing(self, dry_run: bool) -> Steps[list[CorruptHistoryError]]:
        found: list[CorruptHistoryError] = []
        elements = yield from self._elements(0)
        for index, element in enumerate(elements):
            try:
                decoded(self.key, index, element)
            except CorruptHistoryError as error:
                found.append(error)
        if dry_run or not found:
            return found
        broken, aside = [elements[error.index] for error in found], (codec.aside_key(self.key),)
        [left] = yield [Command("PTTL", (self._key,), kind=int)]
        expire = [Command("PEXPIRE", aside, (left,), kind=int)] if left > 0 else []
        # The expiry also first: refused, if it is, before anything is written.
        for command in (*expire, Command("RPUSH", aside, tuple(broken), kind=int), *expire):
            yield [command]
        yield [Command("LREM", (self._key,), (1, element), kind=int) for element in broken]
        return found

    def _appending(self, messages: Sequence[BaseMessage], append_id: str | None) -> Steps[None]:
        if isinstance(messages, str | BaseMessage) or not isinstance(messages, Iterable):
            raise TypeError(
                f"messages is a {type_name(messages)}; it takes a list of LangChain messages. "
                "For one message there is add_message()."
            )
        append_id = codec.new_append_id() if append_id is None else _checked(append_id)
        elements = codec.encode(messages, append_id)
        if not elements:
            return
        limits = (self.ttl or 0, self.max_messages or 0)
        search = (_followers_since(append_id), SEARCHED_ALWAYS, SEARCHED_AT_MOST)
        arguments: tuple[str | bytes | int, ...] = (*limits, *search, *elements)
        [reply] = yield [Command("", (self._key,), arguments, script("demand", "append"))]
        if reply != append_id.encode():
            raise ForeignReplyError


def decoded(key: str, index: int, element: bytes) -> BaseMessage:
    """Read an element of a session; a CorruptHistoryError says where a broken one is."""
    try:
        return codec.decode(element)
    except ValueError as error:
        raise CorruptHistoryError(key, index, str(error)) from error


def _checked(append_id: str) -> str:
    check_text("append_id", append_id)
    try:
        return str(UUID(append_id))
    except ValueError as error:
        raise ValueError(f"append_id is {append_id!r}; it takes a UUID of its own.") from error


def _followers_since(append_id: str) -> str:
    """The oldest time, as append.lua takes it, that an element behind this append may have."""
    uuid = UUID(append_id)
    # RFC 9562, section 5.7: the first 48 bits are milliseconds since 1970.
    since = UUID(int=max(0, uuid.int - (CLOCK_ALLOWANCE << 80)))
    return str(since)[:13] if uuid.version == 7 else ""
