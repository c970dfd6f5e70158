"""The chat model of the tutorial's offline mode."""

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from langchain_core.language_models import BaseChatModel, LanguageModelInput
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage
from langchain_core.messages.ai import UsageMetadata
from langchain_core.messages.tool import tool_call_chunk
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult
from langchain_core.runnables import Runnable
from langchain_core.tools import BaseTool
from langchain_core.utils.function_calling import convert_to_openai_tool

from memorystore_tutorial.demo import answer
from memorystore_tutorial.demo_tools import Tool


class DemoChatModel(BaseChatModel):
    """A small rule-based chat model that runs offline and reads its history.

    It answers from the messages it is given and from nothing else. It remembers a name and
    favorite things, knows what was asked before, counts and summarizes the conversation, and
    calls a bound tool for a question that its name or its description answers: "What is the
    weather in Paris?" for ``get_weather(city)``. All else gets a line that says what it can do.

    It streams word by word and reports usage, with words for tokens. Options of real models that
    it has no use for, such as ``temperature``, are accepted and ignored.

    Args:
        model: The name it reports in ``response_metadata["model_name"]``.
        stop: A reply ends before the first of these strings, or of those given to a call.

    Example:
        >>> from langchain_core.messages import AIMessage, HumanMessage
        >>> history = [HumanMessage("My name is Ada."), AIMessage("Nice to meet you, Ada.")]
        >>> DemoChatModel().invoke([*history, HumanMessage("What is my name?")]).text
        'Your name is Ada.'
        >>> DemoChatModel().invoke("What is my name?").text
        'You have not told me your name yet.'
    """

    model: str = "demo"
    stop: list[str] | None = None

    @property
    def _llm_type(self) -> str:
        return "memorystore-chat-demo"

    def bind_tools(
        self,
        tools: Sequence[dict[str, Any] | type | Callable[..., Any] | BaseTool],
        *,
        tool_choice: str | bool | dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> Runnable[LanguageModelInput, AIMessage]:
        """Return the model with tools it may call.

        Args:
            tools: Functions, LangChain tools, pydantic classes, typed dicts or JSON schemas.
            tool_choice: ``None`` or ``"auto"``: a call if the question is one for a tool.
                ``"any"``, ``"required"`` or ``True``: always a call; an argument that the text
                does not give is then made up from it. A tool's name: always that tool.
                ``"none"``: never.
            **kwargs: Bound as they are.

        Raises:
            ValueError: `tool_choice` names none of the tools.

        Example:
            >>> def get_weather(city: str) -> str:
            ...     "Look up the weather."
            ...     return f"It is sunny in {city}."
            >>> model = DemoChatModel().bind_tools([get_weather])
            >>> model.invoke("What is the weather in Paris?").tool_calls[0]["args"]
            {'city': 'Paris'}
        """
        schemas = [convert_to_openai_tool(each) for each in tools]
        if isinstance(tool_choice, dict):
            tool_choice = str(tool_choice.get("function", tool_choice).get("name"))
        choice = {None: "auto", False: "auto", True: "any", "required": "any"}.get(
            tool_choice, tool_choice
        )
        names = [schema["function"]["name"] for schema in schemas]
        if choice not in ("auto", "any", "none", *names):
            raise ValueError(
                f"tool_choice must be 'auto', 'any', 'none' or one of {names}, not {choice!r}."
            )
        return self.bind(tools=schemas, tool_choice=choice, **kwargs)

    def _generate(
        self, messages: list[BaseMessage], stop: list[str] | None = None, *_: Any, **kwargs: Any
    ) -> ChatResult:
        return ChatResult(generations=[ChatGeneration(message=self._reply(messages, stop, kwargs))])

    def _stream(
        self, messages: list[BaseMessage], stop: list[str] | None = None, *_: Any, **kwargs: Any
    ) -> Iterator[ChatGenerationChunk]:
        reply = self._reply(messages, stop, kwargs)
        *words, last = re.findall(r"\s*\S+\s*$|\s*\S+", reply.text) or [""]
        for word in words:
            yield ChatGenerationChunk(message=AIMessageChunk(content=word))
        calls = [
            tool_call_chunk(
                name=call["name"],
                args=json.dumps(call["args"], ensure_ascii=False),
                id=call["id"],
                index=index,
            )
            for index, call in enumerate(reply.tool_calls)
        ]
        yield ChatGenerationChunk(
            message=AIMessageChunk(
                content=last,
                tool_call_chunks=calls,
                usage_metadata=reply.usage_metadata,
                response_metadata=reply.response_metadata,
                chunk_position="last",
            )
        )

    def _reply(
        self, messages: list[BaseMessage], stop: list[str] | None, kwargs: Mapping[str, Any]
    ) -> AIMessage:
        tools = [Tool.from_schema(schema) for schema in kwargs.get("tools") or ()]
        reply = answer(messages, tools, kwargs.get("tool_choice") or "auto")
        text = reply if isinstance(reply, str) else ""
        calls = [] if isinstance(reply, str) else reply
        for end in stop or self.stop or ():
            text = text.partition(end)[0] if end else text
        read = sum(len(message.text.split()) for message in messages)
        written = len(text.split()) + sum(len(json.dumps(call["args"]).split()) for call in calls)
        return AIMessage(
            text,
            tool_calls=calls,
            usage_metadata=UsageMetadata(
                input_tokens=read, output_tokens=written, total_tokens=read + written
            ),
            response_metadata={
                "model_name": kwargs.get("model") or self.model,
                "finish_reason": "tool_calls" if calls else "stop",
            },
        )
