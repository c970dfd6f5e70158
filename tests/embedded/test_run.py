"""`python -m memorystore_chat.embedded run -- COMMAND`: the server, the signals, the status."""

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from urllib.parse import quote

import pytest

import servers
from memorystore_chat.embedded import __main__

RUN = [sys.executable, "-m", "memorystore_chat.embedded", "run"]
SHOW = """
import os, redis
from memorystore_chat.embedded import ensure_running
c = redis.Redis.from_url(os.environ["MEMORYSTORE_ENDPOINT"], protocol=2)
print(os.environ["MEMORYSTORE_ENDPOINT"], os.path.dirname(ensure_running()), c.incr("runs"))
"""
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


@pytest.fixture
def folder(monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder to be made, with a name that a URL has to quote; nothing runs in it afterwards."""
    root = tempfile.mkdtemp(prefix="msc-")
    monkeypatch.setenv("MEMORYSTORE_EMBEDDED_DIR", f"{root}/a b%41")
    monkeypatch.delenv("MEMORYSTORE_ENDPOINT", raising=False)
    return Path(f"{root}/a b%41").resolve()


def shown(*words: str) -> list[str]:
    """What the command prints: the endpoint, the folder of "embedded", and a count."""
    done = subprocess.run(
        [*RUN, *words, "--", sys.executable, "-c", SHOW], capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, done.stderr) == (0, "")
    endpoint, rest = done.stdout.split(" ", 1)
    return [endpoint, *rest.rstrip().rsplit(" ", 1)]


def runs(folder: Path) -> bool:
    """Whether the folder's server is alive."""
    try:
        os.kill(int((folder / "valkey.pid").read_text()), 0)
    except OSError:
        return False
    return True


def test_server_ends_with_the_last_command(folder: Path) -> None:
    """The command has a URL that redis-py understands; data are kept; one leaves it to another."""
    with subprocess.Popen([*RUN, "--", "sh", "-c", "read _"], stdin=subprocess.PIPE) as other:
        servers.wait_until(lambda: runs(folder), "a server", 60)
        for number in ("1", "2"):
            assert shown() == [f"unix://{quote(str(folder))}/valkey.sock", str(folder), number]
            assert runs(folder)
        other.communicate(b"end\n", timeout=30)
    servers.wait_until(lambda: not runs(folder), "the end of the server")


def test_temporary(folder: Path) -> None:
    """The reader's own folder is not touched, also when the command asks for "embedded" by name."""
    endpoint, place, _ = shown("--temporary")
    assert endpoint == f"unix://{place}/valkey.sock"
    assert not Path(place).exists()
    assert not folder.exists()


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


@pytest.mark.parametrize(
    ("name", "send", "in_terminal"),
    [
        ("INT", os.killpg, False),
        ("TERM", os.kill, False),
        ("INT", None, True),
        ("TERM", os.kill, True),
    ],
    ids=["Ctrl-C", "TERM", "typed in a terminal", "TERM in a terminal"],
)
def test_signals_are_passed_on(
    folder: Path, name: str, send: Callable[[int, int], None] | None, in_terminal: bool
) -> None:
    """The command gets the signal exactly once, typed or sent; when it ends, the server ends."""
    keyboard, terminal = os.openpty()
    with subprocess.Popen(
        [*RUN, "--", sys.executable, "-c", COUNTING.format(name=name)],
        stdin=terminal if in_terminal else subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=servers.as_a_shell_would,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        assert runs(folder)
        if send is None:
            os.write(keyboard, b"\x03")
        else:
            send(process.pid, getattr(signal, f"SIG{name}"))
        assert process.communicate(timeout=30) == ("", "")
    assert process.returncode == 11
    servers.wait_until(lambda: not runs(folder), "the end of the server")
    os.close(keyboard)
    os.close(terminal)
