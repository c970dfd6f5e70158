"""What the tests of connect() share: trying a client, and a server that answers as it is told."""

import asyncio
import inspect
import traceback
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import pytest

from memorystore_chat.connection import connect, connect_async
from memorystore_chat.connection.endpoint import Endpoint
from memorystore_chat.errors import ConnectError
from proxy import listening

# What Memorystore blocks.
BLOCKED = ["CONFIG", "CLIENT", "ACL", "OBJECT", "DEBUG", "MODULE"]


@asynccontextmanager
async def opened(way: str, *given: Any, **options: Any) -> AsyncIterator[Any]:
    """A client of connect(), or of connect_async() if the way is "async"."""
    if way == "sync":
        with connect(*given, **options) as client:
            yield client
    else:
        async with await connect_async(*given, **options) as client:
            yield client


async def answer(reply: Any) -> Any:
    """The reply of a client of either kind."""
    return await reply if inspect.isawaitable(reply) else reply


def refused(*given: Any, kind: type[Exception] = ConnectError, **options: Any) -> str:
    """What connect() and connect_async() both say, without telling the password anywhere."""
    said = []
    for run in (connect, lambda *given, **options: asyncio.run(connect_async(*given, **options))):
        with pytest.raises(kind) as caught:
            run(*given, **options)
        said.append(str(caught.value))
        if kind is ConnectError:
            secret = options.get("password", "hunter2")
            endpoint = Endpoint.parse(given[0], password=options.get("password"))
            assert said[-1].startswith(f"Cannot connect to {endpoint}")
            shown = "".join(traceback.format_exception(caught.value))
            assert secret[:6] not in shown
    assert said[0] == said[1]
    return said[0]


@contextmanager
def answering(reply: Callable[[bytes], bytes]) -> Iterator[str]:
    """The address of a server that answers each request with `reply(request)`."""

    def serve(connection: Any) -> None:
        while request := connection.recv(1 << 16):
            connection.sendall(reply(request))

    with listening(serve) as port:
        yield f"127.0.0.1:{port}"
