"""`tunnel_commands`: the gcloud commands that bring a private address to this machine."""

import shlex

from memorystore_chat.connection.endpoint import Endpoint
from memorystore_chat.errors import EndpointError

# The addresses Google's Identity-Aware Proxy connects from.
# https://cloud.google.com/iap/docs/using-tcp-forwarding
_IAP_RANGE = "35.235.240.0/20"


def tunnel_commands(endpoint: str | Endpoint, *, project: str, zone: str, jump_vm: str) -> str:
    """Write the commands that reach a private address from a laptop, through a jump VM.

    The VM is small, has no public address, and is reached through Identity-Aware Proxy, for which
    you need ``roles/iap.tunnelResourceAccessor``. It is in the network ``default``. Connect to
    ``127.0.0.1`` while the last command runs.

    Raises:
        EndpointError: The endpoint has no address (`discover` finds it).

    Example:
        >>> commands = tunnel_commands("10.0.0.3", project="p", zone="us-east1-b", jump_vm="jump")
        >>> commands.endswith("-N -L 127.0.0.1:6379:10.0.0.3:6379")
        True
    """
    target = Endpoint.parse(endpoint) if isinstance(endpoint, str) else endpoint
    if not target.host:
        raise EndpointError(f"{target} has no address yet: pass what discover() returns.")
    host = f"[{target.host}]" if ":" in target.host else target.host
    place, vm = f"--project={shlex.quote(project)}", shlex.quote(jump_vm)
    spot = f"{place} --zone={shlex.quote(zone)}"
    commands = (
        f"gcloud compute instances create {vm} {spot} --machine-type=e2-micro "
        "--network=default --subnet=default --no-address",
        f"gcloud compute firewall-rules create allow-iap-ssh {place} --network=default "
        f"--direction=INGRESS --action=allow --rules=tcp:22 --source-ranges={_IAP_RANGE}",
        f"gcloud compute ssh {vm} {spot} --tunnel-through-iap -- -N -L "
        f"127.0.0.1:{target.port}:{host}:{target.port}",
    )
    return "\n".join(map(folded, commands))


def folded(command: str) -> str:
    """Return a command for a shell, in lines that fit a notebook in a narrow window."""
    lines, line = [], ""
    for word in map(shlex.quote, shlex.split(command)):
        if line and len(line) + len(word) > 63:
            lines.append(line)
            line = "   "
        line += f" {word}" if line else word
    return " \\\n".join([*lines, line])
