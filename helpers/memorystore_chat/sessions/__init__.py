"""Many sessions at once: list, expire, delete, export, load, and copy them from another library.

Every function takes a ``redis.Redis`` or ``redis.cluster.RedisCluster`` and works on servers that
refuse KEYS, OBJECT, CONFIG, CLIENT and MEMORY. In memory there are a hundred sessions at a time,
and the keys: to recognize those that SCAN answers twice.

What they find is complete, or they raise an error that says to run them again: a server that is
replaced, or a cluster that moves slots, is noticed (by INFO and CLUSTER NODES) and not waited for.

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
