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

from memorystore_chat import sessions
from memorystore_chat.connection import Endpoint, connect, connect_async
from memorystore_chat.errors import (
    ConnectError,
    CorruptHistoryError,
    EndpointError,
    MemorystoreChatError,
)
from memorystore_chat.history import MemorystoreChatMessageHistory

__all__ = [
    "ConnectError",
    "CorruptHistoryError",
    "Endpoint",
    "EndpointError",
    "MemorystoreChatError",
    "MemorystoreChatMessageHistory",
    "connect",
    "connect_async",
    "sessions",
]
