"""tools/run_notebooks.py and check.py: what is written, refused, and counted."""

import json
import re
from collections import Counter
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_notebook, new_output

import check
import run_notebooks
from servers import Server, valkey

CONNECT = "from memorystore_chat import connect\nclient = connect()\n"


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """A server of its own, as its keys are watched, and an author who works in the cloud."""
    with valkey() as running:
        monkeypatch.setenv("MEMORYSTORE_ENDPOINT", running.url)
        monkeypatch.setenv("GOOGLE_CLOUD_PROJECT", "mine")
        yield running


def write(path: Path, *cells: str) -> Path:
    """Store a notebook of code cells."""
    nbformat.write(new_notebook(cells=[*map(new_code_cell, cells)]), path)
    return path


def test_each_cell_is_compared_and_so_are_the_keys(
    tmp_path: Path, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An output that is another, and a key that is left behind, are a failure each."""
    monkeypatch.setattr(check, "NBVAL", [*check.NBVAL, "--numprocesses=0"])  # for one notebook
    old = [new_output("stream", text="old\n")]
    cells = [
        new_code_cell("x = 1", execution_count=1),
        new_code_cell("print('new')", execution_count=2, outputs=old),
        new_code_cell(f"{CONNECT}_ = client.set('left', 1)", execution_count=3),
    ]
    nbformat.write(new_notebook(cells=cells), tmp_path / "a.ipynb")
    counts = check.compare([tmp_path / "a.ipynb"], lambda: nullcontext(server))
    assert counts == Counter(passed=2, failed=2)


def test_outputs_are_written_the_same_each_time(tmp_path: Path, server: Server) -> None:
    """Two runs leave the same bytes: counts 1..n, plain metadata, merged streams, no timing.

    What is not compared stays as it is until somebody clears it.
    """
    code = "import sys\nfor n in range(3):\n    print(n)\n    sys.stdout.flush()"
    path = write(tmp_path / "a.ipynb", code, "import time\ntime.perf_counter_ns()", "6 * 7")
    content = json.loads(path.read_text())
    content |= {"nbformat_minor": 0, "metadata": {"kernelspec": {"name": "my-venv"}, "colab": {}}}
    for cell in content["cells"]:
        del cell["id"]
        cell["metadata"] = {"collapsed": True}
    content["cells"][1]["metadata"]["tags"] = [run_notebooks.UNCOMPARED]
    path.write_text(json.dumps(content))

    assert run_notebooks.main([str(path)]) == 0
    first = path.read_bytes()
    assert run_notebooks.main([str(path)]) == 0
    assert path.read_bytes() == first
    book = nbformat.read(path, as_version=4)
    assert book.metadata == run_notebooks.METADATA
    assert [cell.execution_count for cell in book.cells] == [1, 2, 3]
    metadata = [{}, {"tags": [run_notebooks.UNCOMPARED]}, {}]
    assert [dict(cell.metadata) for cell in book.cells] == metadata
    assert [output.text for output in book.cells[0].outputs] == ["0\n1\n2\n"]
    assert book.cells[2].outputs[0].data == {"text/plain": "42"}

    [kept] = book.cells[1].outputs
    book.cells.insert(0, new_code_cell("0", id="new"))
    for cleared in (False, True):
        if cleared:
            book.cells[2].outputs = []
        nbformat.write(book, path)
        assert run_notebooks.main([str(path)]) == 0
        [made] = nbformat.read(path, as_version=4).cells[2].outputs
        assert made.execution_count == 3
        assert (made.data != kept.data) == cleared


def test_bad_notebooks_are_named_and_not_written(
    tmp_path: Path, server: Server, capsys: pytest.CaptureFixture[str]
) -> None:
    """An error, a warning or a key left behind is named; later notebooks run.

    Their outputs are the offline ones, whatever the author's environment says.
    """
    careless = (
        "import sys\nprint('careful', file=sys.stderr)\n"
        f"{CONNECT}client.flushdb()\nclient.set('left', 1)"
    )
    sources = ("1 / 0", "import os\nos._exit(1)", careless)
    bad = [write(tmp_path / f"{n}.ipynb", "x = 1", source) for n, source in enumerate(sources)]
    before = [path.read_bytes() for path in bad]
    offline = "import os\nprint(os.environ.get('GOOGLE_CLOUD_PROJECT'))"
    good = write(tmp_path / "good.ipynb", offline)
    assert run_notebooks.main([*map(str, bad), str(good)]) == 1
    printed = capsys.readouterr().err
    for message in (
        "0.ipynb, An error occurred while executing the following cell:",
        "1.ipynb, Kernel died",
        "2.ipynb, code cell 2 wrote to stderr: careful",
        "2.ipynb, left the key b'left' behind",
        "2.ipynb, deleted the key b'not-the-tutorials:",
    ):
        assert message in printed
    assert [path.read_bytes() for path in bad] == before
    assert nbformat.read(good, as_version=4).cells[0].outputs[0].text == "None\n"


def test_a_server_that_is_not_there_is_a_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """None is named, it is away, or it stops in the middle: the file stays as it was."""
    code = "from memorystore_chat import connect\nconnect(patience=0.1).shutdown(nosave=True)"
    path = write(tmp_path / "a.ipynb", code)
    before = path.read_bytes()
    with valkey() as server:
        for endpoint, status, said in (
            ("", 2, "set MEMORYSTORE_ENDPOINT"),
            ("127.0.0.1:1", 1, r"a\.ipynb: Cannot connect to redis://127\.0\.0\.1:1"),
            (server.url, 1, r"a\.ipynb: Error .* connecting to 127\.0\.0\.1:"),
        ):
            monkeypatch.setenv("MEMORYSTORE_ENDPOINT", endpoint)
            with pytest.raises(SystemExit, match=str(status)):
                run_notebooks.main([str(path)])
            assert re.search(said, capsys.readouterr().err)
    assert path.read_bytes() == before
