"""The cluster clients that `connect` hands out: they wait for a fail-over and follow redirects."""

from collections.abc import Callable
from contextvars import ContextVar
from typing import Any, Self, cast

from redis.asyncio.cluster import ClusterNode as AsyncClusterNode
from redis.asyncio.cluster import PipelineCommand
from redis.asyncio.cluster import RedisCluster as AsyncRedisCluster
from redis.backoff import NoBackoff
from redis.cluster import PRIMARY, ClusterNode, ClusterPipeline, RedisCluster
from redis.exceptions import AskError, AuthenticationError, MaxConnectionsError, MovedError
from redis.retry import Retry

from memorystore_chat._seams import send_again
from memorystore_chat.connection.pools import OneLoop, exhausted
from memorystore_chat.connection.retries import CLUSTER_OUTAGES, AsyncOutageRetry

# The node that the current task was told to ask, by name.
_to_ask: ContextVar[str | None] = ContextVar("node_to_ask", default=None)


def _remap(connection: Any, error: AskError, remap: Callable[..., tuple[str, int]]) -> None:
    """Let a redirect name the node's address as this machine reaches it.

    redis-py applies ``address_remap`` to the topology only. A node that does not know its own
    address leaves it out: it is the one that answered.
    """
    error.host, error.port = remap(error.host or connection.host, error.port)


class ClusterClient(RedisCluster):
    """A cluster client that waits for a fail-over, and closes all that it opened."""

    def __enter__(self) -> Self:
        return self

    def execute_command(self, *args: Any, **kwargs: Any) -> Any:
        """Run a command; after an outage, run it again until it succeeds or time is up."""
        run: Callable[..., Any] = super().execute_command
        return self.retry.call_with_retry(lambda: run(*args, **kwargs), lambda _error: None)

    def pipeline(self, transaction: bool | None = None, shard_hint: Any = None) -> ClusterPipeline:
        """A pipeline that sends again what an outage left unanswered, until time is up."""
        pipe = super().pipeline(transaction, shard_hint)  # type: ignore[no-untyped-call]
        pipe.parent_execute_command = self.execute_command
        if not transaction:
            pipe.retry = Retry(NoBackoff(), 0)
            send_again(pipe, self.retry.call_with_retry, CLUSTER_OUTAGES)
        return cast("ClusterPipeline", pipe)

    def on_connect(self, connection: Any) -> None:
        """Log in, and see to the redirects that come over this connection."""
        connection.follow = self._follow
        super().on_connect(connection)  # type: ignore[no-untyped-call]

    def _follow(self, connection: Any, error: AskError) -> None:
        _remap(connection, error, self.nodes_manager.remap_host_port)
        if not isinstance(error, MovedError):
            # A node that is given its first slots is in no topology yet, and redis-py only looks.
            node = ClusterNode(error.host, error.port, PRIMARY)
            self.nodes_manager.nodes_cache.setdefault(node.name, node)

    def close(self) -> None:
        """Close every connection to every node."""
        super().close()
        # Its nodes' pools stay open without this, as they were made apart from their clients.
        if hasattr(self, "nodes_manager"):
            self.disconnect_connection_pools()


class AsyncClusterClient(AsyncRedisCluster):
    """A cluster client that waits for a fail-over."""

    __slots__ = ("_one_loop", "_patience")

    def __init__(self, *, retry: AsyncOutageRetry, connection_class: Any, **options: Any) -> None:
        # Its nodes have no pool that waits for a free connection: trying again does the waiting.
        retry.final = (AuthenticationError,)
        self._patience = retry.patience
        self._one_loop = OneLoop()
        super().__init__(retry=retry, **options)
        # There is no option for these two, which every node reads from these two places.
        ours = {"connection_class": connection_class, "follow": self._follow}
        self.connection_kwargs |= ours
        for node in self.startup_nodes:
            node.connection_class = connection_class
            node.connection_kwargs["follow"] = self._follow

    async def __aenter__(self) -> Self:
        await super().__aenter__()
        return self

    async def execute_command(self, *args: Any, **kwargs: Any) -> Any:
        """Run a command; after an outage, run it again until it succeeds or time is up."""
        self._one_loop.check()
        run = super().execute_command
        try:
            return await self.retry.call_with_retry(lambda: run(*args, **kwargs), _nothing)
        except MaxConnectionsError as error:
            most = self.connection_kwargs["max_connections"]
            raise MaxConnectionsError(exhausted(most, self._patience)) from error

    async def aclose(self) -> None:
        """Close all connections; afterwards another event loop may use the client."""
        await super().aclose()
        self._one_loop = OneLoop()

    def get_node(
        self, host: str | None = None, port: int | None = None, node_name: str | None = None
    ) -> Any:
        """A node of the cluster by its address or its name; None if there is no such node."""
        node = super().get_node(host, port, node_name)
        if node is None or _to_ask.get() != node_name:
            return node
        _to_ask.set(None)
        return _Asking(node)

    def _follow(self, connection: Any, error: AskError) -> None:
        _remap(connection, error, self.nodes_manager.remap_host_port)
        if not isinstance(error, MovedError):
            node = AsyncClusterNode(error.host, error.port, PRIMARY, **self.connection_kwargs)
            self.nodes_manager.nodes_cache.setdefault(node.name, node)
            _to_ask.set(node.name)


class _Asking:
    """A node, for one command that another node has redirected to it.

    redis-py sends ASKING by itself first, and with several connections the command then takes
    another one, on which the node redirects it back.
    """

    def __init__(self, node: AsyncClusterNode) -> None:
        self._node = node

    def __getattr__(self, name: str) -> Any:
        return getattr(self._node, name)

    async def execute_command(self, *args: Any, **kwargs: Any) -> Any:
        """Send ASKING and the command together; ASKING alone waits for its command."""
        if args == ("ASKING",):
            return None
        kwargs.pop("asking", None)
        commands = [PipelineCommand(0, "ASKING"), PipelineCommand(1, *args, **kwargs)]
        await self._node.execute_pipeline(commands)
        for command in commands:
            if isinstance(command.result, Exception):
                raise command.result
        return commands[-1].result


async def _nothing(_error: Exception) -> None:
    """The cluster client has cleaned up by itself."""
