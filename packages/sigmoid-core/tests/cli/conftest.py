"""Every test of the command runs in a new folder."""

import pytest


@pytest.fixture(autouse=True)
def _new_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
