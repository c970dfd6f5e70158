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

from importlib import import_module
from typing import TYPE_CHECKING

from memorystore_chat.connection import Endpoint, connect, connect_async
from memorystore_chat.errors import (
    ConnectError,
    CorruptHistoryError,
    EndpointError,
    MemorystoreChatError,
)
from memorystore_chat.history import MemorystoreChatMessageHistory

if TYPE_CHECKING:
    from memorystore_chat import sessions
    from memorystore_chat.tutorial import (
        DemoChatModel,
        chat_model,
        detect_environment,
        sign_in,
        transcript,
    )

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

_TUTORIAL = {"DemoChatModel", "chat_model", "detect_environment", "sign_in", "transcript"}


def __getattr__(name: str) -> object:
    if name == "sessions":
        return import_module("memorystore_chat.sessions")
    if name in _TUTORIAL:  # a program that only stores messages has no use for these
        return getattr(import_module("memorystore_chat.tutorial"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
