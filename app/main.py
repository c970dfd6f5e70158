"""A web chat with a concierge whose conversations and memories live in Memorystore.

Settings are environment variables: MEMORYSTORE_ENDPOINT (by default a Valkey on this machine),
MODEL ("demo", or what LangChain's init_chat_model takes), IAP_AUDIENCE behind Identity-Aware Proxy,
FRAME_ANCESTORS (pages that may show this one in a frame), KEY_PREFIX, HOST, and PORT.
"""

import asyncio
import json
import logging
import os
import secrets
import sys
import time
import traceback
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated, Any
from uuid import UUID, uuid4

import uvicorn
from fastapi import Depends, FastAPI, HTTPException, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from fastapi.sse import EventSourceResponse
from fastapi.staticfiles import StaticFiles
from langgraph.store.base import TTLConfig
from redis.exceptions import RedisError

from concierge import Guest, make_concierge
from guests import MONTH, guest_id
from memorystore_chat import ConnectError, MemorystoreChatError, connect_async
from memorystore_chat.checkpoint import MemorystoreSaver
from memorystore_chat.store import MemorystoreStore
from turns import PREFIX, Conversation, Event, Turn, log, running

GRACE = 7  # seconds for the answers that pages wait for after SIGTERM; Cloud Run grants 10
TURNS_A_MINUTE, LARGEST = 20, 20_000  # bytes of a request
HEADERS = {
    "cache-control": "no-cache",
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; "
    "connect-src 'self'; img-src 'self'; base-uri 'none'; form-action 'self'; "
    "require-trusted-types-for 'script'; trusted-types 'none'; "
    f"frame-ancestors {os.environ.get('FRAME_ANCESTORS') or repr('none')}",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
}


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    """Open one client for the life of the program; at its end let the answers end."""
    memory, ttl = app.state, TTLConfig(default_ttl=MONTH / 60)
    async with await connected() as client:
        memory.client, memory.store = client, MemorystoreStore(client, key_prefix=PREFIX, ttl=ttl)
        memory.saver = MemorystoreSaver(client, key_prefix=PREFIX, ttl=MONTH)
        both = {"checkpointer": memory.saver, "store": memory.store}
        memory.agent = make_concierge(os.environ.get("MODEL") or "demo", **both)
        await client.set(f"{PREFIX}secret", secrets.token_hex(32), nx=True)
        memory.secret = await client.get(f"{PREFIX}secret")
        yield
        if running:
            await asyncio.wait(running, timeout=1)
        for turn in running:
            turn.cancel()
        await asyncio.gather(*running, return_exceptions=True)


async def connected() -> Any:
    """Connect; on Cloud Run the network may take a minute, and the startup probe has patience."""
    while True:
        try:
            return await connect_async(timeout=3, patience=3)
        except ConnectError as error:
            if "K_SERVICE" not in os.environ:
                raise
            log.warning("%s", error)
            await asyncio.sleep(2)


app = FastAPI(lifespan=lifespan, openapi_url=None)


@app.middleware("http")
async def guard(request: Request, answer: Callable[[Request], Awaitable[Response]]) -> Response:
    """Refuse what other sites send, set the page's policy, and log without texts."""
    began, headers = time.perf_counter(), request.headers
    ours = headers.get("sec-fetch-site", "same-origin") == "same-origin"
    ours &= headers.get("content-type", "").startswith("application/json")
    ours &= int(headers.get("content-length", LARGEST)) < LARGEST
    if ours or request.method == "GET":
        response = await answer(request)
    else:
        response = JSONResponse({"detail": "Only this page may ask."}, 403)
    response.headers.update(HEADERS)
    route, took = getattr(request.scope.get("route"), "path", ""), time.perf_counter() - began
    fields = {"status": response.status_code, "ms": round(took * 1000)}
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
    """Return who sent a request."""
    return Guest(await guest_id(request, response, app.state.secret))


Asking = Annotated[Guest, Depends(guest_of)]


async def title_of(guest: Guest, conversation: UUID) -> str:
    """Return the title of a conversation; somebody else's is not found."""
    item = await app.state.store.aget(guest.names("conversations"), conversation.hex)
    if item is None:
        raise HTTPException(404, "You have no such conversation.")
    return str(item.value["title"])


async def begun(guest: Asking, turn: Turn) -> Conversation:
    """Start a turn; one without a conversation begins one, whose id is made here."""
    minute, client = f"{PREFIX}minute:{guest.id}:{int(time.time()) // 60}", app.state.client
    await client.set(minute, 0, ex=120, nx=True)
    if await client.incr(minute) > TURNS_A_MINUTE:
        raise HTTPException(429, "That was fast. Wait a minute before you go on.")
    known, id_ = turn.conversation, turn.conversation or uuid4()
    title = await title_of(guest, known) if known else (turn.text or "")[:60]
    chat = Conversation(app.state, guest, id_.hex)
    await chat.begin(turn)
    await app.state.store.aput(guest.names("conversations"), chat.id, {"title": title})
    return chat


@app.post("/api/turns", response_class=EventSourceResponse)
async def turn(chat: Annotated[Conversation, Depends(begun)]) -> AsyncIterator[Event]:
    """Stream a turn's events; the last is an end, a bye, or an error."""
    event: Event = {"type": "conversation", "id": chat.id}
    yield event
    while event["type"] not in ("end", "bye", "error"):
        yield (event := await chat.events.get())


@app.get("/api/conversations/{conversation}")
async def show(guest: Asking, conversation: UUID) -> Event:
    """Return what was said, and what waits."""
    await title_of(guest, conversation)
    return await Conversation(app.state, guest, conversation.hex).shown()


@app.get("/api/conversations")
async def show_all(guest: Asking) -> list[Event]:
    """List the guest's conversations, the last used first."""
    known = await app.state.store.asearch(guest.names("conversations"), limit=100)
    newest = sorted(known, key=lambda item: item.updated_at, reverse=True)
    return [{"id": item.key, **item.value} for item in newest]


@app.post("/api/forget")
async def forget(guest: Asking) -> dict[str, int]:
    """Delete the guest's conversations and memories, and count them."""
    store, counts = app.state.store, {"conversations": 0, "memories": 0}
    for kind in counts:
        while known := await store.asearch(guest.names(kind), limit=100):
            for item in known:
                if kind == "conversations":
                    await Conversation(app.state, guest, item.key).delete()
                await store.adelete(guest.names(kind), item.key)
                counts[kind] += 1
    return counts


@app.get("/healthz")
async def alive() -> bool:
    """Tell that the program runs."""
    return True


@app.get("/readyz")
async def ready() -> bool:
    """Tell that the server answers."""
    return bool(await app.state.client.ping())


app.mount("/", StaticFiles(directory=Path(__file__).parent / "static", html=True))


class JsonLines(logging.Formatter):
    """A record as Cloud Logging reads it; of an error kind and place, as its text may tell much."""

    def format(self, record: logging.LogRecord) -> str:
        """Return a line."""
        line = {"severity": record.levelname, "message": record.getMessage()}
        if record.exc_info and record.exc_info[0]:
            frame = traceback.extract_tb(record.exc_info[2])[-1]
            line |= {"error": record.exc_info[0].__name__, "at": f"{frame.filename}:{frame.lineno}"}
        return json.dumps(line | getattr(record, "fields", {}))


if __name__ == "__main__":
    output = logging.StreamHandler(sys.stdout)
    output.setFormatter(JsonLines())
    logging.basicConfig(level=logging.WARNING, handlers=[output])
    log.setLevel(logging.INFO)
    host, port = os.environ.get("HOST", "127.0.0.1"), int(os.environ.get("PORT") or "8000")
    options: Any = {"log_config": None, "access_log": False, "timeout_graceful_shutdown": GRACE}
    uvicorn.run(app, host=host, port=port, **options)
