"""`tunnel_commands`: the gcloud commands that bring a private address to this machine."""

import shlex
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

import redis

from memorystore_chat._seams import AS_BYTES
from memorystore_chat.connection.endpoint import Endpoint
from memorystore_chat.errors import EndpointError

# The addresses Google's Identity-Aware Proxy connects from.
# https://cloud.google.com/iap/docs/using-tcp-forwarding
_IAP_RANGE = "35.235.240.0/20"

Address = tuple[str, int]


@dataclass(frozen=True)
class Tunnel:
    """The way to an instance through a jump VM; `str` is the commands, one a line.

    Attributes:
        create_vm: Makes the jump VM; once.
        allow_ssh: Makes the firewall rule that lets Identity-Aware Proxy reach it; once.
        forward: Opens the tunnel and keeps it open until Ctrl-C.
        endpoint: What to give to `connect` while the tunnel is open.
        forwards: For each address in the cloud the one on this machine.
    """

    create_vm: str
    allow_ssh: str
    forward: str
    endpoint: Endpoint
    forwards: dict[Address, Address]

    @property
    def address_remap(self) -> Callable[[Address], Address]:
        """What `connect` takes as ``address_remap=``, so that a cluster's nodes are found.

        Raises:
            EndpointError: When called with the address of a node that has no forward.
        """

        def remap(address: Address) -> Address:
            if address in self.forwards.values():
                return address
            if address not in self.forwards:
                raise EndpointError(
                    f"The cluster has a node {address[0]}:{address[1]} without a forward. List its "
                    "nodes again with cluster_nodes() and open a new tunnel."
                )
            return self.forwards[address]

        return remap

    def __str__(self) -> str:
        return "\n".join(map(folded, (self.create_vm, self.allow_ssh, self.forward)))


def folded(command: str) -> str:
    r"""A command for a shell, in lines that fit a notebook in a narrow window.

    Example:
        >>> print(folded("gcloud compute ssh chat-jump --tunnel-through-iap -- -N -L 1:10.0.0.3:1"))
        gcloud compute ssh chat-jump --tunnel-through-iap -- -N -L \
            1:10.0.0.3:1
    """
    lines, line = [], ""
    for word in map(shlex.quote, shlex.split(command)):
        if line and len(line) + len(word) > 63:
            lines.append(line)
            line = "   "
        line += f" {word}" if line else word
    return " \\\n".join([*lines, line])


def tunnel_commands(
    endpoint: str | Endpoint,
    *,
    project: str,
    zone: str,
    jump_vm: str,
    network: str = "default",
    subnet: str = "default",
    nodes: Iterable[str | Address] = (),
    local_port: int | None = None,
) -> Tunnel:
    """Write the commands that reach a private address from a laptop, through a jump VM.

    The VM is small, has no public address, and is reached through Identity-Aware Proxy, for which
    you need ``roles/iap.tunnelResourceAccessor``. Each of a cluster's nodes needs a forward of its
    own: open the tunnel without ``nodes``, list them with `cluster_nodes`, and open it with them.

    Args:
        endpoint: The instance, by its address (`discover` finds it).
        project: Google Cloud project of the jump VM.
        zone: Its zone, in the instance's region, such as ``europe-west1-b``.
        jump_vm: The name it has or gets.
        network: The instance's VPC network.
        subnet: A subnetwork of it in that region.
        nodes: The cluster's nodes as ``"HOST:PORT"`` or ``(HOST, PORT)``.
        local_port: First port to use on this machine; by default the instance's own.

    Raises:
        EndpointError: The endpoint has no address, or the ports do not suffice.

    Example:
        >>> tunnel = tunnel_commands(
        ...     "rediss://10.0.0.3:6378", project="p", zone="europe-west1-b", jump_vm="jump"
        ... )
        >>> tunnel.forward.partition(" -- ")[2]
        '-N -L 127.0.0.1:6378:10.0.0.3:6378'
        >>> tunnel.endpoint
        Endpoint('rediss://127.0.0.1:6378')
    """
    target = Endpoint.parse(endpoint) if isinstance(endpoint, str) else endpoint
    if not target.host:
        raise EndpointError(
            f"{target} has no address yet: pass what "
            "memorystore_chat.connection.discover() returns."
        )
    first = local_port or target.port
    forwards: dict[Address, Address] = {}
    for address in [(target.host, target.port), *map(_node, nodes)]:
        forwards.setdefault(address, ("127.0.0.1", first + len(forwards)))
    if first + len(forwards) > 65536:
        raise EndpointError(f"From port {first} there are not {len(forwards)} ports to use.")
    pairs = " ".join(
        f"-L {near}:{port}:{f'[{host}]' if ':' in host else host}:{far}"
        for (host, far), (near, port) in forwards.items()
    )
    place = f"--project={shlex.quote(project)}"
    spot = f"{place} --zone={shlex.quote(zone)}"
    vm, net = shlex.quote(jump_vm), f"--network={shlex.quote(network)}"
    return Tunnel(
        create_vm=(
            f"gcloud compute instances create {vm} {spot} --machine-type=e2-micro {net} "
            f"--subnet={shlex.quote(subnet)} --no-address"
        ),
        allow_ssh=(
            f"gcloud compute firewall-rules create allow-iap-ssh {place} {net} "
            f"--direction=INGRESS --action=allow --rules=tcp:22 --source-ranges={_IAP_RANGE}"
        ),
        forward=f"gcloud compute ssh {vm} {spot} --tunnel-through-iap -- -N {pairs}",
        endpoint=replace(target, host="127.0.0.1", port=first, resource=None),
        forwards=forwards,
    )


def cluster_nodes(client: redis.Redis) -> list[Address]:
    """List the addresses a cluster's nodes go by, asked from one of them.

    Args:
        client: From ``connect(..., cluster=False)``.

    Returns:
        ``(host, port)`` of every primary and replica.

    Example:
        >>> from memorystore_chat import connect
        >>> from memorystore_tutorial import practice
        >>> with practice.cluster() as cluster:
        ...     with connect(cluster.endpoint, cluster=False) as one_node:
        ...         len(cluster_nodes(one_node))
        6
    """
    # As two words: redis-py then leaves the answer as the server sent it.
    slots = client.execute_command("CLUSTER", "SLOTS", **AS_BYTES)
    places = [place for _, _, *nodes in slots for place in nodes]
    return list(dict.fromkeys((host.decode(), port) for host, port, *_ in places))


def _node(node: str | Address) -> Address:
    if isinstance(node, str):
        parsed = Endpoint.parse(node)
        return parsed.host, parsed.port
    host, port = node  # a list, perhaps, as JSON has it
    return host, port
