"""tools/run_notebooks.py and compare_notebooks.py: what is written, refused, and counted."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nbformat
import pytest

import compare_notebooks
import run_notebooks
from counting import Counts
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


def write(path: Path, *cells: str | tuple[str, str], **metadata: Any) -> Path:
    """Store a notebook of code cells that never ran, or that ran and printed something."""
    book = nbformat.v4.new_notebook(metadata=metadata)
    for number, cell in enumerate(cells, 1):
        source, *printed = [cell] if isinstance(cell, str) else cell
        outputs = [nbformat.v4.new_output("stream", text=text) for text in printed if text]
        count = number if printed else None
        book.cells.append(nbformat.v4.new_code_cell(source, outputs=outputs, execution_count=count))
    nbformat.write(book, path)
    return path


@pytest.mark.parametrize(
    ("cells", "status", "counts"),
    [
        pytest.param(
            [("print('as ever')", "as ever\n"), ("x = 1", "")], 0, Counts(passed=3), id="right"
        ),
        pytest.param(
            [("print('new')", "old\n"), (f"{CONNECT}_ = client.set('left', 1)", ""),
             (PROJECT, "None\n")],
            1, Counts(passed=2, failed=2), id="wrong",
        ),
    ],
)  # fmt: skip
def test_each_cell_is_compared_and_so_are_the_keys(
    tmp_path: Path, server: Server, cells: list[tuple[str, str]], status: int, counts: Counts
) -> None:
    """Another output is a failure, a key left behind is one; the cells have no cloud project."""
    report = tmp_path / "counts.json"
    path = write(tmp_path / "a.ipynb", *cells)
    assert compare_notebooks.main(["--counts", str(report), str(path)]) == status
    assert Counts(**json.loads(report.read_text())) == counts


def test_outputs_are_written_the_same_each_time(tmp_path: Path, server: Server) -> None:
    """Two runs leave the same bytes: counts 1..n, plain metadata, merged streams, no timing."""
    path = write(
        tmp_path / "a.ipynb",
        "import sys\nfor n in range(3):\n    print(n)\n    sys.stdout.flush()",
        "6 * 7",
        kernelspec={"name": "my-venv", "display_name": "My venv"},
        language_info={"name": "python", "version": "3.99"},
        colab={"provenance": []},
    )
    content = json.loads(path.read_text())
    for cell in content["cells"]:
        del cell["id"]
        cell["metadata"] = {"collapsed": True, "tags": ["nbval-ignore-output"]}
    path.write_text(json.dumps(content))

    assert run_notebooks.main([str(path)]) == 0
    first = path.read_bytes()
    assert run_notebooks.main([str(path)]) == 0
    assert path.read_bytes() == first

    book = nbformat.read(path, as_version=4)
    assert book.metadata == run_notebooks.METADATA
    assert [cell.execution_count for cell in book.cells] == [1, 2]
    assert [cell.id for cell in book.cells] == ["cell-00", "cell-01"]
    assert {str(dict(cell.metadata)) for cell in book.cells} == {
        "{'tags': ['nbval-ignore-output']}"
    }
    assert [output.text for output in book.cells[0].outputs] == ["0\n1\n2\n"]
    assert book.cells[1].outputs[0].data == {"text/plain": "42"}
    assert book.cells[1].outputs[0].execution_count == 2


def test_outputs_that_are_not_compared_are_kept(tmp_path: Path, server: Server) -> None:
    """What differs from run to run stays as committed, until --refresh asks for new outputs."""
    measured = "import time\nprint(time.perf_counter())\ntime.perf_counter_ns()"
    path = write(tmp_path / "a.ipynb", "1", measured, "import time\ntime.perf_counter_ns()")
    book = nbformat.read(path, as_version=4)
    book.cells[1].metadata["tags"] = ["nbval-ignore-output"]
    nbformat.write(book, path)

    def outputs(*options: str) -> list[str]:
        assert run_notebooks.main([str(path), *options]) == 0
        cells = nbformat.read(path, as_version=4).cells
        assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
        assert all(
            output.get("execution_count", cell.execution_count) == cell.execution_count
            for cell in cells
            for output in cell.outputs
        )
        return [str(cell.outputs) for cell in cells[-2:]]

    first = outputs()
    book = nbformat.read(path, as_version=4)
    book.cells.insert(0, nbformat.v4.new_code_cell("0", id="new"))
    nbformat.write(book, path)
    second = outputs()
    assert second[0] == first[0].replace("'execution_count': 2", "'execution_count': 3")
    assert second[1] != first[1]
    assert outputs("--refresh")[0] != second[0]


def test_bad_notebooks_are_named_and_not_written(
    tmp_path: Path, server: Server, capsys: pytest.CaptureFixture[str]
) -> None:
    """An error, a warning or a key left behind is named with its cell; later notebooks run.

    Their outputs are the offline ones, whatever the author's environment says.
    """
    careless = (
        "import sys\nprint('careful', file=sys.stderr)\n"
        f"{CONNECT}client.flushdb()\nclient.set('left', 1)"
    )
    bad = {
        "1 / 0": ["code cell 2: "],
        "import os\nos._exit(1)": ["code cell 2: "],
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
        for message in messages:
            assert f"{number}.ipynb, {message}" in printed
    assert [path.read_bytes() for path in paths] == before
    assert nbformat.read(good, as_version=4).cells[0].outputs[0].text == "None\n"


def test_run_without_an_endpoint_is_refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("MEMORYSTORE_ENDPOINT", raising=False)
    with pytest.raises(SystemExit, match="2"):
        run_notebooks.main([])
    said = "set MEMORYSTORE_ENDPOINT to the server to run on, or use: make notebooks"
    assert said in capsys.readouterr().err


def test_what_is_not_there_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A notebook, or the server: a sentence each, and the file stays as it was."""
    monkeypatch.setenv("MEMORYSTORE_ENDPOINT", f"127.0.0.1:{free_port()}")
    path = write(tmp_path / "a.ipynb", "print('never')")
    before = path.read_bytes()
    with pytest.raises(SystemExit, match="2"):
        run_notebooks.main([str(path), str(tmp_path / "b.ipynb")])
    assert "b.ipynb" in capsys.readouterr().err
    with pytest.raises(SystemExit, match="1"):
        run_notebooks.main([str(path)])
    assert capsys.readouterr().err.startswith("a.ipynb: Cannot connect to redis://127.0.0.1:")
    assert path.read_bytes() == before


def test_a_server_that_stops_in_the_middle_is_a_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The keys can't be compared any more, so the file stays as it was."""
    code = "from memorystore_chat import connect\nconnect(patience=0.1).shutdown(nosave=True)"
    path = write(tmp_path / "a.ipynb", code)
    before = path.read_bytes()
    with valkey() as server:
        monkeypatch.setenv("MEMORYSTORE_ENDPOINT", server.url)
        with pytest.raises(SystemExit, match="1"):
            run_notebooks.main([str(path)])
    assert re.match(r"a\.ipynb: Error .* connecting to 127\.0\.0\.1:", capsys.readouterr().err)
    assert path.read_bytes() == before
