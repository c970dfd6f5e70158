"""MemorystoreSaver beside InMemorySaver, through random steps; and a count of all references."""

from copy import deepcopy
from random import Random
from typing import Any

import pytest
from langchain_core.messages import HumanMessage
from langgraph.checkpoint.base import empty_checkpoint
from langgraph.checkpoint.memory import InMemorySaver
from redis.backoff import NoBackoff
from redis.retry import Retry

import servers
from memorystore_chat.checkpoint import MemorystoreSaver
from proxy import Proxy

WORDS = ("a" * 90, "b" * 90, "c" * 300, "short")
DATA = (1.5, [1, [2, {"a": b"b"}]], None, "d" * 300)
SPACES = ("", "node", "call:1", "call:2")  # "node" has a delta channel, calls are sub-graphs

# Answers which fields are left over, missing, or counted wrongly.
RECOUNT = """
local all, fields, counted, wrong = redis.call('HGETALL', KEYS[1]), {}, {['#'] = 0}, {}
for index = 1, #all, 2 do fields[all[index]] = all[index + 1] end
local function refer(field) counted[field] = (counted[field] or 0) + 1 end
local function refer_all(names) for name in names:gmatch(('.'):rep(17)) do refer(name) end end
for field, value in pairs(fields) do
  local kind, ns = field:match('^(.)([^%z]*)')
  if kind == 'i' then
    refer('#')
    refer('c' .. ns .. '\\0' .. value:match('^[^%z]*'))
  elseif kind == 'k' then
    refer_all(value)
  elseif kind == 'c' or kind == 'w' then
    local record = cmsgpack.unpack(value:sub(9))
    for _, each in ipairs(record.channels or record) do
      refer_all(each[1])
    end
    if record.needs then refer('c' .. ns .. '\\0' .. record.parent) end
  end
end
for field, value in pairs(fields) do
  local kind, name = field:sub(1, 1), field:sub(2)
  if kind:match('[skc]') and not counted[field] then wrong[#wrong + 1] = field end
  if kind:match('[whd]') and not fields['c' .. name] then wrong[#wrong + 1] = field end
  if kind == 'r' and (counted[name] or 1) == 1 then wrong[#wrong + 1] = field end
end
for field, number in pairs(counted) do
  local is_there = fields[field] or field == '#'
  local known = field == '#' and (fields['#'] or 0) or fields['r' .. field] or 1
  if not is_there or tonumber(known) ~= number then wrong[#wrong + 1] = field end
end
return wrong
"""


def place(ns: str, checkpoint_id: str = "") -> Any:
    """The config that names a namespace of the thread, or a checkpoint."""
    where = {"thread_id": "t", "checkpoint_ns": ns}
    return {"configurable": where | ({"checkpoint_id": checkpoint_id} if checkpoint_id else {})}


class Threads:
    """A thread, its copy, and a model of it.

    Args:
        client: Asks the server.
        lossy: The same, but it loses every fifth reply of a script.
        keep: As for the saver.
    """

    def __init__(self, client: Any, lossy: Any, keep: int | None) -> None:
        self.client, self.lossy, self.keep = client, lossy, keep
        self.saver, self.model = MemorystoreSaver(lossy, keep=keep), InMemorySaver()
        self.random, self.number = Random(keep or 0), 0
        self.messages = [HumanMessage(word, id=word[0], note="same") for word in WORDS]
        self.known: dict[tuple[str, str], dict[str, Any]] = {}  # arguments of each put
        self.noted: dict[str, dict[str, Any]] = {}  # what tasks wrote to the delta channel
        self.roots: dict[str, str] = {}  # the checkpoint that a call goes with
        self.gone = ""  # what was dropped last from the graph itself

    def step(self) -> None:
        """Do something, more often what adds than what takes away."""
        steps = [self.put, self.write, self.prune, self.delete_run, self.begin_again]
        self.random.choices(steps, (20, 12, 1, 2, 2))[0]()

    def found(self, ns: str) -> dict[str, Any]:
        """What the model has of a namespace, in the order in which it was put."""
        found: dict[str, Any] = self.model.storage["t"][ns]
        return found

    def ids(self, ns: str) -> list[str]:
        """The newest come first, and then none."""
        return [*sorted(self.found(ns), reverse=True)[:3], ""]

    def some(self) -> list[Any]:
        """A list that may begin as another one, of messages that are changed in place."""
        count, step = self.random.choice([0, 1, 7, 9, 30, 64, 75, 140]), self.random.randint(1, 9)
        changed, place = self.random.choice(self.messages), self.random.choice(["content", "note"])
        setattr(changed, place, self.random.choice(WORDS))
        kind: Any = self.random.choice([WORDS, WORDS, self.messages, DATA])
        return [kind[at * step // 20 % 4] for at in range(count)]

    def put(self) -> None:
        """A child of one of the newest checkpoints, or of none; with an ID that is out of order."""
        self.number += 1
        ns = self.random.choice(SPACES)
        parent = self.random.choice(self.ids(ns))
        # What follows the newest is the newest: there MemorystoreSaver differs on purpose.
        is_early = parent != self.ids(ns)[0] and self.random.random() < 0.5
        name = f"{0 if is_early else 1}{self.number:06}"
        if self.random.random() < 0.2:
            self.write(ns, name)
        before = self.known.get((ns, parent), {"values": {}, "versions": {}})
        channels = self.random.choice([("list",), ("list", "dict", "x")])
        new: Any = dict.fromkeys(channels, self.number)
        given: Any = {"list": self.some(), "dict": {"some": self.some(), "n": 1}, "x": name}
        values = before["values"] | {channel: given[channel] for channel in new}
        root = self.ids("")[0]
        metadata: Any = {"run_id": f"r{self.number % 9}", "parents": {"": root} if ns else {}}
        if ns == "node":  # a delta channel has no value of its own
            new["delta"] = self.number
            metadata["counters_since_delta_snapshot"] = {"delta": (1, 1)}
        versions = before["versions"] | new
        checkpoint: Any = empty_checkpoint() | {
            "id": name,
            "channel_values": values,
            "channel_versions": versions,
        }
        for saver in (self.model, self.saver, self.saver)[: self.random.choice([2, 3])]:
            saver.put(place(ns, parent), checkpoint, metadata, new)
        self.known[ns, name] = {"values": deepcopy(values), "versions": versions, "parent": parent}
        if ":" in ns:
            self.roots.setdefault(ns, root)
        order = [*self.found(ns)]
        excess = min(len(order) - (self.keep or len(order)), order.index(max(order)))
        self.drop(ns, order[: max(excess, 0)])

    def write(self, ns: str | None = None, name: str = "") -> None:
        """What a task writes, perhaps again, or to a checkpoint that is gone or not yet there."""
        ns, task = self.random.choice(SPACES) if ns is None else ns, self.random.randint(0, 2)
        writes = [("list", self.some()), ("x", task), ("__error__", self.some())]
        if self.gone and self.random.random() < 0.2:
            self.saver.put_writes(place("", self.gone), writes, "late")
        if name := name or self.random.choice(self.ids(ns)):
            if ns == "node":
                writes.append(("delta", self.number))
                self.noted.setdefault(name, {}).setdefault(f"task {task}", self.number)
            for saver in (self.model, self.saver):
                saver.put_writes(place(ns, name), writes, f"task {task}", f"~{2 - task}")

    def drop(self, ns: str, names: list[str]) -> None:
        """Take checkpoints out of the model, and the calls that go with them."""
        for name in names:
            if self.found(ns).pop(name, None):
                self.model.writes.pop(("t", ns, name), None)
                self.gone = self.gone if ns else name
                for call in [call for call, root in self.roots.items() if not ns and root == name]:
                    del self.roots[call]
                    self.drop(call, [*self.found(call)])
        if not any(map(self.found, SPACES)):
            self.gone = ""
            self.roots.clear()

    def prune(self) -> None:
        """All but the newest of each namespace go."""
        self.saver.prune(["t"])
        for ns in SPACES:
            self.drop(ns, sorted(self.found(ns), reverse=True)[1:])

    def delete_run(self) -> None:
        """One in nine goes."""
        chosen = self.random.randrange(9)
        self.saver.delete_for_runs([f"r{chosen}"])
        for ns in SPACES:
            newest_first = sorted(self.found(ns), reverse=True)
            self.drop(ns, [name for name in newest_first if int(name[1:]) % 9 == chosen])

    def begin_again(self) -> None:
        """Another client, which knows of nothing, makes a copy with the same fields, or deletes."""
        other = MemorystoreSaver(self.lossy, keep=self.keep)
        other.copy_thread("t", "copy")
        fields = [self.client.hgetall(f"checkpoints:{name}") for name in ("t", "copy")]
        assert fields[0] == fields[1]
        other.delete_thread("copy")
        if self.random.random() < 0.3:
            other.delete_thread("t")
            for ns in SPACES:
                self.drop(ns, [*self.found(ns)])
        if self.random.random() < 0.5:
            self.saver = other

    def check(self) -> None:
        """The same checkpoints, in the same order, and each with what it was put with."""
        assert self.client.eval(RECOUNT, 1, "checkpoints:t") == []
        for ns in SPACES:
            config = place(ns)
            found = [[*each.list(config)] for each in (self.saver, self.model)]
            alive = {each.checkpoint["id"] for each in found[1]}
            for ours, theirs in zip(*found, strict=True):
                assert ours.checkpoint == theirs.checkpoint
                assert ours.metadata == theirs.metadata
                assert ours.pending_writes == theirs.pending_writes
                parent = (theirs.parent_config or {}).get("configurable", {}).get("checkpoint_id")
                expected = theirs.parent_config if parent in alive else None
                if parent in alive or ns != "node":  # there an ancestor stays as it is needed
                    assert ours.parent_config == expected
                if self.random.random() < 0.2:
                    assert self.saver.get_tuple(ours.config) == ours
                    assert [*self.saver.list(ours.config)] == [ours]
            newest = self.saver.get_tuple(config)
            assert newest == (found[0][0] if found[0] else None)
            if newest and ns == "node":
                expected, name = [], self.known[ns, newest.checkpoint["id"]]["parent"]
                while name:
                    written = sorted(self.noted.get(name, {}).items(), reverse=True)
                    expected = [*(value for _, value in written), *expected]
                    name = self.known[ns, name]["parent"]
                history = self.saver.get_delta_channel_history(config=config, channels=["delta"])
                assert [value for _, _, value in history["delta"]["writes"]] == expected


@pytest.mark.parametrize(
    ("start", "keep"),
    [(servers.valkey, None), (servers.valkey, 1), (servers.valkey, 3), (servers.redis7, 2)],
)
def test_random_steps(start: Any, keep: int | None) -> None:
    """Whatever is done in whatever order, both have the same, and every reference is counted."""
    with (
        start() as server,
        server.client() as client,
        Proxy(server.host, server.port, lose_every=5) as proxy,
        server.client(port=proxy.port, retry=Retry(NoBackoff(), 10)) as lossy,
    ):
        threads = Threads(client, lossy, keep)
        for number in range(120):
            threads.step()
            if number % 3 == 0:
                threads.check()
