"""Scripts by their old place, until every room imports them from `commands`."""

from memorystore_chat.commands import Script, script

__all__ = ["Script", "script"]
