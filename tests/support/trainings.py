"""The training that every framework runs in tests/integrations, and the same in a plain loop."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from sigmoidcore import MLP, Equalizer, Monitor, SigmoidCore, prepare
from unstuck.measure.measurement import Measurement

STEPS = 12
ROWS = 40
RATE = 0.05
CLIP = 0.05
"""Below the norm of every gradient here: gradients that are read after clipping would be different."""


def network(dtype: torch.dtype = torch.float64) -> nn.Sequential:
    """A network that needs the Equalizer's rule and its exception; the same every time.

    In float64: its training is chaotic, and the last bit depends on the addresses of tensors.
    """
    torch.manual_seed(1)
    model = MLP(8, 16, 5, 3)
    prepare(model, torch.randn(200, 8))
    with torch.no_grad():
        model[5].set_slope(model[5].alpha * 6)
        model[6].bias[:3] += 12 / model[7].alpha[:3]
    return model.to(dtype)


class Classifier(nn.Module):
    """The network as a Trainer takes it: it returns its loss."""

    def __init__(self, dtype: torch.dtype = torch.float64) -> None:
        super().__init__()
        self.network = network(dtype)

    def forward(self, x: Tensor, labels: Tensor) -> dict[str, Tensor]:
        outputs = self.network(x)
        return {"loss": nn.functional.cross_entropy(outputs, labels), "logits": outputs}


def batch(step: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(100 + step)
    return torch.randn(ROWS, 8, generator=generator), torch.randint(0, 3, (ROWS,), generator=generator)


def batches(steps: int = STEPS) -> DataLoader[Any]:
    """Every batch of a training, in order."""
    return DataLoader([batch(step) for step in range(steps)], batch_size=None)  # type: ignore[arg-type]


def samples(steps: int = STEPS, dtype: torch.dtype = torch.float64) -> list[dict[str, Tensor]]:
    """The same, one sample at a time, as a Trainer takes them."""
    return [{"x": x.to(dtype), "labels": y} for s in range(steps) for x, y in zip(*batch(s), strict=True)]


def adam(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.Adam(model.parameters(), lr=RATE)


def sgd(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD(model.parameters(), lr=RATE)


class Outcome:
    """The result of a training: its network, and what the Equalizer and the Monitor recorded."""

    def __init__(self, model: nn.Module, equalizer: Equalizer, monitor: Monitor) -> None:
        self.state = {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}
        self.history = list(equalizer.history)
        self.measured = [(m.step, *gradients(m)) for m in monitor.measurements]

    def assert_same(self, other: "Outcome", tolerance: float = 1e-9) -> None:
        """The same changes at the same steps, and the same numbers."""
        self.assert_same_records(other, max(tolerance, 1e-5), tolerance)  # a state of a Monitor has six digits
        for name, tensor in self.state.items():
            torch.testing.assert_close(tensor, other.state[name], rtol=tolerance, atol=tolerance)

    def assert_same_records(self, other: "Outcome", gradients: float, log_sizes: float) -> None:
        """The same, without the weights, which differ in half precision."""
        assert sum(sample.slopes for sample in self.history) > 0
        for a, b in zip(self.history, other.history, strict=True):
            assert (a.step, a.slopes, a.neurons) == (b.step, b.slopes, b.neurons)
            assert a.log_sizes == pytest.approx(b.log_sizes, abs=log_sizes)
        for (step, layers, weights), expected in zip(self.measured, other.measured, strict=True):
            assert step == expected[0]
            assert layers == pytest.approx(expected[1], rel=gradients)
            assert weights == pytest.approx(expected[2], rel=gradients)

    def assert_that_of_a_plain_loop(self) -> None:
        """`plain()`, in which both rules changed something, and gradients were read before clipping."""
        self.assert_same(plain())
        assert sum(sample.neurons for sample in self.history) > 0
        assert [step for step, *_ in self.measured] == [0, 3, 6, 9]
        for _, _, weights in self.measured:
            assert math.hypot(*(gradient for gradient in weights if gradient is not None)) > 2 * CLIP

    def assert_resumable(self) -> None:
        """24 steps with every="auto" and monitor_every=5, in which the cadence of the Equalizer changed."""
        assert sum(sample.slopes for sample in self.history) > 0
        assert [step for step, *_ in self.measured] == [0, 5, 10, 15, 20]
        assert len({b.step - a.step for a, b in zip(self.history, self.history[1:], strict=False)}) > 1


def gradients(measurement: Measurement) -> tuple[list[float | None], list[float | None]]:
    """Gradient sizes of the layers, and norms of the parameters' gradients."""
    return [layer.gradient for layer in measurement.layers], [weight.gradient for weight in measurement.weights]


def plain(
    steps: int = STEPS,
    micro: int = 1,
    clip: float | None = CLIP,
    dtype: torch.dtype = torch.float64,
    autocast: torch.dtype | None = None,
    scaler: torch.amp.GradScaler | None = None,
    optimizer_of: Any = adam,
) -> Outcome:
    """The training in a plain loop."""
    model = network(torch.float32).to(dtype)
    optimizer = optimizer_of(model)
    with Equalizer(model, optimizer, every=1, scaler=scaler) as equalizer, Monitor(model, 3, scaler=scaler) as monitor:
        for step in range(steps):
            optimizer.zero_grad()
            for part in range(micro):
                x, y = batch(step * micro + part)
                with torch.autocast("cpu", autocast, enabled=autocast is not None, cache_enabled=False):
                    outputs = model(x.to(dtype))
                loss = nn.functional.cross_entropy(outputs if autocast is None else outputs.float(), y) / micro
                (loss if scaler is None else scaler.scale(loss)).backward()
            if scaler is not None:
                scaler.unscale_(optimizer)
            if clip is not None:
                nn.utils.clip_grad_norm_(model.parameters(), clip)
            if scaler is None:
                optimizer.step()
            else:
                scaler.step(optimizer)
                scaler.update()
    return Outcome(model, equalizer, monitor)


def assert_detached(model: nn.Module, optimizer: torch.optim.Optimizer, watcher: Any) -> None:
    """Another step of the training leaves no record."""
    records = [part for part in (watcher.equalizer, watcher.monitor) if part is not None]
    before = str([part.state_dict() for part in records])
    nn.functional.cross_entropy(model(batch(0)[0].to(next(model.parameters()).dtype)), batch(0)[1]).backward()
    optimizer.step()
    assert str([part.state_dict() for part in records]) == before


def cores(model: nn.Module) -> list[SigmoidCore]:
    return [module for module in model.modules() if isinstance(module, SigmoidCore)]
