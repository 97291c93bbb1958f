"""The training that every framework runs here, and what a plain loop makes of it."""

import math

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader

from sigmoidcore import MLP, Equalizer, Monitor, SigmoidCore, prepare
from sigmoidcore.diagnosis.measure.measurement import Measurement
from sigmoidcore.integrations.watcher import Watcher

STEPS = 12
ROWS = 20
RATE = 0.05
CLIP = 0.05
"""Below the norm of every gradient here: a profile that was read after clipping would be another one."""


def network(dtype: torch.dtype = torch.float64) -> nn.Sequential:
    """A network that gives both rules of the Equalizer something to do; the same every time.

    In float64: such a training is chaotic, and the last bit depends on where tensors lie in memory.
    """
    torch.manual_seed(1)
    model = MLP(8, 16, 5, 3)
    prepare(model, torch.randn(200, 8))
    with torch.no_grad():
        model[5].set_slope(model[5].alpha * 6)
        model[6].bias[:3] += 12 / model[7].alpha[:3]
    return model.to(dtype)


def batch(step: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(100 + step)
    return torch.randn(ROWS, 8, generator=generator), torch.randint(0, 3, (ROWS,), generator=generator)


def batches(steps: int = STEPS) -> DataLoader:
    """Every batch of a training, in order, as all frameworks take them."""
    return DataLoader([batch(step) for step in range(steps)], batch_size=None)


def adam(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.Adam(model.parameters(), lr=RATE)


class Outcome:
    """What a training came to: its network, what the Equalizer did, what the Monitor saw."""

    def __init__(self, model: nn.Module, equalizer: Equalizer, monitor: Monitor) -> None:
        self.state = {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}
        self.history = list(equalizer.history)
        self.measured = [(m.step, *gradients(m)) for m in monitor.measurements]

    @property
    def norms(self) -> list[float]:
        """Of the gradients of all parameters, as the Monitor saw them."""
        return [math.hypot(*(g for g in weights if g is not None)) for _, _, weights in self.measured]

    def assert_that_of_a_plain_loop(self) -> None:
        """`plain()`, in which something happened, and gradients were read before they were clipped."""
        self.assert_same(plain())
        assert sum(sample.slopes for sample in self.history) > 0
        assert sum(sample.neurons for sample in self.history) > 0
        assert [step for step, *_ in self.measured] == [0, 3, 6, 9]
        assert min(self.norms) > 2 * CLIP

    def assert_same(self, other: "Outcome", tolerance: float = 1e-9) -> None:
        """The same changes at the same steps, and the same numbers."""
        for a, b in zip(self.history, other.history, strict=True):
            assert (a.step, a.slopes, a.neurons) == (b.step, b.slopes, b.neurons)
            assert a.log_sizes == pytest.approx(b.log_sizes, abs=tolerance)
        for name, tensor in self.state.items():
            torch.testing.assert_close(tensor, other.state[name], rtol=tolerance, atol=tolerance)
        for (step, layers, weights), expected in zip(self.measured, other.measured, strict=True):
            assert step == expected[0]
            assert layers == pytest.approx(expected[1], rel=1e-5)  # a state of a Monitor has six digits
            assert weights == pytest.approx(expected[2], rel=1e-5)


def gradients(measurement: Measurement) -> tuple[list[float | None], list[float | None]]:
    """Gradient sizes of the layers, and norms of the parameters' gradients."""
    return [layer.gradient for layer in measurement.layers], [weight.gradient for weight in measurement.weights]


def plain(steps: int = STEPS, micro: int = 1, clip: float | None = CLIP, every: int = 1) -> Outcome:
    """The same in a plain loop."""
    model = network()
    optimizer = adam(model)
    with Equalizer(model, optimizer, every=every) as equalizer, Monitor(model, every=3) as monitor:
        for step in range(steps):
            optimizer.zero_grad()
            for part in range(micro):
                x, y = batch(step * micro + part)
                (nn.functional.cross_entropy(model(x.double()), y) / micro).backward()
            if clip is not None:
                nn.utils.clip_grad_norm_(model.parameters(), clip)
            optimizer.step()
    return Outcome(model, equalizer, monitor)


def assert_detached(callback: Watcher, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """A step after the training adds nothing to the history of the callback."""
    before = callback.state_dict()
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer.zero_grad()
    nn.functional.cross_entropy(model(batch(0)[0].to(parameters[0].dtype)), batch(0)[1]).backward()
    optimizer.step()
    assert str(callback.state_dict()) == str(before)


def cores(model: nn.Module) -> list[SigmoidCore]:
    return [module for module in model.modules() if isinstance(module, SigmoidCore)]
