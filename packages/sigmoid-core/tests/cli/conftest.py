"""Every test of the command runs in a new folder, as one process."""

import gc
import sys

import pytest


@pytest.fixture(autouse=True)
def _new_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("RANK", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def own_process(monkeypatch):
    """The process as it was afterwards; what it holds already is not searched for models."""
    gc.freeze()
    monkeypatch.setattr(sys, "argv", list(sys.argv))
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)
    monkeypatch.setitem(sys.modules, "__main__", sys.modules["__main__"])
    yield
    gc.unfreeze()
