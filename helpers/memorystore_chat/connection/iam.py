"""Google access tokens as redis-py credentials, for Memorystore with IAM authentication."""

import asyncio
import os
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial, partialmethod
from typing import TYPE_CHECKING

import redis

from memorystore_chat.extras import require

if TYPE_CHECKING:
    from google.auth.credentials import Credentials

# The user name is the same for every identity; the token says who it is.
# https://cloud.google.com/memorystore/docs/valkey/manage-iam-auth
USER = "default"
# google-auth renews this early too: the metadata server hands out the old token until four
# minutes before it ends (google.auth._helpers.REFRESH_THRESHOLD).
RENEW_BEFORE = 225.0
REQUEST_TIMEOUT = 10.0
# Seconds after a failed request before a token that is still good is renewed again.
REST = 10.0


class TokenError(redis.AuthenticationError):
    """Google hands out no access token. Its message says what to do."""


class TokenServerError(redis.ConnectionError):
    """Google's token server does not answer just now; trying again may help."""


@dataclass
class _Token:
    value: str
    renew_at: float
    expires_at: float
    accepted: bool = False


class IamCredentials(redis.CredentialProvider):
    """What redis-py asks for user and password: ``("default", access token)``.

    A token is requested once, kept until shortly before it expires, and shared by all threads,
    event loops and connections that use this object. It is renewed in the background while it is
    still good; without a good token all who ask wait for one request and share its outcome.

    Args:
        credentials: From google-auth; by default ``google.auth.default()``, asked for at the
            first use.

    Example:
        >>> from memorystore_chat import connect
        >>> from memorystore_chat.connection import IamCredentials
        >>> from memorystore_tutorial import practice
        >>> with practice.server(iam=True) as server:
        ...     login = IamCredentials(server.credentials)
        ...     with connect(server.endpoint, iam=login) as client:
        ...         client.ping()
        True
    """

    def __init__(self, credentials: "Credentials | None" = None) -> None:
        self._credentials = credentials
        self._token: _Token | None = None
        self._refused: str | None = None
        self._lock = threading.Lock()
        self._request: Future[str] | None = None
        self._requester = 0  # a process that was forked has no such thread
        self._rest_until = 0.0

    def get_credentials(self) -> tuple[str, str]:
        """Return user name and token.

        Raises:
            TokenError: There are no credentials, or Google refuses them.
            TokenServerError: Google's token server does not answer.
        """
        token = self._good()
        if token is None:
            with _raised_anew():
                token = self._requested().result()
        return USER, token

    async def get_credentials_async(self) -> tuple[str, str]:
        """Like `get_credentials`; the event loop goes on while Google is asked."""
        token = self._good()
        if token is None:
            with _raised_anew():
                token = await asyncio.wrap_future(self._requested())
        return USER, token

    def accepted(self, token: str) -> None:
        """Note that a server let this token in."""
        current = self._token
        if current is not None and current.value == token:
            current.accepted = True

    def refused(self, token: str) -> bool:
        """Note that a server refused this token; return whether a new login can do better.

        It can if the token was good before, as an expired one was, or if there is a newer one.
        """
        with self._lock:
            current = self._token
            if current is None or current.value != token:
                return True
            if not current.accepted:
                return False
            self._token, self._refused = None, token
            return True

    def _good(self) -> str | None:
        """The token that is kept, if it is good; an old one is renewed meanwhile."""
        token, now = self._token, time.time()
        if token is None or now >= token.expires_at:
            return None
        if now >= max(token.renew_at, self._rest_until):
            self._requested()
        return token.value

    def _requested(self) -> "Future[str]":
        """The request for a token that is under way, begun if there is none."""
        with self._lock:
            if self._request is None or self._requester != os.getpid():
                request: Future[str] = Future()
                # A waiter that is canceled must not cancel what others wait for.
                request.set_running_or_notify_cancel()
                self._request, self._requester = request, os.getpid()
                # A thread, as google-auth has no asynchronous default credentials; a daemon, so
                # that a program can end while Google is silent.
                threading.Thread(target=self._fetch, args=(request,), daemon=True).start()
            return self._request

    def _fetch(self, request: "Future[str]") -> None:
        try:
            token = self._ask()
        except BaseException as error:  # noqa: BLE001 - raised where the token is waited for
            self._rest_until = time.time() + REST
            outcome = partial(request.set_exception, error)
        else:
            self._token = token
            outcome = partial(request.set_result, token.value)
        with self._lock:
            self._request = None
        outcome()

    def _ask(self) -> _Token:
        """Ask Google for a token."""
        exceptions = require("google.auth.exceptions", install="google-auth requests")
        requests = require("google.auth.transport.requests", install="google-auth requests")
        # A class, as google-auth looks for Request's attributes; its own time-out is two minutes.
        call = partialmethod(requests.Request.__call__, timeout=REQUEST_TIMEOUT)
        request = type("BoundedRequest", (requests.Request,), {"__call__": call})()
        try:
            if self._credentials is None:
                auth = require("google.auth", install="google-auth requests")
                scope = "https://www.googleapis.com/auth/cloud-platform"
                self._credentials = auth.default(scopes=[scope], request=request)[0]
            credentials = self._credentials
            if not credentials.valid or credentials.token == self._refused:
                credentials.refresh(request)
        except exceptions.DefaultCredentialsError as error:
            raise TokenError(
                "There are no Google credentials here. Run: gcloud auth application-default login"
                " (in a notebook on Google Cloud, give its service account access instead)."
            ) from error
        except exceptions.GoogleAuthError as error:
            if error.retryable or isinstance(error, exceptions.TransportError):
                raise TokenServerError(
                    "Google's token server cannot be reached. Check the network; in a VPC "
                    "without internet access, switch on Private Google Access for the subnet."
                ) from error
            raise TokenError(
                "Google refuses to hand out an access token. Sign in again: gcloud auth "
                "application-default login; or check that the service account is enabled."
            ) from error
        return _token(str(credentials.token), credentials.expiry)


@contextmanager
def _raised_anew() -> Iterator[None]:
    """Give each of the waiters an exception of its own: one that is shared gathers tracebacks."""
    try:
        yield
    except (TokenError, TokenServerError) as error:
        raise type(error)(str(error)) from error.__cause__


def _token(value: str, expiry: datetime | None) -> _Token:
    if expiry is None:
        return _Token(value, float("inf"), float("inf"))
    expires_at = expiry.replace(tzinfo=UTC).timestamp()
    left = expires_at - time.time()
    return _Token(value, expires_at - min(RENEW_BEFORE, left / 10), expires_at)
