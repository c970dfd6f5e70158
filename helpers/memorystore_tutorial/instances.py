"""The gcloud commands that make a Memorystore for Valkey instance, and delete it."""

import re
import shlex
import subprocess

from memorystore_chat.connection.tunnel import folded

# https://cloud.google.com/memorystore/docs/valkey/networking names the APIs and the policy.
_APIS = "memorystore networkconnectivity serviceconsumermanagement compute"
_POLICY = "memorystore-chat"
_NAME = re.compile(r"[a-z][a-z0-9-]*")


def create_instance(
    instance: str,
    *,
    project: str | None,
    region: str,
    network: str = "default",
    run: bool = False,
) -> str | None:
    """Show the commands that create an instance with a replica, IAM, and TLS; or run them.

    Args:
        instance: The name it gets, in lower-case letters, digits, and hyphens.
        project: The Google Cloud project's id; None shows the commands with PROJECT in its place.
        region: Such as ``"us-central1"``.
        network: The VPC network, whose subnetwork of the same name gives the address.
        run: Run the commands. The instance costs money from then on until it is deleted.

    Returns:
        The instance's full name, which `connect` takes; None if nothing was run.

    Raises:
        ValueError: A name is not acceptable, or ``run`` is True and there is no project.
        subprocess.CalledProcessError: gcloud failed; its own message is above.

    Example:
        >>> create_instance("chat-memory", project=None, region="us-central1")
        gcloud services enable memorystore.googleapis.com ...
    """
    path = f"projects/{project or 'PROJECT'}"
    subnet = f"{path}/regions/{region}/subnetworks/{network}"
    connection = f"network={path}/global/networks/{network},projectId={project or 'PROJECT'}"
    commands = [
        ["services", "enable", *(f"{api}.googleapis.com" for api in _APIS.split())],
        [
            *("network-connectivity", "service-connection-policies", "create", _POLICY),
            *(f"--region={region}", f"--network={network}", f"--subnets={subnet}"),
            "--service-class=gcp-memorystore",
        ],
        [
            *("memorystore", "instances", "create", instance, f"--location={region}"),
            *("--mode=cluster-disabled", "--shard-count=1", "--replica-count=1"),
            *("--node-type=standard-small", "--authorization-mode=iam-auth"),
            "--transit-encryption-mode=server-authentication",
            f"--psc-auto-connections={connection}",
        ],
    ]
    _carry_out(commands, instance, project, run)
    name = f"//memorystore.googleapis.com/{path}/locations/{region}/instances/{instance}"
    return name if run else None


def delete_instance(instance: str, *, project: str | None, region: str, run: bool = False) -> None:
    """Show the commands that delete the instance of `create_instance`; or run them.

    Args:
        instance: Its name.
        project: The Google Cloud project's id.
        region: The region it is in.
        run: Run the commands. Everything stored in the instance is gone for good.

    Raises:
        ValueError: A name is not acceptable, or ``run`` is True and there is no project.
        subprocess.CalledProcessError: gcloud failed; its own message is above.

    Example:
        >>> delete_instance("chat-memory", project=None, region="us-central1")
        gcloud memorystore instances delete chat-memory ...
    """
    policies = ("network-connectivity", "service-connection-policies")
    commands = [
        ["memorystore", "instances", "delete", instance, f"--location={region}", "--quiet"],
        [*policies, "delete", _POLICY, f"--region={region}", "--quiet"],
    ]
    _carry_out(commands, instance, project, run)


def _carry_out(commands: list[list[str]], instance: str, project: str | None, run: bool) -> None:
    if not isinstance(instance, str) or not _NAME.fullmatch(instance):
        raise ValueError(
            f"instance is {instance!r}; it takes lower-case letters, digits, and hyphens."
        )
    if run and not project:
        raise ValueError("Fill in PROJECT_ID first; then run the cells from there again.")
    for words in commands:
        command = ["gcloud", *words, f"--project={project or 'PROJECT'}"]
        print(folded(shlex.join(command)))  # noqa: T201
        if run:
            subprocess.run(command, check=True)  # noqa: S603
