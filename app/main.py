"""A web chat with a concierge whose conversations and memories live in Memorystore.

Settings are environment variables: MEMORYSTORE_ENDPOINT (by default a Valkey on this machine),
MODEL ("demo", or what LangChain's init_chat_model takes), IAP_AUDIENCE behind Identity-Aware Proxy,
FRAME_ANCESTORS (pages that may show this one in a frame), KEY_PREFIX, HOST, and PORT.
"""

import asyncio
import json
import logging
import os
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any
from uuid import NAMESPACE_URL, UUID, uuid4, uuid5

import requests
import uvicorn
from fastapi import Depends, FastAPI, HTTPException, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from fastapi.sse import EventSourceResponse
from fastapi.staticfiles import StaticFiles
from google.auth import exceptions, jwt
from itsdangerous import BadSignature, TimestampSigner
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


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    """Open one client for the life of the program; at its end leave the rest to other replicas."""
    memory, patience = app.state, stop_after_delay(90 if ON_CLOUD_RUN else 0)  # for its network
    connected = retry(stop=patience, wait=wait_fixed(2), reraise=True)(connect_async)
    async with await connected(timeout=5, patience=5, max_connections=100) as memory.client:
        saver = MemorystoreSaver(memory.client, key_prefix=PREFIX, ttl=MONTH)
        ttl: Any = {"default_ttl": MONTH / 60}
        memory.store = MemorystoreStore(memory.client, key_prefix=PREFIX, ttl=ttl)
        model = os.environ.get("MODEL") or "demo"
        memory.agent = make_concierge(model, checkpointer=saver, store=memory.store)
        await memory.client.set(f"{PREFIX}secret", os.urandom(32).hex(), nx=True)
        memory.signer = TimestampSigner(await memory.client.get(f"{PREFIX}secret"))
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


async def returning(request: Request, response: Response) -> Guest:
    """Return which browser came back, by its cookie: it stands in for a login of your own."""
    try:
        return Guest(app.state.signer.unsign(request.cookies["guest"], max_age=MONTH).decode())
    except (KeyError, BadSignature):
        guest, secure = Guest(uuid4().hex), request.url.scheme == "https"
        cookie = app.state.signer.sign(guest.id).decode()
        response.set_cookie("guest", cookie, MONTH, httponly=True, secure=secure, samesite="strict")
        return guest


def signed_in(request: Request) -> Guest:
    """Return whom Identity-Aware Proxy names; 401 if it did not sign this."""
    token = request.headers.get("x-goog-iap-jwt-assertion", "")
    try:
        claims = jwt.decode(token, signing_keys(int(time.monotonic() // 600)), audience=AUDIENCE)
        subject = {ISSUER: claims["sub"]}[claims["iss"]]  # no other issuer
    except (exceptions.GoogleAuthError, requests.RequestException, ValueError, KeyError) as error:
        raise HTTPException(401, "Sign in through Identity-Aware Proxy.") from error
    return Guest(uuid5(NAMESPACE_URL, subject).hex)  # a namespace of the store has no periods


@lru_cache(maxsize=1)
def signing_keys(_ten_minutes: int) -> Any:
    return requests.get(KEYS, timeout=5).json()


Asking = Annotated[Guest, Depends(signed_in if AUDIENCE else returning)]


async def begun(guest: Asking, turn: Turn) -> Conversation:
    """Start a turn, unless the guest has taken too many."""
    minute = f"{PREFIX}minute:{guest.id}:{int(time.time()) // 60}"
    await app.state.client.set(minute, 0, ex=120, nx=True)
    if await app.state.client.incr(minute) > TURNS_A_MINUTE:
        raise HTTPException(429, "That was fast. Wait a minute before you go on.")
    chat = Conversation(app.state, guest, turn.conversation)
    await chat.begin(turn)
    return chat


@app.post("/api/turns", response_class=EventSourceResponse)
async def turn(chat: Annotated[Conversation, Depends(begun)]) -> AsyncIterator[Event]:
    """Stream a turn's events; the last is an end, a bye, or an error."""
    yield (event := {"type": "conversation", "id": chat.id})
    while event["type"] not in ("end", "bye", "error"):
        yield (event := await chat.events.get())


@app.get("/api/conversations")
@app.get("/api/conversations/{conversation}")
async def show(guest: Asking, conversation: UUID | None = None) -> Event:
    """Return what was said in a conversation, and the titles of all, the last used first."""
    known = await app.state.store.asearch(guest.names("conversations"), limit=100)
    known.sort(key=lambda item: item.updated_at, reverse=True)
    titles = [{"id": item.key, **item.value} for item in known]
    return {"titles": titles, **await Conversation(app.state, guest, conversation).shown()}


@app.post("/api/forget")
async def forget(guest: Asking) -> dict[str, int]:
    """Delete the guest's conversations and memories, and count them."""
    counts = {"conversations": 0, "memories": 0}
    for kind in counts:
        while known := await app.state.store.asearch(guest.names(kind), limit=100):
            for item in known:
                if kind == "conversations":
                    await Conversation(app.state, guest, UUID(item.key)).delete()
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
    logging.basicConfig(handlers=[output])
    log.setLevel(logging.INFO)
    host, port = os.environ.get("HOST", "127.0.0.1"), int(os.environ.get("PORT") or "8000")
    uvicorn.run(app, host=host, port=port, log_config=None, timeout_graceful_shutdown=GRACE)
