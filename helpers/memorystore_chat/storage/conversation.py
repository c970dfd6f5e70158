"""What of a stored conversation can be sent to a model as it is.

Models refuse a tool's result without its call, a call without its result, and (Gemini) a call that
follows neither a user's message nor a result:
https://ai.google.dev/gemini-api/docs/function-calling
"""

from collections.abc import Sequence

from langchain_core.messages import (
    AIMessage,
    BaseMessage,
    ChatMessage,
    FunctionMessage,
    HumanMessage,
    SystemMessage,
    ToolMessage,
)

NO_RESULT = "No result of this call was stored."
"""What stands in for the result of a call that has none."""


def sendable(messages: Sequence[BaseMessage], *, cut: bool) -> list[BaseMessage]:
    """The messages as a model takes them.

    Args:
        messages: A conversation or its end, oldest first.
        cut: Whether older messages may have been cut off. Then the result begins at the first
            user's message, and is empty if there is none. So it does in any case if the first
            message is a call or a result, since nobody begins a conversation with one.

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
    first = messages[0] if messages else None
    if not (cut or isinstance(first, ToolMessage | FunctionMessage) or _calls(first)):
        return 0
    start = next((i for i, message in enumerate(messages) if _is_users(message)), len(messages))
    while 0 < start < len(messages) and isinstance(messages[start - 1], SystemMessage):
        start -= 1
    return start


def _is_users(message: BaseMessage) -> bool:
    return isinstance(message, HumanMessage) or (
        isinstance(message, ChatMessage) and message.role in ("user", "human")
    )


def _answered(messages: Sequence[BaseMessage]) -> list[BaseMessage]:
    """The messages, in which each call has one result and each result a call."""
    answered: list[BaseMessage] = []
    waiting: dict[tuple[type, str], BaseMessage] = {}
    for message in messages:
        if isinstance(message, ToolMessage | FunctionMessage):
            if waiting.pop(_answers(message), None) is not None:
                answered.append(message)
            continue
        answered += waiting.values()
        waiting = _calls(message)
        answered.append(message)
    return [*answered, *waiting.values()]


def _answers(result: ToolMessage | FunctionMessage) -> tuple[type, str]:
    if isinstance(result, ToolMessage):
        return ToolMessage, result.tool_call_id
    return FunctionMessage, result.name


def _calls(message: BaseMessage | None) -> dict[tuple[type, str], BaseMessage]:
    """What stands in for the result of each call in the message, by what answers the call."""
    if not isinstance(message, AIMessage):
        return {}
    stand_ins: dict[tuple[type, str], BaseMessage] = {}
    for call in (*message.tool_calls, *message.invalid_tool_calls):
        stand_ins[ToolMessage, call["id"] or ""] = ToolMessage(
            NO_RESULT,
            tool_call_id=call["id"] or "",
            name=call["name"],
            id=f"no-result-{message.id}-{call['id']}",
            status="error",
        )
    # Google's models name their calls here as well; on its own it is OpenAI's older form.
    function = message.additional_kwargs.get("function_call")
    if not stand_ins and isinstance(function, dict) and isinstance(function.get("name"), str):
        name = function["name"]
        stand_ins[FunctionMessage, name] = FunctionMessage(
            content=NO_RESULT, name=name, id=f"no-result-{message.id}-{name}"
        )
    return stand_ins
