"""The chat history: one conversation in one Redis list."""

import asyncio
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager
from typing import Any, cast
from uuid import UUID

import redis
import redis.asyncio
from langchain_core.chat_history import BaseChatMessageHistory
from langchain_core.messages import BaseMessage
from redis.asyncio.client import Pipeline as AsyncPipeline
from redis.asyncio.cluster import RedisCluster as AsyncRedisCluster
from redis.client import NEVER_DECODE
from redis.exceptions import NoScriptError

from memorystore_chat._checks import check_client, check_count, check_text, type_name
from memorystore_chat.errors import CorruptHistoryError, explaining
from memorystore_chat.storage import AsyncClient, Client, codec
from memorystore_chat.storage.scripts import script

RETRY_DEPTH = 1000
"""How many of a session's newest messages are searched for an earlier try of the same append."""


class MemorystoreChatMessageHistory(BaseChatMessageHistory):
    """One conversation, kept in Memorystore for Redis, Redis Cluster or Valkey.

    The session is one Redis list, oldest message first. Reading is one round trip, and so is
    appending any number of messages: they are stored all or none, and once even if the client
    has to send them again because a reply was lost, as long as others append fewer than 1,000
    messages to the session (and fewer than ``max_messages``) in between.

    Args:
        client: A connected ``redis.Redis`` or ``redis.cluster.RedisCluster``, with or without
            ``decode_responses=True``. Whoever opened it closes it.
        session_id: Names the conversation; any non-empty text.
        ttl: Seconds until the session expires, counted from its newest message. It is set by the
            same atomic write that appends, and by nothing else: reading does not extend it, and
            neither does an append that is found to be stored already. None leaves the expiry of
            the session as it is.
        key_prefix: The Redis key is ``key_prefix + session_id``.
        window: Read at most this many of the newest messages. A window that would begin inside a
            tool exchange begins after it, so it can be shorter.
        max_messages: Keep at most this many of the newest messages; older ones are dropped for
            good by the write that exceeds it.
        async_client: A ``redis.asyncio`` client for the methods that begin with ``a``. Without
            it they run the synchronous ones in a thread.

    Raises:
        TypeError: ``client`` or ``async_client`` is not a client of its kind.
        ValueError: Another argument is not acceptable; the message says what is.

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
        if async_client is not None and (
            not isinstance(async_client, redis.asyncio.Redis | AsyncRedisCluster)
            or isinstance(async_client, AsyncPipeline)
        ):
            raise TypeError(
                f"async_client is a {type_name(async_client)}; it takes a redis.asyncio.Redis or "
                "redis.asyncio.RedisCluster, such as connect_async() returns."
            )
        check_text("session_id", session_id)
        if not session_id:
            raise ValueError("session_id is empty; it takes text that names one conversation.")
        check_text("key_prefix", key_prefix)
        check_count("ttl", ttl, "seconds", optional=True)
        check_count("window", window, "messages", optional=True)
        check_count("max_messages", max_messages, "messages", optional=True)
        self.session_id = session_id
        self.key = key_prefix + session_id
        self._client = client
        self._async_client = async_client
        self._ttl = ttl
        self._window = window
        self._max_messages = max_messages

    @property
    def messages(self) -> list[BaseMessage]:  # type: ignore[override]
        """The session's messages, oldest first, at most ``window``; read anew at each access.

        Raises:
            CorruptHistoryError: A stored element is not a message.
            ConnectError: The server cannot be reached or did not answer.
            MemorystoreChatError: The server refused, as for a key of another type.
        """
        with self._explaining("reading"):
            return self._decoded(
                cast("Any", self._client).execute_command(*self._range(), **_AS_BYTES)
            )

    async def aget_messages(self) -> list[BaseMessage]:
        """``messages``, without blocking the event loop."""
        if self._async_client is None:
            return await super().aget_messages()
        with self._explaining("reading"):
            command = self._async_client.execute_command(*self._range(), **_AS_BYTES)
            return self._decoded(await command)

    def add_messages(
        self, messages: Sequence[BaseMessage], *, append_id: str | None = None
    ) -> None:
        """Append messages at the end of the session: all or none, in one round trip.

        A client that retries (as those of ``connect()`` do) stores them once, whatever replies
        are lost. Where this raises ConnectError the messages may or may not have been stored, and
        calling it again is a new append, unless both calls are given the same ``append_id``:
        then the second changes nothing if the first was stored and fewer than 1,000 messages have
        been appended since.

        Args:
            messages: LangChain messages, oldest first; none is fine and does nothing. A message
                chunk is stored as a whole message.
            append_id: A UUID of your own for this append, which makes it safe to repeat. A
                UUIDv7 also records the time, as the one made by default does.

        Raises:
            TypeError: Something in ``messages`` is not a LangChain message.
            ValueError: A message cannot be stored so that it could be read back; nothing of the
                batch was.
            ConnectError: The server cannot be reached or did not answer.
            MemorystoreChatError: The server refused, as when its memory is full.
        """
        if not (arguments := self._append_arguments(messages, append_id)):
            return
        with self._explaining("appending to"):
            try:
                self._client.evalsha(script("append").sha, 1, *arguments)
            except NoScriptError:
                self._client.eval(script("append").text, 1, *arguments)

    async def aadd_messages(
        self, messages: Sequence[BaseMessage], *, append_id: str | None = None
    ) -> None:
        """``add_messages``, without blocking the event loop."""
        if self._async_client is None:
            await asyncio.to_thread(self.add_messages, messages, append_id=append_id)
            return
        if not (arguments := self._append_arguments(messages, append_id)):
            return
        with self._explaining("appending to"):
            try:
                await cast("Any", self._async_client.evalsha(script("append").sha, 1, *arguments))
            except NoScriptError:
                await cast("Any", self._async_client.eval(script("append").text, 1, *arguments))

    def clear(self) -> None:
        """Delete the session's messages for good. Clearing an empty session is fine."""
        with self._explaining("clearing"):
            self._client.unlink(self.key)

    async def aclear(self) -> None:
        """``clear``, without blocking the event loop."""
        if self._async_client is None:
            await super().aclear()
            return
        with self._explaining("clearing"):
            await cast("Any", self._async_client.unlink(self.key))

    def __len__(self) -> int:
        """How many messages are stored, whatever the window."""
        with self._explaining("reading"):
            return self._client.llen(self.key)

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

        They go to the list ``<key>:corrupt``, which gets the time to live of the session. Each is
        copied before it is removed, so an interruption loses nothing.

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
        with self._explaining("repairing"):
            stored = cast("Any", self._client).execute_command(
                "LRANGE", self.key, 0, -1, **_AS_BYTES
            )
            for index, element in enumerate(stored):
                try:
                    codec.decode(element)
                except ValueError as error:
                    found.append(CorruptHistoryError(self.key, index, str(error)))
                    broken.append(element)
            if broken and not dry_run:
                aside = f"{self.key}:corrupt"
                self._client.rpush(aside, *broken)
                if (left := self._client.pttl(self.key)) > 0:
                    self._client.pexpire(aside, left)
                for element in broken:
                    self._client.lrem(self.key, 1, cast("str", element))
        return found

    def _range(self) -> tuple[str, str, int, int]:
        return "LRANGE", self.key, -self._window if self._window else 0, -1

    def _decoded(self, elements: list[bytes]) -> list[BaseMessage]:
        messages = []
        for index, element in enumerate(elements):
            try:
                messages.append(codec.decode(element))
            except ValueError as error:
                position = index - len(elements) if self._window else index
                raise CorruptHistoryError(self.key, position, str(error)) from error
        # Only where older messages may have been cut off can a result have lost its call.
        if len(messages) in (self._window, self._max_messages):
            return codec.without_orphans(messages)
        return messages

    def _append_arguments(
        self, messages: Sequence[BaseMessage], append_id: str | None
    ) -> tuple[str | int | bytes, ...]:
        """The script's key and arguments; empty where there is nothing to append."""
        if isinstance(messages, str | BaseMessage) or not isinstance(messages, Iterable):
            raise TypeError(
                f"messages is a {type_name(messages)}; it takes a list of LangChain messages. "
                "For one message there is add_message()."
            )
        elements = codec.encode(messages, _checked_append_id(append_id))
        if not elements:
            return ()
        return (self.key, self._ttl or 0, self._max_messages or 0, RETRY_DEPTH, *elements)

    def _explaining(self, doing: str) -> AbstractContextManager[None]:
        return explaining(f"{doing} the session {self.key!r}")


# Elements arrive as bytes whatever the client decodes; one that is no longer UTF-8 is a broken
# element, and not an error inside redis-py.
_AS_BYTES: dict[str, Any] = {NEVER_DECODE: True}


def _checked_append_id(append_id: str | None) -> str:
    if append_id is None:
        return codec.new_append_id()
    try:
        return str(UUID(append_id))
    except (ValueError, AttributeError, TypeError) as error:
        raise ValueError(
            f"append_id is {append_id!r}; it takes a UUID as text, a new one for each append."
        ) from error
