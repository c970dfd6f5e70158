"""The base class of chat histories, with or without langchain-core's own.

That one is deprecated since langchain-core 1.6.4, and 2.0 has none. What it gives beyond the
methods of `MemorystoreChatMessageHistory` is little, and stays.
"""

import asyncio
from typing import TYPE_CHECKING, Any

from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, get_buffer_string


class PlainChatMessageHistory:
    """The conveniences of langchain-core's ``BaseChatMessageHistory``."""

    messages: list[BaseMessage]

    def add_messages(self, messages: Any) -> None:
        """Append messages."""
        raise NotImplementedError

    def clear(self) -> None:
        """Delete all messages."""
        raise NotImplementedError

    def add_message(self, message: BaseMessage) -> None:
        """Append a message."""
        self.add_messages([message])

    def add_user_message(self, message: HumanMessage | str) -> None:
        """Append what the user said."""
        self.add_message(HumanMessage(message) if isinstance(message, str) else message)

    def add_ai_message(self, message: AIMessage | str) -> None:
        """Append what the model said."""
        self.add_message(AIMessage(message) if isinstance(message, str) else message)

    async def aget_messages(self) -> list[BaseMessage]:
        """``messages``, in a thread."""
        return await asyncio.to_thread(lambda: self.messages)

    async def aadd_messages(self, messages: Any) -> None:
        """``add_messages``, in a thread."""
        await asyncio.to_thread(self.add_messages, messages)

    async def aclear(self) -> None:
        """``clear``, in a thread."""
        await asyncio.to_thread(self.clear)

    def __str__(self) -> str:
        return get_buffer_string(self.messages)


__all__ = ["BaseChatMessageHistory"]

if TYPE_CHECKING:
    from langchain_core.chat_history import BaseChatMessageHistory
else:
    try:
        from langchain_core.chat_history import BaseChatMessageHistory
    except ImportError:
        BaseChatMessageHistory = PlainChatMessageHistory
