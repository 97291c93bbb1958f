"""torch.compile with its own backend, which needs a C++ compiler and takes its time."""

import re
from pathlib import Path
from typing import Any

import pytest
import torch
import torch._dynamo
from torch import nn
from torch._dynamo.utils import counters

from sigmoidcore import MLP, Equalizer, prepare

pytestmark = pytest.mark.integration


def trained(compiled: bool) -> tuple[nn.Module, list[tuple[int, int, int]]]:
    torch.manual_seed(0)
    model = MLP(8, 16, 3, 3)
    prepare(model, torch.randn(100, 8))
    model[3].slope.mul_(8.0)
    run = torch.compile(model, fullgraph=True) if compiled else model
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    with Equalizer(model, optimizer, every=4) as equalizer:
        for _ in range(20):
            optimizer.zero_grad()
            nn.functional.cross_entropy(run(torch.randn(30, 8)), torch.randint(0, 3, (30,))).backward()
            optimizer.step()
    return model, [(s.step, s.slopes, s.neurons) for s in equalizer.history]


def test_a_compiled_training_is_the_uncompiled_one_with_one_graph() -> None:
    torch._dynamo.reset()
    counters.clear()
    model, samples = trained(compiled=True)
    assert counters["stats"]["unique_graphs"] == 1
    assert not counters["graph_break"]
    expected, expected_samples = trained(compiled=False)
    assert samples == expected_samples
    assert sum(slopes for _, slopes, _ in samples) > 0
    for (name, a), b in zip(model.state_dict().items(), expected.state_dict().values(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5, msg=name)


def test_the_code_of_the_documentation_runs() -> None:
    page = Path(__file__).resolve().parents[2] / "docs" / "pytorch.md"
    code = re.findall(r"^```python\n(.+?)^```", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    batches = [(torch.randn(20, 8), torch.randint(0, 3, (20,))) for _ in range(4)]
    names: dict[str, Any] = {"inputs": torch.randn(100, 8), "batches": batches}
    exec(code[0], names)
    assert "torch.compile" in code[1]
    torch._dynamo.reset()
    counters.clear()
    exec(code[1], names)
    assert counters["stats"]["unique_graphs"] == 1
