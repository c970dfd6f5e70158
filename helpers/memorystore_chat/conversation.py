"""What of a stored conversation can be sent to a model as it is.

Models refuse a tool's result without its call, a call without its result, and (Gemini) a call that
follows neither a user's message nor a result. OpenAI's older form of calls and results
(``additional_kwargs["function_call"]`` alone, FunctionMessage) is handed out as it is stored.
"""

from collections.abc import Sequence

from langchain_core.messages import (
    AIMessage,
    BaseMessage,
    ChatMessage,
    HumanMessage,
    SystemMessage,
    ToolMessage,
)

NO_RESULT = "No result of this call was stored."
"""What stands in for the result of a call that has none."""

NOT_CARRIED_OUT = "The call was not carried out: its arguments were malformed or cut short."
"""What stands in for the result of a malformed call, so that the model learns of it."""


def sendable(messages: Sequence[BaseMessage], *, cut: bool) -> list[BaseMessage]:
    """The messages as a model takes them.

    Args:
        messages: A conversation or its end, oldest first.
        cut: Whether older messages may have been cut off. Then the result begins at the first
            user's message, and is empty if there is none. So it does in any case if a call or a
            result comes before that, since a model calls only when it was asked.
    """
    return _answered(messages[_beginning(messages, cut) :])


def _beginning(messages: Sequence[BaseMessage], cut: bool) -> int:
    start = next((i for i, message in enumerate(messages) if is_users(message)), len(messages))
    if not (cut or any(isinstance(m, ToolMessage) or _stand_ins(m) for m in messages[:start])):
        return 0
    while 0 < start < len(messages) and isinstance(messages[start - 1], SystemMessage):
        start -= 1
    return start


def is_users(message: BaseMessage) -> bool:
    """Whether a message is the user's."""
    return isinstance(message, HumanMessage) or (
        isinstance(message, ChatMessage) and message.role in ("user", "human")
    )


def _answered(messages: Sequence[BaseMessage]) -> list[BaseMessage]:
    """The messages, in which each call has one result right after it and each result a call."""
    answered: list[BaseMessage] = []
    waiting: dict[str, BaseMessage] = {}
    for message in messages:
        if isinstance(message, ToolMessage):
            if waiting.pop(message.tool_call_id, None):
                answered.append(message)
        else:
            answered += [*waiting.values(), message]
            waiting = _stand_ins(message)
    return [*answered, *waiting.values()]


def _stand_ins(message: BaseMessage) -> dict[str, BaseMessage]:
    """What stands in for the result of each call in a message, by the call's id."""
    if not isinstance(message, AIMessage):
        return {}
    calls = [(call["id"] or "", call["name"], NO_RESULT) for call in message.tool_calls]
    calls += [
        (id_, call["name"] or "unknown", NOT_CARRIED_OUT)
        for call in message.invalid_tool_calls
        if (id_ := call["id"]) is not None
    ]
    return {
        id_: ToolMessage(
            text, tool_call_id=id_, name=name, id=f"no-result-{message.id}-{id_}", status="error"
        )
        for id_, name, text in calls
    }
