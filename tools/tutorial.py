"""Open the tutorial in JupyterLab: ``make tutorial``.

JupyterLab shows a working copy of the notebooks, without outputs, so that running and solving
them leaves the repository alone. A later start renews what the reader has not changed.
"""

import argparse
import hashlib
import json
import os
import secrets
import signal
import sys
import time
import webbrowser
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import nbformat
from jupyter_client.kernelspec import KernelSpecManager

from counting import ROOT
from memorystore_chat import Endpoint, MemorystoreChatError, connect

FIRST = "01_setup.ipynb"
RECORD = ".copied.json"


def digest(content: bytes) -> str:
    """All of a file."""
    return hashlib.sha256(content).hexdigest()


def written(path: Path, content: bytes) -> str:
    """What is written in a file: a notebook's cells without what running it makes of them."""
    if path.suffix == ".ipynb":
        try:
            cells = json.loads(content)["cells"]
            text = json.dumps([[cell["cell_type"], "".join(cell["source"])] for cell in cells])
        except (ValueError, KeyError, TypeError):
            return digest(content)  # the reader's own idea of a notebook
        return digest(text.encode())
    return digest(content)


def to_copy(path: Path) -> bytes:
    """What the working copy gets of a file: of a notebook no outputs, and all that JupyterLab adds.

    JupyterLab writes the kernel's name and language into a notebook that it opens, and would ask
    whether to save a notebook in which either was another.
    """
    if path.suffix != ".ipynb":
        return path.read_bytes()
    from ipykernel.ipkernel import IPythonKernel

    book = nbformat.read(path, as_version=4)
    for cell in book.cells:
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
    kernel = KernelSpecManager().get_kernel_spec("python3")
    book.metadata.kernelspec = {
        "display_name": kernel.display_name,
        "language": kernel.language,
        "name": "python3",
    }
    book.metadata.language_info = dict(IPythonKernel.language_info)
    return f"{nbformat.writes(book)}\n".encode()


def renew(source: Path, copy: Path, *, fresh: bool = False) -> list[str]:
    """Bring the working copy up to date.

    Args:
        source: The folder of the notebooks.
        copy: The working copy's; it is made when it is missing.
        fresh: Whether to replace what the reader has changed, too; that is kept in a folder whose
            name begins with ``before-``.

    Returns:
        Names of files of which there is a newer version, and the reader's was kept.
    """
    record = copy / RECORD
    # By name: the digest of what was put there, and what was written in it.
    before: dict[str, list[str]] = json.loads(record.read_text()) if record.exists() else {}
    after: dict[str, list[str]] = {}
    aside = copy / time.strftime("before-%Y%m%d-%H%M%S")
    behind = []
    for path in sorted(source.rglob("*")):
        if not path.is_file() or ".ipynb_checkpoints" in path.parts:
            continue
        name, target = path.relative_to(source).as_posix(), copy / path.relative_to(source)
        content = to_copy(path)
        new, known = [digest(content), written(path, content)], before.get(name, ["", ""])
        mine = target.read_bytes() if target.exists() else None
        if mine is not None and written(target, mine) not in (known[1], new[1]):
            if not fresh:
                after[name] = known
                behind += [name] if known[1] != new[1] else []
                continue
            (aside / name).parent.mkdir(parents=True, exist_ok=True)
            target.replace(aside / name)
        # What was only run is kept until there is a newer version.
        if fresh or mine is None or digest(mine) == known[0] or written(target, mine) != new[1]:
            put(content, target)
        after[name] = new
    for name in before.keys() - after.keys():  # renamed or removed since
        target = copy / name
        if target.exists() and written(target, target.read_bytes()) == before[name][1]:
            target.unlink()
    put(json.dumps(after).encode(), record)
    return behind


def put(content: bytes, target: Path) -> None:
    """Write a file in one step, as another start may do the same."""
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(f".{target.name}.{os.getpid()}")
    partial.write_bytes(content)
    partial.replace(target)


@contextmanager
def server() -> Iterator[str]:
    """A server that answers, in words; the embedded one runs until the last program ends.

    Raises:
        MemorystoreChatError: The server of ``MEMORYSTORE_ENDPOINT`` does not answer.
    """
    endpoint = Endpoint.from_environment()
    with connect() as client:
        if endpoint.product != "embedded":
            yield f"{endpoint} (from MEMORYSTORE_ENDPOINT)"
            return
        place = Path(client.get_connection_kwargs()["path"]).parent
        yield f"embedded Valkey, which keeps your conversations in {place}"


def has_screen() -> bool:
    """Whether a browser can be opened here."""
    screens = {"DISPLAY", "WAYLAND_DISPLAY"} & os.environ.keys()
    return sys.platform == "darwin" or bool(screens)


def address(url: str, token: str) -> str:
    """Where the first notebook is, in a JupyterLab."""
    return f"{url}lab/tree/{FIRST}{f'?token={token}' if token else ''}"


def already_open(folder: Path) -> str | None:
    """The address of the JupyterLab that shows a folder already."""
    from jupyter_server.serverapp import list_running_servers

    for found in list_running_servers():
        if Path(found["root_dir"]).resolve() == folder.resolve():
            return address(found["url"], found["token"])
    return None


def quiet(_: object, page: dict[str, Any]) -> dict[str, Any]:
    """JupyterLab's page without its question about news, and its looking for updates."""
    extension = "@jupyterlab/apputils-extension:announcements"
    return page | {"disabledExtensions": [*page.get("disabledExtensions", []), extension]}


def serve(folder: Path, arguments: Sequence[str], words: str) -> None:
    """Run JupyterLab until it is stopped.

    Args:
        folder: What it shows.
        arguments: For JupyterLab; they win over what is decided here.
        words: The server in use.
    """
    # It takes a second or two to load, and is of no use when the server is dead.
    from jupyterlab.labapp import LabApp
    from traitlets.config import Config

    decided = {
        "Application": {"log_level": "WARN"},
        "ServerApp": {
            "allow_root": os.geteuid() == 0,
            "open_browser": has_screen(),
            "root_dir": str(folder),
            "tornado_settings": {"page_config_hook": quiet},
            "websocket_ping_timeout": 30_000,  # its own default is above what tornado allows
        },
        # One that JupyterLab makes itself is printed by it, with more than a reader needs.
        "IdentityProvider": {"token": secrets.token_hex(24)},
        "LabApp": {"default_url": f"/lab/tree/{FIRST}"},
        # Otherwise each kernel warns that what it is sent could be overheard.
        "MappingKernelManager": {"transport_encryption": "auto"},
    }
    app = LabApp.initialize_server(argv=list(arguments), config=Config(decided))
    lines = (
        f"Server  {words}",
        f"Open    {address(app.connection_url, app.identity_provider.token)}",
        "Stop    Ctrl-C; your notebooks and conversations are there the next time",
    )
    # Otherwise Ctrl-C asks a question, or leaves kernels to themselves without a terminal.
    signal.signal(signal.SIGINT, lambda *_: app.stop(from_signal=True))
    # The loop begins by listening, so that the address answers when it is read.
    app.io_loop.add_callback(print, *lines, sep="\n", flush=True)
    app.start()


def main(arguments: Sequence[str] | None = None) -> int:
    """Open the tutorial; returns the exit status."""
    parser = argparse.ArgumentParser(description="Open the tutorial in JupyterLab.")
    parser.add_argument("--folder", type=Path, default=ROOT / "my-notebooks", help="working copy")
    parser.add_argument("--fresh", action="store_true", help="begin with new notebooks")
    options, others = parser.parse_known_args(arguments)
    if (found := already_open(options.folder)) is not None:
        print(
            f"Open    {found}",
            "Stop    Ctrl-C where it was started; this one runs already",
            sep="\n",
        )
        if has_screen() and "--no-browser" not in others:
            webbrowser.open(found)
        return 0
    behind = renew(ROOT / "notebooks", options.folder, fresh=options.fresh)
    try:
        with server() as words:
            if behind:
                print(f"Yours is kept, and there is a newer {', '.join(behind)} (FRESH=1 takes it)")
            serve(options.folder, others, words)
    except MemorystoreChatError as error:
        print(error, file=sys.stderr)
        if os.environ.get("MEMORYSTORE_ENDPOINT"):
            print("Without MEMORYSTORE_ENDPOINT the embedded server is used.", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:  # before JupyterLab takes signals itself
        sys.exit(130)
