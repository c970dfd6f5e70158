"""What only notebooks use: signing in, models, and showing things to the reader."""

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
