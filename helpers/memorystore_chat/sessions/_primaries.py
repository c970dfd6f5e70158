"""The primaries behind a client: who they are, where the hash slots are, and whether that lasts.

SCAN is answered by whoever is at the other end of a connection. A client that does not know a new
shard, a former primary that is still copying as a replica, another server behind the same address:
each gives a list that is too short, and nothing says so. Therefore every round trip here also asks
the server for its run id and its role, and a scan goes over the servers again until each hash slot
was read where it was.
"""

import time
from collections.abc import Generator, Iterable, Iterator, Sequence
from typing import Any, NamedTuple, TypeAlias, cast

import redis
from redis.cluster import RedisCluster
from redis.crc import key_slot
from redis.exceptions import AskError, ResponseError, TryAgainError

from memorystore_chat._seams import AS_BYTES
from memorystore_chat.commands import Client
from memorystore_chat.errors import ConnectError, MemorystoreChatError, explaining

Command: TypeAlias = tuple[str | bytes | int, ...]
Moves: TypeAlias = dict[int, set[tuple[str, str]]]
"""Hash slot -> from which node to which one its keys go."""

_SLOTS = 16384
_SETTLES_WITHIN = 10.0  # seconds for a fail-over, or for the news of one
_TRIES = 10  # of a round trip or a round over the servers, while these change
_IDENTITY: tuple[Command, ...] = (("INFO", "server"), ("INFO", "replication"))


class _ChangedError(Exception):
    """Something else answered than the server that was noted, or a slot is elsewhere."""


class _UnsettledError(Exception):
    """The servers are between two states, or never were what they should be."""


class _Placement(NamedTuple):
    """Which server has which hash slots; without a cluster the only one is called ''.

    Attributes:
        servers: Node id -> a client of that node.
        run_ids: Node id -> the id that the server's process gave itself when it started.
        owners: Hash slot -> node id; empty without a cluster.
        moving: The slots that are on the way to another node.
    """

    servers: dict[str, redis.Redis]
    run_ids: dict[str, str]
    owners: dict[int, str]
    moving: Moves

    def note_slots(self, node: dict[str, Any]) -> None:
        """Note what a node has, and what is on the way: its line of CLUSTER NODES, by redis-py."""
        name = node["node_id"]
        slots = [slot for ends in node["slots"] for slot in range(int(ends[0]), int(ends[-1]) + 1)]
        if self.owners.keys() & slots:
            raise _UnsettledError("two primaries say that they serve the same hash slots.")
        self.owners.update(dict.fromkeys(slots, name))
        for move in node["migrations"]:
            way = (name, move["node_id"])
            self.moving.setdefault(int(move["slot"]), set()).add(
                way if move["state"] == "migrating" else way[::-1]
            )

    def node_of(self, command: Command) -> str:
        """The node that has the key of a command."""
        if not self.owners:
            return ""
        key = command[3] if command[0] == "EVAL" else command[1]
        return self.owners[key_slot(cast("bytes", _encoded(key)))]

    def moves_until(self, later: "_Placement") -> Moves:
        """The slots whose keys may have moved between this placement and a later one."""
        moves: Moves = {}
        for placement in (self, later):
            for slot, ways in placement.moving.items():
                moves.setdefault(slot, set()).update(ways)
        for slot, node in self.owners.items():
            if later.owners[slot] != node:
                moves.setdefault(slot, set()).add((node, later.owners[slot]))
        return moves


class Primaries:
    """The primaries behind a client, asked so that nobody else can answer for them.

    Args:
        client: A connected client.
        doing: What they are asked for, such as ``"deleting sessions"``, for the texts of errors.
        writing: Whether they are changed. Then a server that is replaced by another one is an
            error, because what was written last may be gone with it.

    Raises:
        ConnectError: A server cannot be reached or did not answer; so do the methods.
        MemorystoreChatError: A server refused, is a replica, or has only a part of the slots.
    """

    def __init__(self, client: Client, doing: str, *, writing: bool = False) -> None:
        self._client = client
        self._is_cluster = isinstance(client, RedisCluster)
        self._doing = doing
        self._writing = writing
        self._newcomers: dict[tuple[str, int], redis.Redis] = {}
        self._placement = self._settled()

    def run(self, commands: Sequence[Command], doing: str | None = None) -> list[Any]:
        """Send commands in one round trip to each server, and collect the replies.

        They are sent again if something else answers than the noted server, and clients do so if
        a reply is lost, so each must be safe to repeat.

        Args:
            commands: Name, key, arguments; for EVAL script, number of keys, keys, arguments.
            doing: For the error's text, where it is something else than the whole.

        Returns:
            The replies in the order of the commands, in bytes. None stands for a key of another
            type than the command takes, and for a refused MEMORY USAGE.
        """
        for _ in range(_TRIES):
            placement = self._placement
            groups: dict[str, list[int]] = {}
            for index, command in enumerate(commands):
                groups.setdefault(placement.node_of(command), []).append(index)
            replies: dict[int, Any] = {}
            try:
                for node, indexes in groups.items():
                    order = [commands[index] for index in indexes]
                    asked = self._asked(placement, node, order, doing or self._doing)
                    replies |= zip(indexes, asked, strict=True)
            except _ChangedError:
                self._renew()
            else:
                return [replies[index] for index in range(len(commands))]
        raise self._restless()

    def keys(self, pattern: bytes, count: int) -> Iterator[list[bytes]]:
        """The keys of lists that match, a step of SCAN at a time, and some more than once.

        It goes over all servers again until none was replaced on the way and each slot was read
        where it was. Slots that move in two rounds in a row are fine as long as they go in one
        direction: what moved during the first round, and was missed, has arrived in the second.
        """
        unread: Moves | None = None
        for _ in range(_TRIES):
            before = self._placement
            completed = yield from self._round(before, pattern, count)
            self._renew()
            if not completed or not before.run_ids.items() <= self._placement.run_ids.items():
                unread = None
                continue
            moves = before.moves_until(self._placement)
            if unread is not None:
                again = unread.keys() & moves.keys()
                moves = {slot: moves[slot] for slot in again if len(moves[slot] | unread[slot]) > 1}
            if not moves:
                return
            unread = moves
        raise self._restless()

    def _round(
        self, placement: _Placement, pattern: bytes, count: int
    ) -> Generator[list[bytes], None, bool]:
        """Scan each server once; whether all of them were there to the end."""
        of_type: tuple[str, ...] = ("TYPE", "list")
        for node in placement.servers:
            cursor: int | None = None
            while cursor != 0:
                step: Command = ("SCAN", cursor or 0, "MATCH", pattern, "COUNT", count, *of_type)
                try:
                    ((cursor, keys),) = self._asked(placement, node, [step], "listing sessions")
                except _ChangedError:
                    return False
                except MemorystoreChatError as error:
                    if not of_type or "syntax error" not in str(error.__cause__):
                        raise
                    of_type = ()  # Redis 5; keys that are no lists are sorted out later
                    continue
                yield keys
                if self._placement is not placement:
                    return False  # whoever asked about these keys noticed
        return True

    def _asked(
        self, placement: _Placement, node: str, commands: Sequence[Command], doing: str
    ) -> list[Any]:
        """The replies of one server."""
        try:
            with explaining(doing):
                server, replication, *replies = _sent(
                    placement.servers[node], [*_IDENTITY, *commands]
                )
                _raise_first([server, replication])
                if server["run_id"] != placement.run_ids[node] or replication["role"] != "master":
                    raise _ChangedError
                return [
                    self._checked(command, reply)
                    for command, reply in zip(commands, replies, strict=True)
                ]
        except ConnectError as error:
            if not self._is_cluster:
                raise
            # Another node takes over, or none does, which the next look finds.
            raise _ChangedError from error

    def _checked(self, command: Command, reply: Any) -> Any:
        if type(reply) is AskError and self._is_cluster:
            # The slot is moving, and the key is there already.
            reply = _sent(self._server_at(reply.host, reply.port), [("ASKING",), command])[1]
        if isinstance(reply, AskError | TryAgainError):  # a MovedError is an AskError, too
            raise _ChangedError
        if isinstance(reply, ResponseError) and (
            "WRONGTYPE" in str(reply) or command[0] == "MEMORY USAGE"
        ):
            return None
        _raise_first([reply])
        return reply

    def _server_at(self, host: str, port: int) -> redis.Redis:
        """A client of a node that the cluster's client may not know yet."""
        client = cast("Any", self._client)
        address = client.nodes_manager.remap_host_port(host, port)
        if (node := client.get_node(*address)) is not None:
            return cast("redis.Redis", client.get_redis_connection(node))
        if address not in self._newcomers:
            options = client.get_connection_kwargs()
            self._newcomers[address] = client.nodes_manager.create_redis_node(*address, **options)
        return self._newcomers[address]

    def _renew(self) -> None:
        """Look again who is there."""
        before, now = self._placement, self._settled()
        if now != before:
            self._placement = now
        if self._writing and set(before.run_ids.values()) - set(now.run_ids.values()):
            raise MemorystoreChatError(
                f"A server was replaced by another one while {self._doing}, as in a fail-over, and "
                "what was written last may be gone with it. Run this again: what is done already "
                "is left as it is."
            )

    def _restless(self) -> MemorystoreChatError:
        return MemorystoreChatError(
            f"The servers changed again and again while {self._doing}, so something may be "
            "missing. Run this again when no slots are moved and no fail-over is under way."
        )

    def _settled(self) -> _Placement:
        """Who is there, as soon as that is clear."""
        until, pause = time.monotonic() + _SETTLES_WITHIN, 0.05
        while True:
            try:
                return self._look()
            except _UnsettledError as error:
                if time.monotonic() > until:
                    raise MemorystoreChatError(f"Cannot go on {self._doing}: {error}") from None
            except ConnectError as error:
                hopeless = isinstance(error.__cause__, redis.AuthenticationError)
                if not self._is_cluster or hopeless or time.monotonic() > until:
                    raise
            time.sleep(pause)
            pause = min(2 * pause, 1.0)

    def _look(self) -> _Placement:
        """Ask every primary for its run id, its role and its slots."""
        client = cast("Any", self._client)
        servers: list[redis.Redis] = [client]
        if self._is_cluster:
            with explaining(self._doing):
                client.nodes_manager.initialize()
                servers = [client.get_redis_connection(node) for node in client.get_primaries()]
        placement = _Placement({}, {}, {}, {})
        known: dict[str, tuple[str, int]] = {}
        for server in servers:
            known |= self._introduce(server, placement)
        if not known:
            return placement
        if self._is_cluster:
            # A shard that was just added has no slot, but maybe keys of one that moves there.
            targets = {to for ways in placement.moving.values() for _, to in ways}
            for new in targets - placement.servers.keys():
                self._introduce(self._server_at(*known[new]), placement)
        if len(placement.owners) == _SLOTS:
            return placement
        if self._is_cluster:
            raise _UnsettledError(
                f"the cluster's primaries say that they serve {len(placement.owners):,} of its "
                f"{_SLOTS:,} hash slots. Run this again when the cluster is complete."
            )
        raise MemorystoreChatError(
            "This server is a node of a cluster and has only a part of the sessions, so "
            f"{self._doing} would miss the others. Pass a redis.cluster.RedisCluster, which "
            "connect() returns."
        )

    def _introduce(self, server: redis.Redis, placement: _Placement) -> dict[str, tuple[str, int]]:
        """Note what a server says of itself, if it is a primary.

        Returns:
            Node id -> host and port of every node of its cluster; empty without one.
        """
        with explaining(self._doing):
            info, replication, nodes = _sent(server, [*_IDENTITY, ("CLUSTER NODES",)])
            _raise_first([info, replication])
            in_cluster = "cluster" in (info.get("redis_mode"), info.get("server_mode"))
            if in_cluster:
                _raise_first([nodes])
        if replication["role"] != "master":
            if not self._is_cluster:
                # A connection that outlived a fail-over; the address may lead elsewhere by now.
                server.connection_pool.disconnect(inuse_connections=False)
            raise _UnsettledError(
                "the server is a replica, which may lack sessions. Connect to the primary."
            )
        name, known = "", {}
        for address, node in nodes.items() if in_cluster else ():
            host, _, port = address.rpartition(":")
            known[node["node_id"]] = (host or node["hostname"], int(port))
            if "myself" in node["flags"]:
                name = node["node_id"]
                placement.note_slots(node)
        placement.servers[name], placement.run_ids[name] = server, info["run_id"]
        return known


def _sent(server: redis.Redis, commands: Sequence[Command]) -> list[Any]:
    """Send commands over one connection and collect the replies, errors included."""
    with cast("Any", server).pipeline(transaction=False) as pipe:
        for name, *arguments in commands:
            # As bytes both ways, whatever encoding the client has.
            pipe.execute_command(name, *map(_encoded, arguments), **AS_BYTES)
        return cast("list[Any]", pipe.execute(raise_on_error=False))


def _encoded(part: str | bytes | int) -> bytes | int:
    return part.encode() if isinstance(part, str) else part


def _raise_first(replies: Iterable[object]) -> None:
    for reply in replies:
        if isinstance(reply, Exception):
            raise reply
