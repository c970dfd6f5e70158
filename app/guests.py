"""Who is speaking: behind Identity-Aware Proxy its signed header, elsewhere a signed cookie.

The cookie stands in for the login of your own application. It tells that a browser came back, and
nothing about who sits in front of it.
"""

import asyncio
import hashlib
import os
import time
from functools import lru_cache
from typing import Any
from uuid import uuid4

from fastapi import HTTPException, Request, Response
from itsdangerous import BadSignature, TimestampSigner

COOKIE, MONTH = "guest", 30 * 24 * 3600  # seconds
ISSUER, KEYS = "https://cloud.google.com/iap", "https://www.gstatic.com/iap/verify/public_key"
AUDIENCE = os.environ.get("IAP_AUDIENCE")
if os.environ.get("K_SERVICE") and not AUDIENCE:
    raise SystemExit(
        "On Cloud Run, guests sign in through Identity-Aware Proxy: deploy with --iap, and set "
        "IAP_AUDIENCE=/projects/NUMBER/locations/REGION/services/SERVICE."
    )


async def guest_id(request: Request, response: Response, secret: bytes) -> str:
    """Return the guest's id; a browser without a valid cookie is a new guest."""
    if AUDIENCE:
        return await asyncio.to_thread(signed_in, request.headers.get("x-goog-iap-jwt-assertion"))
    signer = TimestampSigner(secret, salt=COOKIE)
    try:
        return signer.unsign(request.cookies[COOKIE], max_age=MONTH).decode()
    except (KeyError, BadSignature):
        guest = uuid4().hex
        text = signer.sign(guest).decode()
        response.set_cookie(COOKIE, text, MONTH, httponly=True, samesite="strict")
        return guest


def signed_in(token: str | None) -> str:
    """Return the id of who is signed in; 401 if Identity-Aware Proxy did not sign this."""
    from google.auth import exceptions, jwt
    from requests import RequestException

    try:
        keys = signing_keys(int(time.monotonic() // 600))
        claims = jwt.decode(token or "", certs=keys, audience=AUDIENCE)
        subject = {ISSUER: claims["sub"]}[claims["iss"]]  # no other issuer
    except (exceptions.GoogleAuthError, RequestException, ValueError, KeyError) as error:
        raise HTTPException(401, "Sign in through Identity-Aware Proxy.") from error
    # A subject has a colon and periods, which a namespace of the store may not have.
    return hashlib.sha256(subject.encode()).hexdigest()[:32]


@lru_cache(maxsize=1)
def signing_keys(when: int) -> Any:  # noqa: ARG001 - fetched once for each
    """Fetch Google's public keys."""
    import requests

    return requests.get(KEYS, timeout=5).json()
