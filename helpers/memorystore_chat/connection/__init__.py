"""An endpoint becomes a checked client. Knows nothing of messages."""

from memorystore_chat.connection.discovery import discover
from memorystore_chat.connection.endpoint import Endpoint
from memorystore_chat.connection.iam import IamCredentials
from memorystore_chat.connection.opening import connect, connect_async
from memorystore_chat.connection.tunnel import Tunnel, cluster_nodes, tunnel_commands

__all__ = [
    "Endpoint",
    "IamCredentials",
    "Tunnel",
    "cluster_nodes",
    "connect",
    "connect_async",
    "discover",
    "tunnel_commands",
]
