"""The private parts of PyTorch that the package uses are there: a release that takes one away is named here."""

import ast
import importlib
from pathlib import Path

import pytest
import torch
from torch import nn

import sigmoidcore

SOURCES = sorted((Path(sigmoidcore.__file__).parent / "_torch").glob("*.py"))


def private_parts():
    """The dotted names of everything private that `_torch` takes from PyTorch's modules."""
    found = set()
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            text = ast.unparse(node) if isinstance(node, ast.Attribute) else ""
            if text.startswith("torch._") or (text.startswith("torch.") and "._" in text):
                found.add(text)
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("torch"):
                found.update(f"{node.module}.{a.name}" for a in node.names if "._" in f"{node.module}.{a.name}")
    return sorted(found)


@pytest.mark.parametrize("name", private_parts())
def test_pytorch_has_the_private_part(name):
    first, *rest = name.split(".")
    value, path = importlib.import_module(first), first
    for part in rest:
        path = f"{path}.{part}"
        value = getattr(value, part, None) or importlib.import_module(path)
    assert value is not None


@pytest.mark.parametrize(
    ("value", "names"),
    [
        (nn.Tanh(), ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks", "_parameters")),
        (nn.Tanh(), ("_buffers", "_modules")),
        (nn.LSTM(1, 1), ("_flat_weights", "_flat_weight_refs", "_flat_weights_names")),
        (torch.zeros(1), ("_version",)),
        (torch.nn.modules.module, ("_global_forward_hooks", "_global_forward_pre_hooks", "_global_backward_hooks")),
        (torch.nn.modules.module, ("_global_backward_pre_hooks", "_global_forward_hooks_with_kwargs")),
        (torch.autograd.forward_ad, ("_current_level",)),
    ],
)
def test_objects_of_pytorch_have_the_private_attributes(value, names):
    assert [name for name in names if not hasattr(value, name)] == []
