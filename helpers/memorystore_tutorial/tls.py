"""TLS for a server that was built without it."""

import asyncio
import socket
import ssl
import threading
from collections.abc import Callable
from contextlib import closing, suppress
from pathlib import Path

from memorystore_tutorial.launching import HOST


def start_front(path: Path, context: ssl.SSLContext) -> tuple[int, Callable[[], None]]:
    """Decrypt what arrives at a port and hand it to a unix socket, in a thread of its own.

    Returns:
        The port, and what stops listening there and cuts every connection.
    """
    listener = socket.create_server((HOST, 0))
    loop, stopping = asyncio.new_event_loop(), asyncio.Event()

    async def handle(client: asyncio.StreamReader, answers: asyncio.StreamWriter) -> None:
        with suppress(OSError, asyncio.CancelledError):  # the server or the front is gone
            replies, server = await asyncio.open_unix_connection(path)
            await asyncio.gather(_pump(client, server), _pump(replies, answers))
        answers.transport.abort()

    async def serve() -> None:
        listening = await asyncio.start_server(handle, sock=listener, ssl=context)
        await stopping.wait()
        listening.close()

    def run() -> None:
        with asyncio.Runner(loop_factory=lambda: loop) as runner:
            runner.run(serve())  # at its end the runner cancels the connections

    def stop() -> None:
        loop.call_soon_threadsafe(stopping.set)
        thread.join()

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    return listener.getsockname()[1], stop


async def _pump(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
    with suppress(OSError), closing(target):  # one side hangs up: so every connection ends
        while data := await source.read(1 << 16):
            target.write(data)
            await target.drain()
