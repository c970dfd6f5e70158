"""A kernel beside others: `key_prefix`, which no other has, and `new_process`, a fresh Python."""

import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from pickle import PicklingError

from memorystore_chat.errors import MemorystoreChatError
from memorystore_chat.extras import require


@cache
def key_prefix(name: str) -> str:
    """Choose the prefix of a notebook's keys, ``tutorial-NAME:`` unless another kernel has that.

    A kernel keeps its prefix until it ends, so a cell can be run again, and after a restart the
    kernel finds what it stored. A second kernel of the same user gets ``tutorial-NAME-2:``.

    Args:
        name: Such as ``"chain"``; it becomes part of a file's name.

    Example:
        >>> key_prefix("docs")
        'tutorial-docs:'
    """
    number = 1
    while sys.platform != "win32":  # where one notebook at a time has to do
        import fcntl

        path = Path(tempfile.gettempdir(), f"memorystore-chat-{os.getuid()}-{name}-{number}.lock")
        lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)  # for as long as this process lives
            break
        except BlockingIOError:
            os.close(lock)
            number += 1
    return f"tutorial-{name}:" if number == 1 else f"tutorial-{name}-{number}:"


def new_process(function: Callable[[], object]) -> None:
    """Run a function in a fresh Python, and print what it prints.

    The function may use what the notebook has defined, such as other functions and texts. It gets
    copies, and connections can't be copied: it opens its own.

    Args:
        function: Takes no arguments.

    Raises:
        TypeError: The function uses something that can't be copied, such as a connection.
        MemorystoreChatError: It failed; the message ends with the error.
        ModuleNotFoundError: cloudpickle is missing.

    Example:
        >>> new_process(lambda: print("Hello from elsewhere."))
        Hello from elsewhere.
    """
    cloudpickle = require("cloudpickle", extra="tutorial")
    try:
        copied = cloudpickle.dumps(function)
    except (TypeError, PicklingError) as error:
        raise TypeError(
            f"The function uses what can't be copied to another process ({error}), such as a "
            "connection. Open it inside the function."
        ) from error
    call = "import sys, cloudpickle; cloudpickle.load(sys.stdin.buffer)()"
    command = [sys.executable, "-c", call]
    done = subprocess.run(command, input=copied, capture_output=True, check=False)  # noqa: S603
    sys.stdout.write(done.stdout.decode(errors="replace"))
    if done.returncode:
        said = ["it was ended", *done.stderr.decode(errors="replace").strip().splitlines()]
        raise MemorystoreChatError(f"The other process failed: {said[-1]}")
