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
from contextlib import suppress
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


def installed(folder: Path, *requirements: str) -> Path:
    """Make a virtual environment with some requirements; its programs' folder."""
    uv = [sys.executable, "-m", "uv"]
    subprocess.run([*uv, "venv", "-q", "--python", PYTHON, folder / "venv"], check=True)
    python = folder / "venv/bin/python"
    subprocess.run([*uv, "pip", "install", "-q", "--python", python, *requirements], check=True)
    return python.parent


def answers(url: str, path: str) -> Any:
    with suppress(httpx.TransportError):
        return httpx.get(url + path, timeout=20).status_code == 200


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder that others may enter, unlike pytest's own."""
    with tempfile.TemporaryDirectory() as name:
        yield Path(name)


def test_container_runs_as_an_ordinary_user(
    folder: Path, valkey_server: servers.Server, key_prefix: str
) -> None:
    """What the Dockerfile does, with the package from here: install, copy, change user, start."""
    dockerfile = (APP / "Dockerfile").read_text()
    (requirement,) = re.findall(
        r"^memorystore-chat.*", (APP / "requirements.txt").read_text(), re.M
    )
    local = f"{requirement.partition(' @ ')[0]} @ file://{APP.parent}"
    assert dockerfile.index("USER guest") < dockerfile.index("CMD")
    folder.chmod(0o755)
    programs = installed(folder, local)
    shutil.copytree(APP, folder / "app", ignore=shutil.ignore_patterns("__pycache__"))
    (command,) = re.findall(r"^CMD \[(.*)\]$", dockerfile, re.M)
    program, *arguments = shlex.split(command.replace(",", " "))
    port = servers.free_port()
    own = dict(re.findall(r"([A-Z_]+)=(\S+)", dockerfile)) | {"PORT": str(port)}
    own |= {"MEMORYSTORE_ENDPOINT": valkey_server.url, "KEY_PREFIX": key_prefix, "HOME": "/none"}
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(
            [programs / program, *arguments], cwd=folder / "app", env=own, stdout=log, stderr=log,
            **ORDINARY,
        )  # fmt: skip
    try:
        url = f"http://127.0.0.1:{port}"
        servers.wait_until(lambda: answers(url, "/readyz"), "the app", 60)
        assert "Ada" in text_of(Visitor(url).ask("My name is Ada."))
        process.terminate()
        process.wait(10)
    finally:
        process.kill()
    assert '"severity": "ERROR"' not in (folder / "log").read_text()


def test_langgraph_dev_runs_the_concierge(tmp_path: Path, valkey_server: servers.Server) -> None:
    """With our checkpointer and store: what it was told is there after a restart."""
    programs = installed(tmp_path, "langgraph-cli[inmem]", f"{APP.parent}[agents,embedded]")
    shutil.copytree(APP, tmp_path / "app", ignore=shutil.ignore_patterns("__pycache__"))
    port, thread = servers.free_port(), ""
    url = f"http://127.0.0.1:{port}"
    own = {"MEMORYSTORE_ENDPOINT": valkey_server.url, "LANGSMITH_TRACING": "false"}
    own |= {"PATH": f"{programs}:{os.environ['PATH']}", "DEMO_MODEL_DELAY": "0", "PYTHONPATH": ""}
    for question in ("My name is Ada. Remember that I like green tea.", "What is my name?"):
        with (tmp_path / "log").open("w") as log:
            process = subprocess.Popen(
                [programs / "langgraph", "dev", "--no-browser", "--no-reload", f"--port={port}"],
                cwd=tmp_path / "app", env=os.environ | own, stdout=log, stderr=log,
            )  # fmt: skip
        try:
            servers.wait_until(lambda: answers(url, "/ok"), "langgraph dev", 100)
            thread = thread or httpx.post(f"{url}/threads", json={}).json()["thread_id"]
            turn = {"messages": [{"role": "user", "content": question}]}
            run = {"assistant_id": "concierge", "input": turn, "context": {"id": "ada"}}
            answer = httpx.post(f"{url}/threads/{thread}/runs/wait", json=run, timeout=60)
            assert "Ada" in answer.json()["messages"][-1]["content"], answer.text
        finally:
            process.terminate()
            process.wait(30)
    with valkey_server.client() as client:
        found = list(client.scan_iter(match="langgraph-dev:*"))
        assert any(b"checkpoints" in key for key in found)
        assert any(b"store" in key for key in found)
        client.delete(*found)
