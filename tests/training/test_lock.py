"""One process on a folder."""

import subprocess
import sys

import pytest

from sigmoidcore.training.data import InputError
from sigmoidcore.training.runs.lock import Lock, is_locked

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


def test_a_second_process_is_refused_until_the_first_one_ends(tmp_path, other):
    with pytest.raises(InputError, match="is in use by another process: wait for it, or stop it"):
        Lock(tmp_path)
    assert is_locked(tmp_path)
    other.kill()
    other.wait()
    assert (tmp_path / "lock").exists()
    Lock(tmp_path).release()
    assert list(tmp_path.iterdir()) == []


def test_a_lock_file_without_its_process_is_no_lock(tmp_path):
    (tmp_path / "lock").write_text("old")
    assert not is_locked(tmp_path)


def test_a_lock_that_is_a_link_is_not_written_through(tmp_path):
    (tmp_path / "mine").write_text("precious")
    (tmp_path / "lock").symlink_to(tmp_path / "mine")
    with pytest.raises(OSError, match="links"):
        Lock(tmp_path)
    assert (tmp_path / "mine").read_text() == "precious"
