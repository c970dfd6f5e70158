"""The exercises: unsolved, wrong in the usual ways, and solved; the notebook goes on after each."""

import os
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import TypeAlias

import pytest
from IPython.core.interactiveshell import InteractiveShell
from IPython.utils.capture import capture_output
from traitlets.config import Config

import series
from memorystore_tutorial import latency
from servers import Server

Run: TypeAlias = Callable[[str], str]

HISTORY = "MemorystoreChatMessageHistory(client, {}, key_prefix=KEY_PREFIX{})"
TEA = "tea = " + HISTORY.format("'tea'", "") + "\ntea.clear()\n"
SHORT = (
    "short_memory = MemorystoreChatMessageHistory(\n"
    "    client, 'exercise', key_prefix=KEY_PREFIX, {})\n"
    "short_memory.clear()\n"
    "for number in range(3):\n"
    "    short_memory.add_messages([HumanMessage('q'), AIMessage('a')])\n"
)
EXPIRE = "sessions.expire(client, {}, key_prefix=KEY_PREFIX, dry_run={})"
CHATTY = (
    "found = sessions.scan(client, key_prefix=KEY_PREFIX)\n"
    "chatty = [session.id for session in found if {}]\n"
    "if chatty:\n"
    "    sessions.delete(client, chatty, key_prefix=KEY_PREFIX, dry_run={})\n"
)
BRIEF = "def ask_briefly(user_id, question):\n    history = {}\n    return {}\n"
WHOLE = HISTORY.format('f"brief/{user_id}"', "")
NEWEST = HISTORY.format('f"brief/{user_id}"', ", window=2")
POPULATION = 'def {}(city: str) -> str:\n    """Say how many live there."""\n    return "2"\n'
REJECTED = (
    "saver.delete_thread('grace')\nask(agent, 'grace', 'Please cancel booking 7.')\n"
    "decision = {{'decisions': [{{'type': '{}'}}]}}\n"
    "agent.invoke(Command(resume=decision), thread('grace'))"
)
KEPT = (
    "my_saver = make_saver({})\nmy_saver.delete_thread('lee')\n"
    "ask(make_agent(model, my_saver), 'lee', 'Hi!')"
)

# For each exercise what readers try, and what the verdict has to speak of.
WRONG: dict[tuple[str, str], list[tuple[str, str]]] = {
    ("01_setup", "a favorite thing"): [
        ('ask("My favorite color is green.")', "not been asked"),
        ('ask("What is my favorite planet?")', "nobody has told it"),
    ],
    ("01_setup", "write one"): [
        ('my_endpoint = "10.1.2.3"', "no TLS"),
        ('my_endpoint = "valkey://10.1.2.3:6379"', "no TLS"),
        ('my_endpoint = "valkeys://10.1.2.3:6378"', "6378"),
        ('my_endpoint = "valkeys:10.1.2.3"', "error|is "),
        ('my_endpoint = "https://10.1.2.3"', "error"),
        ("my_endpoint = 6379", "error"),
    ],
    ("02_basic_usage", "a turn about tea"): [
        ('tea = "tea"', "error"),
        (TEA, "nothing"),
        (f'{TEA}tea.add_user_message("Green?")', r"\['human'\]"),
        (f'{TEA}tea.add_messages([AIMessage("a"), HumanMessage("q")])', "not"),
        (f'{TEA}for _ in range(2):\n    tea.add_messages([HumanMessage("q"), AIMessage("a")])',
         "'ai', 'human'"),
    ],
    ("02_basic_usage", "a short memory"): [
        (SHORT.format("window=4, ttl=60"), "one hour"),
        (SHORT.format("window=4"), "one hour"),
        (SHORT.format("ttl=3600"), "6 are read"),
        (SHORT.format("ttl=3600, max_messages=4"), "4 messages are stored"),
        (SHORT.format("window=4, ttl=3600") + "short_memory.clear()", "0 messages"),
    ],
    ("03_cleanup", "a week for Grace"): [
        (EXPIRE.format("ttl=7 * 24 * 3600", "False"), "ada, alan expire, too"),
        ("for user in (ada, alan, grace):\n    client.persist(user.key)", "no TTL"),
        (EXPIRE.format('["grace"], ttl=7 * 24 * 3600', "True"), "no TTL"),
        (EXPIRE.format('["grace"], ttl=7 * 24', "False"), r"0\.0 days"),
    ],
    ("03_cleanup", "forget the chatty ones"): [
        (CHATTY.format("session.messages > 4", "False"), "four messages or more"),
        (CHATTY.format("session.messages >= 4", "True"), "four messages or more"),
    ],
    ("04_chain_integration", "two conversations for Kay"): [
        ('ask(history_of("kay", "work"), "I like plums.")', "both"),
        ('ask(history_of("kay", "home"), "I like plums.")', "same words"),
    ],
    ("04_chain_integration", "a forgetful assistant"): [
        (BRIEF.format(WHOLE, "ask(history, question)"), "still knows"),
        (BRIEF.format(NEWEST, "chain.invoke({'history': [], 'question': question})"), "text"),
        (BRIEF.format(NEWEST, "chain.invoke({'history': [], 'question': question}).text"),
         "stored"),
        ("def ask_briefly(user_id):\n    return ''", "error, TypeError"),
    ],
    ("05_agent_memory", "a tool of your own"): [
        (POPULATION.format("get_population") + "my_agent = make_agent([get_population])",
         "not been asked"),
        ('ask(agent, "tool", "What is the population of Kyoto?")', "not called get_population"),
        (POPULATION.format("population") + "my_agent = make_agent([population])\n"
         'ask(my_agent, "tool", "What is the population of Kyoto?")', "called"),
    ],
    ("05_agent_memory", "two users, one question"): [
        ('answers = [ask(agent, "kay", "What is my name?")]', "not two"),
        ('answers = [ask(agent, n, "What is my name?") for n in ("kay", "lee")]', "not 4 each|Kay"),
    ],
    ("06_checkpoints", "say no"): [
        ('ask(agent, "grace", "Hi!")', "not been asked to cancel"),
        ('ask(agent, "grace", "Please cancel booking 7.")', "still waits"),
        (REJECTED.format("approve"), "was canceled"),
    ],
    ("06_checkpoints", "only the newest"): [
        ("my_saver = make_saver(keep=1, ttl=24 * 3600)\nsaver.delete_thread('lee')", "is empty"),
        (KEPT.format("keep=2, ttl=24 * 3600"), "2 checkpoints"),
        (KEPT.format("keep=1"), "not expire"),
        (KEPT.format("keep=1, ttl=48 * 3600"), "not expire"),
        ("my_saver = client", "not a checkpointer"),
    ],
    ("07_production", "the longest wait"): [
        ("slowest = sum(run.seconds)", "not the time"),
        ("slowest = min(run.seconds)", "not the time"),
        ('slowest = f"{max(run.seconds)} s"', "str"),
    ],
    ("07_production", "a history for production"): [
        ("def production_history(user):\n    return history_of('ada').key", "error"),
        ("def production_history(user):\n    return history_of(user)", "205|stored"),
    ],
}  # fmt: skip
EXERCISES = {
    (path.stem, exercise.title)
    for path in series.PATHS
    for exercise in series.exercises(series.load(path))
}


def test_usual_mistakes_are_known_for_every_exercise() -> None:
    assert set(WRONG) == EXERCISES


@pytest.fixture
def run(valkey_server: Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[Run]:
    """Runs a cell in this process, where all is imported; returns its last value as text."""
    monkeypatch.setitem(sys.modules, "__main__", sys.modules["__main__"])
    environment = series.environment(valkey_server.url)
    for name in os.environ.keys() - environment.keys():
        monkeypatch.delenv(name)
    monkeypatch.setenv("MEMORYSTORE_ENDPOINT", valkey_server.url)
    monkeypatch.setattr(latency, "TURNS", 5)  # no exercise is about them
    settings = Config({"HistoryManager": {"enabled": False}})
    shell = InteractiveShell.instance(config=settings)

    def run(source: str) -> str:
        with capture_output():
            result = shell.run_cell(source)
        result.raise_error()
        return repr(result.result)

    yield run
    InteractiveShell.clear_instance()


@pytest.mark.timeout(300)
@pytest.mark.parametrize("path", series.PATHS, ids=lambda path: path.stem)
def test_exercises(path: Path, run: Run) -> None:
    """Unsolved and wrong, the check says so and gives a hint; solved, also twice, it praises."""
    book = series.load(path)
    tasks = {exercise.task: exercise for exercise in series.exercises(book)}
    problems = []

    def verdict(task: int, code: str) -> str:
        """What the check says of a reader's code, which may itself end in an error."""
        with suppress(Exception):
            run(code)
        return run(book.cells[task + 1].source)

    for place, cell in enumerate(book.cells):
        if place not in tasks:
            if cell.cell_type == "code":
                run(cell.source)
            continue
        exercise = tasks[place]
        for code, about in [(cell.source, ""), *WRONG[path.stem, exercise.title]]:
            said = verdict(place, code)
            if not is_hint(about, said):
                problems.append(f"{exercise.title}: {code}\n-> {said}")
        for _ in range(2):
            said = verdict(place, exercise.solution)
            if not said.startswith("Solved."):
                problems.append(f"{exercise.title}: the solution\n-> {said}")
    assert problems == []


def is_hint(about: str, said: str) -> bool:
    """Whether a verdict says that it is wrong, how, and gives a hint."""
    problem, _, hint = said.partition("\nHint: ")
    said_in_one_line = " ".join(problem.split())
    return bool(hint and re.match(rf"Not solved yet: .*({about})", said_in_one_line))
