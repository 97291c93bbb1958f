"""The training of an estimator: epochs of AdamW by the depth rule, with an Equalizer.

It is not the loop of `sigmoidcore.training`, which writes runs, shards and synchronises processes: an estimator trains
in its own process, weights its samples, and continues an optimizer over calls of `partial_fit`.
"""

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from sigmoidcore.calibration.learning_rates import depth_scaled_lr
from sigmoidcore.equalizer.equalizer import Equalizer
from sigmoidcore.estimators.samples import Array, Samples
from sigmoidcore.gain import norms
from sigmoidcore.observation.process_group import Alone

LossFn = Callable[[Tensor, Tensor], Tensor]
"""The loss of every sample, [batch], from outputs and targets."""

OUTLIER = 1e6
"""Standard deviations. None of n samples is further from their mean than sqrt(n), so a number at this distance was not
among the samples that the scaling was made from."""


class Trainer:
    """Trains a copy of a prepared network, float32 and on the device; `state` continues an earlier training."""

    def __init__(
        self,
        network: nn.Sequential,
        state: dict[str, Any] | None,
        *,
        device: torch.device,
        lr: float,
        weight_decay: float,
        tolerance: float,
    ) -> None:
        self.lr = lr
        self.weight_decay = weight_decay
        # One copy of both: the optimizer refers to the parameters of the network.
        self.network, state = copy.deepcopy((network, state))
        self.network.to(device, torch.float32)
        if state is None:
            groups = depth_scaled_lr(self.network, lr)
            self.optimizer = torch.optim.AdamW(groups, fused=True)
        else:
            self.optimizer = state["optimizer"]
            _follow_parameters(self.optimizer)
        for group in self.optimizer.param_groups:
            group["lr"] *= 1.0 if state is None else lr / state["lr"]
            group["weight_decay"] = weight_decay
        self._peaks = [float(group["lr"]) for group in self.optimizer.param_groups]
        self.equalizer = Equalizer(self.network, self.optimizer, tolerance=tolerance, process_group=Alone())
        if state is not None:
            self.equalizer.load_state_dict(state["equalizer"])

    def epoch(
        self,
        samples: Samples,
        loss_fn: LossFn,
        order: Array,
        batch_size: int,
        share: Callable[[float], float],
    ) -> float:
        """Train on all samples once, in this order; returns the mean loss.

        `share` is the rate as a fraction of its peak, from the fraction of the epoch that is done.

        Raises:
            FloatingPointError: the loss or a weight is not finite; the message names the remedy.
        """
        total = torch.zeros((), device=samples.device)
        done = 0
        self.network.train()
        for inputs, targets, weights in samples.batches(batch_size, order):
            for group, peak in zip(self.optimizer.param_groups, self._peaks, strict=True):
                group["lr"] = peak * share(done / len(samples))
            losses = loss_fn(self.network(inputs), targets)
            loss = (losses if weights is None else losses * weights).mean()
            self.optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            self.optimizer.step()
            total += loss.detach() * len(inputs)
            done += len(inputs)
        if not bool(norms([total, *(p.detach() for p in self.network.parameters())]).isfinite().all()):
            raise FloatingPointError(f"the loss or a weight is not finite{self._remedy(samples)}")
        return float(total) / len(samples)

    def finish(self) -> None:
        """Remove the Equalizer, and move the network to the CPU and float64."""
        self.equalizer.remove()
        self.network.to("cpu", torch.float64).eval()

    def state(self) -> dict[str, Any]:
        """What a later trainer needs to continue with the network, after `finish`."""
        _follow_parameters(self.optimizer)
        return {"lr": self.lr, "optimizer": self.optimizer, "equalizer": self.equalizer.state_dict()}

    def _remedy(self, samples: Samples) -> str:
        for name, sizes in samples.largest().items():
            size = float(sizes.max())
            if not size < OUTLIER:
                deviations = f"{size:.2g}" if size < torch.inf else f"more than {torch.finfo(sizes.dtype).max:.2g}"
                return (
                    f", and column {int(sizes.argmax())} of {name} contains a number {deviations} standard deviations "
                    "from the mean of the first samples: correct it, or leave it out"
                )
        weaker = f", or a smaller weight_decay than {self.weight_decay:g}" if self.weight_decay > 0 else ""
        return f": use a smaller learning_rate_init than {self.lr:g}{weaker}"


def _follow_parameters(optimizer: torch.optim.Optimizer) -> None:
    """Give the optimizer's state the device and the dtype of the parameters."""
    optimizer.load_state_dict(optimizer.state_dict())
