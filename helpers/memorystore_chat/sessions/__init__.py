"""Many sessions at once: list, expire, delete, export, load, and copy them from another library.

Every function takes a ``redis.Redis`` or ``redis.cluster.RedisCluster``, with or without
``decode_responses=True``, and works on servers that refuse KEYS, OBJECT, CONFIG, CLIENT and MEMORY.
They need memory for some hundred sessions at a time, however many there are; only to recognize keys
that SCAN answers twice they keep the keys, which takes about 100 bytes and the key for each.

What they find is complete, or they raise an error that says to run them again: a server that is
replaced by another one, or a cluster that moves slots, is noticed and not waited for. For that they
ask every server for its INFO, and a cluster for CLUSTER NODES.

Example:
    >>> from memorystore_chat import MemorystoreChatMessageHistory, connect, sessions
    >>> client = connect("embedded")
    >>> for name in ("ada", "bob"):
    ...     history = MemorystoreChatMessageHistory(client, name, key_prefix="docs:")
    ...     history.add_user_message("Hello!")
    >>> sorted(session.id for session in sessions.scan(client, key_prefix="docs:"))
    ['ada', 'bob']
    >>> sessions.delete(client, key_prefix="docs:", dry_run=False).sessions
    2
"""

from memorystore_chat.sessions.changing import delete, expire
from memorystore_chat.sessions.moving import export, from_langchain_community, load
from memorystore_chat.sessions.report import Report
from memorystore_chat.sessions.scanning import Session, scan

__all__ = [
    "Report",
    "Session",
    "delete",
    "expire",
    "export",
    "from_langchain_community",
    "load",
    "scan",
]
