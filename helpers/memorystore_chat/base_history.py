"""The base class of chat histories: langchain-core's own, or what stands in for it.

That one is deprecated since langchain-core 1.6.4, and 2.0 has none.
"""

from typing import TYPE_CHECKING, Any

from langchain_core.messages import AIMessage, HumanMessage, get_buffer_string


class PlainChatMessageHistory:
    """The conveniences of langchain-core's ``BaseChatMessageHistory``."""

    messages: Any
    add_messages: Any

    def add_message(self, message: Any) -> None:
        """Append a message."""
        self.add_messages([message])

    def add_user_message(self, message: Any) -> None:
        """Append what the user said: text or a message."""
        self.add_message(HumanMessage(message) if isinstance(message, str) else message)

    def add_ai_message(self, message: Any) -> None:
        """Append what the model said: text or a message."""
        self.add_message(AIMessage(message) if isinstance(message, str) else message)

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
