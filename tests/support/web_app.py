"""Replicas of the web app, as processes of their own, and guests that talk to them."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import chain
from pathlib import Path
from typing import Any

import httpx

import servers

APP = Path(__file__).resolve().parents[2] / "app"
RUN: dict[str, Any] = {"args": [sys.executable, "main.py"], "cwd": APP, "env": os.environ}
ENDED = (0, -signal.SIGTERM)  # what a replica may end with
Event = dict[str, Any]


class Replica:
    """A process of the app on a port of its own; its guests' clients are httpx's.

    Settings are environment variables. ``how`` are options of Popen, for other ways to run it.
    """

    def __init__(
        self,
        log: Path,
        server: servers.Server,
        probe: str = "readyz",
        how: dict[str, Any] | None = None,
        **settings: str,
    ) -> None:
        port, self.log, self.how = servers.free_port(), log, RUN | (how or {})
        self.url = f"http://127.0.0.1:{port}"
        self.probe = f"{self.url}/{probe}"
        self.settings = {"MEMORYSTORE_ENDPOINT": server.url, "PORT": str(port)} | settings
        self.start()

    def start(self) -> None:
        """Start it, on the same port as before, and wait until it is ready."""
        how = self.how | {"env": self.how["env"] | self.settings}
        with self.log.open("a") as log:
            self.process = subprocess.Popen(**how, stdout=log, stderr=log)
        servers.wait_until(self.ready, "the app", 200)

    def ready(self) -> bool:
        """Whether it answers; an early end is an error."""
        assert self.process.poll() is None, self.log.read_text()
        with suppress(httpx.TransportError):
            return httpx.get(self.probe).status_code == 200
        return False

    def end(self, number: int = signal.SIGTERM) -> int:
        """Send a signal, and return the exit status; Cloud Run grants ten seconds."""
        self.process.send_signal(number)
        return self.process.wait(10)


class Visitor:
    """A guest with a cookie, or with another client."""

    def __init__(self, url: str, http: Any = None, **headers: str) -> None:
        self.http: Any = http or httpx.Client(base_url=url, timeout=30, headers=headers)

    def at(self, replica: Replica) -> "Visitor":
        """The same guest at another replica."""
        return Visitor(replica.url, cookie=f"guest={self.http.cookies['guest']}")

    @contextmanager
    def begun(self, text: str | None, **given: Any) -> Iterator[tuple[str, Iterator[Event]]]:
        """Ask; the conversation's id, and the events as they come."""
        with self.http.stream("POST", "/api/turns", json={"text": text, **given}) as answer:
            assert answer.status_code == 200, answer.read()
            assert answer.headers["content-type"].startswith("text/event-stream")
            lines = (line for line in answer.iter_lines() if line.startswith("data:"))
            events = (json.loads(line[5:]) for line in lines)
            first = next(events)
            yield first["id"], chain([first], events)

    def ask(self, text: str | None = None, **given: Any) -> list[Event]:
        """Ask, and return the events."""
        with self.begun(text, **given) as (_, events):
            return [*events]

    def refused(self, text: str | None = None, **given: Any) -> int:
        """Ask, and return the status of the refusal."""
        answer = self.http.post("/api/turns", json={"text": text, **given})
        assert isinstance(answer.json()["detail"], str)
        return int(answer.status_code)

    def shown(self, conversation: str = "") -> Any:
        """Read a conversation, or what there is without one."""
        return self.http.get(f"/api/conversations/{conversation}".rstrip("/")).json()


def text_of(events: list[Event]) -> str:
    """What the concierge said in a turn that ended."""
    assert events[-1]["type"] == "end"
    return "".join(event["text"] for event in events if event["type"] == "concierge")
