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
# Seconds before its end that a token is renewed. google-auth does so too: the metadata server
# hands out the old token until four minutes before (google.auth._helpers.REFRESH_THRESHOLD).
_RENEW_BEFORE = 225.0
_REQUEST_TIMEOUT = _REST_AFTER_FAILURE = 10.0


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
        self._token: str | None = None
        self._refused: str | None = None
        self._renew_at = self._expires_at = 0.0

    def get_credentials(self) -> tuple[str, str]:
        """Return user name and token, or raise a `TokenError` or a `TokenServerError`."""
        with self._lock:
            now = time.time()
            if self._token is None or now >= self._renew_at:
                try:
                    self._token = self._ask()
                except (TokenError, TokenServerError):
                    if self._token is None or now >= self._expires_at:
                        raise
                    self._renew_at = min(self._expires_at, now + _REST_AFTER_FAILURE)
            return _USER, self._token

    async def get_credentials_async(self) -> tuple[str, str]:
        """Return the same; the event loop goes on while Google is asked."""
        token = self._token
        if token is not None and time.time() < self._renew_at:
            return _USER, token  # without a thread, of which there may be none left
        return await asyncio.to_thread(self.get_credentials)

    def forget(self, token: str) -> None:
        """Never hand out this token again: a server refused it."""
        with self._lock:
            self._refused = token
            if self._token == token:
                self._token = None

    def _ask(self) -> str:
        """Ask Google for a token, and note when it ends."""
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
            credentials = self._credentials
            if not credentials.valid or credentials.token == self._refused:
                credentials.refresh(request)
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
        self._expires_at = self._renew_at = float("inf")
        if expiry := credentials.expiry:
            self._expires_at = expiry.replace(tzinfo=UTC).timestamp()
            left = self._expires_at - time.time()
            self._renew_at = self._expires_at - min(_RENEW_BEFORE, left / 10)
        return str(credentials.token)
