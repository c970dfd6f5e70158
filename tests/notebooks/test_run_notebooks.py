"""tools/run_notebooks.py and check.py: what is written, refused, and counted."""

import json
import re
from collections import Counter
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path

import nbformat
import pytest

import check
import run_notebooks
from servers import Server, free_port, valkey

CONNECT = "from memorystore_chat import connect\nclient = connect()\n"
PROJECT = "import os\nprint(os.environ.get('GOOGLE_CLOUD_PROJECT'))"


@pytest.fixture
def server(valkey_server: Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """The server the notebooks run on, and an author who works in the cloud."""
    monkeypatch.setenv("MEMORYSTORE_ENDPOINT", valkey_server.url)
    monkeypatch.setenv("GOOGLE_CLOUD_PROJECT", "mine")
    yield valkey_server
    valkey_server.client().delete("left")


def write(path: Path, *cells: str | tuple[str, str]) -> Path:
    """Store a notebook of code cells that never ran, or that ran and printed something."""
    book = nbformat.v4.new_notebook()
    for number, cell in enumerate(cells, 1):
        source, *printed = [cell] if isinstance(cell, str) else cell
        outputs = [nbformat.v4.new_output("stream", text=text) for text in printed if text]
        count = number if printed else None
        book.cells.append(nbformat.v4.new_code_cell(source, outputs=outputs, execution_count=count))
    nbformat.write(book, path)
    return path


def test_each_cell_is_compared_and_so_are_the_keys(tmp_path: Path, server: Server) -> None:
    """An output that is another, and a key that is left behind, are a failure each."""
    cells = [("x = 1", ""), ("print('new')", "old\n"), (f"{CONNECT}_ = client.set('left', 1)", "")]
    path = write(tmp_path / "a.ipynb", *cells)
    counts = check.compare([path], lambda: nullcontext(server))
    assert counts == Counter(passed=2, failed=2)


def test_outputs_are_written_the_same_each_time(tmp_path: Path, server: Server) -> None:
    """Two runs leave the same bytes: counts 1..n, plain metadata, merged streams, no timing.

    What is not compared stays as it is until somebody clears it.
    """
    code = "import sys\nfor n in range(3):\n    print(n)\n    sys.stdout.flush()"
    path = write(tmp_path / "a.ipynb", code, "import time\ntime.perf_counter_ns()", "6 * 7")
    content = json.loads(path.read_text())
    content["nbformat_minor"] = 0
    content["metadata"] = {"kernelspec": {"name": "my-venv"}, "colab": {"provenance": []}}
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
    assert len({cell.id for cell in book.cells}) == 3
    assert [dict(cell.metadata) for cell in book.cells] == [
        {}, {"tags": [run_notebooks.UNCOMPARED]}, {}
    ]  # fmt: skip
    assert [output.text for output in book.cells[0].outputs] == ["0\n1\n2\n"]
    assert book.cells[2].outputs[0].data == {"text/plain": "42"}

    book.cells.insert(0, nbformat.v4.new_code_cell("0", id="new"))
    nbformat.write(book, path)
    assert run_notebooks.main([str(path)]) == 0
    (kept,) = nbformat.read(path, as_version=4).cells[2].outputs
    assert kept == book.cells[2].outputs[0] | {"execution_count": 3}
    book.cells[2].outputs = []
    nbformat.write(book, path)
    assert run_notebooks.main([str(path)]) == 0
    assert nbformat.read(path, as_version=4).cells[2].outputs[0].data != kept.data


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
    bad = {
        "1 / 0": ["An error occurred while executing the following cell:"],
        "import os\nos._exit(1)": ["Kernel died"],
        careless: [
            "code cell 2 wrote to stderr: careful",
            "left the key b'left' behind",
            "deleted the key b'not-the-tutorials:",
        ],
    }
    paths = [write(tmp_path / f"{n}.ipynb", "x = 1", source) for n, source in enumerate(bad)]
    before = [path.read_bytes() for path in paths]
    good = write(tmp_path / "good.ipynb", PROJECT)
    assert run_notebooks.main([*map(str, paths), str(good)]) == 1
    printed = capsys.readouterr().err
    for number, messages in enumerate(bad.values()):
        assert [text for text in messages if f"{number}.ipynb, {text}" not in printed] == []
    assert [path.read_bytes() for path in paths] == before
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
            (f"127.0.0.1:{free_port()}", 1, r"a\.ipynb: Cannot connect to redis://127\.0\.0\.1:"),
            (server.url, 1, r"a\.ipynb: Error .* connecting to 127\.0\.0\.1:"),
        ):
            monkeypatch.setenv("MEMORYSTORE_ENDPOINT", endpoint)
            with pytest.raises(SystemExit, match=str(status)):
                run_notebooks.main([str(path)])
            assert re.search(said, capsys.readouterr().err)
    assert path.read_bytes() == before
