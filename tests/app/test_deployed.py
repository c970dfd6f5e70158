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
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import pytest

import servers
from web_app import APP, Visitor, text_of

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


@contextmanager
def running(command: list[Any], folder: Path, ready: str, **options: Any) -> Iterator[None]:
    """Run a program in the app's folder as soon as it is ready; SIGTERM ends it."""

    def answers() -> Any:
        with suppress(httpx.TransportError):
            return httpx.get(ready, timeout=20).status_code == 200

    with (folder / "log").open("w") as log:
        process = subprocess.Popen(command, cwd=folder / "app", stdout=log, stderr=log, **options)
    try:
        servers.wait_until(answers, str(command[0]), 100)
        yield
        process.terminate()
        process.wait(30)
    finally:
        process.kill()
        process.wait()


def test_container_runs_as_an_ordinary_user(
    folder: Path, valkey_server: servers.Server, key_prefix: str
) -> None:
    """What the Dockerfile does, with the package from here: install, copy, change user, start."""
    dockerfile, requirements = (
        (APP / name).read_text() for name in ("Dockerfile", "requirements.txt")
    )
    (extras,) = re.findall(r"^(memorystore-chat\S*) @", requirements, re.M)
    assert dockerfile.index("USER guest") < dockerfile.index("CMD")
    (command,) = re.findall(r"^CMD \[(.*)\]$", dockerfile, re.M)
    program, *arguments = shlex.split(command.replace(",", " "))
    programs = installed(folder, f"{extras} @ file://{APP.parent}")
    url = f"http://127.0.0.1:{servers.free_port()}"
    own = dict(re.findall(r"([A-Z_]+)=(\S+)", dockerfile)) | {"PORT": url.rpartition(":")[2]}
    own |= {"MEMORYSTORE_ENDPOINT": valkey_server.url, "KEY_PREFIX": key_prefix, "HOME": "/none"}
    command = [programs / program, *arguments]
    with running(command, folder, f"{url}/readyz", env=own, **ORDINARY):
        assert "Ada" in text_of(Visitor(url).ask("My name is Ada."))
    assert '"severity": "ERROR"' not in (folder / "log").read_text()


def test_langgraph_dev_runs_the_concierge(folder: Path, valkey_server: servers.Server) -> None:
    """With our checkpointer and store: what it was told is there after a restart."""
    programs = installed(folder, "langgraph-cli[inmem]", f"{APP.parent}[agents,embedded]")
    port, thread = servers.free_port(), ""
    url = f"http://127.0.0.1:{port}"
    own = {"MEMORYSTORE_ENDPOINT": valkey_server.url, "LANGSMITH_TRACING": "false"}
    own |= {"PATH": f"{programs}:{os.environ['PATH']}", "DEMO_MODEL_DELAY": "0", "PYTHONPATH": ""}
    command = [programs / "langgraph", "dev", "--no-browser", "--no-reload", f"--port={port}"]
    for question in ("My name is Ada. Remember that I like green tea.", "What is my name?"):
        with running(command, folder, f"{url}/ok", env=os.environ | own):
            thread = thread or httpx.post(f"{url}/threads", json={}).json()["thread_id"]
            turn = {"messages": [{"role": "user", "content": question}]}
            run = {"assistant_id": "concierge", "input": turn, "context": {"id": "ada"}}
            answer = httpx.post(f"{url}/threads/{thread}/runs/wait", json=run, timeout=60)
            assert "Ada" in answer.json()["messages"][-1]["content"], answer.text
    with valkey_server.client() as client:
        found = list(client.scan_iter(match="langgraph-dev:*"))
        assert any(b"checkpoints" in key for key in found)
        assert any(b"store" in key for key in found)
        client.delete(*found)
