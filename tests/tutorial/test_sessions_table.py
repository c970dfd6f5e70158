"""The table of sessions."""

import re
from datetime import timedelta

import redis

from memorystore_chat import sessions
from memorystore_tutorial import sessions_table
from stored import UNTIMED, element


def test_the_table_shows_the_sessions_used_last(client: redis.Redis, key_prefix: str) -> None:
    """Newest first, in words for people, and a sequence of the sessions themselves."""
    day, minute = timedelta(days=1), timedelta(minutes=1)
    client.rpush(f"{key_prefix}old", *[element("x" * 1000, ago=3 * day)] * 1200)
    client.rpush(f"{key_prefix}new", element())
    client.expire(f"{key_prefix}new", day * 1000)
    client.rpush(f"{key_prefix}mid", element(ago=90 * minute), element(ago=2 * minute))
    client.expire(f"{key_prefix}mid", 60 * minute)
    client.rpush(f"{key_prefix}undated", UNTIMED)
    shown = sessions_table(client, key_prefix=key_prefix)
    assert all(isinstance(session, sessions.Session) for session in shown)
    title, _, heading, _, *lines = (re.split(r" {2,}", row) for row in str(shown).splitlines())
    assert title == ["4 sessions"]
    assert heading == ["session", "messages", "last activity", "expires in", "size"]
    assert lines == [
        ["new", "1", "just now", "1,000 days", "under 1 kB"],
        ["mid", "2", "2 minutes ago", "1 hour", "under 1 kB"],
        ["old", "1,200", "3 days ago", "never", lines[2][-1]],
        ["undated", "1", "unknown", "never", "under 1 kB"],
    ]
    assert re.fullmatch(r"1\.\d MB", lines[2][-1])
    assert str(sessions_table(client, key_prefix="nobody's:")) == "No sessions."
