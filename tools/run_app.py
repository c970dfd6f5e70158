"""Run the web app here: ``make app``. The demo model and a Valkey on this machine, no account."""

import os
import socket
import sys
from contextlib import suppress
from pathlib import Path

import psutil

from memorystore_chat import Endpoint, MemorystoreChatError, connect

MAIN = Path(__file__).resolve().parents[1] / "app/main.py"


def holder(port: int) -> str:
    """What has a port, in words."""
    with suppress(psutil.Error):  # macOS only tells root
        for connection in psutil.net_connections("tcp"):
            taken = connection.status == psutil.CONN_LISTEN and connection.laddr.port == port
            if taken and connection.pid:
                command = " ".join(psutil.Process(connection.pid).cmdline())
                return f"{command} (process {connection.pid})"
    return "a program of somebody else"


def main() -> int:
    """Check what the app needs, say where it is, and become it; returns the exit status."""
    port = os.environ.get("PORT") or "8000"
    if not port.isdecimal() or not 0 < int(port) < 65536:
        print(f"PORT is {port!r}; it takes a number from 1 to 65535.", file=sys.stderr)
        return 1
    try:
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(("127.0.0.1", int(port)))
        with connect():
            print(f"Server  {Endpoint.from_environment()}")
    except MemorystoreChatError as error:
        print(error, file=sys.stderr)
        return 1
    except OSError as error:
        has_it = f"Port {port} is not free ({error.strerror}): {holder(int(port))}."
        print(f"{has_it}\nStop that, or choose another: make app PORT=8001", file=sys.stderr)
        return 1
    print(f"Model   {os.environ.get('MODEL') or 'demo'}\nOpen    http://127.0.0.1:{port}")
    print("Stop    Ctrl-C; conversations are there the next time", flush=True)
    # It takes the place of this process, so that Ctrl-C and its end are its own.
    os.environ["PORT"] = port
    return os.execv(sys.executable, [sys.executable, str(MAIN)])  # noqa: S606


if __name__ == "__main__":
    sys.exit(main())
