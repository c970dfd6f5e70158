"""The box to chat in: what the reader says, what the bot answers, what the server holds."""

import sys
from collections.abc import Callable
from typing import Any

import pytest
from langchain_core.messages import AIMessage, HumanMessage, ToolMessage
from nbclient import NotebookClient
from nbformat.v4 import new_code_cell, new_notebook

import servers
from memorystore_chat import ConnectError, MemorystoreChatMessageHistory
from memorystore_tutorial import DemoChatModel, chat_box
from memorystore_tutorial.box import ChatBox


@pytest.fixture
def history(valkey_server: servers.Server, key_prefix: str) -> MemorystoreChatMessageHistory:
    return MemorystoreChatMessageHistory(valkey_server.client(), "ada", key_prefix=key_prefix)


def bot(history: MemorystoreChatMessageHistory) -> Callable[[str], AIMessage]:
    def reply(text: str) -> AIMessage:
        question = HumanMessage(text)
        answer = DemoChatModel().invoke([*history.messages, question])
        history.add_messages([question, answer])
        return answer

    return reply


class Reader:
    """Somebody in front of a box: types, presses Enter, clicks, looks."""

    def __init__(self, box: ChatBox) -> None:
        self.box = box
        left, right = box._live().children
        (self.conversation,), (self.typed, self.send) = (each.children for each in left.children)
        (self.stored,) = right.children

    def says(self, text: str) -> str:
        """Type and press Enter, upon which the browser reports the text; what is seen then."""
        self.typed.value = text
        return str(self.conversation.value)


def test_a_turn_is_answered_and_stored(history: MemorystoreChatMessageHistory) -> None:
    """Also where the click on the button is reported before the text, and twice."""
    history.add_user_message("Hi! My name is Ada.")
    reader = Reader(chat_box(bot(history), history))
    reader.send.click()
    assert "Your name is Ada." in reader.says(" What is my name? ")
    reader.send.click()
    assert reader.typed.value == ""
    assert f"{history.key}: a list of 3 elements on the server" in reader.stored.value
    said = ["Hi! My name is Ada.", "What is my name?", "Your name is Ada."]
    assert [message.text for message in history.messages] == said
    for text in said:
        assert text in repr(reader.box)
        assert text in reader.box._repr_html_()


def test_the_reader_sees_that_the_bot_is_thinking(history: MemorystoreChatMessageHistory) -> None:
    seen = []

    def reply(_: str) -> str:
        seen.append((reader.typed.value, reader.conversation.value))
        return "Yes."

    reader = Reader(chat_box(reply, history))
    assert "No messages yet." in reader.says("  ")
    after = reader.says("One?")
    [(typed, during)] = seen
    assert typed == ""
    assert "One?" in during
    assert "The bot is thinking" in during
    assert "Yes." in after
    assert "thinking" not in after


def test_an_outage_is_a_sentence_and_the_box_goes_on(key_prefix: str) -> None:
    with servers.valkey() as server:
        client = server.client(retry=None)
        history = MemorystoreChatMessageHistory(client, "ada", key_prefix=key_prefix)
        reader = Reader(chat_box(bot(history), history))
        server.kill()
        seen = reader.says("Hello?")
        assert "<i>The connection failed while reading the session" in seen
        assert "Traceback" not in seen
        assert isinstance(reader.box.error, ConnectError)
        with pytest.raises(ConnectError):
            chat_box(bot(history), history)
        server.restart()
        assert "The connection failed" not in reader.says("Hello again!")
        assert reader.box.error is None
        assert len(history) == 2


def test_a_bug_in_the_readers_function_is_named(history: MemorystoreChatMessageHistory) -> None:
    def reply(text: str) -> None:
        if text == "stop":
            raise KeyboardInterrupt
        return {"None": None}[text]

    reader = Reader(chat_box(reply, history))
    assert "KeyError: &#x27;&lt;b&gt;&#x27;" in reader.says("<b>")
    assert isinstance(reader.box.error, KeyError)
    assert reader.box.error.__traceback__ is not None
    assert "returned no text, but None" in reader.says("None")
    assert "KeyboardInterrupt" in reader.says("stop")


def test_the_list_shows_its_newest_elements(history: MemorystoreChatMessageHistory) -> None:
    call = {"name": "get_weather", "args": {}, "id": "1"}
    history.add_messages([HumanMessage(f"message {n}") for n in range(18)])
    history.add_messages([AIMessage("", tool_calls=[call]), ToolMessage("12", tool_call_id="1")])
    shown = chat_box(bot(history), history)._stored
    assert "a list of 20 elements" in shown
    assert [f"<bdi>{n}</bdi>" in shown for n in (11, 12, 19)] == [False, True, True]
    assert "message 11" not in shown
    assert "Tool call: get_weather" in shown


def test_bad_arguments_are_refused(history: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ipywidgets", None)
    with pytest.raises(ModuleNotFoundError, match=r"memorystore-chat\[tutorial\]"):
        chat_box(print, history)
    for reply, its_history in ((print, "session1"), ("hello", history)):
        with pytest.raises(TypeError, match="a str"):
            chat_box(reply, its_history)  # type: ignore[arg-type]


CELL = """
from memorystore_chat import MemorystoreChatMessageHistory, connect
from memorystore_tutorial import chat_box
history = MemorystoreChatMessageHistory(connect({address!r}), "ada", key_prefix={prefix!r})
chat_box(print, history)
"""


def test_a_cell_with_a_box_ends_at_once(valkey_server: servers.Server, key_prefix: str) -> None:
    """With HTML to keep and widgets to use."""
    cell = CELL.format(address=valkey_server.url, prefix=key_prefix)
    book = new_notebook(cells=[new_code_cell(source) for source in (cell, "print(1 + 1)")])
    NotebookClient(book, timeout=60, kernel_name="python3").execute()
    (kept, live), after = (cell.outputs for cell in book.cells)
    assert after[0].text == "2\n"
    assert kept.data["text/plain"] == "No messages yet."
    assert "No messages yet." in kept.data["text/html"]
    assert "<style" not in kept.data["text/html"]
    assert "application/vnd.jupyter.widget-view+json" in live.data
