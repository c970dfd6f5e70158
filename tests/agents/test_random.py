"""ChatHistoryMiddleware in random agents: the session is what the agent's own messages say."""

import os
import random
from collections.abc import AsyncIterator, Iterable, Sequence
from typing import Annotated, Any

import pytest
from langchain.agents import create_agent
from langchain.agents.middleware import (
    HumanInTheLoopMiddleware,
    ModelCallLimitMiddleware,
    ModelRetryMiddleware,
    PIIMiddleware,
    SummarizationMiddleware,
    ToolCallLimitMiddleware,
    ToolRetryMiddleware,
)
from langchain_core.messages import (
    AIMessage,
    BaseMessage,
    HumanMessage,
    RemoveMessage,
    SystemMessage,
    ToolMessage,
)
from langchain_core.tools import InjectedToolCallId
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.types import Command

from memorystore_chat.agents import ChatHistoryMiddleware
from memorystore_chat.checkpoint import MemorystoreSaver
from memorystore_chat.conversation import NO_RESULT
from scripted import DeepState, Make, Scripted, hooks, thread

RUNS = int(os.environ.get("MEMORYSTORE_TEST_AGENTS", "100"))
"""Of 2,000 runs none was wrong when this was written."""

REMINDER = "(a reminder)"


def look(thing: str) -> str:
    """Look."""
    return f"seen {thing}"


def pay(thing: str) -> str:
    """Pay."""
    return f"paid {thing} to ada@example.com"


def tell(thing: str, tool_call_id: Annotated[str, InjectedToolCallId]) -> Any:
    """Tell more than a result."""
    result = ToolMessage(f"told {thing}", tool_call_id=tool_call_id)
    return Command(update={"messages": [result, HumanMessage(f"a word about {thing}")]})


def fail(thing: str) -> str:
    """Fail."""
    raise ConnectionError(thing)


def middleware_of(rng: random.Random, make: Make, saver: Any) -> list[Any]:
    """Some middleware of each kind around the one that is tested."""

    def end(messages: Sequence[BaseMessage]) -> Any:
        """Ends a turn, and may take back what stands last."""
        last = messages[-1]
        if rng.random() < 0.7 or getattr(last, "tool_calls", []):
            return None
        taken = rng.random() < 0.5 and last.type != "tool"
        back = [RemoveMessage(id=last.id or "")] if taken else []
        return {"messages": [*back, AIMessage("I must not say that.")], "jump_to": "end"}

    def remind(messages: Sequence[BaseMessage]) -> Any:
        new = [SystemMessage("be brief"), HumanMessage(REMINDER)]
        return {"messages": new} if rng.random() < 0.4 else None

    def exchange(messages: Sequence[BaseMessage]) -> Any:
        """Puts another message in the place of a question or a result."""
        last = messages[-1]
        if last.text.startswith("[exchanged]") or last.type == "ai" or rng.random() < 0.5:
            return None
        new = last.model_copy(update={"id": None, "content": f"[exchanged] {last.text}"})
        return {"messages": [RemoveMessage(id=last.id or ""), new]}

    trigger, keep = rng.randint(3, 9), rng.randint(1, 4)
    sizes: Any = {"trigger": ("messages", trigger), "keep": ("messages", keep)}
    redacts = PIIMiddleware("email", apply_to_tool_results=True)
    before = [redacts, hooks("Exchanges", before_model=exchange)]
    after: list[Any] = [
        ModelCallLimitMiddleware(run_limit=rng.randint(1, 4)),
        ToolCallLimitMiddleware(run_limit=2, exit_behavior=rng.choice(["continue", "end"])),
        ToolCallLimitMiddleware(tool_name="look", run_limit=1, exit_behavior="continue"),
        hooks("Guard", **{rng.choice(["before_agent", "before_model", "after_model"]): end}),
        hooks("Reminds", before_model=remind),
        SummarizationMiddleware(Scripted(replies=["SUMMARY"] * 99), **sizes),
        ModelRetryMiddleware(max_retries=1, initial_delay=0),
    ]
    if saver is not None:
        after.append(HumanInTheLoopMiddleware({"pay": True, "tell": rng.random() < 0.5}))
    rng.shuffle(after)
    return [
        *(one for one in before if rng.random() < 0.4),
        ChatHistoryMiddleware(make),
        *(one for one in after if rng.random() < 0.5),
        ToolRetryMiddleware(max_retries=1, initial_delay=0, on_failure="continue"),
    ]


class Random(Scripted):
    """A model that answers, calls some tools side by side, or fails."""

    replies: list[Any] = []  # noqa: RUF012
    rng: random.Random

    def _next(self, messages: list[BaseMessage]) -> AIMessage:
        before: set[Any] = set()
        for message in messages:
            if isinstance(message, ToolMessage):
                assert message.tool_call_id in before, "a result that does not follow its call"
            else:
                before = {call["id"] for call in getattr(message, "tool_calls", [])}
        if self.rng.random() < 0.06:
            raise RuntimeError("quota")
        number = str(self.rng.random())
        if self.rng.random() < 0.45:
            return AIMessage(f"answer {number}")
        names = self.rng.choices(["look", "pay", "tell", "fail", "none"], k=self.rng.randint(1, 4))
        calls = [
            {"name": name, "args": {"thing": f"{i}/{number}"}, "id": f"{i}/{number}"}
            for i, name in enumerate(names)
        ]
        return AIMessage("", tool_calls=calls)


def decide(rng: random.Random, interrupts: Any) -> Any:
    """What a person says to each call that waits."""
    decisions = []
    for request in interrupts[0].value["action_requests"]:
        edited = {"name": request["name"], "args": {"thing": f"edited {rng.random()}"}}
        kind = rng.choice(["approve", "edit", "reject", "respond"])
        more = {"edit": {"edited_action": edited}, "approve": {}}
        decisions.append({"type": kind} | more.get(kind, {"message": f"said {rng.random()}"}))
    return Command(resume={"decisions": decisions})


class Oracle:
    """The agent's own messages of a turn, from snapshots of its state."""

    def __init__(self, known: set[str | None]) -> None:
        self.known, self.last = known, list[BaseMessage]()
        self.messages = dict[str | None, BaseMessage]()
        self.summarized = set[str | None]()

    def see(self, messages: list[BaseMessage]) -> None:
        """Take note of a state: what a summary replaces stays, what else is gone was taken back."""
        there = {message.id for message in messages}
        if summaries(messages) - summaries(self.last):
            self.summarized |= self.messages.keys() - there
        kept = there | self.summarized
        self.messages = {name: m for name, m in self.messages.items() if name in kept}
        self.messages |= {m.id: m for m in messages if m.id not in self.known}
        self.last = messages

    def told(self) -> list[Any]:
        """What a session should hand out: results behind calls, and one a call."""
        hidden = summaries([*self.messages.values()])
        said = [m for m in self.messages.values() if m.type != "system" and m.id not in hidden]
        results = {m.tool_call_id: m for m in reversed(said) if isinstance(m, ToolMessage)}
        first = [m for m in said if m in results.values() and m.text != NO_RESULT]
        ordered: list[BaseMessage] = []
        for message in said:
            if message.type != "tool":
                calls = [call["id"] for call in getattr(message, "tool_calls", [])]
                own = [m for m in first if getattr(m, "tool_call_id", None) in calls]
                ordered += [message, *own]
        return told(ordered)


def summaries(messages: Sequence[BaseMessage]) -> set[str | None]:
    return {m.id for m in messages if m.additional_kwargs.get("lc_source") == "summarization"}


def told(messages: Sequence[BaseMessage]) -> list[Any]:
    calls = [[c["id"] for c in getattr(m, "tool_calls", [])] for m in messages]
    return [(m.id, m.type, m.text, *own) for m, own in zip(messages, calls, strict=True)]


async def each(states: Iterable[Any]) -> AsyncIterator[Any]:
    for state in states:
        yield state


async def run(seed: int, make: Make, client: Any, key_prefix: str) -> None:
    """One random agent and some random turns."""
    rng = random.Random(seed)
    keeps = [MemorystoreSaver(client, key_prefix=key_prefix, keep=keep) for keep in (None, 1, 2, 3)]
    saver: Any = rng.choice([None, None, InMemorySaver(), InMemorySaver(), *keeps])
    options: dict[str, Any] = {"stream_mode": "values"}
    if saver is not None:
        options["durability"] = rng.choice(["sync", "async", "exit"])
    way = rng.choice(["stream", "astream"])
    middleware = middleware_of(rng, make, saver)
    schema: Any = DeepState if rng.random() < 0.3 else None
    parts: Any = {"middleware": middleware, "checkpointer": saver, "state_schema": schema}
    agent = create_agent(Random(rng=rng), [look, pay, tell, fail], **parts)
    config, history = thread(f"r{seed}"), make(f"r{seed}")
    seen: set[str | None] = set()
    expected: list[Any] = []
    for number in range(rng.randint(2, 5)):
        oracle = Oracle(seen | {message.id for message in history.messages})
        given: Any = {"messages": [HumanMessage(f"question {number} of eve@example.com")]}
        if saver is not None and seen and rng.random() < 0.2 and not agent.get_state(config).next:
            by_hand = [HumanMessage(f"by hand {number}"), AIMessage("noted")]
            agent.update_state(config, {"messages": by_hand})
        ended = False
        while not ended:
            waiting = None
            try:
                stream: Any = getattr(agent, way)(given, config, **options)
                async for state in stream if way == "astream" else each(stream):
                    waiting = state.get("__interrupt__", waiting)
                    oracle.see(state.get("messages", oracle.last))
            except RuntimeError:
                if saver is None or rng.random() < 0.5:
                    break
                given = None
                continue
            if waiting and rng.random() < 0.15:
                break  # nobody answers
            ended, given = not waiting, waiting and decide(rng, waiting)
        if ended:
            expected += oracle.told()
        # A reminder of a call that failed may stay in the agent's messages, and then it is stored.
        both = (*oracle.messages.values(), *oracle.last)
        seen |= {m.id for m in both if ended or m.text != REMINDER}
        stored = [m for m in history.messages if m.text != NO_RESULT]  # which reading adds
        assert told(stored) == expected, f"seed {seed}, turn {number}, {saver!r}, {way}"


@pytest.mark.parametrize("first", range(0, RUNS, 20))
async def test_session_is_what_the_agent_says(
    make: Make, client: Any, key_prefix: str, first: int
) -> None:
    """Parallel tools, decisions, limits, Commands, guards, retries and summaries at random."""
    for seed in range(first, first + 20):
        await run(seed, make, client, key_prefix)
