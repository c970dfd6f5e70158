"""What an interrupt in the middle of a command leaves behind, with a plain redis-py client."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TypeAlias, cast

import redis
from redis.cluster import RedisCluster
from redis.exceptions import RedisError

Client: TypeAlias = redis.Redis | RedisCluster


@contextmanager
def dropping_interrupted(client: Client) -> Iterator[None]:
    """Drop the client's idle connections if anything but redis-py's own errors passes through.

    A plain redis-py client takes back the connection of a command that was interrupted, and gives
    the next command on it the reply of this one.
    """
    try:
        yield
    except RedisError:
        raise
    except BaseException:
        drop_idle_connections(client)
        raise


def drop_idle_connections(client: Client) -> None:
    """Disconnect what is in the client's pools and in no other thread's use."""
    if isinstance(client, RedisCluster):
        nodes = cast("Any", client).get_nodes()
        clients = [node.redis_connection for node in nodes if node.redis_connection is not None]
    else:
        clients = [client]
    for one in clients:
        if one.connection is not None:  # single_connection_client=True
            one.connection.disconnect()
        one.connection_pool.disconnect(inuse_connections=False)
