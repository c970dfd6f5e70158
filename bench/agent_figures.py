"""What an agent's memory costs: round trips a turn on the wire, and what is stored after 50 turns.

``ChatHistoryMiddleware`` and, beside it, the ``ValkeySaver`` of langgraph-checkpoint-aws, a
checkpointer that runs without server modules. Both get the same agent, the same 50 turns and a
Valkey 9 of their own. The saver is installed with pip into a cache folder, apart from the
environment; ``--without-saver`` leaves it out and needs no network.

Usage: python bench/agent_figures.py [--turns 50] [--without-saver]
"""

import argparse
import os
import statistics
import subprocess
import sys
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import redis
from langchain.agents import create_agent

from memorystore_chat import MemorystoreChatMessageHistory
from memorystore_chat.agents import ChatHistoryMiddleware
from memorystore_chat.tutorial.demo_model import DemoChatModel

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests/support"))

import servers
from proxy import Proxy

SAVER = "langgraph-checkpoint-aws"
SAVER_VERSION = "1.2.6"
THREAD: Any = {"configurable": {"thread_id": "ada/1"}}


class Figures(NamedTuple):
    """One memory's costs."""

    name: str
    first: int
    later: list[int]
    keys: int
    memory: int
    messages: int


def get_weather(city: str) -> str:
    """Look up the weather."""
    return f"It is sunny in {city}, 21 degrees, with a light breeze from the west."


def question(turn: int) -> str:
    """Every fifth turn calls the tool; the others are small talk."""
    if turn % 5 == 4:
        return f"What is the weather in Paris? (question {turn})"
    return f"My favorite number is {turn}, and this is a sentence of a usual length."


def measure(name: str, turns: int, memory: Callable[[int], dict[str, Any]]) -> Figures:
    """Run the turns on a fresh server; ``memory`` gives create_agent's arguments."""
    with servers.valkey() as server, Proxy(server.host, server.port) as proxy:
        agent = create_agent(DemoChatModel(), [get_weather], **memory(proxy.port))
        costs: list[int] = []
        result: dict[str, Any] = {}
        for turn in range(turns):
            proxy.reset()
            result = agent.invoke({"messages": [("user", question(turn))]}, THREAD)
            costs.append(proxy.round_trips)
        with server.client() as client:
            keys = list(client.scan_iter(count=1000))
            used = sum(client.memory_usage(key, samples=0) or 0 for key in keys)
        return Figures(name, costs[0], costs[1:], len(keys), used, len(result["messages"]))


def middleware(port: int) -> dict[str, Any]:
    """An agent with our middleware."""
    client = redis.Redis(port=port, protocol=2)
    client.ping()
    make = lambda thread_id: MemorystoreChatMessageHistory(client, thread_id, ttl=3600)  # noqa: E731
    return {"middleware": [ChatHistoryMiddleware(make)]}


def saver(port: int) -> dict[str, Any]:
    """An agent with the ValkeySaver as its checkpointer."""
    folder = cache()
    if not (folder / "langgraph_checkpoint_aws").exists():
        pip = [sys.executable, "-m", "pip", "install", "-qq", "--no-warn-conflicts"]
        package = f"{SAVER}[valkey]=={SAVER_VERSION}"
        subprocess.run([*pip, "--target", str(folder), package], check=True)
    # At the end, so that what the environment has is used and only the rest comes from there.
    if str(folder) not in sys.path:
        sys.path.append(str(folder))
    from langgraph_checkpoint_aws import ValkeySaver
    from valkey import Valkey

    client = Valkey(port=port)
    client.ping()
    return {"checkpointer": ValkeySaver(client, ttl=3600)}


def cache() -> Path:
    """Where the saver is installed."""
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return base / "memorystore-chat" / f"{SAVER}-{SAVER_VERSION}"


def main() -> None:
    """Measure and print a Markdown table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--turns", type=int, default=50)
    parser.add_argument("--without-saver", action="store_true")
    arguments = parser.parse_args()
    if arguments.turns < 5:
        parser.error("--turns takes 5 or more, so that a turn with a tool is among them")
    rows = [measure("ChatHistoryMiddleware", arguments.turns, middleware)]
    if not arguments.without_saver:
        rows.append(measure(f"ValkeySaver ({SAVER} {SAVER_VERSION})", arguments.turns, saver))
    installed = ", ".join(
        f"{name} {version(name)}" for name in ("langchain", "langgraph", "langchain-core", "redis")
    )
    print(f"{arguments.turns} turns, every fifth with a tool call; Valkey 9; {installed}\n")
    print(
        "| memory | round trips: first turn | without tool | with tool | keys | bytes | messages |"
    )
    print("|---|---|---|---|---|---|---|")
    for row in rows:
        with_tool = [cost for turn, cost in enumerate(row.later, 1) if turn % 5 == 4]
        without = [cost for turn, cost in enumerate(row.later, 1) if turn % 5 != 4]
        print(
            f"| {row.name} | {row.first} | {spread(without)} | {spread(with_tool)} "
            f"| {row.keys} | {row.memory:,} | {row.messages} |"
        )


def spread(costs: list[int]) -> str:
    """The median, with the range where there is one."""
    median = f"{statistics.median(costs):g}"
    return median if min(costs) == max(costs) else f"{median} ({min(costs)} to {max(costs)})"


if __name__ == "__main__":
    main()
