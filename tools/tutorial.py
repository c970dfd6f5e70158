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
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import nbformat
from jupyter_client.kernelspec import KernelSpecManager

from memorystore_chat import Endpoint, MemorystoreChatError, connect

ROOT = Path(__file__).resolve().parents[1]
FIRST = "01_setup.ipynb"
ORIGIN = "memorystore_chat"  # a notebook's metadata: what was written in it at first


def digests(path: Path) -> tuple[str, str]:
    """Digests of what is written in a notebook, and of what was when it was copied here.

    Its name counts, so that no copy of the reader's own is taken for it; what running adds does
    not. Either is empty where there is none.
    """
    if not path.exists():
        return "", ""
    content, origin = path.read_bytes(), ""
    # What can't be read as a notebook is the reader's own idea of one.
    with suppress(ValueError, KeyError, TypeError, AttributeError):
        book = json.loads(content)
        origin = book["metadata"].get(ORIGIN, "")
        cells = [[cell["cell_type"], "".join(cell["source"])] for cell in book["cells"]]
        content = json.dumps([path.name, cells]).encode()
    return hashlib.sha256(content).hexdigest(), origin


def put(path: Path, target: Path) -> None:
    """Copy a notebook without its outputs, and note in it what was written there.

    It has what JupyterLab writes into a notebook that it opens, and would then ask to save.
    """
    from ipykernel.ipkernel import IPythonKernel

    book = nbformat.read(path, as_version=4)
    for cell in book.cells:
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
    name = KernelSpecManager().get_kernel_spec("python3").display_name
    book.metadata.kernelspec = {"display_name": name, "language": "python", "name": "python3"}
    book.metadata.language_info = dict(IPythonKernel.language_info)
    book.metadata[ORIGIN], _ = digests(path)
    partial = target.with_suffix(f".{os.getpid()}")  # another start may do the same
    nbformat.write(book, partial)
    partial.replace(target)


def renew(source: Path, copy: Path, *, fresh: bool = False) -> list[str]:
    """Bring the working copy of a folder of notebooks up to date.

    With ``fresh`` also what the reader has changed is replaced, and kept in a folder whose name
    begins with ``before-``. Returns the names of notebooks of which there is a newer version, and
    the reader's was kept. A notebook that was only run is kept until there is a newer version.
    """
    aside, behind = copy / time.strftime("before-%Y%m%d-%H%M%S"), []
    copy.mkdir(parents=True, exist_ok=True)
    for path in sorted(source.glob("*.ipynb")):
        target = copy / path.name
        (new, _), (mine, known) = digests(path), digests(target)
        if mine not in (known, new):
            if not fresh:
                behind += [path.name] if known != new else []
                continue
            aside.mkdir(exist_ok=True)
            target.replace(aside / path.name)
        if fresh or mine != new:
            put(path, target)
    for target in copy.glob("*.ipynb"):
        mine, known = digests(target)
        if mine == known and not (source / target.name).exists():  # renamed or removed since
            target.unlink()
    return behind


def server() -> str:
    """A server that answers, in words; the embedded one runs until the last program ends."""
    endpoint = Endpoint.from_environment()
    with connect() as client:
        if endpoint.product != "embedded":
            return f"{endpoint} (from MEMORYSTORE_ENDPOINT)"
        place = Path(client.get_connection_kwargs()["path"]).parent
    return f"embedded Valkey, which keeps your conversations in {place}"


def address(url: str, token: str) -> str:
    """Where a JupyterLab shows the first notebook."""
    return f"{url}lab/tree/{FIRST}{f'?token={token}' if token else ''}"


def serve(folder: Path, arguments: Sequence[str], words: str, *, browser: bool) -> None:
    """Run JupyterLab on a folder until it is stopped; arguments for it win over what is here."""
    # It takes a second or two to load, and is of no use when the server is dead.
    from jupyterlab.labapp import LabApp
    from traitlets.config import Config

    def quiet(_: object, page: dict[str, list[str]]) -> dict[str, list[str]]:
        news = "@jupyterlab/apputils-extension:announcements"  # asks, and looks for updates
        return page | {"disabledExtensions": [*page.get("disabledExtensions", []), news]}

    decided = {
        "Application": {"log_level": "WARN"},
        "ServerApp": {
            "allow_root": os.geteuid() == 0,
            "open_browser": browser,
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
    words += f"\nOpen    {address(app.connection_url, app.identity_provider.token)}"
    words += "\nStop    Ctrl-C; your notebooks and conversations are there the next time"
    # Otherwise Ctrl-C asks a question, or leaves kernels to themselves without a terminal.
    signal.signal(signal.SIGINT, lambda *_: app.stop(from_signal=True))
    # The loop begins by listening, so that the address answers when it is read.
    app.io_loop.add_callback(print, f"Server  {words}", flush=True)
    app.start()


def main(arguments: Sequence[str] | None = None) -> int:
    """Open the tutorial; returns the exit status."""
    from jupyter_server.serverapp import list_running_servers

    parser = argparse.ArgumentParser(description="Open the tutorial in JupyterLab.")
    parser.add_argument("--folder", type=Path, default=ROOT / "my-notebooks", help="working copy")
    parser.add_argument("--fresh", action="store_true", help="begin with new notebooks")
    options, others = parser.parse_known_args(arguments)
    browser = sys.platform == "darwin" or not {"DISPLAY", "WAYLAND_DISPLAY"}.isdisjoint(os.environ)
    for found in list_running_servers():
        if Path(found["root_dir"]).resolve() == options.folder.resolve():
            open_there = address(found["url"], found["token"])
            print(f"Open    {open_there}\nStop    Ctrl-C where it was started, as it runs already")
            if browser and "--no-browser" not in others:
                webbrowser.open(open_there)
            return 0
    behind = renew(ROOT / "notebooks", options.folder, fresh=options.fresh)
    try:
        words = server()
        if behind:
            print(f"Yours is kept, and there is a newer {', '.join(behind)} (FRESH=1 takes it)")
        serve(options.folder, others, words, browser=browser)
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
