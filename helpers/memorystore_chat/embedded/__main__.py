"""Run a command with ``MEMORYSTORE_ENDPOINT`` set to the address of an embedded server.

python -m memorystore_chat.embedded run [--temporary] -- COMMAND...
"""

import argparse
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from contextlib import ExitStack, suppress
from types import FrameType
from urllib.parse import quote

from memorystore_chat.embedded.server import ensure_running, stop
from memorystore_chat.errors import MemorystoreChatError


def _on_signals(handler: Callable[[int, FrameType | None], None]) -> None:
    for name in ("SIGINT", "SIGQUIT", "SIGTERM", "SIGHUP"):
        number = getattr(signal, name, None)  # Windows has two of them
        if number is not None and signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, handler)


def _wait(command: list[str], environment: dict[str, str]) -> int:
    """Run a command that gets each signal this process gets, once; return its exit status."""
    # What is typed reaches every process of the terminal's foreground group; elsewhere the
    # command has a group of its own, and what arrives here is passed on to all of that.
    terminal = os.name == "nt" or (os.isatty(0) and os.tcgetpgrp(0) == os.getpgrp())
    try:
        child = subprocess.Popen(  # noqa: S603 - the command that was asked for
            command, env=environment, process_group=None if terminal else 0
        )
    except OSError as error:
        sys.stderr.write(f"{command[0]}: {error.strerror}\n")
        return 127 if isinstance(error, FileNotFoundError) else 126

    def pass_on(number: int, _frame: FrameType | None) -> None:
        with suppress(ProcessLookupError):
            if child.returncode is None and not terminal:
                os.killpg(child.pid, number)
            elif signal.Signals(number).name not in ("SIGINT", "SIGQUIT"):
                child.send_signal(number)

    _on_signals(pass_on)
    status = child.wait()
    return status if status >= 0 else 128 - status  # signal N is 128 + N, as a shell says it


def _run(command: list[str], *, temporary: bool) -> int:
    _on_signals(lambda number, _: sys.exit(128 + number))
    environment = dict(os.environ)
    with ExitStack() as cleanup:
        if temporary:
            folder = cleanup.enter_context(tempfile.TemporaryDirectory(prefix="memorystore-chat-"))
            # What asks for "embedded" by name stays away from the reader's own data, too.
            environment["MEMORYSTORE_EMBEDDED_DIR"] = folder
            cleanup.callback(stop, folder)
        if not environment.get("MEMORYSTORE_ENDPOINT"):
            path = ensure_running(folder if temporary else None)
            environment["MEMORYSTORE_ENDPOINT"] = "unix://" + quote(os.fsencode(path))
        return _wait(command, environment)


def main(arguments: list[str] | None = None) -> int:
    """Carry out ``python -m memorystore_chat.embedded``; return the command's exit status."""
    words = sys.argv[1:] if arguments is None else arguments
    own, command = words, []
    if "--" in words:
        own, command = words[: words.index("--")], words[words.index("--") + 1 :]
    parser = argparse.ArgumentParser(
        prog="python -m memorystore_chat.embedded",
        usage="%(prog)s run [--temporary] -- COMMAND...",
        description="Run COMMAND with MEMORYSTORE_ENDPOINT naming the embedded Valkey server, "
        "which is started if it does not run, and stopped when COMMAND ends and nobody else uses "
        "it. An endpoint that is in the environment already is used as it is.",
    )
    parser.add_argument("action", choices=["run"], help="what to do")
    parser.add_argument(
        "--temporary", action="store_true", help="keep the data in a folder that is thrown away"
    )
    options = parser.parse_args(own)
    if not command:
        parser.error("name the command to run after --, such as: run -- jupyter lab")
    try:
        return _run(command, temporary=options.temporary)
    except (MemorystoreChatError, ModuleNotFoundError) as error:
        sys.stderr.write(f"{error}\n")
        return 1


if __name__ == "__main__":
    sys.exit(main())
