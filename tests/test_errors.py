"""How an error of this package looks in a notebook."""

import pytest
from nbclient import NotebookClient
from nbformat.v4 import new_code_cell, new_notebook

WIDTH = 60


@pytest.fixture(scope="module")
def outputs() -> list[str]:
    """What a real kernel shows for three cells, the second of which fails inside the package."""
    cells = [
        "from memorystore_chat import connect\n\n"
        "def open_it(endpoint, password):\n"
        "    return connect(endpoint, password=password, timeout=0.2)",
        'client = open_it("127.0.0.1:1", password="open-sesame")',
        "import traceback; traceback.print_last()",
        'connect("redis://ada:open-sesame@127.0.0.1:1", timeout=0.2)',
        'connect("redis://:open-sesame")',
        "connect('127.0.0.1:6379/open-sesame')",
        'connect(endpoint="redis://127.0.0.1?password=open-sesame", cluster=False)',
        'connect("127.0.0.1:1", password="not \\"open-sesame", timeout=0.2)',
    ]
    book = new_notebook(cells=[new_code_cell(cell) for cell in cells])
    NotebookClient(book, timeout=60, kernel_name="python3", allow_errors=True).execute()
    return [
        "\n".join(output.get("traceback", [])) or output.get("text", "")
        for cell in book.cells
        for output in cell.outputs
    ]


def test_the_sentence_and_the_readers_lines_are_shown(outputs: list[str]) -> None:
    """In order of the calls, each line by its number in its cell, and nothing of the library."""
    shown = outputs[0].split("\n")
    assert shown[0].startswith("ConnectError: Cannot connect to")
    assert [line for line in shown if line.startswith("--->")] == [
        '---> 1 client = open_it("127.0.0.1:1", password="...")',
        "---> 4 return connect(endpoint, password=password, timeout=0.2)",
    ]
    assert "helpers" not in outputs[0]
    assert "site-packages" not in outputs[0]


def test_no_line_breaks_inside_a_word(outputs: list[str]) -> None:
    """Lines fit into a window of 900 pixels, where JupyterLab breaks longer ones anywhere."""
    lines = outputs[0].split("\n")
    assert max(len(line) for line in lines if not line.startswith("--->")) <= WIDTH
    assert max(map(len, lines)) <= 66  # the reader's own are not wrapped


def test_the_whole_stack_is_one_call_away(outputs: list[str]) -> None:
    assert outputs[0].endswith("The whole stack: import traceback; traceback.print_last()")
    assert "memorystore_chat/connection/" in outputs[1]
    assert "ConnectionRefusedError" in outputs[1]


def test_passwords_in_the_readers_line_are_hidden(outputs: list[str]) -> None:
    assert "open-sesame" not in outputs[0] + outputs[2]
    assert '---> 1 connect("redis://...@127.0.0.1:1", timeout=0.2)' in outputs[2]


def test_an_endpoint_that_is_rejected_is_not_copied(outputs: list[str]) -> None:
    """A password may stand anywhere in it, so the reader's line comes without any text."""
    assert "open-sesame" not in "".join(outputs[3:])
    assert '---> 1 connect(endpoint="...", cluster=False)' in outputs[5]
