"""An endpoint becomes a checked client. Knows nothing of messages."""

from memorystore_chat.connection.connecting import connect, connect_async
from memorystore_chat.connection.discovery import discover
from memorystore_chat.connection.endpoint import Endpoint
from memorystore_chat.connection.iam import IamCredentials

__all__ = [
    "Endpoint",
    "IamCredentials",
    "connect",
    "connect_async",
    "discover",
]
