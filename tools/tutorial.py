"""Open the tutorial in JupyterLab: ``make tutorial``.

JupyterLab shows a working copy of the notebooks, so that running and solving them leaves the
repository alone. A later start renews what the reader has not changed.
"""

import argparse
import hashlib
import json
import os
import secrets
import shutil
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import nbformat
from nbformat.sign import NotebookNotary

from counting import ROOT
from memorystore_chat import Endpoint, MemorystoreChatError, connect

FIRST = "01_setup.ipynb"
RECORD = ".copied.json"


def digest(path: Path) -> str:
    """All of a file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def written(path: Path) -> str:
    """What is written in a file: a notebook's cells without what running it makes of them."""
    if path.suffix == ".ipynb":
        try:
            cells = json.loads(path.read_bytes())["cells"]
            text = json.dumps([[cell["cell_type"], "".join(cell["source"])] for cell in cells])
        except (ValueError, KeyError, TypeError):
            return digest(path)  # the reader's own idea of a notebook
        return hashlib.sha256(text.encode()).hexdigest()
    return digest(path)


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
    before: dict[str, list[str]] = json.loads(record.read_text()) if record.exists() else {}
    after: dict[str, list[str]] = {}
    aside = copy / time.strftime("before-%Y%m%d-%H%M%S")
    behind = []
    for path in sorted(source.rglob("*")):
        if not path.is_file() or ".ipynb_checkpoints" in path.parts:
            continue
        name, target = path.relative_to(source).as_posix(), copy / path.relative_to(source)
        new = [digest(path), written(path)]
        known = before.get(name, ["", ""])
        mine = [digest(target), written(target)] if target.exists() else None
        if mine and mine[1] not in (known[1], new[1]):
            if not fresh:
                after[name] = known
                behind += [name] if known != new else []
                continue
            (aside / name).parent.mkdir(parents=True, exist_ok=True)
            target.replace(aside / name)
        if fresh or mine is None or mine[0] == known[0] or mine[1] != new[1]:
            put(path, target)
        after[name] = new
    for name in before.keys() - after.keys():  # renamed or removed since
        if (copy / name).exists() and written(copy / name) == before[name][1]:
            (copy / name).unlink()
    partial = record.with_suffix(f".{os.getpid()}")
    partial.write_text(json.dumps(after))
    partial.replace(record)
    return behind


def put(path: Path, target: Path) -> None:
    """Copy a file in one step, as another start may do the same.

    JupyterLab trusts the outputs that a notebook came with, and shows them as they were.
    """
    if path.suffix == ".ipynb":
        NotebookNotary().sign(nbformat.read(path, as_version=4))
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(f".{target.name}.{os.getpid()}")
    shutil.copyfile(path, partial)
    partial.replace(target)


@contextmanager
def server() -> Iterator[str]:
    """A server that answers, in words; the embedded one is stopped by the last who used it.

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

    screen = sys.platform == "darwin" or {"DISPLAY", "WAYLAND_DISPLAY"} & os.environ.keys()
    decided = {
        "Application": {"log_level": "WARN"},
        "ServerApp": {
            "allow_root": os.geteuid() == 0,
            "open_browser": bool(screen),
            "root_dir": str(folder),
            "tornado_settings": {"page_config_hook": quiet},
            "websocket_ping_timeout": 30_000,  # its own default is above what tornado allows
        },
        # One that JupyterLab makes itself is printed by it, with more than a reader needs.
        "IdentityProvider": {"token": secrets.token_hex(24)},
        "LabApp": {"default_url": f"/lab/tree/{FIRST}"},
    }
    app = LabApp.initialize_server(argv=list(arguments), config=Config(decided))
    token = app.identity_provider.token
    lines = (
        f"Server  {words}",
        f"Open    {app.connection_url}lab/tree/{FIRST}{f'?token={token}' if token else ''}",
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
