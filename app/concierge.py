"""The concierge: its model, its tools, and what it knows about a guest."""

import hashlib
from dataclasses import dataclass
from typing import Any

from langchain.agents import create_agent
from langchain.agents.middleware import HumanInTheLoopMiddleware, ModelRequest, dynamic_prompt
from langchain.chat_models import init_chat_model
from langchain.messages import ToolCall
from langchain.tools import ToolRuntime

PROMPT = "You are the concierge of Hotel Kamo in Kyoto."
HOURS = {"breakfast": "7 to 10 am", "pool": "8 am to 8 pm", "museum": "10 am to 6 pm"}


@dataclass(frozen=True)
class Guest:
    """Who is speaking: the context of each call."""

    id: str

    def names(self, kind: str) -> tuple[str, ...]:
        """Return the store's namespace for the guest's "conversations" or "memories"."""
        return ("guests", self.id, kind)


def get_opening_hours(place: str) -> str:
    """Tell when a place opens and closes."""
    return HOURS.get(place.lower(), f"No opening hours for the {place}.")


def cancel_booking(number: str) -> str:
    """Cancel a booking."""
    return f"Booking {number} is canceled."


def may_i_cancel(call: ToolCall, *_: object) -> str:
    """Ask the guest, whose yes the tool needs."""
    return f"May I cancel booking {call['args'].get('number')}?"


async def remember(fact: str, runtime: ToolRuntime[Guest]) -> str:
    """Remember a fact about the guest for later conversations."""
    key = hashlib.sha256(fact.encode()).hexdigest()  # so that it is there once, if told twice
    await runtime.store.aput(runtime.context.names("memories"), key, {"fact": fact})  # type: ignore[union-attr]
    return f"Noted: {fact}"


TOOLS: list[Any] = [get_opening_hours, cancel_booking, remember]


@dynamic_prompt
async def prompt(request: ModelRequest[Guest]) -> str:
    """Add what is known about the guest to the instructions."""
    names = request.runtime.context.names("memories")
    found = await request.runtime.store.asearch(names, limit=20)  # type: ignore[union-attr]
    facts = "".join(f"\n- {item.value['fact']}" for item in found)
    return f"{PROMPT}\n\nWhat you know about the guest:{facts}" if facts else PROMPT


def make_concierge(model: str = "demo", **memory: Any) -> Any:
    """Return the agent; ``model`` is "demo", or a name such as "google_genai:gemini-3.8-flash"."""
    if model == "demo":
        from memorystore_tutorial import DemoChatModel
    chat_model = DemoChatModel() if model == "demo" else init_chat_model(model)
    ask: Any = {"allowed_decisions": ["approve", "reject"], "description": may_i_cancel}
    middleware: Any = [prompt, HumanInTheLoopMiddleware({"cancel_booking": ask})]
    return create_agent(chat_model, TOOLS, middleware=middleware, context_schema=Guest, **memory)
