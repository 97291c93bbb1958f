"""The network of an estimator and its training: epochs of AdamW by the depth rule, with an Equalizer.

It is not the loop of `sigmoidcore.training`, which writes runs and synchronises processes: an estimator trains in its
own process and weights its samples.
"""

import math
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor, nn

from sigmoidcore.calibration.calibrate import prepare
from sigmoidcore.calibration.learning_rates import depth_scaled_lr
from sigmoidcore.core import SigmoidCore
from sigmoidcore.equalizer.equalizer import Equalizer
from sigmoidcore.estimators.data import Array, Samples
from sigmoidcore.nn.networks import Chain
from unstuck.observation import Alone, norms

Losses = Callable[[Tensor, Tensor], Tensor]
_GLOBAL_GENERATOR = threading.Lock()


def prepared(widths: Sequence[int], inputs: Tensor, saturation: float | Literal["auto"], seed: int) -> Chain:
    """A prepared network: Linear and a centered core for every hidden width, then Linear; float32, on the CPU.

    PyTorch's global generator does not change, also if several threads make networks at the same time.
    """
    with _GLOBAL_GENERATOR, torch.random.fork_rng(devices=[]), torch.device("cpu"):
        torch.manual_seed(seed)
        *hidden, last = pairwise(widths)
        layers: list[nn.Module] = []
        for fan_in, fan_out in hidden:
            layers += [nn.Linear(fan_in, fan_out), SigmoidCore(fan_out, alpha=4.0, centered=True)]
        network = Chain(*layers, nn.Linear(*last)).to(torch.float32)
        prepare(network, inputs, saturation=saturation)
    return network


@contextmanager
def isolated(*, gradients: bool = True) -> Iterator[None]:
    """Compute gradients or not, and on the CPU by default, whatever the caller has set."""
    # The context of a device makes every call of PyTorch slower, so it is entered only if it changes something.
    on_cpu = nullcontext() if torch.empty(0).device.type == "cpu" else torch.device("cpu")
    with torch.inference_mode(False), torch.set_grad_enabled(gradients), on_cpu:
        yield


class Schedule:
    """Keeps the peak rate until nothing improves, then lets the rate fall to 0.

    The criterion is scikit-learn's: `patience` epochs without an improvement by `tol`. The rate falls linearly, over
    as many epochs as it stayed at its peak; the fall begins after half of the epochs at the latest. Training ends if
    nothing improves during the fall.
    """

    def __init__(self, epochs: int, tol: float, patience: int) -> None:
        self.epochs, self.tol, self.patience = epochs, tol, patience
        self.finished = False
        self._best = math.inf
        self._epoch = 0
        self._unimproved = 0
        self._begin, self._end = epochs / 2, float(epochs)

    def share(self, done: float = 0.0) -> float:
        """The rate as a fraction of its peak, if this fraction of the epoch is done."""
        return min(1.0, max(0.0, (self._end - (self._epoch + done)) / (self._end - self._begin)))

    def after_epoch(self, value: float) -> None:
        """Record the value that an epoch has reached; lower is better."""
        self._epoch += 1
        self._unimproved = self._unimproved + 1 if value > self._best - self.tol else 0
        self._best = min(self._best, value)
        if self._epoch - 1 < self._begin <= self._epoch:  # the fall begins: count from here
            self._unimproved = 0
        if self._unimproved > self.patience:
            if self._epoch < self._begin:
                self._begin, self._end = self._epoch, min(2.0 * self._epoch, self.epochs)
                self._unimproved = 0
            else:
                self.finished = True
        self.finished |= self._epoch >= self._end


class Trainer:
    """Trains a prepared network, in float32 and on the device."""

    def __init__(self, network: Chain, device: torch.device, lr: float, decay: float, tolerance: float) -> None:
        self.lr, self.decay = lr, decay
        self.network = network.to(device, torch.float32)
        self.optimizer = torch.optim.AdamW(depth_scaled_lr(network, lr), weight_decay=decay, fused=True)
        self._peaks = [float(group["lr"]) for group in self.optimizer.param_groups]
        self.equalizer = Equalizer(network, self.optimizer, tolerance=tolerance, process_group=Alone())

    def epoch(self, samples: Samples, losses_of: Losses, order: Array, batch_size: int, schedule: Schedule) -> float:
        """Train on all samples once, in this order; returns the mean loss."""
        total = torch.zeros((), device=samples.device)
        done = 0
        self.network.train()
        for inputs, targets, weights in samples.batches(batch_size, order):
            for group, peak in zip(self.optimizer.param_groups, self._peaks, strict=True):
                group["lr"] = peak * schedule.share(done / len(samples))
            losses = losses_of(self.network(inputs), targets)
            loss = (losses if weights is None else losses * weights).mean()
            self.optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            self.optimizer.step()
            total += loss.detach() * len(inputs)
            done += len(inputs)
        if not bool(norms([total, *(p.detach() for p in self.network.parameters())]).isfinite().all()):
            weaker = f", or a smaller weight_decay than {self.decay:g}" if self.decay > 0 else ""
            raise FloatingPointError(
                f"the loss or a weight is not finite: use a smaller learning_rate_init than {self.lr:g}{weaker}, or "
                "correct numbers in X or y that are far from the others"
            )
        return float(total) / len(samples)

    def finish(self) -> None:
        """Remove the Equalizer, and move the network to the CPU and float64."""
        self.equalizer.remove()
        self.network.to("cpu", torch.float64).eval()
