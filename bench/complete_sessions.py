"""Do the functions of sessions find every session while servers change? Prints a Markdown table.

    python bench/complete_sessions.py

Three attacks, each on real servers: a client connected before a shard was added to its cluster, an
idle client after a fail-over whose former primary is copying as a replica, and a single server
behind one address that fails over in the middle of a scan.
"""

import io
import sys
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any

import redis
from langchain_core.messages import AIMessage, HumanMessage

from memorystore_chat import MemorystoreChatError, codec, sessions
from memorystore_tutorial import sessions_table

sys.path.insert(0, str(Path(__file__).parent.parent / "tests/support"))
import servers
from proxy import Proxy
from reshaping import add_shard, fail_over

PREFIX = "complete:"


def fill(client: Any, number: int) -> int:
    """Store so many sessions of two messages."""
    turn = [HumanMessage("What is my favorite color?"), AIMessage("Green.")]
    with client.pipeline(transaction=False) as pipe:
        for index in range(number):
            pipe.rpush(f"{PREFIX}{index:06}", *codec.encode(turn, codec.new_append_id()))
        pipe.execute()
    return number


def told(attack: str, stored: int, function: str, call: Callable[[], int]) -> None:
    """Run a function and print what it says it found."""
    try:
        found = f"{call():,}"
    except MemorystoreChatError as error:
        found = f"an error: {str(error)[:60]}..."
    print(f"| {attack} | {function} | {stored:,} | {found} |", flush=True)


def export(client: Any) -> int:
    """How many sessions an export has."""
    return sessions.export(client, io.BytesIO(), key_prefix=PREFIX).sessions


def delete(client: Any) -> int:
    """How many sessions are gone afterwards, by the word of the servers."""
    before = sum(1 for _ in sessions.scan(client, key_prefix=PREFIX))
    sessions.delete(client, key_prefix=PREFIX, dry_run=False)
    return before


def shard_added() -> None:
    """A client that connected before a shard was added."""
    with servers.cluster() as cluster, cluster.client() as client:
        stored = fill(client, 400)
        add_shard(cluster)
        told("shard added", stored, "export", lambda: export(client))
        told("shard added", stored, "table", lambda: len(sessions_table(client, limit=1000)))
        sessions.delete(client, key_prefix=PREFIX, dry_run=False)
        with cluster.client() as fresh:
            left = sum(1 for _ in sessions.scan(fresh, key_prefix=PREFIX))
        told("shard added", stored, "delete (gone afterwards)", lambda: stored - left)


def idle_after_fail_over() -> None:
    """A client that was idle during a fail-over."""
    with servers.cluster(cluster_node_timeout=1000) as cluster, cluster.client() as client:
        stored = fill(client, 600)
        fail_over(cluster, cluster.nodes[0])
        told("idle during a fail-over", stored, "export", lambda: export(client))


def fails_over_while_scanning() -> None:
    """A server behind one address that fails over when half of a scan is done."""
    with servers.valkey() as first, servers.valkey() as second:
        with first.client() as client:
            stored = fill(client, 20_000)
        with second.admin() as replica:
            replica.execute_command("REPLICAOF", first.host, first.port)
            servers.wait_until(
                lambda: replica.info("replication")["master_link_status"] == "up", "the copy"
            )
            servers.wait_until(lambda: replica.dbsize() == stored, "the whole copy")
            with Proxy(first.host, first.port) as proxy:
                client = redis.Redis(port=proxy.port, protocol=2)

                def scan() -> int:
                    found = sessions.scan(client, key_prefix=PREFIX)
                    ids = {session.id for session in islice(found, stored // 2)}
                    replica.execute_command("REPLICAOF", "NO", "ONE")
                    proxy.lead_to(second.host, second.port)
                    ids |= {session.id for session in found}
                    return len(ids)

                told("fail-over behind one address", stored, "scan", scan)
                client.close()


def main() -> None:
    """Run the attacks and print the table."""
    print("| attack | function | stored | found |")
    print("|---|---|---:|---:|")
    shard_added()
    idle_after_fail_over()
    fails_over_while_scanning()


if __name__ == "__main__":
    main()
