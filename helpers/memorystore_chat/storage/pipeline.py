"""Many commands in one round trip, on one server or on a cluster, with replies in bytes."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, TypeAlias, TypeVar, cast

from redis.client import NEVER_DECODE
from redis.cluster import RedisCluster
from redis.exceptions import ResponseError

from memorystore_chat.storage import Client

Command: TypeAlias = tuple[str | bytes | int, ...]
T = TypeVar("T")

MOST = 500
"""How many sessions are asked for in one round trip."""

BUDGET = 8 * 1024 * 1024
"""About how many bytes of messages one round trip may carry."""


def run(client: Client, commands: Sequence[Command]) -> list[Any]:
    """Send commands together, each of which concerns one key, and collect the replies.

    They are sent again where a reply is lost, so each must be safe to repeat. In a cluster each
    goes to the primary of its key, also where the client reads from replicas.

    Args:
        client: A client with or without ``decode_responses=True``; the replies are bytes anyway.
        commands: Name, key, arguments; for EVAL script, number of keys, keys, arguments.

    Returns:
        The replies in the order of the commands. None stands for a key of another type than the
        command takes, and for a refused MEMORY USAGE.

    Raises:
        redis.RedisError: The server could not be reached, or refused a command.
    """
    if not commands:
        return []
    with cast("Any", client.pipeline(transaction=False)) as pipe:
        for command in commands:
            options: dict[str, Any] = {NEVER_DECODE: True}
            if isinstance(client, RedisCluster):
                # Without it redis-py asks the server for the key of every EVAL.
                key = command[3] if command[0] == "EVAL" else command[1]
                options["target_nodes"] = cast("Any", client).get_node_from_key(key)
            pipe.execute_command(*command, **options)
        replies = cast("list[Any]", pipe.execute(raise_on_error=False))
        for index, reply in enumerate(replies):
            if isinstance(reply, ResponseError) and (
                "WRONGTYPE" in str(reply) or commands[index][0] == "MEMORY USAGE"
            ):
                replies[index] = None
            elif isinstance(reply, Exception):
                raise reply
    return replies


def batches(
    items: Iterable[T], size: Callable[[T], int], *, alone: Callable[[T], bool] = lambda _: False
) -> Iterator[list[T]]:
    """Group items so that a group fits into one round trip.

    Args:
        items: What to group, in order.
        size: An item's bytes; a group has at most `BUDGET` bytes and `MOST` items.
        alone: Whether an item must be a group of its own, as one larger than the budget is.

    Example:
        >>> list(batches("abc", lambda _: BUDGET // 2))
        [['a', 'b'], ['c']]
    """
    group: list[T] = []
    total = 0
    for item in items:
        weight = BUDGET + 1 if alone(item) else size(item)
        if group and (total + weight > BUDGET or len(group) == MOST):
            yield group
            group, total = [], 0
        group.append(item)
        total += weight
    if group:
        yield group
