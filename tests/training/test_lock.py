"""One process on a folder."""

import json
import os
import socket
import subprocess
import sys

import pytest

from sigmoidcore.training.runs.lock import InUseError, Lock

HOLD = """
import sys
from pathlib import Path
from sigmoidcore.training.runs.lock import Lock
lock = Lock(Path(sys.argv[1]))
print("held", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def other(tmp_path):
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.communicate()


def test_a_second_process_is_refused_with_the_first_ones_number_and_host(tmp_path, other):
    with pytest.raises(InUseError, match=f"is in use by process {other.pid} on {socket.gethostname()}: wait for it"):
        Lock(tmp_path)
    assert json.loads((tmp_path / "lock").read_text())["pid"] == other.pid


def test_a_lock_whose_process_was_killed_is_taken_over(tmp_path, other):
    other.kill()
    other.wait()
    assert (tmp_path / "lock").exists()
    lock = Lock(tmp_path)
    assert json.loads((tmp_path / "lock").read_text())["pid"] == os.getpid()
    lock.release()
    assert list(tmp_path.iterdir()) == []


def test_a_lock_of_another_host_is_believed_and_the_remedy_is_named(tmp_path):
    (tmp_path / "lock").write_text('{"pid": 7, "host": "elsewhere"}\n')
    with pytest.raises(InUseError, match=r"in use by process 7 on elsewhere: .* if it is not running any more, remove"):
        Lock(tmp_path)


@pytest.mark.parametrize("text", ["", "nonsense", "[1]", "\x00" * 10])
def test_a_lock_that_says_nothing_is_taken_over(tmp_path, text):
    (tmp_path / "lock").write_text(text)
    Lock(tmp_path).release()
    assert not (tmp_path / "lock").exists()


def test_a_lock_that_is_a_link_is_not_written_through(tmp_path):
    (tmp_path / "mine").write_text("precious")
    (tmp_path / "lock").symlink_to(tmp_path / "mine")
    with pytest.raises(OSError, match="links"):
        Lock(tmp_path)
    assert (tmp_path / "mine").read_text() == "precious"
