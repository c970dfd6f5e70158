"""The app in environments of its own: the container's steps without Docker, and `langgraph dev`.

LangGraph's server pins other versions than the notebooks have, so it is installed apart.
"""

import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

import servers
from web_app import APP, ENDED, Replica, Visitor, text_of

pytestmark = [pytest.mark.colab, pytest.mark.timeout(600), pytest.mark.xdist_group("app")]
# Root becomes somebody else, who may not run a Python that is in root's own folder.
ORDINARY: dict[str, Any] = (
    {"user": 65534, "group": 65534, "extra_groups": []} if os.geteuid() == 0 else {}
)
PYTHON = "/usr/bin/python3" if ORDINARY else sys.executable


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder with a copy of the app, which others may enter, unlike pytest's own."""
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        shutil.copytree(APP, Path(name, "app"), ignore=shutil.ignore_patterns("__pycache__"))
        yield Path(name)


def installed(folder: Path, *requirements: str) -> Path:
    """Make a virtual environment with some requirements; its programs' folder."""
    uv = [sys.executable, "-m", "uv"]
    subprocess.run([*uv, "venv", "-q", "--python", PYTHON, folder / "venv"], check=True)
    python = folder / "venv/bin/python"
    subprocess.run([*uv, "pip", "install", "-q", "--python", python, *requirements], check=True)
    return python.parent


def test_container_runs_as_an_ordinary_user(folder: Path, start: Callable[..., Replica]) -> None:
    """What the Dockerfile does, with the package from here: install, copy, change user, start."""
    dockerfile = (APP / "Dockerfile").read_text()
    (extras,) = re.findall(r"^(\S*) @", (APP / "requirements.txt").read_text(), re.M)
    assert dockerfile.index("USER guest") < dockerfile.index("CMD")
    (command,) = re.findall(r"^CMD \[(.*)\]$", dockerfile, re.M)
    program, *arguments = shlex.split(command.replace(",", " "))
    programs = installed(folder, f"{extras} @ file://{APP.parent}")
    own = dict(re.findall(r"([A-Z_]+)=(\S+)", dockerfile)) | {"HOME": "/none"}
    how = {"args": [programs / program, *arguments], "cwd": folder / "app", "env": own}
    replica = start(how=how | ORDINARY)
    assert "Ada" in text_of(Visitor(replica.url).ask("My name is Ada."))
    assert replica.end() in ENDED
    assert '"severity": "ERROR"' not in replica.log.read_text()


def test_langgraph_dev_runs_the_concierge(
    folder: Path, start: Callable[..., Replica], valkey_server: servers.Server
) -> None:
    """With our checkpointer and store: what it was told is there after a restart."""
    programs = installed(folder, "langgraph-cli[inmem]", f"{APP.parent}[agents,embedded]")
    path = {"PATH": f"{programs}:{os.environ['PATH']}", "PYTHONPATH": ""}
    command = "exec langgraph dev --no-browser --no-reload --port=$PORT"
    how = {"args": ["sh", "-c", command], "cwd": folder / "app", "env": os.environ | path}
    server = start(how=how, probe="ok", LANGSMITH_TRACING="false", DEMO_MODEL_DELAY="0")
    thread = httpx.post(f"{server.url}/threads", json={}).json()["thread_id"]

    def answer(question: str) -> str:
        turn = {"messages": [{"role": "user", "content": question}]}
        run = {"assistant_id": "concierge", "input": turn, "context": {"id": "ada"}}
        reply = httpx.post(f"{server.url}/threads/{thread}/runs/wait", json=run, timeout=60)
        return str(reply.json()["messages"][-1]["content"])

    assert "Ada" in answer("My name is Ada. Remember that I like green tea.")
    server.end()
    server.start()
    assert "Ada" in answer("What is my name?")
    with valkey_server.client() as client:
        found = b" ".join(client.scan_iter(match="langgraph-dev:*"))
    assert b"checkpoints" in found
    assert b"store" in found
