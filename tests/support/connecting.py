"""What the tests of connect() share: trying a client, and a server that answers as it is told."""

import asyncio
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import pytest

from memorystore_chat.connection import connect, connect_async
from memorystore_chat.connection.endpoint import Endpoint
from memorystore_chat.errors import ConnectError
from memorystore_chat.history import MemorystoreChatMessageHistory

# What Memorystore blocks, and what a cluster client asks for in vain.
BLOCKED = ["CONFIG", "CLIENT", "ACL", "OBJECT", "DEBUG", "MODULE", "COMMAND"]


def refused(*given: Any, kind: type[Exception] = ConnectError, **options: Any) -> str:
    """What connect() and connect_async() both say."""
    said = []
    for run in (lambda: connect(*given, **options), lambda: opened(*given, **options)):
        with pytest.raises(kind) as caught:
            run()
        said.append(str(caught.value))
    assert said[0] == said[1]
    if kind is ConnectError:
        login = {"password": options["password"]} if "password" in options else {}
        assert said[0].startswith(f"Cannot connect to {Endpoint.parse(given[0], **login)}")
    return said[0]


def opened(*given: Any, **options: Any) -> Any:
    """What connect_async() returns or raises."""
    return asyncio.run(connect_async(*given, **options))


async def use(*given: Any, **options: Any) -> list[type]:
    """Write and read a session with both clients; the classes they have."""
    with connect(*given, **options) as client:
        async with await connect_async(*given, **options) as async_client:
            history = MemorystoreChatMessageHistory(client, "used", async_client=async_client)
            history.clear()
            history.add_user_message("sync")
            await history.aadd_messages(history.messages)
            assert [m.content for m in await history.aget_messages()] == ["sync", "sync"]
            history.clear()
        return [type(client), type(async_client)]


@contextmanager
def answering(reply: Callable[[bytes], bytes]) -> Iterator[str]:
    """A loopback server that answers each request with `reply(request)`."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve(connection: socket.socket) -> None:
            with connection, suppress(OSError):
                while request := connection.recv(4096):
                    connection.sendall(reply(request))

        def accept() -> None:
            with suppress(OSError):
                while True:
                    connection, _ = listener.accept()
                    threading.Thread(target=serve, args=(connection,), daemon=True).start()

        threading.Thread(target=accept, daemon=True).start()
        yield f"127.0.0.1:{listener.getsockname()[1]}"
        listener.shutdown(socket.SHUT_RDWR)
