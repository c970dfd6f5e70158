"""A guest's conversation: one turn at a time, which goes on if the page is closed."""

import asyncio
import logging
import os
from contextlib import suppress
from typing import Any, Literal
from uuid import UUID, uuid4

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

    def __init__(self, memory: Any, guest: Guest, known: UUID | None) -> None:
        self.id, self.events = (known or uuid4()).hex, asyncio.Queue[Event]()
        self._agent, self._guest, self._known = memory.agent, guest, known
        self._thread = f"{guest.id}/{self.id}"  # so somebody else's conversation is not found
        self._config = {"configurable": {"thread_id": self._thread}}
        name = f"{PREFIX}lock:{self._thread}"
        self._lock = memory.client.lock(name, timeout=LOCKED, blocking=False)

    async def shown(self) -> Event:
        """Return what the page shows: what was said, and what the conversation waits for."""
        busy = await self._lock.locked()  # first, so that a turn that ends now is shown whole
        state = await self._state()
        said = state.values.get("messages", [])
        lines = [line for message in said for line in told(message)]
        lines += map(asked, state.interrupts)
        return {"lines": lines, "waits": "a turn" if busy else waits(state)}

    async def begin(self, turn: Turn) -> None:
        """Store a question or take a decision, and go on in the background; 409 if it must wait."""
        await self._take()
        try:
            state = await self._state()
            resume, said = resumed(turn, state), state.values.get("messages")
            title = {"title": str(said[0].text if said else turn.text)[:60]}
            await self._agent.store.aput(self._guest.names("conversations"), self.id, title)
            if turn.text:
                question = {"messages": [("user", turn.text)]}
                await self._agent.aupdate_state(self._config, question, as_node="__start__")
        except BaseException:
            await self._lock.release()
            raise
        running.add(task := asyncio.create_task(self._run(resume)))
        task.add_done_callback(running.discard)

    async def delete(self) -> None:
        """Delete the thread. It stays locked for a moment, as a turn may be about to begin."""
        await self._take()
        await self._agent.checkpointer.adelete_thread(self._thread)

    async def _take(self) -> None:
        if not await self._lock.acquire():
            raise HTTPException(409, "The concierge is still answering in this conversation.")

    async def _state(self) -> Any:
        state = await self._agent.aget_state(self._config)
        if self._known and not state.values:
            raise HTTPException(404, "You have no such conversation.")
        return state

    async def _run(self, resume: Command[Any] | None) -> None:
        end = {"type": "bye"}  # what happened is stored; it goes on from there
        answer = asyncio.create_task(self._answer(resume))
        try:
            while not answer.done():
                async with asyncio.timeout(LOCKED / 3):  # an answer ends before its lock does
                    await self._lock.extend(LOCKED, replace_ttl=True)
                await asyncio.wait([answer], timeout=LOCKED / 3)
            await answer
            end = {"type": "end"}
        except (asyncio.CancelledError, TimeoutError, RedisError, MemorystoreChatError):
            log.warning("A turn was cut off.", exc_info=True)
        except Exception:
            log.exception("A turn failed.")
            end = {"type": "error", "text": "The concierge could not finish. Ask again."}
        finally:
            answer.cancel()
            await asyncio.wait([answer])
            with suppress(RedisError):
                await self._lock.release()
            self.events.put_nowait(end)

    async def _answer(self, resume: Command[Any] | None) -> None:
        how: Any = {"stream_mode": ["messages", "updates"], "context": self._guest}
        async for mode, part in self._agent.astream(resume, self._config, **how):
            new = told(part[0]) if mode == "messages" else map(asked, part.get("__interrupt__", ()))
            for event in new:
                self.events.put_nowait(event)


def waits(state: Any) -> str:
    """Return what a conversation waits for."""
    return "a yes or no" if state.interrupts else "the rest" if state.next else "a question"


def resumed(turn: Turn, state: Any) -> Command[Any] | None:
    """Return a decision for the agent; what does not fit its state would poison the thread."""
    given = "a question" if turn.text else "a yes or no" if turn.decision else "the rest"
    failed = state.next == ("model",)  # no tool call is open, so another question may follow
    calls = {each.id: each.value["action_requests"] for each in state.interrupts}
    fits = given == waits(state) or (given == "a question" and failed)
    if not fits or (turn.decision and turn.interrupt not in calls):
        raise HTTPException(409, f"The conversation waits for {waits(state)}.")
    if turn.decision is None:
        return None
    decisions = [{"type": turn.decision} for _ in calls[turn.interrupt]]
    return Command(resume={turn.interrupt: {"decisions": decisions}})


def asked(interrupt: Any) -> Event:
    """Return an interrupt as a line of the page."""
    text = "".join(f"{call['description']}\n" for call in interrupt.value["action_requests"])
    return {"type": "approval", "interrupt": interrupt.id, "text": text}


def told(message: Any) -> list[Event]:
    """Return a message as a line of the page; a call without a text is none."""
    who = {"tool": "tool", "human": "guest"}.get(message.type, "concierge")
    left = " (not done)" if getattr(message, "status", "") == "error" else ""
    text = message.name.replace("_", " ") + left if who == "tool" else message.text
    return [{"type": who, "text": text}] if text else []
