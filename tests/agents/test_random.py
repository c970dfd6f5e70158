"""ChatHistoryMiddleware in random agents: the session is what the agent's own messages say."""

import random
from collections.abc import Sequence
from typing import Annotated, Any

import pytest
from langchain.agents import AgentState, create_agent
from langchain.agents.middleware import (
    AgentMiddleware,
    HumanInTheLoopMiddleware,
    ModelCallLimitMiddleware,
    ModelRetryMiddleware,
    PIIMiddleware,
    SummarizationMiddleware,
    ToolCallLimitMiddleware,
    ToolRetryMiddleware,
    hook_config,
)
from langchain_core.messages import (
    AIMessage,
    BaseMessage,
    HumanMessage,
    RemoveMessage,
    SystemMessage,
    ToolMessage,
)
from langchain_core.tools import InjectedToolCallId, tool
from langgraph.channels.delta import DeltaChannel
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph.message import _messages_delta_reducer
from langgraph.types import Command

from memorystore_chat.agents import ChatHistoryMiddleware
from memorystore_chat.checkpoint import MemorystoreSaver
from scripted import Make, Scripted, thread

REMINDER = "(a reminder)"
RUNS = 120
"""Of 1,000 runs of this test none was wrong when it was written."""


class DeltaState(AgentState[Any]):
    """The state of a deep agent."""

    messages: Annotated[list[Any], DeltaChannel(_messages_delta_reducer, snapshot_frequency=5)]


@tool
def look(thing: str) -> str:
    """Look."""
    return f"seen {thing}"


@tool
def pay(thing: str) -> str:
    """Pay."""
    return f"paid {thing} to ada@example.com"


@tool
def tell(thing: str, tool_call_id: Annotated[str, InjectedToolCallId]) -> Any:
    """Tell more than a result."""
    result = ToolMessage(f"told {thing}", tool_call_id=tool_call_id)
    return Command(update={"messages": [result, HumanMessage(f"a word about {thing}")]})


@tool
def fail(thing: str) -> str:
    """Fail."""
    raise ConnectionError(thing)


class Guard(AgentMiddleware[Any, Any, Any]):
    """Ends a turn at one of its hooks, and may take back what stands last."""

    def __init__(self, rng: random.Random) -> None:
        self.rng, self.where = rng, rng.choice(["agent", "model", "answer"])

    def _ending(self, where: str, state: Any) -> Any:
        if where != self.where or self.rng.random() < 0.7:
            return None
        last = state["messages"][-1]
        back = (
            [RemoveMessage(id=last.id)] if self.rng.random() < 0.5 and last.type != "tool" else []
        )
        return {"messages": [*back, AIMessage("I must not say that.")], "jump_to": "end"}

    @hook_config(can_jump_to=["end"])
    def before_agent(self, state: Any, runtime: Any) -> Any:
        return self._ending("agent", state)

    @hook_config(can_jump_to=["end"])
    def before_model(self, state: Any, runtime: Any) -> Any:
        return self._ending("model", state)

    @hook_config(can_jump_to=["end"])
    def after_model(self, state: Any, runtime: Any) -> Any:
        if state["messages"][-1].type != "ai" or state["messages"][-1].tool_calls:
            return None
        return self._ending("answer", state)


class Reminds(AgentMiddleware[Any, Any, Any]):
    """Adds a message and an instruction before a model is asked."""

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng

    def before_model(self, state: Any, runtime: Any) -> Any:
        if self.rng.random() < 0.6:
            return None
        return {"messages": [SystemMessage("be brief"), HumanMessage(REMINDER)]}


class Exchanges(AgentMiddleware[Any, Any, Any]):
    """Puts another message in the place of a question or a result."""

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng

    def before_model(self, state: Any, runtime: Any) -> Any:
        last = state["messages"][-1]
        if last.text.startswith("[exchanged]") or self.rng.random() < 0.5:
            return None
        if isinstance(last, ToolMessage):
            new: Any = ToolMessage(f"[exchanged] {last.text}", tool_call_id=last.tool_call_id)
        elif isinstance(last, HumanMessage):
            new = HumanMessage(f"[exchanged] {last.text}")
        else:
            return None
        return {"messages": [RemoveMessage(id=last.id), new]}


def replies(rng: random.Random) -> Any:
    """What a model says next: an answer, or some calls side by side."""
    number = iter(range(1000))

    def reply() -> AIMessage:
        if rng.random() < 0.45:
            return AIMessage(f"answer {next(number)}", id=f"ai-{rng.random()}")
        calls = [
            {
                "name": rng.choice(["look", "pay", "tell", "fail"]),
                "args": {"thing": str(next(number))},
                "id": f"call-{rng.random()}",
            }
            for _ in range(rng.randint(1, 4))
        ]
        return AIMessage("", tool_calls=calls)

    def failing() -> AIMessage:
        if rng.random() < 0.06:
            raise RuntimeError("quota")
        return reply()

    return failing


class Endless(Scripted):
    """A model whose replies never end, and which checks what it is asked."""

    replies: list[Any] = []  # noqa: RUF012
    say: Any

    def _next(self, messages: list[BaseMessage]) -> AIMessage:
        before: set[str | None] = set()
        for message in messages:
            if isinstance(message, ToolMessage):
                assert message.tool_call_id in before, "a result that does not follow its call"
            else:
                calls = message.tool_calls if isinstance(message, AIMessage) else []
                before = {call["id"] for call in calls}
        answer: AIMessage = self.say()
        return answer


def agent_of(rng: random.Random, make: Make, saver: Any) -> Any:
    """An agent with some middleware of each kind around the one that is tested."""
    before: list[Any] = [
        PIIMiddleware("email", apply_to_tool_results=True),
        Exchanges(rng),
    ]
    summaries = Scripted(replies=["SUMMARY"] * 99)
    after: list[Any] = [
        ModelCallLimitMiddleware(run_limit=rng.randint(1, 4)),
        ToolCallLimitMiddleware(run_limit=2, exit_behavior=rng.choice(["continue", "end"])),
        ToolCallLimitMiddleware(tool_name="look", run_limit=1, exit_behavior="continue"),
        Guard(rng),
        Reminds(rng),
        SummarizationMiddleware(
            summaries, trigger=("messages", rng.randint(3, 9)), keep=("messages", rng.randint(1, 4))
        ),
    ]
    retries = [
        ToolRetryMiddleware(max_retries=1, initial_delay=0, on_failure="continue"),
        *([ModelRetryMiddleware(max_retries=1, initial_delay=0)] if rng.random() < 0.5 else []),
    ]
    if saver is not None:
        after.append(HumanInTheLoopMiddleware({"pay": True, "tell": rng.random() < 0.5}))
    after = [one for one in after if rng.random() < 0.5]
    rng.shuffle(after)
    memory = ChatHistoryMiddleware(make)
    middleware = [*(one for one in before if rng.random() < 0.4), memory, *after, *retries]
    schema: Any = DeltaState if rng.random() < 0.3 else None
    model = Endless(say=replies(rng))
    return create_agent(
        model,
        [look, pay, tell, fail],
        middleware=middleware,
        checkpointer=saver,
        state_schema=schema,
    )


def decide(rng: random.Random, interrupts: Any) -> Any:
    """What a person says to each call that waits."""
    decisions = []
    for request in interrupts[0].value["action_requests"]:
        edited = {"name": request["name"], "args": {"thing": f"edited {rng.random()}"}}
        decisions.append(
            rng.choice(
                [
                    {"type": "approve"},
                    {"type": "edit", "edited_action": edited},
                    {"type": "reject", "message": f"no {rng.random()}"},
                    {"type": "respond", "message": f"my answer {rng.random()}"},
                ]
            )
        )
    return Command(resume={"decisions": decisions})


def _summaries(messages: Sequence[BaseMessage]) -> set[str | None]:
    return {m.id for m in messages if m.additional_kwargs.get("lc_source") == "summarization"}


class Turn:
    """The oracle: the agent's own messages of a turn, from snapshots of its state."""

    def __init__(self, known: set[str | None]) -> None:
        self.known, self.messages = known, dict[str | None, BaseMessage]()
        self.last: list[BaseMessage] = []
        self.away: set[str | None] = set()

    def see(self, messages: list[BaseMessage]) -> None:
        summarized = _summaries(messages) - _summaries(self.last)
        there = {message.id for message in messages}
        if not summarized:
            self.messages = {
                name: m for name, m in self.messages.items() if name in there | self.away
            }
        else:
            self.away |= self.messages.keys() - there
        for message in messages:
            if message.id not in self.known:
                self.messages[message.id] = message
        self.last = messages

    def told(self) -> list[Any]:
        said = [
            message
            for message in self.messages.values()
            if message.type != "system"
            and message.id not in _summaries([message])
            and not str(message.id).startswith("no-result-")
        ]
        results = [m for m in said if isinstance(m, ToolMessage)]
        ordered: list[BaseMessage] = []
        for message in said:
            if isinstance(message, ToolMessage):
                continue
            calls = [c["id"] for c in message.tool_calls] if isinstance(message, AIMessage) else []
            # Two limits may both give a result of one call; reading hands out the first.
            first = {m.tool_call_id: m for m in reversed(results) if m.tool_call_id in calls}
            ordered += [message, *(m for m in results if m in first.values())]
        return told(ordered)


def told(messages: Sequence[BaseMessage]) -> list[Any]:
    return [
        (
            message.type,
            message.text,
            [call["id"] for call in getattr(message, "tool_calls", [])],
            getattr(message, "tool_call_id", None),
        )
        for message in messages
    ]


async def run(seed: int, make: Make, client: Any, key_prefix: str) -> None:
    """One random agent and some random turns."""
    rng = random.Random(seed)
    savers = [
        None,
        InMemorySaver(),
        *(MemorystoreSaver(client, key_prefix=key_prefix, keep=keep) for keep in (None, 1, 2, 3)),
    ]
    saver, durability = rng.choice(savers), rng.choice(["sync", "async", "exit"])
    agent, way = agent_of(rng, make, saver), rng.choice(["sync", "async"])
    config = thread(f"random/{seed}")
    history = make(f"random/{seed}")
    seen: set[str | None] = set()
    expected: list[Any] = []

    async def call(given: Any, turn: Turn) -> Any:
        waiting = None
        options = {"stream_mode": "values"} | ({"durability": durability} if saver else {})
        stream: Any = (
            agent.astream(given, config, **options)
            if way == "async"
            else agent.stream(given, config, **options)
        )
        async for state in _each(stream):
            waiting = state.get("__interrupt__", waiting)
            if "messages" in state:
                turn.see(state["messages"])
        return waiting

    for number in range(rng.randint(2, 5)):
        turn = Turn(set(seen) | {message.id for message in history.messages})
        given: Any = {"messages": [HumanMessage(f"question {number} of eve@example.com")]}
        if saver is not None and rng.random() < 0.2:
            by_hand = [HumanMessage(f"by hand {number}"), AIMessage("noted")]
            if seen and not agent.get_state(config).next:
                agent.update_state(config, {"messages": by_hand})
        ended = False
        for _ in range(6):
            try:
                waiting = await call(given, turn)
            except (RuntimeError, ConnectionError):
                if saver is None or rng.random() < 0.5:
                    break
                given = None
                continue
            if waiting is None:
                ended = True
                break
            if rng.random() < 0.15:
                break  # nobody answers
            given = decide(rng, waiting)
        if ended:
            expected += turn.told()
        # A reminder of a call that failed may stay in the agent's messages, and then it is stored.
        seen |= {m.id for m in (*turn.messages.values(), *turn.last) if ended or m.text != REMINDER}
        assert told(history.messages) == expected, (
            f"seed {seed}, turn {number}, {type(saver).__name__}, {durability}, {way}"
        )


async def _each(stream: Any) -> Any:
    if hasattr(stream, "__aiter__"):
        async for state in stream:
            yield state
    else:
        for state in stream:
            yield state


@pytest.mark.parametrize("first", range(0, RUNS, 20))
async def test_session_is_what_the_agent_says(
    make: Make, client: Any, key_prefix: str, first: int
) -> None:
    """Parallel tools, decisions, limits, Commands, guards, retries and summaries at random."""
    for seed in range(first, first + 20):
        await run(seed, make, client, key_prefix)
