"""A scripted chat model and small helpers for the tests of agents."""

import re
from collections.abc import Callable, Iterator
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


def hooks(name: str = "Hooks", **given: Callable[[Any], Any]) -> Any:
    """A middleware that does what a test says at each hook, given the messages, and may jump."""

    def method(do: Callable[[Any], Any]) -> Any:
        return hook_config(can_jump_to=["end"])(lambda self, state, runtime: do(state["messages"]))

    return type(name, (AgentMiddleware,), {hook: method(do) for hook, do in given.items()})()


def look_up(thing: str) -> str:
    """Look something up."""
    return f"facts about {thing}"


def call(*things: str) -> AIMessage:
    """A reply that looks things up."""
    calls = [{"name": "look_up", "args": {"thing": each}, "id": f"call-{each}"} for each in things]
    return AIMessage("", tool_calls=calls)


def ask(text: str) -> dict[str, Any]:
    return {"messages": [HumanMessage(text)]}


def say(agent: Any, *questions: str) -> list[Any]:
    """Ask one question after the other, and return what each call ended with."""
    return [agent.invoke(ask(question), THREAD) for question in questions]


def words(messages: list[BaseMessage]) -> list[str]:
    return [message.text for message in messages]


def remembering(
    history: Any, replies: list[Any], *others: Any, saver: Any = None, **options: Any
) -> tuple[Any, Scripted]:
    """An agent with ChatHistoryMiddleware and others after it, and its model."""
    model = Scripted(replies=replies)
    options |= {"middleware": [ChatHistoryMiddleware(history), *others], "checkpointer": saver}
    return create_agent(model, [look_up], **options), model


def nowhere(**options: Any) -> redis.Redis:
    """A client that must not be used: nothing listens where it connects to."""
    return redis.Redis(port=1, retry=NO_RETRY, **options)


def thread(name: str) -> Any:
    """The config of a thread."""
    return {"configurable": {"thread_id": name}}


THREAD = thread("ada/1")


async def drain(agent: Any, way: str, given: Any, mode: Any = "values") -> list[Any]:
    """Run one turn as a stream."""
    if way == "stream":
        return [*agent.stream(given, THREAD, stream_mode=mode)]
    return [chunk async for chunk in agent.astream(given, THREAD, stream_mode=mode)]
