"""A web chat with a concierge whose conversations and memories live in Memorystore.

Settings are environment variables: MEMORYSTORE_ENDPOINT (by default a Valkey on this machine),
MODEL ("demo", or what LangChain's init_chat_model takes), IAP_AUDIENCE behind Identity-Aware Proxy,
FRAME_ANCESTORS (pages that may show this one in a frame), KEY_PREFIX, HOST, and PORT.
"""

import asyncio
import hashlib
import json
import logging
import os
import secrets
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any
from uuid import UUID, uuid4

import requests
import uvicorn
from fastapi import Depends, FastAPI, HTTPException, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from fastapi.sse import EventSourceResponse
from fastapi.staticfiles import StaticFiles
from itsdangerous import BadSignature, TimestampSigner
from langgraph.store.base import TTLConfig
from redis.exceptions import RedisError
from tenacity import retry, stop_after_delay, wait_fixed

from concierge import Guest, make_concierge
from memorystore_chat import MemorystoreChatError, connect_async
from memorystore_chat.checkpoint import MemorystoreSaver
from memorystore_chat.store import MemorystoreStore
from turns import PREFIX, Conversation, Event, Turn, log, running

ON_CLOUD_RUN, AUDIENCE = "K_SERVICE" in os.environ, os.environ.get("IAP_AUDIENCE")
ISSUER, KEYS = "https://cloud.google.com/iap", "https://www.gstatic.com/iap/verify/public_key"
GRACE = 7  # seconds for the answers that pages wait for after SIGTERM; Cloud Run grants 10
MONTH, TURNS_A_MINUTE, LARGEST = 30 * 24 * 3600, 20, 20_000  # in seconds; bytes of a request
HEADERS = {
    "cache-control": "no-cache",
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; "
    "connect-src 'self'; img-src data:; base-uri 'none'; form-action 'self'; "
    "require-trusted-types-for 'script'; trusted-types 'none'; "
    f"frame-ancestors {os.environ.get('FRAME_ANCESTORS') or repr('none')}",
    "x-content-type-options": "nosniff",
}
if ON_CLOUD_RUN and not AUDIENCE:
    sys.exit("Deploy with --iap, and set IAP_AUDIENCE: on Cloud Run a cookie is no login.")


# On Cloud Run a new instance's network may need a minute.
@retry(stop=stop_after_delay(90 if ON_CLOUD_RUN else 0), wait=wait_fixed(2), reraise=True)
async def connected() -> Any:
    return await connect_async(timeout=5, patience=5, max_connections=100)


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    """Open one client for the life of the program; at its end leave the rest to other replicas."""
    memory, ttl = app.state, TTLConfig(default_ttl=MONTH / 60)
    async with await connected() as client:
        memory.client, memory.store = client, MemorystoreStore(client, key_prefix=PREFIX, ttl=ttl)
        memory.saver = MemorystoreSaver(client, key_prefix=PREFIX, ttl=MONTH)
        both = {"checkpointer": memory.saver, "store": memory.store}
        memory.agent = make_concierge(os.environ.get("MODEL") or "demo", **both)
        await client.set(f"{PREFIX}secret", secrets.token_hex(32), nx=True)
        memory.signer = TimestampSigner(await client.get(f"{PREFIX}secret"))
        yield
        for turn in running:
            turn.cancel()
        await asyncio.gather(*running, return_exceptions=True)


app = FastAPI(lifespan=lifespan, openapi_url=None)


@app.middleware("http")
async def guard(request: Request, answer: Callable[[Request], Awaitable[Response]]) -> Response:
    """Refuse what other sites send, set the page's policy, and log without texts."""
    began, headers = time.perf_counter(), request.headers
    ours = headers.get("sec-fetch-site", "same-origin") == "same-origin"
    ours &= headers.get("content-type", "").startswith("application/json")
    ours &= int(headers.get("content-length", LARGEST)) < LARGEST
    refusal = JSONResponse({"detail": "Only this page may ask."}, 403)
    response = await answer(request) if ours or request.method == "GET" else refusal
    response.headers.update(HEADERS)
    fields = {"status": response.status_code, "seconds": round(time.perf_counter() - began, 3)}
    route = getattr(request.scope.get("route"), "path", "")
    log.info("%s %s", request.method, route, extra={"fields": fields})
    return response


@app.exception_handler(RequestValidationError)
@app.exception_handler(MemorystoreChatError)
@app.exception_handler(RedisError)
async def refuse(_: Request, error: Exception) -> JSONResponse:
    """Say that the memory is away, or that the page would not send this, without repeating it."""
    if isinstance(error, RequestValidationError):
        return JSONResponse({"detail": "The concierge does not understand this."}, 422)
    log.error("The memory is away.", exc_info=error)
    text = "The concierge can't reach its memory. Your words are kept here; it goes on by itself."
    return JSONResponse({"detail": text}, 503)


async def guest_of(request: Request, response: Response) -> Guest:
    """Return who sent a request: whom Identity-Aware Proxy names, or who has a signed cookie.

    The cookie stands in for the login of your own application. It tells that a browser came back,
    and nothing about who sits in front of it.
    """
    if AUDIENCE:
        token = request.headers.get("x-goog-iap-jwt-assertion", "")
        return Guest(await asyncio.to_thread(signed_in, token))
    try:
        return Guest(app.state.signer.unsign(request.cookies["guest"], max_age=MONTH).decode())
    except (KeyError, BadSignature):
        guest, secure = Guest(uuid4().hex), request.url.scheme == "https"
        cookie = app.state.signer.sign(guest.id).decode()
        response.set_cookie("guest", cookie, MONTH, httponly=True, secure=secure, samesite="strict")
        return guest


def signed_in(token: str) -> str:
    """Return the id of who is signed in; 401 if Identity-Aware Proxy did not sign this."""
    from google.auth import exceptions, jwt

    try:
        keys = signing_keys(int(time.monotonic() // 600))
        claims = jwt.decode(token, certs=keys, audience=AUDIENCE)
        subject = {ISSUER: claims["sub"]}[claims["iss"]]  # no other issuer
    except (exceptions.GoogleAuthError, requests.RequestException, ValueError, KeyError) as error:
        raise HTTPException(401, "Sign in through Identity-Aware Proxy.") from error
    # A subject has a colon and periods, which a namespace of the store may not have.
    return hashlib.sha256(subject.encode()).hexdigest()[:32]


@lru_cache(maxsize=1)
def signing_keys(_ten_minutes: int) -> Any:
    return requests.get(KEYS, timeout=5).json()


Asking = Annotated[Guest, Depends(guest_of)]


async def title_of(guest: Guest, conversation: UUID) -> str:
    """Return the title of a conversation; somebody else's is not found."""
    item = await app.state.store.aget(guest.names("conversations"), conversation.hex)
    if item is None:
        raise HTTPException(404, "You have no such conversation.")
    return str(item.value["title"])


async def begun(guest: Asking, turn: Turn) -> Conversation:
    """Start a turn; one without a conversation begins one, whose id is made here."""
    minute = f"{PREFIX}minute:{guest.id}:{int(time.time()) // 60}"
    await app.state.client.set(minute, 0, ex=120, nx=True)
    if await app.state.client.incr(minute) > TURNS_A_MINUTE:
        raise HTTPException(429, "That was fast. Wait a minute before you go on.")
    known = turn.conversation
    title = await title_of(guest, known) if known else (turn.text or "")[:60]
    chat = Conversation(app.state, guest, (known or uuid4()).hex)
    await chat.begin(turn)
    await app.state.store.aput(guest.names("conversations"), chat.id, {"title": title})
    return chat


@app.post("/api/turns", response_class=EventSourceResponse)
async def turn(chat: Annotated[Conversation, Depends(begun)]) -> AsyncIterator[Event]:
    """Stream a turn's events; the last is an end, a bye, or an error."""
    yield (event := {"type": "conversation", "id": chat.id})
    while event["type"] not in ("end", "bye", "error"):
        yield (event := await chat.events.get())


@app.get("/api/conversations/{conversation}")
async def show(guest: Asking, conversation: UUID) -> Event:
    await title_of(guest, conversation)
    return await Conversation(app.state, guest, conversation.hex).shown()


@app.get("/api/conversations")
async def show_all(guest: Asking) -> list[Event]:
    known = await app.state.store.asearch(guest.names("conversations"), limit=100)
    newest = sorted(known, key=lambda item: item.updated_at, reverse=True)
    return [{"id": item.key, **item.value} for item in newest]


@app.post("/api/forget")
async def forget(guest: Asking) -> dict[str, int]:
    """Delete the guest's conversations and memories, and count them."""
    counts = {"conversations": 0, "memories": 0}
    for kind in counts:
        while known := await app.state.store.asearch(guest.names(kind), limit=100):
            for item in known:
                if kind == "conversations":
                    await Conversation(app.state, guest, item.key).delete()
                await app.state.store.adelete(guest.names(kind), item.key)
                counts[kind] += 1
    return counts


@app.get("/healthz")
@app.get("/readyz")
async def healthy(request: Request) -> bool:
    """Tell that the program runs, or that the server answers."""
    return request.url.path == "/healthz" or bool(await app.state.client.ping())


app.mount("/", StaticFiles(directory=Path(__file__).parent / "static", html=True))


class JsonLines(logging.Formatter):
    """Records as Cloud Logging reads them; of an error only its kind, as its text may tell much."""

    def format(self, record: logging.LogRecord) -> str:
        line = {"severity": record.levelname, "message": record.getMessage()}
        if record.exc_info and record.exc_info[0]:
            line["error"] = record.exc_info[0].__name__
        return json.dumps(line | getattr(record, "fields", {}))


if __name__ == "__main__":
    output = logging.StreamHandler(sys.stdout)
    output.setFormatter(JsonLines())
    logging.basicConfig(level=logging.WARNING, handlers=[output])
    log.setLevel(logging.INFO)
    host, port = os.environ.get("HOST", "127.0.0.1"), int(os.environ.get("PORT") or "8000")
    options: Any = {"log_config": None, "access_log": False, "timeout_graceful_shutdown": GRACE}
    uvicorn.run(app, host=host, port=port, **options)
