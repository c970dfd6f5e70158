"""Run a command with ``MEMORYSTORE_ENDPOINT`` set to the address of an embedded server.

python -m memorystore_chat.embedded run [--temporary] -- COMMAND...
"""

import argparse
import os
import signal
import subprocess
import sys
import tempfile
from contextlib import ExitStack, suppress
from types import FrameType
from urllib.parse import quote

from memorystore_chat.embedded.folder import dial
from memorystore_chat.embedded.server import ensure_running, stop
from memorystore_chat.errors import MemorystoreChatError


class _Foreground:
    """Runs a command that gets each signal this process gets, once."""

    def __init__(self) -> None:
        self._child: subprocess.Popen[bytes] | None = None
        self._early: list[int] | None = None
        # What is typed reaches every process of the terminal's foreground group; elsewhere the
        # command has a group of its own, and what arrives here is passed on to all of that.
        self._typed = ("SIGINT", "SIGQUIT")
        self._terminal = os.name == "nt" or (os.isatty(0) and os.tcgetpgrp(0) == os.getpgrp())
        for name in (*self._typed, "SIGTERM", "SIGHUP"):
            number = getattr(signal, name, None)  # Windows has two of them
            if number is not None and signal.getsignal(number) is not signal.SIG_IGN:
                signal.signal(number, self._pass_on)

    def _pass_on(self, number: int, _frame: FrameType | None) -> None:
        if self._child is None:
            if self._early is None:
                raise SystemExit(128 + number)
            self._early.append(number)
        elif self._child.returncode is None:
            with suppress(ProcessLookupError):
                if not self._terminal:
                    os.killpg(self._child.pid, number)
                elif signal.Signals(number).name not in self._typed:
                    self._child.send_signal(number)

    def run(self, command: list[str], environment: dict[str, str]) -> int:
        """Its exit status; 128 + N when signal N ended it, as a shell says it."""
        self._early = []
        try:
            self._child = subprocess.Popen(  # noqa: S603 - the command that was asked for
                command, env=environment, process_group=None if self._terminal else 0
            )
        except OSError as error:
            sys.stderr.write(f"{command[0]}: {error.strerror}\n")
            return 127 if isinstance(error, FileNotFoundError) else 126
        for number in self._early:
            self._pass_on(number, None)
        status = self._child.wait()
        return status if status >= 0 else 128 - status


def _run(command: list[str], *, temporary: bool) -> int:
    foreground = _Foreground()
    environment = dict(os.environ)
    with ExitStack() as cleanup:
        folder: str | None = None
        if temporary:
            folder = cleanup.enter_context(tempfile.TemporaryDirectory(prefix="memorystore-chat-"))
            # What asks for "embedded" by name stays away from the reader's own data, too.
            environment["MEMORYSTORE_EMBEDDED_DIR"] = folder
            cleanup.callback(stop, folder)
        if not environment.get("MEMORYSTORE_ENDPOINT"):
            path = ensure_running(folder)
            environment["MEMORYSTORE_ENDPOINT"] = "unix://" + quote(os.fsencode(path))
            if not temporary:
                cleanup.callback(stop, folder, if_unused=True)
            # A client for as long as the command runs, so that the server never looks idle.
            cleanup.enter_context(dial(path))
        return foreground.run(command, environment)


def main(arguments: list[str] | None = None) -> int:
    """Carry out ``python -m memorystore_chat.embedded``; answer the command's exit status."""
    words = sys.argv[1:] if arguments is None else arguments
    mine, command = words, []
    if "--" in words:
        mine, command = words[: words.index("--")], words[words.index("--") + 1 :]
    parser = argparse.ArgumentParser(
        prog="python -m memorystore_chat.embedded",
        usage="%(prog)s run [--temporary] -- COMMAND...",
        description="Run COMMAND with MEMORYSTORE_ENDPOINT naming the embedded Valkey server, "
        "which is started if it does not run, and stopped when COMMAND ends and nobody else uses "
        "it. An endpoint that is in the environment already is used as it is.",
    )
    parser.add_argument("action", choices=["run"], help="what to do")
    parser.add_argument(
        "--temporary",
        action="store_true",
        help="keep the data in a throw-away folder, removed when COMMAND ends",
    )
    options = parser.parse_args(mine)
    if not command:
        parser.error("name the command to run after --, such as: run -- jupyter lab")

    try:
        return _run(command, temporary=options.temporary)
    except (MemorystoreChatError, ModuleNotFoundError) as error:
        sys.stderr.write(f"{error}\n")
        return 1


if __name__ == "__main__":
    sys.exit(main())
