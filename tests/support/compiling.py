"""Ways to compile a training, each as a loss of inputs and targets, and a fresh compiler for every test."""

import gc
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
import torch._dynamo
from torch import Tensor, nn
from torch._dynamo.utils import counters

from unstuck.observation.observer import Observer

Loss = Callable[[Tensor, Tensor], Tensor]


@pytest.fixture(autouse=True)
def fresh_compiler() -> Iterator[None]:
    """Check that nothing stays behind in the compiler; import it into a test module."""
    detach_others()
    assert stance() == "default"
    torch._dynamo.reset()
    counters.clear()
    yield
    assert stance() == "default"
    torch._dynamo.reset()


def detach_others() -> None:
    """Detach what an earlier test has dropped and something still holds; seen once, in a worker of many tests."""
    for one in gc.get_objects():
        if issubclass(type(one), Observer) and one.attached:  # `isinstance` runs code of lazy objects
            print("left attached by an earlier test:", one)
            one.detach()


def stance() -> str:
    now = torch.compiler.set_stance("default")
    now.__exit__(None, None, None)
    return now.prev.stance  # type: ignore[no-any-return]


def batches(steps: int, rows: int) -> list[tuple[Tensor, Tensor]]:
    """Inputs of 8 features, and classes from 0 to 2; the same every time."""
    generator = torch.Generator().manual_seed(2)
    return [
        (torch.randn(rows, 8, generator=generator), torch.randint(0, 3, (rows,), generator=generator))
        for _ in range(steps)
    ]


def train(loss: Loss, optimizer: torch.optim.Optimizer, data: list[tuple[Tensor, Tensor]], step: Any = None) -> None:
    for x, y in data:
        optimizer.zero_grad()
        loss(x, y).backward()
        (step or optimizer.step)()


def uncompiled(model: nn.Module, backend: Any) -> Loss:
    return lambda x, y: nn.functional.cross_entropy(model(x), y)


def whole_model(model: nn.Module, backend: Any) -> Loss:
    return uncompiled(torch.compile(model, backend=backend, fullgraph=True), None)


def in_place(model: nn.Module, backend: Any) -> Loss:
    model.compile(backend=backend, fullgraph=True)
    return uncompiled(model, None)


def loss_function(model: nn.Module, backend: Any) -> Loss:
    return torch.compile(uncompiled(model, None), backend=backend, fullgraph=True)  # type: ignore[no-any-return]
