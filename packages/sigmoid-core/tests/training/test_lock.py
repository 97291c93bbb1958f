"""One process on a folder; test_faults.py has a second process."""

import pytest

from sigmoidcore.training.data import InputError
from sigmoidcore.training.runs.lock import Lock, is_locked


def test_a_lock_is_held_until_it_is_released(tmp_path):
    lock = Lock(tmp_path)
    assert is_locked(tmp_path)
    with pytest.raises(InputError, match="is in use by another process: wait for it, or stop it"):
        Lock(tmp_path)
    lock.release()
    assert list(tmp_path.iterdir()) == []


def test_a_lock_file_without_its_process_does_not_lock(tmp_path):
    (tmp_path / "lock").write_text("old")
    assert not is_locked(tmp_path)
