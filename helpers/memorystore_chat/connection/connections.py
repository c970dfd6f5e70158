"""The connections of the clients that `connect` hands out, one class for each way to a server.

What they add to redis-py's: they know whether every reply has been read, they log in again when an
access token went out of date, they take a server that stopped being a primary for an outage, they
follow a cluster's redirects through ``address_remap``, and no error repeats what they log in with.
"""

import re
import ssl
from collections.abc import Callable, Iterable
from typing import Any

import redis
from redis.asyncio.connection import Connection as AsyncConnection
from redis.asyncio.connection import SSLConnection as AsyncSSLConnection
from redis.asyncio.connection import UnixDomainSocketConnection as AsyncUnixSocketConnection
from redis.connection import Connection, UnixDomainSocketConnection
from redis.exceptions import (
    AskError,
    AuthenticationError,
    DataError,
    RedisError,
    ResponseError,
)

from memorystore_chat._seams import OwnTlsConnection, last_words
from memorystore_chat.connection.iam import IamCredentials
from memorystore_chat.connection.retries import chain_of
from memorystore_chat.connection.tls import tls_context

HEALTH_CHECK_SECONDS = 30

# What a server takes in one value, unless its proto-max-bulk-len says otherwise.
# https://redis.io/docs/latest/develop/data-types/strings/#limits
LARGEST_VALUE = 512 * 1024 * 1024

# Raised as exactly ConnectionError: the cluster clients compare classes to decide on a retry.
_OUTDATED = "The access token went out of date; logging in again."

# What a server answers that is no primary any more, or not yet. Out of a script Redis before 7
# answers the code in the middle of the text.
_NO_PRIMARY = re.compile(r"(?:^|-)(READONLY|MASTERDOWN|CLUSTERDOWN) ")

# What a server answers before it hangs up on a request that it does not take.
_PROTOCOL_ERROR = re.compile(rb"^-ERR (Protocol error[^\r\n]*)")

# So many characters of a password or token in a row are no coincidence.
_TELLING = 6


class Packed(list[bytes]):
    """Several commands as bytes, and how many replies they bring."""

    replies = 1


class _Login(redis.CredentialProvider):
    """The login of one connection: knows which token it was, and whether the server took it."""

    def __init__(self, source: redis.CredentialProvider) -> None:
        self._source = source
        self._secret = ""
        self._pending = False

    def get_credentials(self) -> tuple[str] | tuple[str, str]:
        return self._note(self._source.get_credentials())

    async def get_credentials_async(self) -> tuple[str] | tuple[str, str]:
        return self._note(await self._source.get_credentials_async())

    def _note(self, login: tuple[str] | tuple[str, str]) -> tuple[str] | tuple[str, str]:
        self._secret = login[-1]
        self._pending = True
        return login

    def answered(self) -> None:
        """The server answered something that is no refusal."""
        if self._pending:
            self._pending = False
            if isinstance(self._source, IamCredentials):
                self._source.accepted(self._secret)

    def outdated(self) -> bool:
        """The server refused; whether a new login may do better.

        A connection that was logged in has lost its login, which says nothing about the token.
        """
        if not isinstance(self._source, IamCredentials):
            return False
        return not self._pending or self._source.refused(self._secret)

    def redacted(self, error: Exception) -> Exception:
        """The error, or one of its kind without the secret that it or a cause of it repeats."""
        size = min(len(self._secret), _TELLING)
        pieces = {self._secret[at : at + size] for at in range(len(self._secret) - size + 1)} - {""}
        texts = [str(link) for link in chain_of(error)]
        if not any(piece in text for piece in pieces for text in texts):
            return error
        ends = [texts[0].index(piece) for piece in pieces if piece in texts[0]]
        return type(error)(f"{texts[0][: min(ends)]}***" if ends else texts[0])


class _Ours:
    """What the synchronous and the asynchronous connections have in common."""

    credential_provider: redis.CredentialProvider | None
    host: str

    def __init__(
        self, *args: Any, follow: Callable[[Any, AskError], None] | None = None, **kwargs: Any
    ) -> None:
        # RedisCluster drops this option on its way here, so it is set here for all.
        kwargs.setdefault("health_check_interval", HEALTH_CHECK_SECONDS)
        self._sending = False
        self._last_words = b""
        super().__init__(*args, **kwargs)
        self.follow = follow
        self._login: _Login | None = None
        if self.credential_provider is not None:
            self._login = self.credential_provider = _Login(self.credential_provider)

    def pack_command(self, *args: Any) -> Any:
        packed = super().pack_command(*args)  # type: ignore[misc]
        _check_size(packed, [args])
        return packed

    def pack_commands(self, commands: Iterable[Any]) -> Packed:
        commands = list(commands)
        packed = Packed(super().pack_commands(commands))  # type: ignore[misc]
        packed.replies = len(commands)
        _check_size(packed, commands)
        return packed

    def _judged(self, error: RedisError) -> RedisError:
        """What to raise for an error that the server answered."""
        if isinstance(error, AuthenticationError):
            if self._login is not None and self._login.outdated():
                return _caused(redis.ConnectionError(_OUTDATED), error)
        elif isinstance(error, AskError):
            if self.follow is not None:
                self.follow(self, error)
        elif isinstance(error, ResponseError):
            # redis-py takes some codes off the text.
            text = f"{error.status_code or ''} {error}".strip()
            if _NO_PRIMARY.search(text):
                return _caused(redis.ConnectionError(text), error)
        return error

    def _as_the_server_said(self, error: Exception) -> Exception:
        """Why a command could not be sent, if the server said so before it hung up."""
        words, self._last_words = self._last_words, b""
        if said := _PROTOCOL_ERROR.match(words):
            return ResponseError(said[1].decode())
        return error

    def _answered(self) -> None:
        if self._login is not None:
            self._login.answered()

    def _redacted(self, error: Exception) -> Exception:
        return error if self._login is None else self._login.redacted(error)


def _raise(problem: Exception | None) -> None:
    """Raise an error without one that is being handled as its context."""
    if problem is not None:
        raise problem


def _caused(error: RedisError, cause: RedisError) -> RedisError:
    error.__cause__ = cause
    return error


def _check_size(packed: Iterable[bytes], commands: Iterable[Iterable[Any]]) -> None:
    if sum(map(len, packed)) <= LARGEST_VALUE:
        return
    for command in commands:
        for value in command:
            size = len(value) if isinstance(value, str | bytes | bytearray | memoryview) else 0
            if size > LARGEST_VALUE:
                raise DataError(
                    f"a value of {size:,} bytes is larger than the 512 MB that a server takes"
                )


class _OursSync(_Ours):
    """Counts what was asked and not answered yet.

    A signal may raise anywhere: between sending and reading, too, where redis-py does not look.
    A connection on which a reply is still to come would hand it to whoever asks next.
    """

    is_connected: bool

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._owed = 0
        self._unfinished = False
        self._subscribed = False
        super().__init__(*args, **kwargs)

    @property
    def in_step(self) -> bool:
        """Whether the login is done and every reply has been read."""
        return self._owed == 0 and not self._unfinished

    def connect_check_health(self, *args: Any, **kwargs: Any) -> None:
        if self.is_connected:
            return
        problem = None
        self._unfinished = True
        try:
            super().connect_check_health(*args, **kwargs)  # type: ignore[misc]
        except (RedisError, OSError) as error:
            problem = self._redacted(error)
        _raise(problem)
        self._unfinished = False

    def disconnect(self, *args: Any, **kwargs: Any) -> None:
        self._unfinished = True
        if self._sending:
            self._last_words = last_words(self)
        super().disconnect(*args, **kwargs)  # type: ignore[misc]
        self._owed, self._unfinished = 0, False

    def register_connect_callback(self, callback: Any) -> None:
        # Only subscribers ask for this; they are sent more than they asked for.
        self._subscribed = True
        super().register_connect_callback(callback)  # type: ignore[misc]

    def send_command(self, *args: Any, **kwargs: Any) -> None:
        self.send_packed_command(self.pack_command(*args), kwargs.get("check_health", True))

    def send_packed_command(self, command: Any, check_health: bool = True) -> None:
        if not self.is_connected:
            self.connect_check_health(check_health=False)
        if check_health:
            self.check_health()  # type: ignore[attr-defined]
        if self._owed and not self._subscribed:
            self.disconnect()
            raise redis.ConnectionError("an earlier command on this connection was interrupted")
        self._owed += getattr(command, "replies", 1)
        problem: Exception | None = None
        self._sending = True
        try:
            super().send_packed_command(command, check_health=False)  # type: ignore[misc]
        except RedisError as error:
            problem = self._as_the_server_said(error)
        finally:
            self._sending = False
        _raise(problem)

    def read_response(self, *args: Any, **kwargs: Any) -> Any:
        problem = None
        try:
            response = super().read_response(*args, **kwargs)  # type: ignore[misc]
        except RedisError as error:
            problem = self._judged(error)
            if problem is not error:
                self.disconnect()
            elif isinstance(error, ResponseError):
                self._owed = max(0, self._owed - 1)
        _raise(problem)
        self._owed = max(0, self._owed - 1)
        self._answered()
        return response


class _OursAsync(_Ours):
    async def send_packed_command(self, command: Any, check_health: bool = True) -> None:
        problem: Exception | None = None
        self._sending = True
        try:
            await super().send_packed_command(command, check_health)  # type: ignore[misc]
        except RedisError as error:
            problem = self._as_the_server_said(error)
        finally:
            self._sending = False
        _raise(problem)

    async def disconnect(self, *args: Any, **kwargs: Any) -> None:
        if self._sending:
            self._last_words = last_words(self)
        await super().disconnect(*args, **kwargs)  # type: ignore[misc]

    async def connect_check_health(self, *args: Any, **kwargs: Any) -> None:
        problem = None
        try:
            await super().connect_check_health(*args, **kwargs)  # type: ignore[misc]
        except (RedisError, OSError) as error:
            problem = self._redacted(error)
        except BaseException:
            await self.disconnect(nowait=True)
            raise
        _raise(problem)

    async def read_response(self, *args: Any, **kwargs: Any) -> Any:
        problem = None
        try:
            response = await super().read_response(*args, **kwargs)  # type: ignore[misc]
        except RedisError as error:
            problem = self._judged(error)
            if problem is not error:
                await self.disconnect(nowait=True)
        _raise(problem)
        self._answered()
        return response


class PlainConnection(_OursSync, Connection):
    """A TCP connection."""


class TlsConnection(_OursSync, OwnTlsConnection):
    """A TLS connection that trusts what `tls_context` says."""

    def tls(self) -> ssl.SSLContext:
        """What this connection trusts."""
        return tls_context(self.ca_data, self.host)


class UnixConnection(_OursSync, UnixDomainSocketConnection):
    """A connection over a unix socket."""


class AsyncPlainConnection(_OursAsync, AsyncConnection):
    """A TCP connection."""


class AsyncTlsConnection(_OursAsync, AsyncSSLConnection):
    """A TLS connection that trusts what `tls_context` says."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.ssl_context.context = tls_context(self.ca_data, self.host)


class AsyncUnixConnection(_OursAsync, AsyncUnixSocketConnection):
    """A connection over a unix socket."""
