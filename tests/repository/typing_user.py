"""What a user writes: mypy --strict and basedpyright find no fault in it (`test_package`)."""

from langchain.agents import create_agent
from langchain.agents.middleware import SummarizationMiddleware
from langgraph.checkpoint.memory import InMemorySaver

from memorystore_chat import MemorystoreChatMessageHistory, connect
from memorystore_chat.agents import ChatHistoryMiddleware
from memorystore_tutorial import DemoChatModel


def answer(question: str) -> str:
    """Ask an agent that remembers, and that summarizes what is long."""
    history = MemorystoreChatMessageHistory(connect(), "ada", ttl=3600, window=50)
    model = DemoChatModel()
    middleware = [ChatHistoryMiddleware(history), SummarizationMiddleware(model)]
    agent = create_agent(model, middleware=middleware, checkpointer=InMemorySaver())
    result = agent.invoke(
        {"messages": [{"role": "user", "content": question}]},
        {"configurable": {"thread_id": "ada"}},
    )
    return str(result["messages"][-1].text)


def several(user: str) -> ChatHistoryMiddleware:
    """Make a history for each thread."""
    client = connect("embedded")

    def history_of(thread_id: str) -> MemorystoreChatMessageHistory:
        return MemorystoreChatMessageHistory(client, f"{user}/{thread_id}")

    return ChatHistoryMiddleware(history_of)
