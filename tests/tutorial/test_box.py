"""The box to chat in: what the reader says, what the bot answers, what the server holds."""

import asyncio
from typing import Any
from unittest.mock import Mock

import pytest
from langchain_core.messages import AIMessage, HumanMessage, ToolMessage

import servers
from memorystore_chat import MemorystoreChatError, MemorystoreChatMessageHistory
from memorystore_tutorial import DemoChatModel, chat_box


@pytest.fixture
def history(valkey_server: servers.Server, key_prefix: str) -> MemorystoreChatMessageHistory:
    return MemorystoreChatMessageHistory(valkey_server.client(), "ada", key_prefix=key_prefix)


class Reader:
    """Somebody in front of a box: types, presses Enter, clicks, looks."""

    def __init__(self, history: MemorystoreChatMessageHistory, reply: Any = None) -> None:
        self.history, self.during = history, ""
        self.box = chat_box(reply or self.reply, history)
        left, self.stored = self.box._live.children
        self.conversation, row = left.children
        self.typed, self.send = row.children

    def reply(self, text: str) -> AIMessage:
        """Answer as the demo model, and keep what is seen meanwhile."""
        self.during += self.typed.value + self.conversation.value
        question = HumanMessage(text)
        reply = DemoChatModel().invoke([*self.history.messages, question])
        self.history.add_messages([question, reply])
        return reply

    def enters(self, text: str = "") -> None:
        """Press Enter, which the browser reports before the text."""
        self.typed._handle_custom_msg({"event": "submit"}, [])
        self.typed.value = text or self.typed.value

    def says(self, text: str) -> str:
        """Type and click, upon which the browser reports the text first; what is seen then."""
        self.typed.value = text
        self.send.click()
        return str(self.conversation.value)


async def test_a_turn_is_answered_and_stored(history: MemorystoreChatMessageHistory) -> None:
    """Enter is reported before the text, or alone if that is here; leaving the field sends none."""
    said = [
        "Hi! My name is Ada.",
        "What is my name?",
        "Your name is Ada.",
        "Thanks.",
        "You are welcome, Ada.",
    ]
    history.add_user_message(said[0])
    reader = Reader(history)
    reader.send.click()
    reader.typed.value = "What is"
    reader.enters(f" {said[1]} ")
    await asyncio.sleep(0.3)
    reader.typed.value = said[3]
    for _ in range(2):
        reader.enters()
        await asyncio.sleep(0.3)
    reader.typed.value = "And what"
    after = reader.says("  ")
    assert reader.during.startswith("<div")  # and the field is empty
    assert reader.during.count("thinking") == reader.during.count(said[1]) == 2
    assert all(text in after and text in repr(reader.box) for text in said)
    assert "thinking" not in after
    assert f"{history.key}: a list of 5 elements on the server" in reader.stored.value
    assert [message.text for message in history.messages] == said


def test_an_error_is_a_sentence_and_the_box_goes_on(history: MemorystoreChatMessageHistory) -> None:
    def reply(text: str) -> str | None:
        if text == "stop":
            raise KeyboardInterrupt
        if text == "break":
            history.client.set(history.key, "no list")
        return {"None": None, "break": "Done.", "Hello?": "Yes."}[text]

    reader = Reader(history, reply)
    assert "KeyError: &#x27;&lt;b&gt;&#x27;" in reader.says("<b>")
    assert isinstance(reader.box.error, KeyError)
    assert "returned no text, but None" in reader.says("None")
    assert "KeyboardInterrupt" in reader.says("stop")
    assert "<i>The server refused reading the session" in reader.says("break")
    with pytest.raises(MemorystoreChatError):
        Reader(history)
    history.clear()
    assert "The server refused" not in reader.says("Hello?")
    assert str(reader.box).endswith("Human  Hello?\nAI     Yes.")


def test_the_list_shows_its_newest_elements(history: MemorystoreChatMessageHistory) -> None:
    call = {"name": "get_weather", "args": {}, "id": "1"}
    history.add_messages([HumanMessage(f"message {n}") for n in range(18)])
    history.add_messages([AIMessage("", tool_calls=[call]), ToolMessage("12", tool_call_id="1")])
    shown = Reader(history).stored.value
    assert "a list of 20 elements" in shown
    assert [f"<bdi>{n}</bdi>" in shown for n in (11, 12, 19)] == [False, True, True]
    assert "message 11" not in shown
    assert "Tool call: get_weather" in shown


def test_bad_arguments_are_refused(history: Any) -> None:
    for reply, its_history in ((print, "session1"), ("hello", history)):
        with pytest.raises(TypeError, match="a str"):
            chat_box(reply, its_history)  # type: ignore[arg-type]


def test_what_a_notebook_keeps_follows_the_conversation(
    history: MemorystoreChatMessageHistory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Beside the widgets there is HTML without a style sheet, in which later turns appear too."""
    display = Mock()
    monkeypatch.setattr("IPython.display.display", display)
    reader = Reader(history)
    reader.box._ipython_display_()
    reader.says("Hello!")
    display.assert_called_with(reader.box._live)
    kept = display.return_value.update.call_args.args[0]
    assert kept["text/plain"] == "Human  Hello!\nAI     Hello. What is your name?"
    assert "What is your name?" in kept["text/html"]
    assert "<style" not in kept["text/html"]
