"""What an agent's memory costs: on the wire, on the server, and in time.

Each memory gets the same agent, the offline demo model, one tool and the same questions. All
expire after an hour.
"""

from functools import partial
from itertools import product
from typing import Any
from uuid import uuid4

import redis
import valkey
from langchain.agents import create_agent
from langgraph.checkpoint.memory import InMemorySaver

import servers
from memorystore_chat import MemorystoreChatMessageHistory
from memorystore_chat.agents import ChatHistoryMiddleware
from memorystore_chat.checkpoint import MemorystoreSaver
from memorystore_tutorial import DemoChatModel
from peers import PLAIN_REDIS, TTL, VALKEY_SAVER, classes, conversation
from proxy import Proxy
from timing import Rows, medians, seconds

SAVER, SAVER_KEEP_1 = "MemorystoreSaver", "MemorystoreSaver, keep=1"
FLOOR, MIDDLEWARE = "InMemorySaver", "ChatHistoryMiddleware"
BOTH = f"{SAVER} + {MIDDLEWARE}"
NAMES = (SAVER, SAVER_KEEP_1, PLAIN_REDIS, VALKEY_SAVER, FLOOR, MIDDLEWARE)
SMALL_TALK = "My favorite number is 7, and this is a sentence of a usual length."
LENGTHS = (10, 100, 1000)
TURNS = (5, 10, 20, 50, 100, 200, 500)
LINKS = ("0 ms", "1 ms")
RUNS = 11  # on each link: LangGraph's own time varies more than what a saver adds to it
KINDS = {
    "sync": (False, "sync"),
    "sync, with a tool": (True, "sync"),
    "exit": (False, "exit"),
    "exit, with a tool": (True, "exit"),
}


class Memory:
    """An agent with one of the memories; ``connections=1`` opens one and no more."""

    def __init__(self, name: str, port: int, connections: int = 50) -> None:
        kind: Any = valkey.Valkey if name == VALKEY_SAVER else redis.Redis
        pool = (valkey if name == VALKEY_SAVER else redis).BlockingConnectionPool
        options: dict[str, Any] = {"port": port, "protocol": 2, "max_connections": connections}
        self.client = kind.from_pool(pool(**options))
        makers: dict[str, Any] = {
            SAVER: MemorystoreSaver,
            BOTH: MemorystoreSaver,
            SAVER_KEEP_1: partial(MemorystoreSaver, keep=1),
            FLOOR: lambda *_, **__: InMemorySaver(),
            MIDDLEWARE: lambda *_, **__: None,
        } | classes
        self.saver: Any = makers[name](self.client, ttl=TTL)
        middleware = [ChatHistoryMiddleware(self.history)] if name in (MIDDLEWARE, BOTH) else []
        self.agent: Any = create_agent(
            DemoChatModel(), [get_weather], middleware=middleware, checkpointer=self.saver
        )

    def history(self, thread_id: str) -> MemorystoreChatMessageHistory:
        """What the middleware keeps."""
        return MemorystoreChatMessageHistory(self.client, thread_id, ttl=TTL)

    def turn(
        self, thread_id: str, number: int, *, tool: bool = False, durability: str = "async"
    ) -> None:
        """One question and its answer."""
        text = "What is the weather in Paris?" if tool else SMALL_TALK
        self.agent.invoke(
            {"messages": [("user", f"{text} ({number})")]},
            thread(thread_id),
            **({"durability": durability} if self.saver else {}),
        )

    def fill(self, thread_id: str, length: int) -> None:
        """Begin a thread with so many messages."""
        messages = conversation(length)
        if self.saver:
            self.agent.update_state(thread(thread_id), {"messages": messages})
        else:
            self.history(thread_id).add_messages(messages)


def thread(thread_id: str) -> Any:
    """The config that names a thread."""
    return {"configurable": {"thread_id": thread_id}}


def get_weather(city: str) -> str:
    """Look up the weather."""
    return f"It is sunny in {city}, 21 degrees, with a light breeze from the west."


def measure_wire(server: servers.Server) -> Rows:
    """Round trips and commands of a turn, counted on one connection that is open already."""
    result: Rows = {}
    with Proxy(server.host, server.port) as proxy:

        def count(memory: Memory, tool: bool, durability: str) -> tuple[int, int]:
            proxy.reset()
            memory.turn("wire", 1, tool=tool, durability=durability)
            return proxy.round_trips, proxy.requests

        for name in (*NAMES, BOTH):
            memory = Memory(name, proxy.port, connections=1)
            for number in range(5):
                memory.turn("wire", number, tool=number == 4)
            result[name] = {}
            for kind, how in KINDS.items():
                # A long pipeline may arrive in two parts, and then counts as two round trips.
                _, (trips, commands), _ = sorted(count(memory, *how) for _ in range(3))
                result[name][kind] = f"{trips} / {commands}"
            memory.client.close()
            print(f"  on the wire, {name}: {result[name]}", flush=True)
    return result


def measure_stored(turns: list[int]) -> dict[str, Rows]:
    """Kilobytes and keys on a server of its own as a talk grows, a tool in every fifth turn."""
    result: dict[str, Rows] = {f"{number}": {} for number in turns}
    for name in (*NAMES, BOTH):
        if name == FLOOR:
            continue  # it stores nothing on a server
        with servers.valkey() as server, server.client() as direct:
            memory = Memory(name, server.port)
            for number in range(1, turns[-1] + 1):
                memory.turn("sizes", number, tool=number % 5 == 0)
                if number in turns:
                    keys = list(direct.scan_iter(count=1000))
                    used = sum(direct.memory_usage(key, samples=0) or 0 for key in keys)
                    result[f"{number}"][name] = {"kB": used / 1000, "keys": len(keys)}
            memory.client.close()
        print(f"  {turns[-1]} turns of {name}: {result[f'{turns[-1]}'][name]}", flush=True)
    return result


def measure_turns(server: servers.Server, port: int, runs: int) -> Rows:
    """A turn without a tool on threads that hold so many messages already, each used once."""
    memories = {name: Memory(name, port) for name in NAMES}
    # What is set up before a turn does not go through the slower link.
    fillers = {name: Memory(name, server.port) for name in NAMES} | {FLOOR: memories[FLOOR]}

    def three_turns(name: str, length: int) -> float:
        threads = [str(uuid4()) for _ in range(3)]
        for thread_id in threads:
            fillers[name].fill(thread_id, length)
        return sum(seconds(partial(memories[name].turn, each, 0)) for each in threads) / 3

    places = product(NAMES, LENGTHS)
    tasks = {(name, f"{length:,}"): partial(three_turns, name, length) for name, length in places}
    found = medians(tasks, runs)
    for memory in (*memories.values(), *fillers.values()):
        memory.client.close()
    with server.client() as client:
        client.flushall()
    return found
