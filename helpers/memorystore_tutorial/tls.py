"""TLS for a server that was built without it."""

import asyncio
import socket
import ssl
import threading
from contextlib import closing, suppress
from pathlib import Path

from memorystore_tutorial.launching import HOST


def start_front(path: Path, context: ssl.SSLContext) -> int:
    """Decrypt what arrives at a port, which is returned, and hand it to a server's unix socket.

    This is done by a thread, which ends soon after the server.
    """
    listener = socket.create_server((HOST, 0))

    async def handle(client: asyncio.StreamReader, answers: asyncio.StreamWriter) -> None:
        with suppress(OSError, asyncio.CancelledError):  # the server is gone
            replies, server = await asyncio.open_unix_connection(path)
            await asyncio.gather(_pump(client, server), _pump(replies, answers))
        answers.transport.abort()

    async def serve() -> None:
        listening = await asyncio.start_server(handle, sock=listener, ssl=context)
        with suppress(OSError):
            while True:  # as long as the server lets somebody in
                silence, line = await asyncio.open_unix_connection(path)
                with closing(line):
                    await silence.read()
        listening.close()

    threading.Thread(target=asyncio.run, args=[serve()], daemon=True).start()
    return int(listener.getsockname()[1])


async def _pump(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
    with suppress(OSError), closing(target):  # one side hangs up: so every connection ends
        while data := await source.read(1 << 16):
            target.write(data)
            await target.drain()
