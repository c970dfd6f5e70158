"""Chat history for LangChain in Google Cloud Memorystore (Redis, Redis Cluster, Valkey).

Example:
    >>> from memorystore_chat import MemorystoreChatMessageHistory, connect
    >>> client = connect("embedded")
    >>> history = MemorystoreChatMessageHistory(client, session_id="hello")
    >>> history.add_user_message("Hello!")
    >>> history.messages[-1].content
    'Hello!'
    >>> history.clear()
"""

from typing import TYPE_CHECKING

from memorystore_chat import sessions
from memorystore_chat.connect import connect, connect_async
from memorystore_chat.display import transcript
from memorystore_chat.endpoint import Endpoint
from memorystore_chat.environment import detect_environment, sign_in
from memorystore_chat.errors import (
    ConnectError,
    CorruptHistoryError,
    EndpointError,
    MemorystoreChatError,
)
from memorystore_chat.history import MemorystoreChatMessageHistory

if TYPE_CHECKING:
    from memorystore_chat.models import DemoChatModel, chat_model

__all__ = [
    "ConnectError",
    "CorruptHistoryError",
    "DemoChatModel",
    "Endpoint",
    "EndpointError",
    "MemorystoreChatError",
    "MemorystoreChatMessageHistory",
    "chat_model",
    "connect",
    "connect_async",
    "detect_environment",
    "sessions",
    "sign_in",
    "transcript",
]


def __getattr__(name: str) -> object:
    # LangChain's model classes take longer to import than all the rest together.
    if name in ("DemoChatModel", "chat_model"):
        from memorystore_chat import models

        return getattr(models, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
