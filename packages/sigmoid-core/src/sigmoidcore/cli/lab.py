"""`sigmoid-core lab`: a local web page on which two networks train, and every layer's gradient shows."""

import socket
import webbrowser
from pathlib import Path
from typing import Annotated

import typer

from sigmoidcore.cli.common import Lang
from sigmoidcore.language import _
from unstuck.language.errors import InputError

DATA = typer.Option("--data", metavar="FILE", help="Your own table, beside the built-in data.")
TARGET = typer.Option("--target", metavar="COLUMN", help="Its column to learn.")
HOST = typer.Option("--host", metavar="ADDRESS", help="Address to listen on; any but the default needs a token.")
PORT = typer.Option("--port", metavar="N", min=0, max=65535, help="Port; 0: a free one.")
NO_BROWSER = typer.Option("--no-browser", help="Only print the address.")


def lab(
    data: Annotated[Path | None, DATA] = None,
    target: Annotated[str | None, TARGET] = None,
    host: Annotated[str, HOST] = "127.0.0.1",
    port: Annotated[int, PORT] = 8765,
    no_browser: Annotated[bool, NO_BROWSER] = False,
    lang: Lang = None,
) -> None:
    """Open a web page where two networks train side by side, with the gradient of every layer."""
    if (target is None) != (data is None):
        raise InputError("--data FILE and --target COLUMN belong together: give both")
    import uvicorn
    import websockets  # noqa: F401  which uvicorn imports when it serves

    from sigmoidcore.lab.datasets import own_data
    from sigmoidcore.lab.guard import Guard
    from sigmoidcore.lab.server import application

    own = None if data is None or target is None else own_data(data, target)
    guard = Guard(host)
    with _listening(host, port) as listener:
        address = _address(host, listener.getsockname()[1], guard.token)
        print(_("Sigmoid Core lab: {address} (Ctrl-C ends it)", address=address), flush=True)
        if not no_browser:
            webbrowser.open(address)
        config = uvicorn.Config(
            application(guard, own), log_level="warning", ws="websockets-sansio", ws_max_size=1 << 20,
            ws_per_message_deflate=False, ws_ping_timeout=60, timeout_graceful_shutdown=1, server_header=False,
        )  # fmt: skip
        uvicorn.Server(config).run(sockets=[listener])


def _listening(host: str, port: int) -> socket.socket:
    """A socket that listens, so that the address can be printed before the server runs."""
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        return socket.create_server((host, port), family=family, backlog=128)
    except OSError as error:
        raise InputError("cannot listen on {host}, port {port}: {reason}; give another --port, or 0 for a free one",
                host=host, port=str(port), reason=error.strerror or str(error)) from error  # fmt: skip


def _address(host: str, port: int, token: str) -> str:
    """The address of the page; the token is behind the #, which browsers send to nobody."""
    name = {"0.0.0.0": socket.gethostname(), "::": socket.gethostname()}.get(host, host)
    return f"http://{f'[{name}]' if ':' in name else name}:{port}/" + (f"#token={token}" if token else "")
