"""The import of PyTorch by a script."""

import sys
from importlib.util import find_spec

import pytest

from unstuck.cli.torch_import import TorchImport


def test_it_comes_at_once_if_pytorch_is_imported():
    calls = []
    TorchImport(lambda: calls.append("begun"))
    assert calls == ["begun"]


def test_two_that_wait_ask_only_the_finders_behind_them(monkeypatch):
    monkeypatch.delitem(sys.modules, "torch")
    both = [TorchImport(lambda: pytest.fail("nothing was imported")) for _ in range(2)]
    try:
        assert find_spec("torch").name == "torch"
    finally:
        for each in both:
            each.remove()
