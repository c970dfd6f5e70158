"""An endpoint becomes a checked client. Knows nothing of messages."""

from importlib import import_module
from typing import TYPE_CHECKING

from memorystore_chat.connection.endpoint import Endpoint
from memorystore_chat.connection.opening import connect, connect_async

if TYPE_CHECKING:
    from memorystore_chat.connection.discovery import discover
    from memorystore_chat.connection.iam import IamCredentials
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

_LATER = {
    "IamCredentials": "iam",
    "Tunnel": "tunnel",
    "cluster_nodes": "tunnel",
    "discover": "discovery",
    "tunnel_commands": "tunnel",
}


def __getattr__(name: str) -> object:
    if name in _LATER:
        return getattr(import_module(f"memorystore_chat.connection.{_LATER[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
