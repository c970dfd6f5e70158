"""The errors this package raises: one root and a few children.

An error says what happened, the likely cause and the next step. The library error behind it is
its ``__cause__``. None of them holds a password or a token.
"""

import linecache
import re
import textwrap
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import redis
from redis.exceptions import (
    ClusterDownError,
    ClusterError,
    InvalidResponse,
    MasterDownError,
    MaxConnectionsError,
    MovedError,
    NoPermissionError,
    OutOfMemoryError,
    ReadOnlyError,
    RedisClusterException,
    RedisError,
    ResponseError,
)


class MemorystoreChatError(Exception):
    """Root of every error this package raises on purpose.

    In a notebook it shows its sentence and the reader's own lines, and how to see the whole stack.
    """

    def _render_traceback_(self) -> list[str]:
        """The lines that IPython shows in place of the stack."""
        shown = textwrap.wrap(f"{type(self).__name__}: {self}", COLUMNS, break_long_words=False)
        for frame, number in traceback.walk_tb(self.__traceback__):
            if frame.f_globals.get("__name__") == "__main__":  # a notebook's cells
                line = linecache.getline(frame.f_code.co_filename, number).strip()
                shown += ["", f"---> {number} {self._without_secrets(line)}"]
        return [*shown, "", "The whole stack: import traceback; traceback.print_last()"]

    def _without_secrets(self, line: str) -> str:
        return _SECRET.sub(_hidden, line)


class EndpointError(MemorystoreChatError, ValueError):
    """The endpoint cannot be understood, or Google Cloud cannot say where it is."""

    def _without_secrets(self, line: str) -> str:
        # A password may stand anywhere in what is no endpoint.
        return _TEXT.sub('"..."', super()._without_secrets(line))


class ConnectError(MemorystoreChatError):
    """The server cannot be reached, refuses the login, or stopped answering."""


class CorruptHistoryError(MemorystoreChatError):
    """A stored element is not a message.

    Attributes:
        key: The Redis key of the session.
        index: The element's position as ``LINDEX`` takes it; negative if a window was read.
    """

    def __init__(self, key: str, index: int, reason: str) -> None:
        super().__init__(
            f"Element {index} of the list {key!r} is not a stored message: {reason}. Nothing was "
            f"skipped. Look at it with LINDEX {key} {index}; the history's repair() moves it away."
        )
        self.key = key
        self.index = index
        self.reason = reason


class CorruptCheckpointError(MemorystoreChatError):
    """A stored checkpoint cannot be read.

    Attributes:
        thread_id, checkpoint_ns: The thread and the namespace it belongs to.
        checkpoint_id: Its ID; empty if what is broken is not of one checkpoint.
    """

    def __init__(self, thread_id: str, checkpoint_ns: str, checkpoint_id: str, reason: str) -> None:
        found, way_out = "What is stored of", "Delete"
        if checkpoint_id:
            found = f"The checkpoint {checkpoint_id!r} of"
            way_out = "Go on from an older one by its checkpoint_id, or delete"
        super().__init__(
            f"{found} the thread {thread_id!r}, namespace {checkpoint_ns!r}, cannot be read: "
            f"{reason}. {way_out} the thread with delete_thread()."
        )
        self.thread_id = thread_id
        self.checkpoint_ns = checkpoint_ns
        self.checkpoint_id = checkpoint_id


COLUMNS = 60  # an output in a window of 900 pixels has about 66; longer lines break inside a word
# A line of the reader's may hold the password: in a URL, or as a string of its own.
_TEXT = re.compile(r"""(?P<quote>["'])(?:\\.|(?!(?P=quote)).)*(?P=quote)""")
_SECRET = re.compile(
    r"""(?P<url>://)[^\s"']*@|(?P<name>\w*(?:password|passwd|token|secret)\w*["']?\s*[=:]\s*)"""
    + _TEXT.pattern,
    re.IGNORECASE,
)


def _hidden(found: re.Match[str]) -> str:
    return f"{found['url']}...@" if found["url"] else f'{found["name"]}"..."'


OUTAGES = (redis.ConnectionError, redis.TimeoutError, RedisClusterException, ClusterError)
"""What redis-py raises when a server does not answer."""

MAXCLIENTS_HINT = (
    "The server has as many clients as it takes. Close clients that nobody uses, share one among "
    "threads instead of opening several, or give each a smaller max_connections=."
)
NO_REDIS_HINT = "What answers at this address is no Redis or Valkey server. Check address and port."
ANOTHER_LOOP = (
    "The async client has connections that belong to another event loop, as after a second "
    "asyncio.run(). Open the client in the loop that uses it (client = await connect_async(...)), "
    "or end the first loop with await client.aclose()."
)
_WAIT = "A failover is not over: try again, or give connect() a larger patience=, which waits."

# The code or words of an answer, redis-py's class for it, and what to do. The class comes without
# the code; out of a script, Redis before 7 hides the code from redis-py, and it stays in the text.
_REFUSALS: tuple[tuple[str, type | tuple[()], str], ...] = (
    (
        "WRONGTYPE",
        (),
        "The key holds something of another kind. Choose another session_id, thread_id or "
        "key_prefix; clear() or delete_thread() would delete what is there.",
    ),
    (
        "OOM",
        OutOfMemoryError,
        "Its memory is full and it takes nothing more. Give sessions a ttl or max_messages, delete "
        "old ones, or choose a larger instance.",
    ),
    (
        "READONLY",
        ReadOnlyError,
        "This is a read replica and takes no writes. Connect to the primary endpoint to write. "
        "(If that is what you did, a failover is not over: a larger patience= waits longer.)",
    ),
    ("MASTERDOWN", MasterDownError, f"The replica that answered has lost its primary. {_WAIT}"),
    ("CLUSTERDOWN", ClusterDownError, f"Some of the cluster's slots have no primary. {_WAIT}"),
    (
        "NOPERM",
        NoPermissionError,
        "The user that is signed in may not run this command on this key. Sign in as another, or "
        "extend this user's rights (ACL SETUSER, or the instance's ACL policy).",
    ),
    (
        "MOVED",
        MovedError,
        "This server is a node of a cluster: pass a redis.cluster.RedisCluster, which connect() "
        "returns for it.",
    ),
    (
        "invalid bulk length",
        (),
        "A value is larger than the server takes: 512 MB, or its proto-max-bulk-len. Keep large "
        "files elsewhere, such as in Cloud Storage, and their addresses in the message.",
    ),
)

# The same for what is no answer to the command.
_FAILURES: tuple[tuple[str, type | tuple[()], str], ...] = (
    (
        "No connection available",
        MaxConnectionsError,
        "Nothing was sent. More threads or tasks use this client at once than it may have "
        "connections (20 to a server unless you say otherwise): give connect() a larger "
        "max_connections=, or let fewer of them work at a time.",
    ),
    (
        "",
        redis.AuthenticationError,
        "The server runs and refuses the login. If the password was changed, connect() again with "
        "the new one; with IAM, check that the identity still has roles/redis.dbConnectionUser "
        "(Redis Cluster) or roles/memorystore.dbConnectionUser (Valkey).",
    ),
    ("max number of clients reached", (), MAXCLIENTS_HINT),
    ("", InvalidResponse, NO_REDIS_HINT),
    (
        "",
        Exception,
        "Check that the server runs and can be reached from here; the same client connects again "
        "by itself once it does. (The embedded server starts again with connect().) A write that "
        "ends this way may or may not have been done.",
    ),
)

_SCRIPT_NOTES = re.compile(
    r"^Error running script \(call to \w+\): |@user_script: ?\d+: -?"
    r"|[,.]* script: [^:]*@user_script:\d+\.?$|, with args beginning with: .*$"
)
# What redis-py's pipelines put before an error, and its asynchronous ones around it.
_PIPELINE_NOTES = re.compile(
    r"^Command # \d+ \(.*\) of pipeline caused error: (?:\((['\"])(?P<error>.*)\1,\)$)?", re.DOTALL
)
# What a script is refused for want of a right: Valkey's words, and those of Redis 6 and 7.
_SCRIPT_NOPERM = re.compile(r"^(?:ACL failure in script: |(?=The user executing the script ))")


@contextmanager
def explaining(doing: str) -> Iterator[None]:
    """Turn redis-py's errors into ours, which say what was being done and what to do next.

    Args:
        doing: What the server was asked for, such as ``"reading the session 'a'"``.

    Raises:
        ConnectError: The server could not be reached or did not answer.
        MemorystoreChatError: The server refused.
    """
    try:
        yield
    except RuntimeError as error:
        if "loop" not in str(error):
            raise
        raise MemorystoreChatError(f"Failed {doing}: {error}. {ANOTHER_LOOP}") from error
    except (RedisError, RedisClusterException) as error:
        raise _explained(doing, error) from error


def _explained(doing: str, error: Exception) -> MemorystoreChatError:
    for answer in (error, error.__cause__):  # a cluster's client may give up over an answer
        if isinstance(answer, ResponseError):
            code, hint = _hint(_REFUSALS, answer)
            if hint:
                prefix = f"{code} " if code.isupper() else ""
                reason = f"{prefix}{_text(answer).removeprefix(prefix)}"
                return MemorystoreChatError(f"The server refused {doing}: {reason}. {hint}")
    text = _text(error)
    if not isinstance(error, (*OUTAGES, InvalidResponse)):
        return MemorystoreChatError(f"The server refused {doing}: {text}.")
    kind = f"{type(error).__module__}.{type(error).__qualname__}"
    hint = _hint(_FAILURES, error)[1]
    return ConnectError(f"The connection failed while {doing} ({kind}: {text}). {hint}")


def _hint(table: tuple[tuple[str, Any, str], ...], error: Exception) -> tuple[str, str]:
    text = _text(error)
    for words, kind, hint in table:
        if isinstance(error, kind) or (words and re.search(rf"\b{words}\b", text)):
            return words, hint
    return "", ""


def _text(error: Exception) -> str:
    """The first line of an error's text, without what was sent and where in a script it was."""
    text = _PIPELINE_NOTES.sub(lambda found: found["error"] or "", str(error))
    text = _SCRIPT_NOTES.sub("", text.partition("\n")[0]).strip(" .\r")
    return _SCRIPT_NOPERM.sub("NOPERM ", text)
