"""A network of cores for DeepXDE: `FNN` in the place of `dde.nn.FNN`."""

from collections.abc import Sequence
from typing import Any

import deepxde as dde
import torch
from torch import Tensor

from sigmoidcore.integrations.balanced_losses import BalancedLosses
from sigmoidcore.integrations.physics import PhysicsMLP

if dde.backend.backend_name != "pytorch":
    raise ImportError(f"DeepXDE runs on {dde.backend.backend_name}: set DDE_BACKEND=pytorch before it is imported")


class FNN(dde.nn.NN):  # type: ignore[misc]
    """A `PhysicsMLP` as a network of DeepXDE, with its transforms of inputs and outputs.

    It prepares itself at the first batch, so `model.compile("adam", lr=0.001)` and `model.compile("L-BFGS")` are all
    that is needed.

    Args:
        layer_sizes: as those of `dde.nn.FNN`: inputs, the width for each hidden layer, outputs.
        regularization: as that of `dde.nn.FNN`; an L2 penalty takes 100 times the factor, see `PhysicsMLP`.

    Raises:
        ValueError: the hidden layers are not all of one width, or there is none.
        TypeError: an activation or an initializer is given, or no list.
    """

    def __init__(self, layer_sizes: Sequence[int], *theirs: Any, regularization: Sequence[Any] | None = None) -> None:
        super().__init__()
        if theirs:
            raise TypeError(f"FNN sets activation and initializer itself: leave out {', '.join(map(repr, theirs))}")
        if not isinstance(layer_sizes, Sequence):
            raise TypeError(f"layer_sizes must be a list such as [2] + [32] * 8 + [1], got {layer_sizes!r}")
        if len(set(layer_sizes[1:-1])) != 1:
            raise ValueError(f"layer_sizes must have one width for all hidden layers, got {list(layer_sizes)}")
        inputs, *hidden, outputs = layer_sizes
        self.network = PhysicsMLP(inputs, hidden[0], len(hidden), outputs)
        self.regularizer = regularization

    def forward(self, inputs: Tensor) -> Tensor:
        """Apply the transforms and the network."""
        x = inputs if self._input_transform is None else self._input_transform(inputs)
        outputs: Tensor = self.network(x)
        return outputs if self._output_transform is None else self._output_transform(inputs, outputs)


class BalanceLosses(dde.callbacks.Callback):  # type: ignore[misc]
    """Sets `loss_weights` every `every` steps, so that the terms' gradients have one norm, see `BalancedLosses`.

    `model.train(iterations=20000, callbacks=[BalanceLosses()])`. The weights stay for L-BFGS if `train` does not get
    this callback then: `model.loss_weights` holds them.
    """

    def __init__(self, every: int = 100) -> None:
        super().__init__()
        self._every, self._steps = every, 0

    def on_batch_begin(self) -> None:
        """Measure, if it is due."""
        if self._steps % self._every == 0:
            model, data = self.model, self.model.train_state
            losses = model.outputs_losses_train(data.X_train, data.y_train, data.train_aux_vars)[1]
            old = torch.as_tensor(model.loss_weights or [1.0] * len(losses)).to(losses)
            balanced = BalancedLosses(model.net.parameters())
            balanced.weights = old.tolist() if self._steps else []
            balanced.measure((losses / old).unbind())
            model.loss_weights = balanced.weights
        self._steps += 1
