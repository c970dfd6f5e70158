"""Turns of agents beside a checkpointer while calls fail, are canceled or overlap.

Each thread has a session and a checkpointer. Its calls meet, at random, an outage at the read, a
cancellation before the session is loaded, a model that raises, and a second call begun meanwhile.
Each question and answer carries a number, so that what is stored shows what went wrong: a question
stored though its call failed, one answered twice, one without its own answer.

    python bench/agent_stress.py [--threads 40] [--turns 50]
"""

import argparse
import asyncio
import random
import sys
from collections import Counter
from pathlib import Path
from typing import Any

from langchain.agents import create_agent
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage
from langchain_core.outputs import ChatGeneration, ChatResult
from langgraph.checkpoint.memory import InMemorySaver

from memorystore_chat import MemorystoreChatError, MemorystoreChatMessageHistory, connect
from memorystore_chat.agents import ChatHistoryMiddleware

sys.path.insert(0, str(Path(__file__).parent.parent / "tests/support"))
import servers

FAULTS = ("none", "none", "none", "outage", "canceled", "model", "overlap")


class Echo(BaseChatModel):
    """Answers the last question with its own text, and raises if that says so."""

    @property
    def _llm_type(self) -> str:
        return "echo"

    def _generate(self, messages: list[BaseMessage], *_: Any, **__: Any) -> ChatResult:
        asked = [message.text for message in messages if isinstance(message, HumanMessage)][-1]
        if asked.startswith("raise"):
            raise RuntimeError(asked)
        return ChatResult(generations=[ChatGeneration(message=AIMessage(f"answer to {asked}"))])


class Disturbed(MemorystoreChatMessageHistory):
    """A history whose next read fails or takes long."""

    fault = "none"

    async def aget_messages(self) -> list[BaseMessage]:
        """Read, or do what the fault says."""
        if self.fault == "outage":
            raise MemorystoreChatError("outage")
        if self.fault != "none":
            await asyncio.sleep(30 if self.fault == "canceled" else 0.01)
        return await super().aget_messages()


async def run_thread(client: Any, number: int, turns: int, rng: random.Random) -> Counter[str]:
    """All turns of one thread, and what is wrong in its session afterwards."""
    thread, pending = f"agent-stress:{number}", ["none"]

    def history(session_id: str) -> MemorystoreChatMessageHistory:
        disturbed = Disturbed(client, session_id)
        disturbed.fault = pending.pop() if pending else "none"
        return disturbed

    memory = ChatHistoryMiddleware(history)
    agent: Any = create_agent(Echo(), middleware=[memory], checkpointer=InMemorySaver())
    config: Any = {"configurable": {"thread_id": thread}}
    plain = MemorystoreChatMessageHistory(client, thread)
    plain.clear()
    asked: dict[str, bool] = {}  # question -> whether its call returned

    async def ask(text: str) -> None:
        asked[text] = False
        await agent.ainvoke({"messages": [("user", text)]}, config)
        asked[text] = True

    for turn in range(turns):
        fault = rng.choice(FAULTS)
        text = f"{'raise ' if fault == 'model' else ''}{number}-{turn}"
        pending[:] = [fault if fault in ("outage", "canceled", "overlap") else "none"]
        try:
            if fault == "canceled":
                await asyncio.wait_for(ask(text), 0.05)
            elif fault == "overlap":
                await asyncio.gather(ask(text), ask(f"{text}-meanwhile"))
            else:
                await ask(text)
        except (MemorystoreChatError, RuntimeError, TimeoutError):
            pass
    stored = [str(message.text) for message in plain.messages]
    plain.clear()
    expected = Counter(text for text, returned in asked.items() if returned)
    questions = Counter(text for text in stored if not text.startswith("answer"))
    wrong = Counter(turns=len(asked), returned=len(expected))
    wrong["stored though failed"] = sum((questions - expected).values())
    wrong["lost"] = sum((expected - questions).values())
    pairs = list(zip(stored[::2], stored[1::2], strict=False))
    wrong["not followed by its answer"] = sum(answer != f"answer to {q}" for q, answer in pairs)
    return wrong


async def main() -> None:
    """Run all threads and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=40)
    parser.add_argument("--turns", type=int, default=50)
    options = parser.parse_args()
    total = Counter[str]()
    with servers.valkey() as server, connect(server.url) as client:
        for number in range(options.threads):
            total += await run_thread(client, number, options.turns, random.Random(number))
    for name in (
        *("turns", "returned"),
        *("stored though failed", "lost", "not followed by its answer"),
    ):
        print(f"{name:28} {total[name]:6}")


if __name__ == "__main__":
    asyncio.run(main())
