"""The private parts of PyTorch that the package uses are there: a release that takes one away is named here."""

import ast
import importlib
from pathlib import Path

import pytest
import torch

import unstuck

SOURCES = Path(unstuck.__file__).parent


def private_parts(path):
    """The dotted names of everything private that a module takes from PyTorch's modules."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        text = ast.unparse(node) if isinstance(node, ast.Attribute) else ""
        if text.startswith("torch._") or (text.startswith("torch.") and "._" in text):
            yield text
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("torch"):
            yield from (f"{node.module}.{a.name}" for a in node.names if "._" in f"{node.module}.{a.name}")


USED = sorted({name for path in (SOURCES / "_torch").glob("*.py") for name in private_parts(path)})


@pytest.mark.parametrize("name", USED)
def test_pytorch_has_the_private_part(name):
    first, *rest = name.split(".")
    value, path = importlib.import_module(first), first
    for part in rest:
        path = f"{path}.{part}"
        value = getattr(value, part) if hasattr(value, part) else importlib.import_module(path)
    assert value is not None


def test_objects_of_pytorch_have_the_private_attributes():
    assert hasattr(torch.zeros(1), "_version")
    assert hasattr(torch.nn.modules.module, "_global_forward_hooks_with_kwargs")
    assert hasattr(torch.autograd.forward_ad, "_current_level")


def test_private_parts_are_used_in_their_folder_only():
    others = [path for path in SOURCES.rglob("*.py") if path.parent.name != "_torch"]
    assert {path.name: found for path in others if (found := sorted(private_parts(path)))} == {}
