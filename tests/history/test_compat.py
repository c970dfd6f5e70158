"""Sessions go both ways between this package and langchain-google-memorystore-redis 0.3.0.

That cannot be installed beside this package (it pins redis < 6 and langchain-core < 1), so
`data/official_0_3_0.json` holds what it wrote: the elements of the Redis list to which the real
class appended nine messages, one add_message() each. Its reader is messages_from_dict.
"""

import json
from pathlib import Path
from typing import Any

import redis
from langchain_core.messages import HumanMessage, message_chunk_to_message, messages_from_dict

from memorystore_chat import codec
from memorystore_chat.conversation import NOT_CARRIED_OUT
from scripted import Make

DATA = Path(__file__).parents[1] / "data" / "official_0_3_0.json"
RECORDED: list[bytes] = [each.encode() for each in json.loads(DATA.read_text())["elements"]]
PLAIN = [json.loads(element) for element in RECORDED]


def test_sessions_of_the_older_package_go_on_and_it_reads_what_is_written(
    make: Make, client: redis.Redis
) -> None:
    """All types come back equal, those with tool calls, artifacts, usage, and blocks among them."""
    chunks = messages_from_dict(PLAIN)
    whole = [message_chunk_to_message(message) for message in chunks]
    assert len({type(message) for message in chunks}) == 7
    assert [codec.decode(element) for element in RECORDED] == whole
    assert {codec.appended_at(element) for element in RECORDED} == {None}
    history = make("old", ttl=100, window=4, max_messages=len(whole))
    client.rpush(history.key, *RECORDED)
    # Its malformed call gets a result.
    assert [m for m in make("old").messages if m.text != NOT_CARRIED_OUT] == whole
    history.add_user_message("Hello again.")
    assert history.messages == [*whole[-3:], HumanMessage("Hello again.")]
    assert client.lrange(history.key, 0, -2) == RECORDED[1:]
    assert client.ttl(history.key) == 100
    assert history.repair() == []
    make("new").add_messages(chunks)
    written: Any = client.lrange(make("new").key, 0, -1)
    stored = [json.loads(element) for element in written]
    assert messages_from_dict(stored) == whole
    for new, old in zip(stored, PLAIN, strict=True):
        assert set(new) == {"id", *old}
        assert old["type"] == "AIMessageChunk" or new == old | {"id": new["id"]}
