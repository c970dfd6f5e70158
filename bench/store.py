"""What long-term memory costs: on the wire beside ValkeyStore, by meaning, and as users come."""

import random
import statistics
from collections.abc import Callable
from functools import partial
from typing import Any

import valkey
from langgraph.store.base import PutOp

import servers
from memorystore_chat.store import MemorystoreStore
from peers import VALKEY_STORE, classes
from proxy import Proxy
from timing import seconds

STORE, STORED = "MemorystoreStore", "stored"
NAMES = (STORE, VALKEY_STORE)
FACT = {"text": "Drinks green tea, and is allergic to nuts.", "kind": "taste"}
ADA, NEW = ("guests", "ada"), ("guests", "ada", "new")
MEMORIES, DIMS = (1_000, 10_000), 768
NAMESPACES = (100, 100_000)
ASKED: dict[str, Callable[[Any], Any]] = {
    "get": lambda store: store.get(ADA, "3"),
    "put": lambda store: store.put(ADA, "3", FACT),
    "search a guest": lambda store: store.search(ADA),
    "search a guest with a filter": lambda store: store.search(ADA, filter={"kind": "allergy"}),
    "search all guests for 10": lambda store: store.search(("guests",)),
    "list 10 namespaces": lambda store: store.list_namespaces(limit=10),
    "put ten at once": lambda store: store.batch([PutOp(ADA, f"{n}", FACT) for n in range(10)]),
    "put into a new namespace": lambda store: store.put(NEW, "1", FACT),
    "delete": lambda store: store.delete(NEW, "1"),
}


def vectors(texts: Any) -> list[list[float]]:
    """A random vector of each text, which costs no model."""
    return [[random.gauss() for _ in range(DIMS)] for _ in texts]


def measure_wire(server: servers.Server) -> dict[str, Any]:
    """Round trips and bytes of each operation on one of 201 guests, each of ten facts."""
    found: dict[str, Any] = {}
    with server.client() as direct, Proxy(server.host, server.port) as proxy:
        for name in NAMES:
            direct.flushall()
            client: Any = server.client if name == STORE else valkey.Valkey
            with client(port=proxy.port) as connected:
                store: Any = ({STORE: MemorystoreStore} | classes)[name](connected)
                for guest in ("ada", *range(200)):
                    for fact in range(10):
                        store.put(("guests", f"{guest}"), f"{fact}", FACT)
                found[name] = {
                    what: _cost(server, proxy, partial(ask, store)) for what, ask in ASKED.items()
                }
            found[name][STORED] = sum(map(direct.memory_usage, direct.scan_iter(count=1000)))
        direct.flushall()
    return found


def _cost(server: servers.Server, proxy: Proxy, ask: Callable[[], Any]) -> dict[str, int]:
    with server.admin() as admin:

        def carried() -> int:
            stats = admin.info("stats")
            return int(stats["total_net_input_bytes"] + stats["total_net_output_bytes"])

        carried()
        own = -carried() + carried()
        proxy.reset()
        before = carried()
        ask()
        return {"round_trips": proxy.round_trips, "bytes": carried() - before - own}


def measure_meaning(server: servers.Server, runs: int) -> dict[str, Any]:
    """A search by meaning among so many memories of one guest: ms, and bytes moved."""
    found: dict[str, Any] = {}
    index: Any = {"dims": DIMS, "embed": vectors, "fields": ["text"]}
    with server.client() as direct, Proxy(server.host, server.port) as proxy:
        for count in MEMORIES:
            direct.flushall()
            store = MemorystoreStore(direct, index=index)
            for start in range(0, count, 500):
                numbers = range(start, start + 500)
                store.batch([PutOp(ADA, f"{n}", FACT | {"text": f"{n}"}) for n in numbers])
            direct.config_resetstat()
            search = partial(store.search, ADA, query="tea", limit=5)
            times = [seconds(search) * 1000 for _ in range(runs)]
            script = direct.info("commandstats")["cmdstat_evalsha"]["usec_per_call"]
            with server.client(port=proxy.port) as connected:
                counted = MemorystoreStore(connected, index=index)
                cost = _cost(server, proxy, partial(counted.search, ADA, query="tea", limit=5))
            found[f"{count:,}"] = {
                "milliseconds": round(statistics.median(times), 1),
                "ms a script": round(script / 1000, 2),
                **cost,
                STORED: sum(map(direct.memory_usage, direct.scan_iter(count=1000))),
            }
        direct.flushall()
    return found


def measure_scale(server: servers.Server, runs: int) -> dict[str, Any]:
    """Microseconds of an operation on one of so many namespaces of three items.

    The slowest call is what the server took for one command or script, those of a search of all
    namespaces included.
    """
    found: dict[str, Any] = {}
    with server.client() as direct:
        store, filled = MemorystoreStore(direct), 0
        get, put = partial(store.get, key="1"), partial(store.put, key="1", value=FACT)
        asked: dict[str, Callable[..., Any]] = {"get": get, "put": put, "search": store.search}
        for count in NAMESPACES:
            for start in range(filled, count, 100):
                names = [("guests", f"{guest}") for guest in range(start, start + 100)]
                store.batch([PutOp(name, f"{n}", FACT) for name in names for n in range(3)])
            filled = count
            guests = [("guests", f"{random.randrange(count)}") for _ in range(200 * runs)]
            direct.config_set("slowlog-max-len", 100_000)
            direct.config_set("slowlog-log-slower-than", 0)
            figures = {
                what: round(statistics.median(seconds(partial(ask, one)) for one in guests) * 1e6)
                for what, ask in asked.items()
            }
            store.search(("guests",))
            store.list_namespaces(limit=10)
            slowest = max(each["duration"] for each in direct.slowlog_get(100_000))
            direct.config_set("slowlog-log-slower-than", 10_000)
            direct.slowlog_reset()
            found[f"{count:,}"] = {**figures, "slowest call": slowest}
        direct.flushall()
    return found


def measure(server: servers.Server, runs: int) -> dict[str, Any]:
    """On the wire, by meaning, and among many namespaces."""
    return {
        "wire": measure_wire(server),
        "meaning": measure_meaning(server, runs),
        "scale": measure_scale(server, runs),
    }
