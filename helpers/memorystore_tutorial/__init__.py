"""What only notebooks use: signing in, models, and showing things to the reader."""

from memorystore_chat.connection.environment import Environment, detect_environment
from memorystore_tutorial import checks, latency, practice
from memorystore_tutorial.box import ChatBox, chat_box
from memorystore_tutorial.conversation import Transcript, transcript
from memorystore_tutorial.demo_model import DemoChatModel
from memorystore_tutorial.environment import sign_in
from memorystore_tutorial.facts import server_facts
from memorystore_tutorial.former import practice_cluster
from memorystore_tutorial.instances import create_instance, delete_instance
from memorystore_tutorial.models import ChatModelError, chat_model
from memorystore_tutorial.pictures import picture
from memorystore_tutorial.plots import Failover, failover
from memorystore_tutorial.prefixes import key_prefix
from memorystore_tutorial.processes import new_process
from memorystore_tutorial.tables import Table, sessions_table, table
from memorystore_tutorial.text import say

fail_over = failover  # until the notebooks are rewritten

__all__ = [
    "ChatBox",
    "ChatModelError",
    "DemoChatModel",
    "Environment",
    "Failover",
    "Table",
    "Transcript",
    "chat_box",
    "chat_model",
    "checks",
    "create_instance",
    "delete_instance",
    "detect_environment",
    "fail_over",
    "failover",
    "key_prefix",
    "latency",
    "new_process",
    "picture",
    "practice",
    "practice_cluster",
    "say",
    "server_facts",
    "sessions_table",
    "sign_in",
    "table",
    "transcript",
]
