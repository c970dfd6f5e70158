"""Hold a short conversation on ``$MEMORYSTORE_ENDPOINT`` with the package as it is installed."""

from memorystore_chat import MemorystoreChatMessageHistory, connect

with connect() as client:
    history = MemorystoreChatMessageHistory(client, "smoke", ttl=60, key_prefix="smoke-test:")
    history.clear()
    history.add_user_message("My name is Ada.")
    history.add_ai_message("Hello, Ada!")
    read = [message.content for message in history.messages]
    history.clear()
if read != ["My name is Ada.", "Hello, Ada!"]:
    raise SystemExit(f"read back {read!r}")
print("A conversation was stored, read back and deleted.")
