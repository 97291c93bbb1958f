"""`sigmoid-core lab`: it serves the page until Ctrl-C, and refuses what cannot be done."""

import json
import re
import signal
import socket
import subprocess
import sys
import urllib.request

import pytest
from websockets.sync.client import connect

from sigmoidcore.cli import main

COMMAND = [sys.executable, "-m", "sigmoidcore", "lab", "--no-browser"]


@pytest.mark.parametrize(("signal_number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_it_serves_the_page_and_a_signal_ends_it_with_nothing_left(signal_number, code, tmp_path):
    with subprocess.Popen(
        [*COMMAND, "--port", "0"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=tmp_path
    ) as server:
        address = re.search(r"http://127\.0\.0\.1:\d+/", server.stdout.readline())[0]
        with urllib.request.urlopen(address) as answer:
            assert b"<canvas" in answer.read()
        server.send_signal(signal_number)
        output, error = server.communicate(timeout=60)
    assert (server.returncode, output) == (code, "")
    assert error.startswith("sigmoid-core: ")
    assert error.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_ctrl_c_ends_it_while_a_network_of_a_thousand_layers_trains():
    with subprocess.Popen(
        [*COMMAND, "--port", "0"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as server:
        address = re.search(r"127\.0\.0\.1:\d+", server.stdout.readline())[0]
        with connect(f"ws://{address}/ws?depth=1000&width=4", origin=f"http://{address}") as page:
            page.send('{"do": "start"}')
            while json.loads(page.recv())["kind"] != "frame":
                pass
            server.send_signal(signal.SIGINT)
            output, error = server.communicate(timeout=60)
    assert (server.returncode, output, error.count("\n")) == (130, "", 1)


def test_a_port_in_use_is_an_error_with_the_remedy(refused):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        error = refused(main, ["lab", "--no-browser", "--port", str(taken.getsockname()[1])])
    assert "or 0 for a free one" in error


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (["--target", "price"], "--data FILE and --target COLUMN belong together"),
        (["--host", "no.such.host.invalid"], "cannot listen on no.such.host.invalid"),
        (["--data", "nothing.csv", "--target", "price"], "nothing.csv"),
        (["--port", "70000"], "--port"),
    ],
)
def test_what_cannot_be_done_is_named(refused, arguments, part):
    assert part in refused(main, ["lab", "--no-browser", *arguments])


def test_another_address_is_printed_with_a_token_behind_the_number_sign():
    with subprocess.Popen(
        [*COMMAND, "--port", "0", "--host", "0.0.0.0"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as server:
        assert re.search(r"http://[^/]+/#token=[\w-]{32}", server.stdout.readline())
        server.send_signal(signal.SIGINT)
        server.communicate(timeout=60)
