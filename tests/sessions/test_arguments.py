"""What the functions are given and what they answer: checks, progress, reports."""

import sys
from datetime import timedelta
from typing import Any

import pytest
import redis

from memorystore_chat import sessions
from memorystore_chat.sessions import Report
from memorystore_tutorial import sessions_table
from stored import element


@pytest.mark.parametrize("ttl", [0, -1, 1.5, True, "60", timedelta(days=1)])
def test_a_bad_time_to_live_is_refused(client: redis.Redis, ttl: int | None) -> None:
    """Before anything is set; and nobody sets all sessions of a server by leaving something out."""
    error = ValueError if type(ttl) is int else TypeError
    with pytest.raises(error, match=r"ttl is .*; it takes a whole number of seconds from 1"):
        sessions.expire(client, key_prefix="x", ttl=ttl, dry_run=False)
    with pytest.raises(ValueError, match=r"would expire every session.*all_sessions=True"):
        sessions.expire(client, ttl=60, dry_run=False)


def test_reports_are_sentences() -> None:
    """The repr says what was done, what was not, and why."""
    assert repr(Report("delete", True, 12, 3400, 1_250_000)) == (
        "Would delete 12 sessions (3,400 messages, 1.2 MB); "
        "nothing was changed, dry_run=False does it."
    )
    assert repr(Report("delete", False, 1, 1, 99, missing=2, undated=3, changed=1)) == (
        "Deleted 1 session (1 message, less than 0.1 MB); 2 not found; 3 left because their age "
        "is not known; 1 left because they were appended to meanwhile."
    )
    assert repr(Report("expire", True, 1, 2, 3)) == (
        "Would set the time to live of 1 session (2 messages, less than 0.1 MB); "
        "nothing was changed, dry_run=False does it."
    )
    assert repr(Report("expire", False, 2, 3, 4)) == (
        "Set the time to live of 2 sessions (3 messages, less than 0.1 MB)."
    )
    assert repr(Report("load", False, existing=2, conflicting=1)) == (
        "Loaded 0 sessions (0 messages, less than 0.1 MB); 2 there already; "
        "1 left out because something else is there."
    )
    assert repr(Report("copy", True, 1, 2, 3, unreadable=1)) == (
        "Would copy 1 session (2 messages, less than 0.1 MB); 1 message cannot be read; "
        "nothing was changed, dry_run=False does it."
    )


def test_progress_is_shown_only_where_somebody_sees_it(
    client: redis.Redis,
    key_prefix: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Not unless asked for, not in a file, and in a notebook, a terminal or when insisted on."""
    monkeypatch.delitem(sys.modules, "ipykernel", raising=False)
    client.rpush(f"{key_prefix}a", element())
    sessions.delete(client, key_prefix=key_prefix)
    sessions.delete(client, key_prefix=key_prefix, progress=True)
    assert capsys.readouterr() == ("", "")
    sessions.delete(client, ["a"], key_prefix=key_prefix, progress="always")
    assert "Deleting: 100%" in capsys.readouterr().err
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    sessions.delete(client, key_prefix=key_prefix, progress=True)
    assert "1 sessions" in capsys.readouterr().err


def test_progress_without_tqdm_says_what_to_install(
    client: redis.Redis, key_prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "tqdm.auto", None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'memorystore-chat\[tutorial\]'"):
        sessions.delete(client, key_prefix=key_prefix, progress="always")


@pytest.mark.parametrize(
    ("error", "options", "message"),
    [
        (TypeError, {"ids": "abc"}, r"ids is 'abc'; it takes a list of session ids"),
        (TypeError, {"ids": 7}, r"ids is 7; it takes a list of session ids"),
        (TypeError, {"ids": [1]}, r"a session id is 1, of type int; it takes text"),
        (ValueError, {"ids": ["\ud800"]}, r"a session id is .*, which UTF-8 cannot hold"),
        (TypeError, {"key_prefix": b"x"}, r"key_prefix is b'x', of type bytes; it takes text"),
        (TypeError, {"key_prefix": None}, r"key_prefix is None, of type NoneType; it takes text"),
        (ValueError, {"idle_for": 0}, r"idle_for is 0; it takes a timedelta or seconds, more than"),
        (TypeError, {"idle_for": True}, r"idle_for is True; it takes a timedelta or seconds"),
        (TypeError, {"idle_for": "1d"}, r"idle_for is '1d'; it takes a timedelta or seconds"),
        (ValueError, {"idle_for": float("nan")}, r"idle_for is nan; it takes a timedelta or sec"),
        (ValueError, {"idle_for": 1e300}, r"idle_for is 1e\+300; it takes a timedelta or seconds"),
        (TypeError, {"progress": 1}, r"progress is 1, of type int; it takes True, False or 'alwa"),
        (ValueError, {"progress": "yes"}, r"progress is 'yes'; it takes True, False or 'always'"),
        (TypeError, {"dry_run": None}, r"dry_run is None, of type NoneType; it takes True or Fal"),
        (TypeError, {"all_sessions": 1}, r"all_sessions is 1, of type int; it takes True or False"),
    ],
)
def test_bad_options_are_refused(
    client: redis.Redis, error: type[Exception], options: dict[str, Any], message: str
) -> None:
    with pytest.raises(error, match=message):
        sessions.delete(client, **{"key_prefix": "x", "dry_run": False, **options})


@pytest.mark.parametrize("count", [0, -1, True, 1.5, None])
def test_a_bad_count_is_refused_by_the_call(client: redis.Redis, count: Any) -> None:
    """Not only when the first session is asked for."""
    error = ValueError if type(count) is int else TypeError
    with pytest.raises(error, match=r"count is .*; it takes a whole number of keys from 1"):
        sessions.scan(client, count=count)
    with pytest.raises(error, match=r"limit is .*; it takes a whole number of sessions from 1"):
        sessions_table(client, limit=count)


@pytest.mark.parametrize("client", ["redis://localhost", None, redis.asyncio.Redis()])
def test_what_is_no_client_is_refused(client: Any) -> None:
    for call in (
        lambda: list(sessions.scan(client, key_prefix="a")),
        lambda: sessions_table(client, key_prefix="a"),
        lambda: sessions.delete(client, key_prefix="a"),
        lambda: sessions.expire(client, key_prefix="a", ttl=1),
        lambda: sessions.export(client, "sessions.jsonl", key_prefix="a"),
        lambda: sessions.load(client, "sessions.jsonl"),
        lambda: sessions.from_langchain_community(client),
    ):
        with pytest.raises(TypeError, match=r"it takes a redis\.Redis"):
            call()
