"""Measure the web app: 200 guests, each with 5 turns, on two replicas with one memory.

Each guest tells a number, and asks for it on the other replica. Nothing may fail, be mixed up, or
be lost: ``PYTHONPATH=helpers:tests/support python bench/app.py [GUESTS]``.
"""

import asyncio
import json
import os
import signal
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import httpx

import servers
from web_app import Replica

TURNS = 5


async def turn(guest: httpx.AsyncClient, url: str, **given: Any) -> tuple[str, str, float]:
    """Take a turn; the conversation, the answer, and the seconds to the first and the last word."""
    began, said, conversation = time.perf_counter(), "", ""
    async with guest.stream("POST", f"{url}/api/turns", json=given) as answer:
        if answer.status_code != 200:
            await answer.aread()
            raise RuntimeError(f"{answer.status_code}: {answer.text}")
        async for line in answer.aiter_lines():
            event = json.loads(line[5:]) if line.startswith("data:") else {"type": ""}
            conversation = event.get("id", conversation)
            said += event["text"] if event["type"] == "concierge" else ""
    return conversation, said, time.perf_counter() - began


async def visit(number: int, urls: list[str]) -> tuple[list[float], list[str]]:
    """Be a guest for five turns; the seconds of each turn, and what was wrong."""
    wrong: list[str] = []
    seconds: list[float] = []
    known: dict[str, str] = {}
    async with httpx.AsyncClient(timeout=120) as guest:
        for step in range(TURNS):
            text = "What is my name?" if step else f"My name is Guest{number}."
            try:
                url = urls[(number + step) % len(urls)]
                chat, said, took = await turn(guest, url, text=text, **known)
            except (RuntimeError, httpx.HTTPError) as error:
                wrong.append(repr(error))
                continue
            known = {"conversation": chat}
            seconds.append(took)
            if f"Guest{number}." not in said:
                wrong.append(said)
        if known:
            shown = (await guest.get(f"{urls[0]}/api/conversations/{chat}")).json()["lines"]
            kinds = [line["type"] for line in shown if line["type"] != "tool"]
            wrong += [] if kinds == ["guest", "concierge"] * TURNS else [str(kinds)]
    return seconds, wrong


async def crowd(guests: int, urls: list[str]) -> list[tuple[list[float], list[str]]]:
    """Let all guests in at once."""
    return await asyncio.gather(*(visit(number, urls) for number in range(guests)))


def main(guests: int) -> int:
    """Print the figures; returns the exit status."""
    os.environ["DEMO_MODEL_DELAY"] = "0.0001"
    with servers.valkey() as server, tempfile.TemporaryDirectory() as folder:
        replicas = [Replica(Path(folder, name), server, "") for name in "AB"]
        began = time.perf_counter()
        visits = asyncio.run(crowd(guests, [replica.url for replica in replicas]))
        took = time.perf_counter() - began
        for replica in replicas:
            replica.end(signal.SIGTERM)
    seconds = sorted(second for each, _ in visits for second in each)
    wrong = [each for _, problems in visits for each in problems]
    tenths = statistics.quantiles(seconds, n=100)
    print(
        f"{guests} guests, {len(seconds)} turns in {took:.1f} s, {len(seconds) / took:.0f} a second"
    )
    print(f"median {tenths[49]:.2f} s, 95 % {tenths[94]:.2f} s, longest {seconds[-1]:.2f} s")
    print(f"failed, mixed up or lost: {len(wrong)} {wrong[:3] or ''}")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]) if len(sys.argv) > 1 else 200))
