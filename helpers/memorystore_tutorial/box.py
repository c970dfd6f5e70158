"""A box to chat in: the reader types, the bot answers, and the list on the server grows beside it.

The box stands twice in a cell's output: as plain HTML, which a saved notebook keeps and which
reads without a kernel, and as widgets, which hide the HTML for as long as they live.
"""

import asyncio
import hashlib
from collections.abc import Callable
from html import escape
from typing import Any

from langchain_core.messages import AIMessage, HumanMessage

from memorystore_chat.arguments import type_name
from memorystore_chat.errors import MemorystoreChatError
from memorystore_chat.extras import require
from memorystore_chat.history import MemorystoreChatMessageHistory
from memorystore_chat.sessions.report import counted
from memorystore_tutorial.conversation import summary, transcript
from memorystore_tutorial.tables import Table

_SHOWN = 8  # elements of the session's list; the older ones are counted
_COLUMNS = "display:flex;flex-wrap:wrap;gap:.5em 2em;align-items:flex-start"
# From the bottom up, so that the newest message stays in sight.
_UPWARDS = "display:flex;flex-direction:column-reverse;overflow:auto;max-height:26em"
# The widgets hide the plain form, which stands in the same output. When the kernel is gone,
# JupyterLab marks every widget; a sentence in place of the field says more.
_STYLE = (
    ".NAME, .NAME-live.jupyter-widgets-disconnected :is(input, button),"
    ".NAME-live:before, .NAME-live :not(.widget-text):before {display:none !important}"
    ".NAME-live .widget-text.jupyter-widgets-disconnected:before {font:inherit; color:inherit;"
    "content:'The box has lost its kernel. To chat again, run the cells from the top.'}"
)

Reply = Callable[[str], object]


class ChatBox:
    """A conversation to take part in. Made by `chat_box`.

    Attributes:
        error: What the last question ended in, if not in an answer; its stack says where.
    """

    def __init__(self, reply: Reply, history: MemorystoreChatMessageHistory) -> None:
        self._reply, self._history = reply, history
        self._said, self._note = list(history.messages), ""
        self._stored = self._list_on_the_server()
        self._name = f"chat-box-{hashlib.sha256(history.key.encode()).hexdigest()[:8]}"
        self._handle: Any = None  # of the plain form, once it is shown
        self.error: BaseException | None = None
        self._is_pressed = False  # Enter, for a text that may not be here yet
        self._settling: asyncio.TimerHandle | None = None
        widgets = require("ipywidgets", extra="tutorial")
        self._left, self._right = widgets.HTML(), widgets.HTML(layout={"flex": "1 1 14em"})
        self._typed = widgets.Text(placeholder="Type here, then press Enter")
        self._typed.continuous_update = False
        self._typed.layout = {"flex": "1 1 auto", "width": "auto"}
        send = widgets.Button(description="Send", button_style="primary", layout={"width": "5em"})
        # The browser reports Enter before the text, and a click after it; the text also when the
        # field is left. Not in a thread: Colab shows no change of a widget that a thread makes.
        self._typed.observe(self._ask, "value")
        self._typed.on_msg(self._press)
        send.on_click(self._settle)
        row = widgets.HBox([self._typed, send])
        left = widgets.VBox([self._left, row], layout={"flex": "1 1 17em"})
        wrap = {"flex_flow": "row wrap", "align_items": "flex-start", "grid_gap": "0 1.5em"}
        self._live = widgets.HBox([left, self._right], layout=wrap)
        self._live.add_class(f"{self._name}-live")
        self._show()

    def __repr__(self) -> str:
        return f"{transcript(self._said)}\n{self._note}".rstrip("\n")

    def _ipython_display_(self) -> None:
        display = require("IPython.display", extra="tutorial").display
        self._handle = display(self._plain(), raw=True, display_id=self._name)
        display(self._live)

    def _show(self) -> None:
        """Bring the widgets and the plain form up to date."""
        self._left.value = f'<div style="{_UPWARDS}">{self._conversation()}</div>'
        self._right.value = f"<style>{_STYLE.replace('NAME', self._name)}</style>{self._stored}"
        if self._handle:
            self._handle.update(self._plain(), raw=True)

    def _plain(self) -> dict[str, str]:
        conversation = f'<div style="flex:1 1 17em">{self._conversation()}</div>'
        stored = f'<div style="flex:1 1 14em">{self._stored}</div>'
        html = f'<div class="{self._name}" style="{_COLUMNS}">{conversation}{stored}</div>'
        return {"text/html": html, "text/plain": repr(self)}

    def _press(self, *_: object) -> None:
        """Wait for the text, which is not reported if it is the one that is here already."""
        if self._settling:
            self._settling.cancel()
        self._is_pressed = True
        self._settling = asyncio.get_running_loop().call_later(0.2, self._settle)

    def _settle(self, *clicked: object) -> None:
        self._is_pressed |= bool(clicked)
        self._ask()
        self._is_pressed = False

    def _ask(self, *_: object) -> None:
        """Ask what is typed, once Enter or the button is pressed and the text is here."""
        text = self._typed.value.strip()
        if not (text and self._is_pressed):
            return
        self._is_pressed, self._typed.value = False, ""
        self._said.append(HumanMessage(text))
        self.error, self._note = None, "The bot is thinking ..."
        self._show()
        try:
            answer = self._reply(text)
            if not isinstance(answer, str | AIMessage):
                raise TypeError(f"the function returned no text, but {answer!r}")  # noqa: TRY301
            self._stored = self._list_on_the_server()
            self._said.append(AIMessage(answer) if isinstance(answer, str) else answer)
            self._note = ""
        except (Exception, KeyboardInterrupt) as error:  # noqa: BLE001 - of the reader's function
            kind = "" if isinstance(error, MemorystoreChatError) else f"{type(error).__name__}: "
            self.error, self._note = error, f"{kind}{error}"
        self._show()

    def _conversation(self) -> str:
        note = f'<div role="status"><i>{escape(self._note)}</i></div>' if self._note else ""
        return transcript(self._said)._repr_html_() + note

    def _list_on_the_server(self) -> str:
        """Show the newest elements of the session's list, and how many there are."""
        count = len(self._history)
        newest = self._history.messages[-_SHOWN:]
        rows = [
            {"": index, "type": message.type, "content": summary(message)}
            for index, message in enumerate(newest, count - len(newest))
        ]
        title = f"{self._history.key}: a list of {counted(count, 'element')} on the server"
        columns = {name: (name, str) for name in ("", "type", "content")}
        return Table(rows, columns, title=title, empty="Nothing is stored yet.")._repr_html_()


def chat_box(reply: Reply, history: MemorystoreChatMessageHistory) -> ChatBox:
    """Show a box to chat in, with the session's list on the server beside it.

    Enter sends what you typed, and so does the button. Type on when the field is empty again: what
    was typed meanwhile is lost. A cell that shows a box does not wait for you; no other cell runs
    while the bot answers. What is saved in the notebook is the conversation and the list, to be
    read. An error appears in the box as its sentence, and is its ``error``.

    Args:
        reply: A function that takes what the reader typed, stores the turn in ``history`` and
            returns the answer: an `AIMessage`, or its text.
        history: The session to show; what it holds already is the beginning of the conversation.

    Returns:
        The box, which shows itself at the end of a cell.

    Raises:
        TypeError: An argument is not of its kind.
        MemorystoreChatError: The session cannot be read.
        ModuleNotFoundError: ipywidgets is missing.

    Example:
        >>> from memorystore_chat import MemorystoreChatMessageHistory, connect
        >>> history = MemorystoreChatMessageHistory(connect("embedded"), session_id="docs-box")
        >>> chat_box(lambda text: f"You said: {text}", history)
        No messages yet.
    """
    if not isinstance(history, MemorystoreChatMessageHistory) or not callable(reply):
        raise TypeError(
            "chat_box() takes a function from a question to its answer, and the chat message "
            f"history it stores them in, not a {type_name(reply)} and a {type_name(history)}."
        )
    return ChatBox(reply, history)
