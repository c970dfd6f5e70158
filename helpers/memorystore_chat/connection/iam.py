"""Google access tokens as redis-py credentials, for Memorystore with IAM authentication."""

import asyncio
import threading
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partialmethod
from typing import TYPE_CHECKING

import redis

from memorystore_chat._extras import require

if TYPE_CHECKING:
    from google.auth.credentials import Credentials

# The user name is the same for every identity; the token says who it is.
# https://cloud.google.com/memorystore/docs/valkey/manage-iam-auth
USER = "default"
SCOPE = "https://www.googleapis.com/auth/cloud-platform"
# google-auth renews this early too: the metadata server hands out the old token until four
# minutes before it ends (google.auth._helpers.REFRESH_THRESHOLD).
RENEW_BEFORE = 225.0
REQUEST_TIMEOUT = 10.0


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
    event loops and connections that use this object. If a renewal fails while the old token is
    still good, the old one stays in use.

    Args:
        credentials: From google-auth; by default ``google.auth.default()``, asked for at the
            first use.

    Example:
        >>> provider = IamCredentials()
        >>> client = connect("rediss://10.0.0.3", iam=provider, ca_certs="ca.pem")
    """

    def __init__(self, credentials: "Credentials | None" = None) -> None:
        self._credentials = credentials
        self._token: _Token | None = None
        self._refused: str | None = None
        self._lock = threading.Lock()

    def get_credentials(self) -> tuple[str, str]:
        """Return user name and token, asking Google where the kept token is about to expire.

        Raises:
            TokenError: There are no credentials, or Google refuses them.
            TokenServerError: Google's token server does not answer.
        """
        token = self._kept()
        if token is None:
            with self._lock:
                token = self._kept() or self._request()
        return USER, token

    async def get_credentials_async(self) -> tuple[str, str]:
        """Like `get_credentials`; the event loop goes on while Google is asked."""
        token = self._kept()
        if token is None:
            # google-auth has no asynchronous default credentials, so a thread does the waiting.
            return await asyncio.to_thread(self.get_credentials)
        return USER, token

    def accepted(self, token: str) -> None:
        """Note that a server let this token in."""
        current = self._token
        if current is not None and current.value == token:
            current.accepted = True

    def refused(self, token: str) -> bool:
        """Note that a server refused this token; return whether a new login can do better.

        It can where the token was good before, which is what an expired one looks like, or where
        a newer one is there already. A token that was never let in is refused for good.
        """
        with self._lock:
            current = self._token
            if current is None or current.value != token:
                return True
            if not current.accepted:
                return False
            self._token, self._refused = None, token
            return True

    def _kept(self) -> str | None:
        token = self._token
        return token.value if token is not None and time.time() < token.renew_at else None

    def _request(self) -> str:
        exceptions = require("google.auth.exceptions", install="google-auth requests")
        requests = require("google.auth.transport.requests", install="google-auth requests")
        # A class, as google-auth looks for Request's attributes; its own time-out is two minutes.
        call = partialmethod(requests.Request.__call__, timeout=REQUEST_TIMEOUT)
        request = type("BoundedRequest", (requests.Request,), {"__call__": call})()
        try:
            if self._credentials is None:
                auth = require("google.auth", install="google-auth requests")
                self._credentials = auth.default(scopes=[SCOPE], request=request)[0]
            credentials = self._credentials
            if not credentials.valid or credentials.token == self._refused:
                credentials.refresh(request)
        except exceptions.DefaultCredentialsError as error:
            raise TokenError(
                "There are no Google credentials here. Run: gcloud auth application-default login"
                " (in a notebook on Google Cloud, give its service account access instead)."
            ) from error
        except exceptions.GoogleAuthError as error:
            kept = self._token
            if kept is not None and time.time() < kept.expires_at:
                return kept.value
            if error.retryable or isinstance(error, exceptions.TransportError):
                raise TokenServerError(
                    "Google's token server cannot be reached. Check the network; in a VPC "
                    "without internet access, switch on Private Google Access for the subnet."
                ) from error
            raise TokenError(
                "Google refuses to hand out an access token. Sign in again: gcloud auth "
                "application-default login; or check that the service account is enabled."
            ) from error
        self._token = _token(str(credentials.token), credentials.expiry)
        return self._token.value


def _token(value: str, expiry: datetime | None) -> _Token:
    if expiry is None:
        return _Token(value, float("inf"), float("inf"))
    expires_at = expiry.replace(tzinfo=UTC).timestamp()
    left = expires_at - time.time()
    return _Token(value, expires_at - min(RENEW_BEFORE, left / 10), expires_at)
