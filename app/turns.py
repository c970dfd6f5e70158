"""A guest's conversation: one turn at a time, which goes on if the page is closed."""

import asyncio
import logging
import os
from contextlib import suppress
from typing import Any, Literal
from uuid import UUID

from fastapi import HTTPException
from langgraph.types import Command
from pydantic import BaseModel, Field
from redis.exceptions import RedisError

from concierge import Guest
from memorystore_chat import MemorystoreChatError

PREFIX = os.environ.get("KEY_PREFIX", "concierge:")
LOCKED = 20  # seconds that a conversation stays locked after its replica was killed
log = logging.getLogger("concierge")
running: set[asyncio.Task[None]] = set()
Event = dict[str, Any]


class Turn(BaseModel):
    """What a guest sends: a text, a decision, or neither, for the rest of an answer cut off."""

    conversation: UUID | None = None
    text: str | None = Field(None, min_length=1, max_length=2000)
    decision: Literal["approve", "reject"] | None = None
    interrupt: str | None = None


class Conversation:
    """A thread of the agent, and a lock that every replica respects."""

    def __init__(self, memory: Any, guest: Guest, id_: str) -> None:
        self._memory, self._agent, self._guest, self.id = memory, memory.agent, guest, id_
        self._thread, self.events = f"{guest.id}/{id_}", asyncio.Queue[Event]()
        self._config = {"configurable": {"thread_id": self._thread}}
        name = f"{PREFIX}lock:{self._thread}"
        self._lock = memory.client.lock(name, timeout=LOCKED, blocking=False)

    async def shown(self) -> Event:
        """Return what the page shows: what was said, and what the conversation waits for."""
        busy = await self._lock.locked()  # first, so that a turn that ends now is shown whole
        state = await self._agent.aget_state(self._config)
        lines = [line for message in state.values.get("messages", []) for line in told(message)]
        lines += [asked(interrupt) for interrupt in state.interrupts]
        return {"lines": lines, "waits": "a turn" if busy else waits(state)}

    async def begin(self, turn: Turn) -> None:
        """Store a question or take a decision, and go on in the background; 409 if it must wait."""
        until = await self._locked()
        try:
            resume = resumed(turn, await self._agent.aget_state(self._config))
            if turn.text:
                question = {"messages": [("user", turn.text)]}
                await self._agent.aupdate_state(self._config, question, as_node="__start__")
        except BaseException:
            await self._lock.release()
            raise
        task = asyncio.create_task(self._run(resume, until))
        running.add(task)
        task.add_done_callback(running.discard)

    async def delete(self) -> None:
        """Delete the thread. It stays locked for a moment, as a turn may be about to begin."""
        await self._locked()
        await self._memory.saver.adelete_thread(self._thread)

    async def _locked(self) -> float:
        until = asyncio.get_running_loop().time() + LOCKED
        if not await self._lock.acquire():
            raise HTTPException(409, "The concierge is still answering in this conversation.")
        return until

    async def _run(self, resume: Command[Any] | None, until: float) -> None:
        renewing, end = None, {"type": "bye"}  # what happened is stored; it goes on from there
        try:
            async with asyncio.timeout_at(until) as limit:  # a turn ends before its lock does
                renewing = asyncio.create_task(self._renew(limit))
                await self._answer(resume)
            end = {"type": "end"}
        except (asyncio.CancelledError, TimeoutError, RedisError, MemorystoreChatError):
            log.warning("A turn was cut off.", exc_info=True)
        except Exception:
            log.exception("A turn failed.")
            end = {"type": "error", "text": "The concierge could not finish. Ask again."}
        finally:
            if renewing:
                renewing.cancel()
            with suppress(RedisError):
                await self._lock.release()
            self.events.put_nowait(end)

    async def _answer(self, resume: Command[Any] | None) -> None:
        modes = {"stream_mode": ["messages", "updates"], "version": "v2", "context": self._guest}
        async for part in self._agent.astream(resume, self._config, **modes):
            if part["type"] == "messages":
                new = told(part["data"][0])
            else:
                new = [asked(each) for each in part["data"].get("__interrupt__", ())]
            for event in new:
                self.events.put_nowait(event)

    async def _renew(self, limit: asyncio.Timeout) -> None:
        while True:
            await asyncio.sleep(LOCKED / 3)
            until = asyncio.get_running_loop().time() + LOCKED
            with suppress(RedisError, RuntimeError):  # one that has ended can't be put off
                await self._lock.extend(LOCKED, replace_ttl=True)
                limit.reschedule(until)


def waits(state: Any) -> str:
    """Return what a conversation waits for."""
    return "a yes or no" if state.interrupts else "the rest" if state.next else "a question"


def resumed(turn: Turn, state: Any) -> Command[Any] | None:
    """Return a decision for the agent; what does not fit its state would poison the thread."""
    given = "a question" if turn.text else "a yes or no" if turn.decision else "the rest"
    failed = state.next == ("model",)  # no tool call is open, so another question may follow
    waiting = {interrupt.id: interrupt.value["action_requests"] for interrupt in state.interrupts}
    fits = given == waits(state) or (given == "a question" and failed)
    if not fits or (turn.decision and turn.interrupt not in waiting):
        raise HTTPException(409, f"The conversation waits for {waits(state)}.")
    if turn.interrupt is None:
        return None
    decisions = [{"type": turn.decision} for _ in waiting[turn.interrupt]]
    return Command(resume={turn.interrupt: {"decisions": decisions}})


def asked(interrupt: Any) -> Event:
    """Return an interrupt as a line of the page."""
    calls = [
        f"{call['name'].replace('_', ' ')} {' '.join(map(str, call['args'].values()))}"
        for call in interrupt.value["action_requests"]
    ]
    text = f"May I {' and '.join(calls)}?\n"
    return {"type": "approval", "interrupt": interrupt.id, "text": text}


def told(message: Any) -> list[Event]:
    """Return a message as a line of the page; a call without a text is none."""
    who = {"tool": "tool", "human": "guest"}.get(message.type, "concierge")
    text = message.name.replace("_", " ") if who == "tool" else message.text
    return [{"type": who, "text": text}] if text else []
