"""Every test of a training runs in a new folder, and draws no figures."""

import pytest


@pytest.fixture(scope="module", autouse=True)
def _without_figures(without_figures):
    pass


@pytest.fixture(autouse=True)
def _new_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
