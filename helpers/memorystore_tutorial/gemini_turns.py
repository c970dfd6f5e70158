"""What Gemini accepts as a conversation: mended where that loses nothing, else explained.

The rules are those of https://ai.google.dev/gemini-api/docs/function-calling and of the errors that
Vertex AI answers with: a turn has text or another part, a function call comes right after a user's
turn or a function's response, and each call has its response.
"""

import json
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from langchain_core.messages import (
    AIMessage,
    BaseMessage,
    FunctionMessage,
    HumanMessage,
    SystemMessage,
    ToolMessage,
)

_BLANK = " "


def mended(messages: Sequence[BaseMessage]) -> list[BaseMessage]:
    """Return the messages in turns that Vertex AI accepts.

    An empty answer or instruction is left out, an empty question becomes a blank, so that the
    model's turn still follows a user's. Calls that could not be parsed are not sent, and so
    neither are their results. Of two results of a call the second is sent: the tool's, where a
    history put a stand-in before it. Answers that follow each other become one turn, because a
    call in the second of them would come after neither a question nor a result.

    Example:
        >>> [m.content for m in mended([HumanMessage(""), AIMessage(""), HumanMessage("Hi")])]
        [' ', 'Hi']
    """
    messages = [*_with_tool_calls(messages)]
    messages = [m for i, m in enumerate(messages) if not _is_superseded(messages, i)]
    called = {call["id"] for message in messages for call in _calls(message)}
    answers = [message for message in messages if isinstance(message, AIMessage)]
    unparsed = {call["id"] for message in answers for call in message.invalid_tool_calls} - called
    kept = []
    for message in messages:
        content = message.content
        if isinstance(content, list):
            content = [block for block in content if not _is_empty(block)]
        if isinstance(message, AIMessage | SystemMessage) and not content:
            if not _calls(message):
                continue
        elif isinstance(message, HumanMessage) and not content:
            content = _BLANK
        elif isinstance(message, ToolMessage) and message.tool_call_id in unparsed:
            continue
        changed = content != message.content
        kept.append(message.model_copy(update={"content": content}) if changed else message)
    return _joined(kept)


def refused(messages: Sequence[BaseMessage]) -> str:
    """Say which messages Gemini refuses, and how to mend that."""
    sent = mended(messages)
    faults = [fault for index in range(len(sent)) if (fault := _fault(sent, index))]
    if not faults:
        return (
            "The same request will be refused again: change what the sentence names, in the "
            "messages, the tools or the options of the model."
        )
    return (
        f"{'. '.join(faults)}. The same messages will be refused again. A history hands out "
        "conversations that Gemini accepts: send history.messages as they are, or trim them with "
        'trim_messages(..., start_on="human"). history.repair() lists what cannot be read, and '
        "history.clear() begins anew."
    )


def _with_tool_calls(messages: Iterable[BaseMessage]) -> Iterator[BaseMessage]:
    """The messages with OpenAI's older function calls in today's form.

    ChatVertexAI sends nothing of the older one, which is a turn without parts.
    """
    ids: dict[str, str | None] = {}  # of the calls that wait for a result, by name
    for place, message in enumerate(messages):
        if isinstance(message, FunctionMessage) and message.name in ids:
            if id_ := ids.pop(message.name):
                yield ToolMessage(message.content, name=message.name, tool_call_id=id_)
            continue
        if not isinstance(message, AIMessage) or message.tool_calls:
            yield message
            continue
        kwargs = dict(message.additional_kwargs)
        function = kwargs.pop("function_call", None)
        calls = []
        if isinstance(function, dict) and isinstance(name := function.get("name"), str):
            arguments = None if message.invalid_tool_calls else _parsed(function.get("arguments"))
            ids[name] = None if arguments is None else f"function-{place}"
            if arguments is not None:
                calls = [{"name": name, "args": arguments, "id": ids[name], "type": "tool_call"}]
        update = {"additional_kwargs": kwargs, "tool_calls": calls}
        yield message if function is None else message.model_copy(update=update)


def _parsed(arguments: object) -> dict[str, Any] | None:
    try:
        parsed = json.loads(arguments or "{}") if isinstance(arguments, str) else None
    except ValueError:
        return None
    return parsed if isinstance(parsed, dict) else None


def _answered(following: Iterable[BaseMessage]) -> Iterator[str]:
    """The ids of the calls whose results come next."""
    for message in following:
        if not isinstance(message, ToolMessage):
            return
        yield message.tool_call_id


def _is_superseded(messages: Sequence[BaseMessage], index: int) -> bool:
    """Whether another result of the same call follows."""
    message = messages[index]
    return isinstance(message, ToolMessage) and message.tool_call_id in _answered(
        messages[index + 1 :]
    )


def _joined(messages: Iterable[BaseMessage]) -> list[BaseMessage]:
    """The messages, in which answers that follow each other are one."""
    joined: list[BaseMessage] = []
    last = -1  # the place of the last turn; instructions are none
    for message in messages:
        before = joined[last] if joined else None
        if not (isinstance(message, AIMessage) and isinstance(before, AIMessage)) or _calls(before):
            if not isinstance(message, SystemMessage):
                last = len(joined)
            joined.append(message)
            continue
        update = {
            "content": [*_blocks(before), *_blocks(message)],
            "additional_kwargs": {**before.additional_kwargs, **message.additional_kwargs},
        }
        joined[last] = message.model_copy(update=update)
    return joined


def _blocks(message: BaseMessage) -> list[Any]:
    if isinstance(message.content, list):
        return message.content
    return [{"type": "text", "text": message.content}] if message.content else []


def _fault(messages: Sequence[BaseMessage], index: int) -> str:
    message, place = messages[index], f"Message {index + 1} of {len(messages)}"
    before = next((m for m in reversed(messages[:index]) if not isinstance(m, SystemMessage)), None)
    if names := ", ".join(call["name"] for call in _calls(message)):
        if not isinstance(before, HumanMessage | ToolMessage):
            return f"{place} calls {names}, and neither a question nor a result comes before it"
        answered = {*_answered(messages[index + 1 :])}
        missing = [call["name"] for call in _calls(message) if call["id"] not in answered]
        if missing:
            return f"{place} calls {', '.join(missing)}, and no result comes after it"
    if isinstance(message, ToolMessage):
        calls = {call["id"] for each in messages[:index] for call in _calls(each)}
        if message.tool_call_id not in calls:
            return f"{place} is the result of a call that is not there"
    if index == len(messages) - 1 and isinstance(message, AIMessage):
        return f"{place}, the last one, is an answer, and nothing is asked after it"
    return ""


def _calls(message: BaseMessage) -> list[Any]:
    return list(message.tool_calls) if isinstance(message, AIMessage) else []


def _is_empty(block: str | dict[str, Any]) -> bool:
    if isinstance(block, str):
        return not block
    # A signature may come with an empty text, and has to be sent.
    is_signed = {"extras", "signature", "thought_signature"} & block.keys()
    return block.get("type") == "text" and not block.get("text") and not is_signed
