"""What of a stored conversation can be sent to a model as it is.

Models refuse a tool's result without its call, a call without its result, and (Gemini) a call that
follows neither a user's message nor a result:
https://ai.google.dev/gemini-api/docs/function-calling
"""

from collections.abc import Iterator, Sequence
from typing import TypeAlias, cast

from langchain_core.messages import (
    AIMessage,
    BaseMessage,
    ChatMessage,
    FunctionMessage,
    HumanMessage,
    SystemMessage,
    ToolMessage,
)

_Result: TypeAlias = ToolMessage | FunctionMessage
_Key: TypeAlias = tuple[type[BaseMessage], str]

NO_RESULT = "No result of this call was stored."
"""What stands in for the result of a call that has none."""


def sendable(messages: Sequence[BaseMessage], *, cut: bool) -> list[BaseMessage]:
    """The messages as a model takes them.

    Args:
        messages: A conversation or its end, oldest first.
        cut: Whether older messages may have been cut off. Then the result begins at the first
            user's message, and is empty if there is none. So it does in any case if a call or a
            result comes before that, since a model calls only when it was asked.

    Example:
        >>> conversation = [
        ...     ToolMessage("7", tool_call_id="a"),
        ...     HumanMessage("And tomorrow?"),
        ...     AIMessage("", tool_calls=[{"name": "forecast", "args": {}, "id": "b"}]),
        ... ]
        >>> [message.text for message in sendable(conversation, cut=True)]
        ['And tomorrow?', '', 'No result of this call was stored.']
    """
    return _answered(messages[_beginning(messages, cut) :])


def _beginning(messages: Sequence[BaseMessage], cut: bool) -> int:
    start = next((i for i, message in enumerate(messages) if is_users(message)), len(messages))
    if not (cut or any(is_result(message) or _calls(message) for message in messages[:start])):
        return 0
    while 0 < start < len(messages) and isinstance(messages[start - 1], SystemMessage):
        start -= 1
    return start


def is_result(message: BaseMessage) -> bool:
    """Whether a message is what a tool gave, from which a model goes on."""
    return isinstance(message, ToolMessage | FunctionMessage)


def is_users(message: BaseMessage) -> bool:
    """Whether a message is the user's."""
    return isinstance(message, HumanMessage) or (
        isinstance(message, ChatMessage) and message.role in ("user", "human")
    )


def _answered(messages: Sequence[BaseMessage]) -> list[BaseMessage]:
    """The messages, in which each call has one result right after it and each result a call."""
    answered: list[BaseMessage] = []
    for message, results in _exchanges(messages):
        answered += _mended(message, results)
    return answered


def _exchanges(
    messages: Sequence[BaseMessage],
) -> Iterator[tuple[BaseMessage | None, list[_Result]]]:
    """Each message with the results that follow it; None stands before the first message."""
    message: BaseMessage | None = None
    results: list[_Result] = []
    for following in messages:
        if isinstance(following, ToolMessage | FunctionMessage):
            results.append(following)
            continue
        yield message, results
        message, results = following, []
    yield message, results


def _mended(message: BaseMessage | None, results: list[_Result]) -> list[BaseMessage]:
    if message is None:
        return []
    waiting = _calls(message)
    if not waiting:
        return [message]
    mended: list[BaseMessage] = [message]
    for result in results:
        key = _key(result)
        if key in waiting:
            del waiting[key]
            mended.append(result)
    if malformed := {key for key, stand_in in waiting.items() if stand_in is None}:
        mended[:1] = _without(malformed, cast("AIMessage", message))
    return mended + [stand_in for stand_in in waiting.values() if stand_in is not None]


def _without(malformed: set[_Key], message: AIMessage) -> list[BaseMessage]:
    """The message without calls that nobody could carry out; none if nothing else is in it.

    A stand-in would not do: OpenAI's models are sent malformed calls and Google's are not.
    """
    calls = message.invalid_tool_calls
    left = [call for call in calls if (ToolMessage, call["id"] or "") not in malformed]
    raw = ("tool_calls", "function_call")
    kwargs = {k: v for k, v in message.additional_kwargs.items() if k not in raw}
    update = {"invalid_tool_calls": left, "additional_kwargs": kwargs}
    whole = message.model_copy(update=update)
    return [whole] if whole.content or whole.tool_calls or left else []


def _key(result: _Result) -> _Key:
    if isinstance(result, ToolMessage):
        return ToolMessage, result.tool_call_id
    return FunctionMessage, result.name


def _calls(message: BaseMessage | None) -> dict[_Key, BaseMessage | None]:
    """The calls in a message, by what answers them, and what stands in for the result of each.

    None does for a malformed call.
    """
    if not isinstance(message, AIMessage):
        return {}
    calls: dict[_Key, BaseMessage | None] = {
        (ToolMessage, call["id"] or ""): ToolMessage(
            NO_RESULT,
            tool_call_id=call["id"] or "",
            name=call["name"],
            id=f"no-result-{message.id}-{call['id']}",
            status="error",
        )
        for call in message.tool_calls
    }
    calls |= {(ToolMessage, call["id"] or ""): None for call in message.invalid_tool_calls}
    # Google's models name their calls here as well; on its own it is OpenAI's older form.
    function = message.additional_kwargs.get("function_call")
    if not calls and isinstance(function, dict) and isinstance(function.get("name"), str):
        name = function["name"]
        calls[FunctionMessage, name] = FunctionMessage(
            content=NO_RESULT, name=name, id=f"no-result-{message.id}-{name}"
        )
    return calls
