"""Every test of the command runs in a new folder, as one process."""

import pytest


@pytest.fixture(autouse=True)
def _new_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("RANK", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
