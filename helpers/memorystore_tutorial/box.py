"""A box to chat in: the reader types, the bot answers, and the list on the server grows beside it.

The box stands twice in a cell's output: as plain HTML, which a saved notebook keeps and which
reads without a kernel, and as widgets, which hide the HTML for as long as they live.
"""

import hashlib
import threading
import time
from collections.abc import Callable, Mapping
from html import escape
from typing import Any

from langchain_core.messages import AIMessage, BaseMessage, HumanMessage

from memorystore_chat.arguments import type_name
from memorystore_chat.errors import MemorystoreChatError
from memorystore_chat.extras import require
from memorystore_chat.history import MemorystoreChatMessageHistory
from memorystore_tutorial.conversation import summary, transcript
from memorystore_tutorial.tables import Table

_SHOWN = 8  # elements of the session's list; the older ones are counted
_SETTLE = 1.0  # seconds between a text and the key or click that sends it
_COLUMNS = "display:flex;flex-wrap:wrap;gap:.5em 2em;align-items:flex-start"

Reply = Callable[[str], object]


class ChatBox:
    """A conversation to take part in. Made by `chat_box`.

    Attributes:
        error: What the last question ended in, if not in an answer; its stack says where.
    """

    def __init__(self, reply: Reply, history: MemorystoreChatMessageHistory) -> None:
        self.error: BaseException | None = None
        self._reply, self._history = reply, history
        self._said: list[BaseMessage] = []
        self._note = self._stored = ""
        self._one_turn = threading.Lock()
        self._views: list[Callable[[], None]] = []
        self._name = f"chat-box-{hashlib.sha256(history.key.encode()).hexdigest()[:8]}"
        try:
            self._said = list(history.messages)
            self._stored = self._list_on_the_server()
        except MemorystoreChatError as error:
            self._fail(error)

    def __repr__(self) -> str:
        return f"{transcript(self._said)}\n{self._note}".rstrip("\n")

    def _repr_html_(self) -> str:
        conversation = f'<div style="flex:1 1 17em">{self._conversation()}</div>'
        stored = f'<div style="flex:1 1 14em">{self._stored}</div>'
        return f'<div class="{self._name}" style="{_COLUMNS}">{conversation}{stored}</div>'

    def _ipython_display_(self) -> None:
        display = require("IPython.display", extra="tutorial").display
        handle = display(self._static(), raw=True, display_id=True)
        self._views.append(lambda: handle.update(self._static(), raw=True))
        try:
            widgets = require("ipywidgets", extra="tutorial")
        except ModuleNotFoundError as error:
            display(f"This box is for reading only: {error}")
            return
        display(self._live(widgets))

    def _static(self) -> dict[str, str]:
        return {"text/html": self._repr_html_(), "text/plain": repr(self)}

    def _live(self, widgets: Any) -> Any:
        """Make the widgets of one view of the box."""
        layout = widgets.Layout
        conversation, stored = widgets.HTML(), widgets.HTML()
        typed = widgets.Text(placeholder="Type here, then press Enter", continuous_update=False)
        typed.layout = layout(flex="1 1 auto", width="auto")
        send = widgets.Button(description="Send", button_style="primary")
        send.layout = layout(width="5em")
        _Field(typed, send, self._ask)
        # Hide the plain form of this box, which stands in the same output. When the kernel is
        # gone, JupyterLab marks every widget; one mark at the field is enough.
        marks = f".{self._name}-live:before, .{self._name}-live :not(.widget-text):before"
        style = f".{self._name} {{display:none !important}} {marks} {{display:none !important}}"

        def show() -> None:
            conversation.value = self._conversation()
            stored.value = f"<style>{style}</style>{self._stored}"

        self._views.append(show)
        show()
        # From the bottom up, so that the newest message stays in sight.
        scrolled = widgets.Box([conversation])
        scrolled.layout = layout(
            display="flex", flex_flow="column-reverse", max_height="26em", overflow="auto"
        )
        left = widgets.VBox([scrolled, widgets.HBox([typed, send])])
        left.layout = layout(flex="1 1 17em")
        right = widgets.VBox([stored], layout=layout(flex="1 1 14em"))
        box = widgets.HBox([left, right])
        box.layout = layout(flex_flow="row wrap", align_items="flex-start", grid_gap="0 1.5em")
        box.add_class(f"{self._name}-live")
        return box

    def _ask(self, text: str) -> bool:
        """Begin a turn, unless there is nothing to ask or a turn is under way."""
        text = text.strip()
        if not text or not self._one_turn.acquire(blocking=False):
            return False
        self.error, self._note = None, "The bot is thinking ..."
        self._said.append(HumanMessage(text))
        self._show()
        threading.Thread(target=self._turn, args=(text,), daemon=True).start()
        return True

    def _turn(self, text: str) -> None:
        try:
            answer = self._reply(text)
            if not isinstance(answer, str | AIMessage):
                raise TypeError(  # noqa: TRY301
                    f"the function for the answers returned a {type_name(answer)}; it should "
                    "return text or an AIMessage"
                )
            self._stored = self._list_on_the_server()
            self._said.append(AIMessage(answer) if isinstance(answer, str) else answer)
            self._note = ""
        except Exception as error:  # noqa: BLE001 - whatever the reader's function raises is shown
            self._fail(error)
        finally:
            self._one_turn.release()
            self._show()

    def _fail(self, error: BaseException) -> None:
        ours = isinstance(error, MemorystoreChatError)
        self.error = error
        self._note = str(error) if ours else f"{type(error).__name__}: {error}"

    def _show(self) -> None:
        for view in self._views:
            view()

    def _conversation(self) -> str:
        note = f'<div role="status"><i>{escape(self._note)}</i></div>' if self._note else ""
        return transcript(self._said)._repr_html_() + note

    def _list_on_the_server(self) -> str:
        """Show the newest elements of the session's list, and how many there are."""
        newest = self._history.messages[-_SHOWN:]
        count = len(self._history)
        rows = [
            {"": index, "type": message.type, "content": summary(message)}
            for index, message in enumerate(newest, count - len(newest))
        ]
        elements = "1 element" if count == 1 else f"{count:,} elements"
        title = f"{self._history.key}: a list of {elements} on the server"
        columns = {name: name for name in ("", "type", "content")}
        return Table(rows, columns, title=title, empty="Nothing is stored yet.")._repr_html_()


class _Field:
    """A text field and its button: Enter or a click sends the text, whichever is reported first.

    The browser reports Enter before the text that it ends, and a click may overtake the text.
    """

    def __init__(self, typed: Any, send: Any, ask: Callable[[str], bool]) -> None:
        self._typed, self._ask = typed, ask
        self._lock = threading.Lock()
        self._changed = 0.0
        self._waiting: threading.Timer | None = None
        typed.observe(self._on_text, "value")
        typed.on_msg(self._on_message)
        send.on_click(self._on_click)

    def _on_text(self, change: Mapping[str, Any]) -> None:
        if change["new"]:  # not sent just now
            self._changed = time.monotonic()
            if self._waiting:
                self._send()

    def _on_message(self, _: object, content: Mapping[str, object], __: object) -> None:
        if content.get("event") == "submit":
            self._wait()

    def _on_click(self, _: object) -> None:
        if self._typed.value and time.monotonic() - self._changed < _SETTLE:
            self._send()
        else:
            self._wait()

    def _wait(self) -> None:
        """Send the next text, or the one that is there if no other comes."""
        with self._lock:
            if self._waiting:
                self._waiting.cancel()
            self._waiting = threading.Timer(_SETTLE, self._send)
            self._waiting.daemon = True
            self._waiting.start()

    def _send(self) -> None:
        with self._lock:
            if self._waiting:
                self._waiting.cancel()
            self._waiting = None
            if self._ask(self._typed.value):
                self._typed.value = ""


def chat_box(reply: Reply, history: MemorystoreChatMessageHistory) -> ChatBox:
    """Show a box to chat in, with the session's list on the server beside it.

    A cell that shows a box does not wait for you. What is saved in the notebook is the
    conversation and the list, to be read. An error appears in the box as its sentence.

    Args:
        reply: A function that takes what the reader typed, stores the turn in ``history`` and
            returns the answer: text, or an `AIMessage`.
        history: The session to show; what it holds already is the beginning of the conversation.

    Returns:
        The box, which shows itself at the end of a cell.

    Raises:
        TypeError: An argument is not of its kind.

    Example:
        >>> from memorystore_chat import MemorystoreChatMessageHistory, connect
        >>> history = MemorystoreChatMessageHistory(connect("embedded"), session_id="docs-box")
        >>> chat_box(lambda text: f"You said: {text}", history)
        No messages yet.
    """
    if not isinstance(history, MemorystoreChatMessageHistory):
        raise TypeError(
            f"history is a {type_name(history)}; it takes a chat message history, such as "
            "MemorystoreChatMessageHistory(client, session_id)."
        )
    if not callable(reply):
        raise TypeError(
            f"reply is a {type_name(reply)}; it takes a function from a question to its answer, "
            "such as lambda text: chain.invoke(text).text."
        )
    return ChatBox(reply, history)
