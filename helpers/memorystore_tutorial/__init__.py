"""What only notebooks use: signing in, models, and showing things to the reader."""

from memorystore_chat.connection.environment import detect_environment
from memorystore_tutorial import checks, practice
from memorystore_tutorial.box import chat_box
from memorystore_tutorial.conversation import transcript
from memorystore_tutorial.demo_model import DemoChatModel
from memorystore_tutorial.google import chat_model, sign_in
from memorystore_tutorial.kernels import key_prefix, new_process
from memorystore_tutorial.pictures import checkpoint_chain, failover, picture
from memorystore_tutorial.tables import sessions_table, table

__all__ = [
    "DemoChatModel", "chat_box", "chat_model", "checkpoint_chain", "checks", "detect_environment",
    "failover", "key_prefix", "new_process", "picture", "practice", "sessions_table", "sign_in",
    "table", "transcript",
]  # fmt: skip
