"""The folder of an embedded server: its locks, its socket, and the watcher that stops it.

The watcher runs this file alone, as a script, to be small: it imports nothing of the package. In
the folder are::

    appendonlydir/   the data: Valkey's append-only file
    valkey.sock      where the server listens (elsewhere when the folder's path is too long)
    valkey.log       what the server said since its last start, valkey.previous.log before that
    server.lock      locked by the server itself while it lives; says where its socket is
    watch.lock       locked by the watcher, a small process that stops an idle server
    start.lock       locked for a moment by whoever starts or stops the two

A lock belongs to a process, not to a file, so one that is killed leaves nothing to clean up.
"""

import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path

# How long a process that neither answers nor exits is waited for, in seconds.
PATIENCE = 10.0
POLL = 0.02

# Held while a lock is, so that no process is forked that would have it open from then on.
_no_fork = threading.RLock()
if hasattr(os, "register_at_fork"):  # Windows has none
    os.register_at_fork(
        before=_no_fork.acquire,
        after_in_parent=_no_fork.release,
        after_in_child=_no_fork.release,
    )


def socket_of(place: Path) -> str:
    """Where the server that holds the folder's lock listens."""
    return os.fsdecode((place / "server.lock").read_bytes())


def pid_of(place: Path) -> str:
    """The server's process id, for people."""
    try:
        return (place / "valkey.pid").read_text().strip()
    except OSError:
        return "unknown"


# Locks: each belongs to an open file, and goes when the last process that has it open ends


def try_lock(file: Path, *, create: bool = False) -> int | None:
    """Lock a file and answer its descriptor, or None when somebody else has it locked.

    The watcher must not create one: it would be in the way of whoever removes the folder.
    """
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
def starting(place: Path, *, create: bool = False) -> Generator[None]:
    """The right to start or stop the folder's server, or a TimeoutError; held for moments only."""
    patience = time.monotonic() + PATIENCE
    while True:
        with _no_fork:
            lock = try_lock(place / "start.lock", create=create)
            if lock is not None:
                try:
                    yield
                finally:
                    os.close(lock)
                return
        if time.monotonic() > patience:
            raise TimeoutError(
                f"another process has been starting or stopping the embedded server of {place} for "
                f"{PATIENCE:.0f} seconds; end it, then try again."
            )
        time.sleep(POLL)


def held(file: Path, *, create: bool = False) -> bool:
    """Whether somebody has a file locked."""
    lock = try_lock(file, create=create)
    if lock is not None:
        os.close(lock)
    return lock is None


def runs(place: Path) -> bool:
    """Whether a server runs in a folder."""
    return held(place / "server.lock")


# Talking to the server: the standard library is enough for three commands


def dial(path: str) -> socket.socket:
    """Connect to a unix socket."""
    connection = socket.socket(socket.AF_UNIX)
    try:
        connection.settimeout(1.0)
        connection.connect(path)
    except BaseException:
        connection.close()
        raise
    return connection


def ask(connection: socket.socket, command: bytes) -> bytes:
    """Send a command; answer its reply, b"" when the server hung up."""
    connection.sendall(command + b"\r\n")
    with connection.makefile("rb") as stream:
        line = stream.readline().rstrip()
        return stream.read(int(line[1:]) + 2) if line.startswith(b"$") else line


def end_if_lost(place: Path) -> None:
    """Have the server end if nobody can reach it any more, as its socket file is gone.

    Its data are on the disk, so SIGTERM takes nothing from it.
    """
    if Path(socket_of(place)).exists():
        return
    with suppress(OSError, ValueError):
        file = place / "valkey.pid"
        pid = int(file.read_text())
        # A new server has not made its socket yet; a number taken by another process leads none.
        if time.time() - file.stat().st_mtime > 1 and os.getsid(pid) == pid:
            os.kill(pid, signal.SIGTERM)


def used(place: Path) -> bool:
    """Whether anybody but the watcher is connected; only inside `starting`."""
    try:
        with dial(socket_of(place)) as connection:
            clients = usage(connection)[1]
    except OSError:
        return False  # nobody can reach it
    return clients > (2 if held(place / "watch.lock", create=True) else 1)


def shut_down(place: Path) -> None:
    """Stop the folder's server and see it gone, or a TimeoutError; only inside `starting`."""
    path = Path(socket_of(place))
    refusal = b""
    # It hangs up instead of answering, or is going already.
    with suppress(OSError), dial(str(path)) as connection:
        refusal = ask(connection, b"SHUTDOWN")
    patience = time.monotonic() + PATIENCE
    while runs(place):
        if refusal or time.monotonic() > patience:
            reason = f"process {pid_of(place)} still runs after {PATIENCE:.0f} seconds; end it."
            raise TimeoutError(refusal.decode(errors="replace") or reason)
        end_if_lost(place)
        time.sleep(POLL)
    if path.parent != place:
        with suppress(OSError):
            path.parent.rmdir()


# Watching


def watch(place: Path, grace: float, lock: int, connection: socket.socket) -> None:
    """Look after the folder's server, stop it when it is idle, and end when it has gone.

    The descriptor of the locked ``watch.lock`` and the connection to the server are inherited.
    """
    with suppress(FileNotFoundError):  # the folder was removed
        while True:
            with suppress(OSError), connection:
                _stop_when_idle(connection, place, grace, lock)
            with suppress(TimeoutError), starting(place):
                if not runs(place):
                    # Inside the lock: whoever starts the next server finds the watch free.
                    os.close(lock)
                    return
            time.sleep(0.2)
            with suppress(OSError):
                connection = dial(socket_of(place))
            if not _same_file(place / "watch.lock", lock):
                return  # another folder has this name by now, and its server another watcher


def _stop_when_idle(connection: socket.socket, place: Path, grace: float, lock: int) -> None:
    """Look every two seconds; return when the server has gone, or OSError."""
    seen, idle_since = -1, 0.0
    while True:
        connection.settimeout(1.0)
        pid, clients, total = usage(connection)
        if not _same_file(place / "watch.lock", lock):
            # A clean shutdown would remove the socket of the server that may have come after.
            os.kill(pid, signal.SIGKILL)
            return
        if clients > 1 or total != seen:
            seen, idle_since = total, 0.0
        elif not idle_since:
            idle_since = time.monotonic()
        elif time.monotonic() - idle_since >= grace:
            with starting(place):
                if usage(connection)[1:] == (1, seen):
                    shut_down(place)
                    return
        connection.settimeout(min(2.0, grace / 4))
        with suppress(TimeoutError):
            if not connection.recv(1):
                return


def usage(connection: socket.socket) -> tuple[int, int, int]:
    """The server's process id, how many clients it has, and how many it ever had."""
    lines = ask(connection, b"INFO server clients stats").decode(errors="replace").splitlines()
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


if __name__ == "__main__":
    watch(
        Path(sys.argv[1]),
        float(sys.argv[2]),
        int(sys.argv[3]),
        socket.socket(fileno=int(sys.argv[4])),
    )
