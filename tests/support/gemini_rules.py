"""Which conversations Gemini refuses, and in which words.

Vertex AI answers each of these with HTTP 400 and the status INVALID_ARGUMENT. The sentences are
Google's own, as reported in langchain-ai/langchain#27799 and #30140, google-gemini/gemini-cli#11814
and #26956, pydantic/pydantic-ai#2032 and crewAIInc/crewAI#7134.
"""

from typing import Any

NO_CONTENTS = "Unable to submit request because at least one contents field is required."
ROLE = "Please use a valid role: user, model."
NO_PARTS = "Unable to submit request because it must include at least one parts field."
EMPTY_TEXT = "Unable to submit request because it must have a text parameter."
CALL_TURN = (
    "Please ensure that function call turn comes immediately after a user turn or after a function "
    "response turn."
)
RESPONSE_COUNT = (
    "Please ensure that the number of function response parts is equal to the number of function "
    "call parts of the function call turn."
)
LAST_TURN = "Please ensure that multiturn requests end with a user role or a function response."


def refusal(contents: list[dict[str, Any]]) -> str | None:
    """Say what Gemini says to a request's contents, or None if it accepts them."""
    role, pending = "", 0  # of the turn before
    for content in contents:
        parts = content.get("parts") or []
        if content.get("role", "user") not in ("user", "model"):
            return ROLE
        if not parts:
            return NO_PARTS
        # A signature may come in a part of its own, with an empty text.
        if not all(any(v for key, v in part.items() if key != "thought") for part in parts):
            return EMPTY_TEXT
        if sum("functionResponse" in part for part in parts) != pending:
            return RESPONSE_COUNT
        pending = sum("functionCall" in part for part in parts)
        if pending and role != "user":
            return CALL_TURN
        role = content.get("role", "user")
    if not contents:
        return NO_CONTENTS
    return LAST_TURN if role == "model" else None
