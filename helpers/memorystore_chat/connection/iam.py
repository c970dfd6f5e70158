"""Google access tokens as redis-py credentials, for Memorystore with IAM authentication."""

import asyncio
import threading
import time
from datetime import UTC
from functools import partialmethod
from typing import TYPE_CHECKING

import redis

from memorystore_chat.extras import require

if TYPE_CHECKING:
    from google.auth.credentials import Credentials

# The user name is the same for every identity; the token says who it is.
# https://cloud.google.com/memorystore/docs/valkey/manage-iam-auth
_USER = "default"
# Seconds before its end that a token is renewed: then the metadata server has another one.
_RENEW_BEFORE = 225.0
_REQUEST_TIMEOUT = _REST_AFTER_FAILURE = 10.0  # seconds


class TokenError(redis.AuthenticationError):
    """Google hands out no access token. Its message says what to do."""


class TokenServerError(redis.ConnectionError):
    """Google's token server does not answer just now; trying again may help."""


class IamCredentials(redis.CredentialProvider):
    """What redis-py asks for user and password: ``("default", access token)``.

    A token is requested once, kept until shortly before it expires, and shared by all threads and
    event loops that use this object. One that is still good is used if its renewal fails.

    Args:
        credentials: From google-auth; by default ``google.auth.default()``, at the first use.

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
        self._lock = threading.Lock()
        self._refused: str | None = None
        self._renew_at = self._ends_at = 0.0

    def get_credentials(self) -> tuple[str, str]:
        """Return user name and token, or raise a `TokenError` or a `TokenServerError`."""
        with self._lock:
            token = self._good_token()
            if token is None:
                try:
                    token = self._new_token()
                except (TokenError, TokenServerError):
                    self._renew_at = min(self._ends_at, time.time() + _REST_AFTER_FAILURE)
                    token = self._good_token()
                    if token is None:
                        raise
            return _USER, token

    async def get_credentials_async(self) -> tuple[str, str]:
        """Return the same; the event loop goes on while Google is asked."""
        if token := self._good_token():
            return _USER, token  # without a thread, of which there may be none left
        return await asyncio.to_thread(self.get_credentials)

    def forget(self, token: str) -> None:
        """Never hand out this token again: a server refused it."""
        self._refused = token

    def _good_token(self) -> str | None:
        """Return the token, or None if Google has to be asked for another one."""
        found = self._credentials
        if found is None or found.token in (None, self._refused):
            return None
        return str(found.token) if time.time() < self._renew_at else None

    def _new_token(self) -> str:
        exceptions = require("google.auth.exceptions", extra="google")
        requests = require("google.auth.transport.requests", extra="google")
        # A class, as google-auth looks for Request's attributes; its own timeout is two minutes.
        call = partialmethod(requests.Request.__call__, timeout=_REQUEST_TIMEOUT)
        request = type("BoundedRequest", (requests.Request,), {"__call__": call})()
        try:
            if self._credentials is None:
                auth = require("google.auth", extra="google")
                scope = "https://www.googleapis.com/auth/cloud-platform"
                self._credentials = auth.default(scopes=[scope], request=request)[0]
            if not self._credentials.valid or self._credentials.token == self._refused:
                self._credentials.refresh(request)
        except exceptions.GoogleAuthError as error:
            if error.retryable or isinstance(error, exceptions.TransportError):
                raise TokenServerError(
                    "Google's token server cannot be reached. Check the network; in a VPC "
                    "without internet access, switch on Private Google Access for the subnet."
                ) from error
            raise TokenError(
                "Google hands out no access token. Run: gcloud auth application-default login (on "
                "Google Cloud, check the service account instead)."
            ) from error
        end = self._credentials.expiry
        self._ends_at = end.replace(tzinfo=UTC).timestamp() if end else float("inf")
        self._renew_at = self._ends_at - min(_RENEW_BEFORE, (self._ends_at - time.time()) / 10)
        return str(self._credentials.token)
