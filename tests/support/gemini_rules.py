"""Which conversations Gemini refuses, and in which words.

Vertex AI answers each of these with HTTP 400 and the status INVALID_ARGUMENT. The sentences are
Google's own, as reported in langchain-ai/langchain#27799 and #30140, google-gemini/gemini-cli#11814
and #26956, pydantic/pydantic-ai#2032 and crewAIInc/crewAI#7134.
"""

from typing import Any

_MORE = " Learn more: https://cloud.google.com/vertex-ai/generative-ai/docs/model-reference/gemini"
NO_CONTENTS = "Unable to submit request because at least one contents field is required." + _MORE
ROLE = "Please use a valid role: user, model."
NO_PARTS = (
    "Unable to submit request because it must include at least one parts field, which describes "
    "the prompt input." + _MORE
)
EMPTY_TEXT = (
    "Unable to submit request because it must have a text parameter. Add a text parameter and try "
    "again." + _MORE
)
CALL_TURN = (
    "Please ensure that function call turn comes immediately after a user turn or after a function "
    "response turn."
)
RESPONSE_COUNT = (
    "Please ensure that the number of function response parts is equal to the number of function "
    "call parts of the function call turn."
)
RESPONSE_TURN = (
    "Please ensure that function response turn comes immediately after a function call turn."
)
LAST_TURN = "Please ensure that multiturn requests end with a user role or a function response."


def refusal(contents: list[dict[str, Any]]) -> str | None:
    """Say what Gemini says to a request's contents, or None if it accepts them.

    Example:
        >>> refusal([{"role": "user", "parts": [{"text": "Hello"}]}])
        >>> refusal([{"role": "model"}]) == NO_PARTS
        True
    """
    if not contents:
        return NO_CONTENTS
    role, pending = "", 0  # of the turn before
    for content in contents:
        parts = content.get("parts") or []
        if content.get("role", "user") not in ("user", "model"):
            return ROLE
        if not parts:
            return NO_PARTS
        if any(_is_empty(part) for part in parts):
            return EMPTY_TEXT
        calls, responses = _count(parts, "functionCall"), _count(parts, "functionResponse")
        if responses and not pending:
            return RESPONSE_TURN
        if responses != pending:
            return RESPONSE_COUNT
        if calls and role != "user":
            return CALL_TURN
        role, pending = content.get("role", "user"), calls
    return LAST_TURN if role == "model" else None


def _count(parts: list[dict[str, Any]], kind: str) -> int:
    return sum(1 for part in parts if kind in part)


def _is_empty(part: dict[str, Any]) -> bool:
    # A signature may come in a part of its own, with an empty text.
    return not any(value for key, value in part.items() if key != "thought")
