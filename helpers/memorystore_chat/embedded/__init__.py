"""A Valkey on this machine, for development: what connect() uses when nothing is named."""

from memorystore_chat.embedded.server import ensure_running, stop

__all__ = ["ensure_running", "stop"]
