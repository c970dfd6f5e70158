"""Stored sessions for tests, written with plain commands."""

import io
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

from langchain_core.messages import BaseMessage, HumanMessage

from memorystore_chat import codec, sessions

UNTIMED = '{"type":"human","data":{"content":"hi","type":"human"}}'
"""An element that does not say when it was appended."""


def element(text: str = "hi", *, ago: timedelta = timedelta()) -> bytes:
    """A stored message, appended some time ago."""
    moment = int((datetime.now(UTC) - ago).timestamp() * 1000)
    append_id = UUID(int=moment << 80 | 7 << 76 | 2 << 62 | 1)
    return codec.encode([HumanMessage(text)], str(append_id))[0]


def elements(number: int, start: int = 0, text: str = "message") -> list[bytes]:
    """Stored messages, each of an append of its own."""
    return [
        codec.encode([HumanMessage(f"{text} {n}")], codec.new_append_id())[0]
        for n in range(start, start + number)
    ]


def fill(client: Any, key: str, number: int) -> list[bytes]:
    """Append so many messages to a session, and return them."""
    made = elements(number)
    client.rpush(key, *made)
    return made


def stored(client: Any, key: str) -> list[bytes]:
    """The elements of a session."""
    found: list[bytes] = client.lrange(key, 0, -1)
    return found


def said(*texts: object) -> list[BaseMessage]:
    return [HumanMessage(str(text)) for text in texts]


def ids(client: Any, key_prefix: str, **options: Any) -> list[str]:
    return sorted(session.id for session in sessions.scan(client, key_prefix=key_prefix, **options))


def exported(client: Any, key_prefix: str, **options: Any) -> io.BytesIO:
    file = io.BytesIO()
    sessions.export(client, file, key_prefix=key_prefix, **options)
    file.seek(0)
    return file
