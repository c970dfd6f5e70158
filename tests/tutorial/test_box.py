"""The box to chat in: what the reader says, what the bot answers, what the server holds."""

import json
import threading
import time
from collections.abc import Callable
from typing import Any

import ipywidgets
import pytest
from langchain_core.messages import AIMessage, HumanMessage, ToolMessage
from nbclient import NotebookClient
from nbformat.v4 import new_code_cell, new_notebook

import servers
from memorystore_chat import DemoChatModel, MemorystoreChatMessageHistory
from memorystore_chat.tutorial import ChatBox, chat_box


@pytest.fixture
def history(valkey_server: servers.Server, key_prefix: str) -> MemorystoreChatMessageHistory:
    return MemorystoreChatMessageHistory(valkey_server.client(), "ada", key_prefix=key_prefix)


class Reader:
    """Somebody in front of a box: types, presses Enter, clicks, looks."""

    def __init__(self, box: ChatBox) -> None:
        self.box = box
        left, right = box._live(ipywidgets).children
        ((self.conversation,), (self.typed, self.send), _) = (
            each.children for each in left.children
        )
        (self.stored,) = right.children
        self.chips = left.children[2]

    def says(self, text: str) -> None:
        """Press Enter: the field's message comes before its text, as from a browser."""
        self.typed._handle_custom_msg({"event": "submit"}, [])
        self.typed.value = text
        servers.wait_until(lambda: text in self.conversation.value, "the question", 5)
        self.waits()

    def waits(self) -> None:
        servers.wait_until(lambda: "thinking" not in self.conversation.value, "the answer", 5)


def test_a_turn_is_answered_and_stored(history: MemorystoreChatMessageHistory) -> None:
    """A chat model needs no function: the box loads, asks, stores, and shows all of it."""
    history.add_user_message("Hi! My name is Ada.")
    reader = Reader(chat_box(DemoChatModel(), history))
    reader.says("What is my name?")
    assert "Your name is Ada." in reader.conversation.value
    assert reader.typed.value == ""
    assert f"{history.key}: a list of 3 elements on the server" in reader.stored.value
    assert [message.text for message in history.messages] == [
        "Hi! My name is Ada.",
        "What is my name?",
        "Your name is Ada.",
    ]
    assert "What is my name?" in repr(reader.box)
    assert "Your name is Ada." in reader.box._repr_html_()


def test_suggestions_are_said_with_a_click(history: MemorystoreChatMessageHistory) -> None:
    """Each is a button that goes when it was used."""
    reader = Reader(chat_box(DemoChatModel(), history, suggestions=["I'm Ada.", "Who am I?"]))
    reader.chips.children[0].click()
    reader.waits()
    assert [button.description for button in reader.chips.children] == ["Who am I?"]
    assert history.messages[0].text == "I'm Ada."


def test_a_click_that_overtakes_its_text_sends_it(history: MemorystoreChatMessageHistory) -> None:
    """Right after a turn, too, and if an earlier part of the text is there already."""
    reader = Reader(chat_box(DemoChatModel(), history))
    reader.says("Hi! My name is Ada.")
    reader.send.click()
    reader.typed.value = "What is my name?"
    servers.wait_until(lambda: "Your name is Ada." in reader.conversation.value, "the answer", 5)
    reader.waits()
    reader.typed.value = "I like"
    time.sleep(1.1)  # the reader looks elsewhere
    reader.send.click()
    reader.typed.value = "I like tea."
    servers.wait_until(lambda: len(history.messages) == 6, "the third turn", 5)
    said = [message.text for message in history.messages if message.type == "human"]
    assert said == ["Hi! My name is Ada.", "What is my name?", "I like tea."]


def test_a_text_that_was_left_is_sent_by_enter(history: MemorystoreChatMessageHistory) -> None:
    """Enter in a field whose text was reported before sends it after a moment."""
    reader = Reader(chat_box(DemoChatModel(), history))
    reader.typed.value = "Hi! My name is Ada."
    reader.typed._handle_custom_msg({"event": "submit"}, [])
    servers.wait_until(lambda: len(history.messages) == 2, "the turn", 5)
    assert reader.typed.value == ""


def test_clicks_during_a_turn_are_one_turn(history: MemorystoreChatMessageHistory) -> None:
    """Until the answer is there, a second click or Enter asks nothing, and what was typed stays."""
    may_answer = threading.Event()
    asked = []

    def reply(text: str) -> str:
        asked.append(text)
        may_answer.wait(5)
        return "Yes."

    reader = Reader(chat_box(reply, history, suggestions=["One?"]))
    button = reader.chips.children[0]
    button.click()
    button.click()
    reader.typed.value = "Two?"
    reader.send.click()
    assert "The bot is thinking" in reader.conversation.value
    assert reader.typed.value == "Two?"
    may_answer.set()
    reader.waits()
    assert asked == ["One?"]
    reader.send.click()
    reader.waits()
    assert asked == ["One?", "Two?"]


def test_nothing_typed_asks_nothing(history: MemorystoreChatMessageHistory) -> None:
    """An empty field, or spaces only, is no question."""
    reader = Reader(chat_box(lambda _: pytest.fail("asked"), history))
    reader.typed.value = "  "
    reader.send.click()
    assert "No messages yet." in reader.conversation.value


def test_an_outage_is_a_sentence_and_the_box_goes_on(key_prefix: str) -> None:
    """Server gone: its sentence stands in the box; server back: the next turn is answered."""
    with servers.valkey() as server:
        client = server.client(retry=None)
        history = MemorystoreChatMessageHistory(client, "ada", key_prefix=key_prefix)
        reader = Reader(chat_box(DemoChatModel(), history))
        server.kill()
        reader.says("Hello?")
        assert "The connection failed while reading the session" in reader.conversation.value
        assert "Traceback" not in reader.conversation.value
        assert type(reader.box.error).__name__ == "ConnectError"
        assert "The connection failed" in repr(chat_box(DemoChatModel(), history))
        server.restart()
        reader.says("Hello again!")
        assert "The connection failed" not in reader.conversation.value
        assert reader.box.error is None
        assert len(history) == 2


def test_a_bug_in_the_readers_function_is_named(history: MemorystoreChatMessageHistory) -> None:
    """Its type and text, escaped; the error itself is kept with its stack."""

    def reply(text: str) -> str:
        raise KeyError(f"<b>{text}")

    reader = Reader(chat_box(reply, history))
    reader.says("Hm")
    assert "KeyError: &#x27;&lt;b&gt;Hm&#x27;" in reader.conversation.value
    assert isinstance(reader.box.error, KeyError)
    assert reader.box.error.__traceback__ is not None


@pytest.mark.parametrize(
    ("result", "shown"),
    [
        ("text", "text"),
        (AIMessage("message"), "message"),
        (HumanMessage("other"), "other"),
        ({"messages": [HumanMessage("q"), AIMessage("state")]}, "state"),
        (None, "the function for the answers returned a NoneType; it should return text"),
        ({"messages": []}, "returned a dict"),
    ],
)
def test_what_a_function_may_return(
    result: object, shown: str, history: MemorystoreChatMessageHistory
) -> None:
    """Text, a message or an agent's result; for anything else the box says what is missing."""
    reader = Reader(chat_box(lambda _: result, history))
    reader.says("q?")
    assert shown in reader.conversation.value


def test_the_list_shows_its_newest_elements(history: MemorystoreChatMessageHistory) -> None:
    """Eight of them, each by its index, a call by its tool's name, with a window as well."""
    call = {"name": "get_weather", "args": {}, "id": "1"}
    history.add_messages([HumanMessage(f"message {n}") for n in range(18)])
    history.add_messages([AIMessage("", tool_calls=[call]), ToolMessage("12", tool_call_id="1")])
    shown = chat_box(DemoChatModel(), history)._stored
    assert "a list of 20 elements" in shown
    assert "<bdi>12</bdi>" in shown
    assert "message 11" not in shown
    assert "Tool call: get_weather" in shown
    narrow = MemorystoreChatMessageHistory(
        history._client, history.session_id, key_prefix=history.key[:-3], window=3
    )
    assert "message 16" not in chat_box(DemoChatModel(), narrow)._stored
    assert "<bdi>17</bdi>" in chat_box(DemoChatModel(), narrow)._stored


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        ((print, "session1"), {}, "history is a str; it takes a chat message history"),
        (("hello", None), {}, "reply is a str; it takes a chat model, or a function"),
        ((print, None), {"suggestions": "Hi"}, "suggestions takes a list of texts"),
        ((print, None), {"suggestions": [1]}, "suggestions takes a list of texts"),
    ],
)
def test_bad_arguments_are_refused(
    arguments: tuple[Any, Any],
    options: dict[str, Any],
    message: str,
    history: MemorystoreChatMessageHistory,
) -> None:
    """The error says what is accepted."""
    reply, given = arguments
    with pytest.raises(TypeError, match=message):
        chat_box(reply, given or history, **options)


CELLS = """
from memorystore_chat import DemoChatModel, MemorystoreChatMessageHistory, connect
from memorystore_chat.tutorial import chat_box
history = MemorystoreChatMessageHistory(connect({address!r}), "ada", key_prefix={prefix!r})
---
box = chat_box(DemoChatModel(), history, suggestions=["I'm Ada."])
box
---
print(1 + 1)
"""


@pytest.fixture
def run(valkey_server: servers.Server, key_prefix: str) -> Callable[[str], Any]:
    """Run the cells above in a real kernel, after `before`; returns the outputs by cell."""

    def in_kernel(before: str) -> Any:
        source = CELLS.format(address=valkey_server.url, prefix=key_prefix)
        cells = [before, *source.split("---\n")]
        book = new_notebook(cells=[new_code_cell(cell) for cell in cells])
        NotebookClient(book, timeout=60, kernel_name="python3").execute()
        return [cell.outputs for cell in book.cells]

    return in_kernel


def test_run_all_goes_through(run: Callable[[str], Any]) -> None:
    """The cell with the box ends at once, with HTML to keep and widgets to use."""
    *_, shown, after = run("")
    kept, live = shown
    assert after[0].text == "2\n"
    assert "No messages yet." in kept.data["text/html"]
    assert kept.data["text/plain"] == "No messages yet."
    assert "application/vnd.jupyter.widget-view+json" in live.data
    assert "<style" not in kept.data["text/html"]


def test_without_ipywidgets_it_can_be_read(run: Callable[[str], Any]) -> None:
    """The conversation and the list are shown, and how to get the rest."""
    *_, shown, after = run('import sys; sys.modules["ipywidgets"] = None')
    assert after[0].text == "2\n"
    assert "No messages yet." in shown[0].data["text/html"]
    assert "Install it with: pip install ipywidgets" in json.dumps(shown[1])
