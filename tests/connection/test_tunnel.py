"""The commands of a tunnel, and a tunnel that works as they say."""

import asyncio
import shlex
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from typing import Any

import pytest

import servers
from memorystore_chat.connection.clients import ServerClient
from memorystore_chat.connection.clusters import ClusterClient
from memorystore_chat.connection.endpoint import Endpoint
from memorystore_chat.connection.opening import connect, connect_async
from memorystore_chat.connection.tunnel import Tunnel, cluster_nodes, tunnel_commands
from memorystore_chat.errors import EndpointError
from proxy import Proxy
from servers import Cluster

PLACE: dict[str, Any] = {"project": "my-project", "zone": "europe-west1-b", "jump_vm": "jump"}


def test_commands_for_one_server() -> None:
    tunnel = tunnel_commands(
        "rediss://:secret@10.0.0.3:6378", **PLACE, network="chat-net", subnet="chat-subnet"
    )
    assert tunnel.create_vm == (
        "gcloud compute instances create jump --project=my-project --zone=europe-west1-b "
        "--machine-type=e2-micro --network=chat-net --subnet=chat-subnet --no-address"
    )
    assert tunnel.allow_ssh == (
        "gcloud compute firewall-rules create allow-iap-ssh --project=my-project "
        "--network=chat-net --direction=INGRESS --action=allow --rules=tcp:22 "
        "--source-ranges=35.235.240.0/20"
    )
    assert tunnel.forward == (
        "gcloud compute ssh jump --project=my-project --zone=europe-west1-b "
        "--tunnel-through-iap -- -N -L 127.0.0.1:6378:10.0.0.3:6378"
    )
    unfolded = str(tunnel).replace(" \\\n   ", "")
    assert unfolded.splitlines() == [tunnel.create_vm, tunnel.allow_ssh, tunnel.forward]
    assert all(len(line) <= 66 or " " not in line.strip(" \\") for line in str(tunnel).splitlines())
    assert tunnel.endpoint == Endpoint("127.0.0.1", 6378, tls=True, password="secret")
    assert "secret" not in f"{tunnel} {tunnel!r}"


def test_commands_for_a_cluster() -> None:
    endpoint = Endpoint(
        "10.0.0.4", tls=True, ca_certs=("PEM",), cluster=True, product="redis-cluster"
    )
    tunnel = tunnel_commands(
        endpoint, **PLACE, nodes=["10.0.0.5:11000", ("10.0.0.6", 11000)], local_port=7000
    )
    assert tunnel.forward.partition(" -- ")[2] == (
        "-N -L 127.0.0.1:7000:10.0.0.4:6379 -L 127.0.0.1:7001:10.0.0.5:11000 "
        "-L 127.0.0.1:7002:10.0.0.6:11000"
    )
    assert tunnel.endpoint == replace(endpoint, host="127.0.0.1", port=7000)
    assert tunnel.address_remap(("10.0.0.6", 11000)) == ("127.0.0.1", 7002)
    assert tunnel.address_remap(("127.0.0.1", 7001)) == ("127.0.0.1", 7001)
    with pytest.raises(EndpointError, match=r"10\.0\.0\.7:11000 without a forward"):
        tunnel.address_remap(("10.0.0.7", 11000))


def test_ipv6_and_quoting() -> None:
    """IPv6 addresses are bracketed, and nothing given can become a command of its own."""
    tunnel = tunnel_commands("[fd00::3]", project="p; rm -rf /", zone="z", jump_vm="$(id)")
    assert "127.0.0.1:6379:[fd00::3]:6379" in tunnel.forward
    words = shlex.split(tunnel.forward)
    assert words[:5] == ["gcloud", "compute", "ssh", "$(id)", "--project=p; rm -rf /"]


@pytest.mark.parametrize(
    ("endpoint", "given", "message"),
    [
        ("embedded", {}, "has no address"),
        ("projects/p/locations/r/instances/i", {}, r"connection\.discover"),
        ("10.0.0.3", {"local_port": 65535, "nodes": ["10.0.0.4"]}, "not 2 ports"),
        ("10.0.0.3", {"nodes": ["http://10.0.0.4"]}, "http://"),
    ],
)
def test_what_makes_no_sense(endpoint: str, given: dict[str, Any], message: str) -> None:
    with pytest.raises(EndpointError, match=message):
        tunnel_commands(endpoint, **PLACE, **given)


@contextmanager
def opened(tunnel: Tunnel) -> Iterator[dict[int, Proxy]]:
    """Do what the -L options of the forward command say; what forwards at each port."""
    words = shlex.split(tunnel.forward)
    specs = [words[n + 1].split(":") for n, word in enumerate(words) if word == "-L"]
    with ExitStack() as stack:
        yield {
            int(port): stack.enter_context(Proxy(far, int(far_port), at=int(port)))
            for _, port, far, far_port in specs
        }


def free_run(length: int) -> int:
    while True:
        first = servers.free_port()
        with ExitStack() as stack, suppress(OSError):
            for port in range(first, first + length):
                stack.enter_context(socket.create_server(("127.0.0.1", port)))
            return first


def test_a_cluster_through_a_tunnel(valkey_cluster: Cluster) -> None:
    """First one forward to list the nodes, then one for each, and every key is reached."""
    first = tunnel_commands(valkey_cluster.url, **PLACE, local_port=free_run(1))
    with opened(first), connect(first.endpoint, cluster=False) as one_node:
        assert isinstance(one_node, ServerClient)
        nodes = cluster_nodes(one_node)
    assert sorted(nodes) == sorted((node.host, node.port) for node in valkey_cluster.nodes)

    tunnel = tunnel_commands(
        valkey_cluster.url, **PLACE, nodes=nodes, local_port=free_run(len(nodes) + 1)
    )
    with opened(tunnel) as used:
        with connect(tunnel.endpoint, address_remap=tunnel.address_remap) as client:
            for number in range(30):
                client.set(f"tunnel{number}", number)
            assert isinstance(client, ClusterClient)
            assert {node.port for node in client.get_nodes()} == set(used)

        async def twin() -> None:
            async with await connect_async(
                tunnel.endpoint, address_remap=tunnel.address_remap
            ) as async_client:
                for number in range(30):
                    assert await async_client.get(f"tunnel{number}") == str(number).encode()
                    await async_client.delete(f"tunnel{number}")

        asyncio.run(twin())
    primaries = [
        used[tunnel.forwards[node.host, node.port][1]].round_trips for node in valkey_cluster.nodes
    ]
    assert all(primaries[: valkey_cluster.primaries])
