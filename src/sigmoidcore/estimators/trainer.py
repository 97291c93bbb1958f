"""One epoch after another: AdamW by the depth rule, and an Equalizer."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from sigmoidcore.calibration.learning_rates import depth_scaled_lr
from sigmoidcore.equalizer.equalizer import Equalizer
from sigmoidcore.estimators import divergence
from sigmoidcore.estimators.samples import Samples
from sigmoidcore.gain import norms
from sigmoidcore.observation.process_group import Alone, Ranks
from sigmoidcore.training.runs.state import fill_optimizer, groups_for, groups_of, optimizer_tensors

LossFn = Callable[[Tensor, Tensor], Tensor]
"""The loss of every sample, [batch], from outputs and targets."""


class _Equalizer(Equalizer):
    """Of one process, whether or not others run beside it: nobody expects of `fit` that all ranks call it together."""

    def _ranks_of(self, group: Any) -> Ranks:
        return Alone()


class Trainer:
    """Trains a network, epoch by epoch.

    Args:
        network: a prepared network, float32.
        loss_fn: see `LossFn`.
        lr: total rate, see `sigmoidcore.depth_scaled_lr`.
        weight_decay: of AdamW.
        tolerance: of the Equalizer.
        state: of a trainer of the same network, to go on from.
    """

    def __init__(
        self,
        network: nn.Module,
        loss_fn: LossFn,
        *,
        lr: float,
        weight_decay: float,
        tolerance: float,
        state: dict[str, Any] | None = None,
    ) -> None:
        self.network = network
        self.loss_fn = loss_fn
        self.lr = lr
        self.weight_decay = weight_decay
        groups = depth_scaled_lr(network, lr) if state is None else groups_for(network, state["groups"])
        self.optimizer = torch.optim.AdamW(groups, weight_decay=weight_decay, fused=True)
        changed = 1.0 if state is None else lr / state["lr"]
        self._peaks = [float(group["lr"]) * changed for group in self.optimizer.param_groups]
        if state is not None:
            fill_optimizer(network, self.optimizer, state["optimizer"])
        self.equalizer = _Equalizer(network, self.optimizer, tolerance=tolerance)
        if state is not None:
            self.equalizer.load_state_dict(state["equalizer"])

    def state(self) -> dict[str, Any]:
        """All that is needed to go on, beside the network's own state; tensors on the CPU."""
        kept = {name: value.cpu() for name, value in optimizer_tensors(self.network, self.optimizer).items()}
        return {
            "lr": self.lr,
            "groups": groups_of(self.network, self.optimizer, self._peaks),
            "optimizer": kept,
            "equalizer": self.equalizer.state_dict(),
        }

    def epoch(
        self, samples: Samples, order: "np.ndarray[Any, Any]", batch_size: int, share: Callable[[float], float]
    ) -> float:
        """One pass over the samples.

        Args:
            samples: to learn.
            order: of their rows, [samples].
            batch_size: samples a step, at most.
            share: of the peak rate, from the part of the epoch that is done.

        Returns:
            The mean loss.

        Raises:
            FloatingPointError: the loss or a weight is not finite; the message names the remedy.
        """
        total = torch.zeros((), device=samples.device)
        done = 0
        self.network.train()
        for inputs, targets, weights in samples.batches(batch_size, order):
            for group, peak in zip(self.optimizer.param_groups, self._peaks, strict=True):
                group["lr"] = peak * share(done / len(samples))
            losses = self.loss_fn(self.network(inputs), targets)
            loss = (losses if weights is None else losses * weights).mean()
            self.optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            self.optimizer.step()
            total += loss.detach() * len(inputs)
            done += len(inputs)
        numbers = [total, *(parameter.detach() for parameter in self.network.parameters())]
        if not bool(norms(numbers).isfinite().all()):
            raise FloatingPointError(divergence.in_words(samples, self.lr, self.weight_decay))
        return float(total) / len(samples)

    def close(self) -> None:
        """Take the Equalizer off the network."""
        self.equalizer.remove()
