"""Asking a server about many sessions in one round trip."""

from collections.abc import Sequence
from typing import Any

from memorystore_chat.errors import explaining
from memorystore_chat.storage import Client, pipeline
from memorystore_chat.storage.pipeline import Command


def run(client: Client, commands: Sequence[Command], doing: str) -> list[Any]:
    """`memorystore_chat.storage.pipeline.run`, with this package's errors.

    Args:
        client: A connected client.
        commands: As `pipeline.run` takes them.
        doing: For the error's text, such as ``"deleting sessions"``.

    Raises:
        ConnectError: The server could not be reached or did not answer.
        MemorystoreChatError: The server refused a command.
    """
    with explaining(doing):
        return pipeline.run(client, commands)
