"""The page in Chromium: what guests see, through ends, restarts, and hostile texts."""

import re
import signal
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest

import servers
from web_app import Replica

pytestmark = pytest.mark.browser
Start = Callable[..., Replica]
RULES = {"runOnly": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]}
IDLE = "#send:not([disabled])"


@pytest.fixture
def open_page(browser: Any) -> Iterator[Callable[..., Any]]:
    """Open the page as a guest of its own; what the page itself fails at fails the test."""
    errors: list[Any] = []

    def open_page(replica: Replica, **options: Any) -> Any:
        page = opened.enter_context(browser.new_context(**options)).new_page()
        page.on("pageerror", lambda error: errors.append(error))
        page.on("dialog", lambda dialog: dialog.accept())
        page.goto(replica.url)
        page.wait_for_selector(IDLE)
        return page

    with ExitStack() as opened:
        yield open_page
    assert errors == []


def send(page: Any, text: str) -> None:
    page.fill("#text", text)
    page.press("#text", "Enter")


def ask(page: Any, text: str) -> str:
    """Ask, wait for the end, and return the last line."""
    send(page, text)
    page.wait_for_selector(f"#said .guest >> text={text}")
    page.wait_for_selector(IDLE)
    return str(page.locator("#said p").last.inner_text())


def test_two_guests_and_forgetting(shared: Replica, open_page: Callable[..., Any]) -> None:
    ada, grace = open_page(shared), open_page(shared)
    ask(ada, "My name is Ada. Remember that I like green tea.")
    assert "Ada" in ask(ada, "What is my name?")
    assert "not told me" in ask(grace, "What is my name?")
    send(grace, "Hello")
    grace.keyboard.type("typed ahead")
    grace.wait_for_selector("#said .guest >> text=Hello")
    grace.wait_for_selector(IDLE)
    assert grace.input_value("#text") == "typed ahead"
    ada.click("#new")
    assert "green tea" in ask(ada, "What do I like?")
    ada.wait_for_selector("#list option:nth-child(3)", state="attached")
    ada.select_option("#list", label="My name is Ada. Remember that I like green tea.")
    ada.wait_for_selector("#said .guest >> text=What is my name?")
    ada.click("#forget")
    ada.wait_for_selector("#status >> text=Deleted conversations: 2, memories: 1.")
    assert ada.locator("#said p").count() == 0
    assert ada.locator("#list option").all_inner_texts() == ["Your conversations"]
    assert "green tea" not in ask(ada, "What do I like?")
    assert grace.locator("#list option").count() == 2


@pytest.mark.parametrize("when", ["by the other replica", "after a restart"])
def test_approval(start: Start, shared: Replica, open_page: Callable[..., Any], when: str) -> None:
    replica = start()
    page = open_page(replica)
    send(page, "Please cancel booking 42.")
    page.wait_for_selector("#said .approval >> text=May I cancel booking 42?")
    send(page, "Hello?")
    page.wait_for_selector("#status >> text=waits for a yes or no")
    assert page.input_value("#text") == "Hello?"
    if when == "after a restart":
        replica.end()
        replica.start()
        page.reload()
    else:
        page.goto(shared.url)
        page.wait_for_selector(IDLE)
        page.select_option("#list", index=1)  # a page of another address starts anew
    page.click("text=Yes, do it")
    page.wait_for_selector("#said .concierge >> text=canceled")
    assert page.locator("#said button").count() == 0


def test_second_tab_looks_again(shared: Replica, open_page: Callable[..., Any]) -> None:
    """What was decided or forgotten in another tab is seen; a typed yes or no is a decision."""
    page = open_page(shared)
    ask(page, "Please cancel booking 42.")
    with page.expect_popup() as opened:  # a tab with what this one has in front
        page.evaluate("window.open(location.href)")
    tab = opened.value
    tab.wait_for_selector("text=Yes, do it")
    send(page, "No.")
    page.wait_for_selector("#said .tool >> text=not done")
    page.wait_for_selector(IDLE)
    tab.click("text=Yes, do it")
    tab.wait_for_selector("#status >> text=waits for a question")
    assert tab.locator("#said button").count() == 0
    page.click("#forget")
    page.wait_for_selector("#status >> text=Deleted conversations: 1")
    send(tab, "Hello")
    tab.wait_for_selector("#said:empty")
    tab.wait_for_selector("#status >> text=no such conversation")
    assert tab.input_value("#text") == "Hello"


def test_hostile_texts_stay_texts(shared: Replica, open_page: Callable[..., Any]) -> None:
    """Whatever was said or stored: titles, memories, arguments of tools, a model's answers."""
    page = open_page(shared)
    attack = "<img src=x onerror=\"document.title='pwned'\"><script>document.title='pwned'</script>"
    for words in ("My name is {}", "Remember that I like {}", "Cancel booking '{}'"):
        send(page, words.format(attack))
        page.wait_for_selector("#said :is(.concierge, .approval)")
        page.click("#new")
        page.wait_for_selector("#said:empty")
    for number in (1, 2, 3):
        page.select_option("#list", index=number)
        page.locator("#said .guest").get_by_text(attack[:20]).wait_for()
        assert page.locator("img, #said script, #list script").count() == 0
    assert page.title() == "Hotel Kamo · Concierge"


def test_page_waits_for_a_server_that_is_away(
    start: Start, open_page: Callable[..., Any], valkey_server: servers.Server
) -> None:
    """The memory stopped, then the app itself: the words are kept, and the page goes on."""
    replica = start()
    page = open_page(replica)
    ask(page, "My name is Ada.")
    for stop, go_on in (
        (valkey_server.pause, valkey_server.resume),
        (lambda: replica.end(signal.SIGKILL), replica.start),
    ):
        stop()
        send(page, "What is my name?")
        page.wait_for_selector("#status >> text=Your words are kept here")
        assert page.input_value("#text") == "What is my name?"
        go_on()
        page.wait_for_selector("#status:empty", state="attached")
        page.press("#text", "Enter")
        page.wait_for_selector("#said .concierge >> text=Your name is Ada.")
        page.wait_for_selector(IDLE)


@pytest.mark.parametrize("cut", [None, signal.SIGTERM, signal.SIGKILL])
def test_answer_streams_and_goes_on(
    start: Start, open_page: Callable[..., Any], cut: signal.Signals | None
) -> None:
    """After a reload, or at another replica that has the address, as behind a load balancer."""
    replica = start(DEMO_MODEL_DELAY="0.3" if cut else "0.1")
    page = open_page(replica)
    send(page, "help")
    said = page.locator("#said .concierge")
    said.get_by_text(re.compile("I remember what")).wait_for()
    assert page.locator("#send").is_disabled(), "some of it is seen before its end"
    if cut:
        replica.end(cut)
        replica.settings["DEMO_MODEL_DELAY"] = "0"
        replica.start()
    else:
        page.click("#forget")
        page.wait_for_selector("#status >> text=still answering")
        page.reload()
        page.wait_for_selector("#status >> text=thinking")
    said.get_by_text(re.compile("work out 6 x 7")).wait_for(timeout=40_000)
    page.wait_for_selector(IDLE)
    assert page.locator("#said p").count() == 2


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 1000])
def test_page_has_no_barrier(
    shared: Replica, open_page: Callable[..., Any], scheme: str, width: int
) -> None:
    """Axe finds nothing, nothing is wider than a phone, and the keyboard does it all."""
    from axe_playwright_python.sync_playwright import Axe

    page = open_page(shared, color_scheme=scheme, viewport={"width": width, "height": 640})
    ask(page, "My name is Ada. Remember that I like green tea.")
    page.keyboard.type("Please cancel booking 42.")
    page.keyboard.press("Enter")
    page.wait_for_selector("text=Yes, do it")
    page.wait_for_selector(IDLE)
    found = Axe().run(page, options=RULES)
    assert found.violations_count == 0, found.generate_report()
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
    for _ in range(2):
        page.keyboard.press("Shift+Tab")
    assert page.evaluate("document.activeElement.textContent") == "Yes, do it"
    page.keyboard.press("Enter")
    page.wait_for_selector("#said .concierge >> text=canceled")
    page.focus("#list")
    page.keyboard.press("ArrowUp")
    page.wait_for_selector("#said:empty")
    assert page.evaluate("document.activeElement.id") == "list", "it is where it was"
