"""A scripted chat model and small helpers for the tests of agents."""

import re
from collections.abc import Callable, Iterator, Sequence
from typing import Annotated, Any

import redis
import redis.asyncio
from langchain.agents import AgentState, create_agent
from langchain.agents.middleware import AgentMiddleware, hook_config
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage, HumanMessage
from langchain_core.messages.tool import tool_call_chunk
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult
from langgraph.channels.delta import DeltaChannel
from langgraph.graph.message import _messages_delta_reducer
from pydantic import Field
from redis.backoff import NoBackoff
from redis.retry import Retry

from memorystore_chat import MemorystoreChatMessageHistory
from memorystore_chat.agents import ChatHistoryMiddleware

Make = Callable[..., MemorystoreChatMessageHistory]
NO_RETRY = Retry(NoBackoff(), 0)


class DeepState(AgentState[Any]):
    """The state of a deep agent."""

    messages: Annotated[list[Any], DeltaChannel(_messages_delta_reducer, snapshot_frequency=5)]


class Scripted(BaseChatModel):
    """Says what a test lists, remembers what it was asked, and streams word by word."""

    replies: list[Any]
    asked: list[list[BaseMessage]] = Field(default_factory=list)

    @property
    def _llm_type(self) -> str:
        return "scripted"

    def bind_tools(self, tools: Any, **options: Any) -> Any:
        return self

    def _next(self, messages: list[BaseMessage]) -> AIMessage:
        self.asked.append(list(messages))
        reply = self.replies.pop(0)
        if isinstance(reply, Exception):
            raise reply
        if callable(reply):
            reply = reply()
        return AIMessage(reply) if isinstance(reply, str) else reply

    def _generate(self, messages: list[BaseMessage], *_: Any, **__: Any) -> ChatResult:
        return ChatResult(generations=[ChatGeneration(message=self._next(messages))])

    def _stream(
        self, messages: list[BaseMessage], *_: Any, **__: Any
    ) -> Iterator[ChatGenerationChunk]:
        reply = self._next(messages)
        for word in re.findall(r"\S+ ?", str(reply.content)) or [""]:
            yield ChatGenerationChunk(message=AIMessageChunk(content=word))
        for index, call in enumerate(reply.tool_calls):
            args = str(call["args"]).replace("'", '"')
            chunk = tool_call_chunk(name=call["name"], args=args, id=call["id"], index=index)
            yield ChatGenerationChunk(message=AIMessageChunk(content="", tool_call_chunks=[chunk]))


class Hooks(AgentMiddleware[Any, Any, Any]):
    """Does at each hook what a test says, given the messages; each may jump to the end."""

    def __init__(self, **hooks: Any) -> None:
        self.hooks = hooks

    def _at(self, hook: str, state: Any) -> Any:
        return self.hooks[hook](state["messages"]) if hook in self.hooks else None

    @hook_config(can_jump_to=["end"])
    def before_agent(self, state: Any, runtime: Any) -> Any:
        return self._at("before_agent", state)

    @hook_config(can_jump_to=["end"])
    def before_model(self, state: Any, runtime: Any) -> Any:
        return self._at("before_model", state)

    @hook_config(can_jump_to=["end"])
    def after_model(self, state: Any, runtime: Any) -> Any:
        return self._at("after_model", state)


def look_up(thing: str) -> str:
    """Look something up."""
    return f"facts about {thing}"


def call(*things: str) -> AIMessage:
    """A reply that looks things up."""
    return AIMessage(
        "",
        tool_calls=[
            {"name": "look_up", "args": {"thing": thing}, "id": f"call-{thing}"} for thing in things
        ],
    )


def ask(text: str, *before: BaseMessage) -> dict[str, Any]:
    return {"messages": [*before, HumanMessage(text)]}


def say(agent: Any, *questions: str) -> Any:
    """Ask one question after the other, and return what the last call ended with."""
    ended: Any = None
    for question in questions:
        ended = agent.invoke(ask(question), THREAD)
    return ended


def words(messages: list[BaseMessage]) -> list[str]:
    return [message.text for message in messages]


def texts(messages: list[BaseMessage]) -> list[tuple[str, str]]:
    return [(message.type, message.text) for message in messages]


def remembering(
    history: Any,
    replies: list[Any],
    *others: Any,
    last: bool = False,
    saver: Any = None,
    tools: Sequence[Any] = (look_up,),
    **options: Any,
) -> tuple[Any, Scripted]:
    """An agent with ChatHistoryMiddleware first (or last) and others, and its model."""
    model = Scripted(replies=replies)
    memory = ChatHistoryMiddleware(history)
    middleware = [*others, memory] if last else [memory, *others]
    options |= {"middleware": middleware, "checkpointer": saver}
    return create_agent(model, [*tools], **options), model


def nowhere() -> redis.Redis:
    """A client that must not be used: nothing listens where it connects to."""
    return redis.Redis(port=1, retry=NO_RETRY)


THREAD: Any = {"configurable": {"thread_id": "ada/1"}}


async def drain(
    agent: Any, how: str, given: Any, mode: Any = "values", config: Any = THREAD
) -> list[Any]:
    """Run one turn in one of the four ways."""
    if how == "invoke":
        return [agent.invoke(given, config)]
    if how == "ainvoke":
        return [await agent.ainvoke(given, config)]
    if how == "stream":
        return [*agent.stream(given, config, stream_mode=mode)]
    return [chunk async for chunk in agent.astream(given, config, stream_mode=mode)]


def thread(name: str) -> Any:
    """The config of a thread."""
    return {"configurable": {"thread_id": name}}
