"""A function of the notebook's, run in another Python process: `new_process`."""

import subprocess
import sys
from collections.abc import Callable
from pickle import PicklingError

from memorystore_chat.errors import MemorystoreChatError
from memorystore_chat.extras import require

_CALL = "import sys, cloudpickle; cloudpickle.load(sys.stdin.buffer)()"


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
    command = [sys.executable, "-c", _CALL]
    done = subprocess.run(command, input=copied, capture_output=True, check=False)  # noqa: S603
    sys.stdout.write(done.stdout.decode(errors="replace"))
    if done.returncode:
        said = ["it was ended", *done.stderr.decode(errors="replace").strip().splitlines()]
        raise MemorystoreChatError(f"The other process failed: {said[-1]}")
