"""What only notebooks use: signing in, models, and showing things to the reader."""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from memorystore_chat._environment import Environment, detect_environment
    from memorystore_chat.tutorial import checks, latency
    from memorystore_chat.tutorial._text import say
    from memorystore_chat.tutorial.box import ChatBox, chat_box
    from memorystore_chat.tutorial.conversation import Transcript, transcript
    from memorystore_chat.tutorial.demo_model import DemoChatModel
    from memorystore_chat.tutorial.elsewhere import new_process
    from memorystore_chat.tutorial.environment import sign_in
    from memorystore_chat.tutorial.facts import server_facts
    from memorystore_chat.tutorial.failover import FailOver, fail_over, practice_cluster
    from memorystore_chat.tutorial.instances import create_instance, delete_instance
    from memorystore_chat.tutorial.models import ChatModelError, chat_model
    from memorystore_chat.tutorial.pictures import picture
    from memorystore_chat.tutorial.prefixes import key_prefix
    from memorystore_chat.tutorial.tables import Table, table

__all__ = [
    "ChatBox",
    "ChatModelError",
    "DemoChatModel",
    "Environment",
    "FailOver",
    "Table",
    "Transcript",
    "chat_box",
    "chat_model",
    "checks",
    "create_instance",
    "delete_instance",
    "detect_environment",
    "fail_over",
    "key_prefix",
    "latency",
    "new_process",
    "picture",
    "practice_cluster",
    "say",
    "server_facts",
    "sign_in",
    "table",
    "transcript",
]

# Loaded at first use: the model classes alone take longer to import than all the rest together.
_LATER = {
    "_environment": ("Environment", "detect_environment"),
    "tutorial._text": ("say",),
    "tutorial.box": ("ChatBox", "chat_box"),
    "tutorial.conversation": ("Transcript", "transcript"),
    "tutorial.demo_model": ("DemoChatModel",),
    "tutorial.elsewhere": ("new_process",),
    "tutorial.environment": ("sign_in",),
    "tutorial.facts": ("server_facts",),
    "tutorial.failover": ("FailOver", "fail_over", "practice_cluster"),
    "tutorial.instances": ("create_instance", "delete_instance"),
    "tutorial.models": ("ChatModelError", "chat_model"),
    "tutorial.pictures": ("picture",),
    "tutorial.prefixes": ("key_prefix",),
    "tutorial.tables": ("Table", "table"),
}


def __getattr__(name: str) -> object:
    if name in ("checks", "latency"):
        return import_module(f"memorystore_chat.tutorial.{name}")
    for module, names in _LATER.items():
        if name in names:
            return getattr(import_module(f"memorystore_chat.{module}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
