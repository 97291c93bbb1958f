"""One step of PyTorch's recurrent layers, and a sequence step by step. Tensors in, tensors out; no modules.

The fused kernels do not show what happens between two steps. This loop computes the same, and hands every step's memory
to a callback. The memory is what carries a gradient through time: h of `nn.RNN` and `nn.GRU`, and c of
`nn.LSTM`, whose h is a function of c, so that all that comes back to h comes back to c as well.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import linear

State = tuple[Tensor, ...]  # (h,) or (h, c), each [batch, features]: the output is the first, the memory is the last


class Weights(NamedTuple):
    """Weights of one layer in one direction."""

    ih: Tensor  # [gates * hidden, features]
    hh: Tensor  # [gates * hidden, hidden], or [gates * hidden, projected]
    bias_ih: Tensor  # [gates * hidden]
    bias_hh: Tensor  # [gates * hidden]
    hr: Tensor | None  # [projected, hidden], or None without a projection


@dataclass(frozen=True)
class Cell:
    """A kind of recurrent layer."""

    slopes: tuple[float, ...]  # of each gate as PyTorch computes it: 1 is a sigmoid, 2 (scale 2, centered) a tanh
    leaks: tuple[int, ...]  # +1 for a gate that keeps the memory, -1 for a gate that lets new in, 0 for the others
    states: int  # tensors of the state: 1, h, or 2, h and c
    step: Callable[[Tensor, State, Weights], State]  # from W_ih u + b_ih, [batch, gates * hidden], state and weights
    resets: bool = False  # another gate multiplies the last gate's W_hh h + b_hh: b_hh is not part of its mean


def _rnn(driven: Tensor, state: State, weights: Weights) -> State:
    return (torch.tanh(driven + linear(state[0], weights.hh, weights.bias_hh)),)


def _lstm(driven: Tensor, state: State, weights: Weights) -> State:
    i, f, g, o = (driven + linear(state[0], weights.hh, weights.bias_hh)).chunk(4, -1)
    c = torch.sigmoid(f) * state[1] + torch.sigmoid(i) * torch.tanh(g)
    h = torch.sigmoid(o) * torch.tanh(c)
    return (h if weights.hr is None else linear(h, weights.hr)), c


def _gru(driven: Tensor, state: State, weights: Weights) -> State:
    (h,) = state
    (r, z, n), (r_h, z_h, n_h) = driven.chunk(3, -1), linear(h, weights.hh, weights.bias_hh).chunk(3, -1)
    new = torch.tanh(n + torch.sigmoid(r + r_h) * n_h)
    return (new + torch.sigmoid(z + z_h) * (h - new),)


CELLS = {
    "RNN_TANH": Cell(slopes=(2,), leaks=(0,), states=1, step=_rnn),
    "LSTM": Cell(slopes=(1, 1, 2, 1), leaks=(-1, 1, 0, 0), states=2, step=_lstm),
    "GRU": Cell(slopes=(1, 1, 2), leaks=(0, 1, 0), states=1, step=_gru, resets=True),
}
"""By the `mode` of PyTorch's layer; gates in the order of the rows of its weights."""


def fold(cell: Cell, weights: Weights, slope: Tensor, shift: Tensor) -> Weights:
    """Slopes and shifts into the rows: gates are sigmoid(slope (W u + b - shift)), tanh(slope/2 (W u + b - shift))."""
    ih, hh, bias_ih, bias_hh, hr = weights
    gates = slope.to(ih.dtype).chunk(len(cell.slopes))
    row = torch.cat([gate / start for gate, start in zip(gates, cell.slopes, strict=True)])  # 1 at first, exactly
    column = row.unsqueeze(1)
    return Weights(column * ih, column * hh, row * (bias_ih - shift.to(ih.dtype)), row * bias_hh, hr)


@dataclass(frozen=True)
class Sequences:
    """A batch of sequences that a layer runs over in one direction."""

    cell: Cell
    inputs: Tensor  # [steps, batch, features]
    reverse: bool = False  # from the last step to the first
    alive: Tensor | None = None  # [steps, batch, 1], boolean: which sequences still go on; at least one. None: all

    def zero_state(self, weights: Weights) -> State:
        """The state before the first step that PyTorch's layers start from."""
        sizes = (weights.hh.shape[1], weights.hh.shape[0] // len(self.cell.slopes))
        return tuple(self.inputs.new_zeros(self.inputs.shape[1], size) for size in sizes[: self.cell.states])

    def unroll(
        self,
        weights: Weights,
        state: State | None = None,
        on_step: Callable[[int, Tensor], None] = lambda step, memory: None,
    ) -> tuple[Tensor, State]:
        """Run step by step: outputs [steps, batch, features], 0 after a sequence's end, and the last state.

        `on_step` gets each step's number and memory, [sequences that go on, hidden], in the order in which they run.
        """
        state = self.zero_state(weights) if state is None else state
        driven = linear(self.inputs, weights.ih, weights.bias_ih)
        if torch.is_grad_enabled() and not driven.requires_grad:
            driven.requires_grad_()  # so that the memory of frozen weights has a gradient, too
        outputs: list[Tensor] = []
        steps = range(len(self.inputs))
        for step in reversed(steps) if self.reverse else steps:
            if self.alive is None:
                state = new = self.cell.step(driven[step], state, weights)
                outputs.append(new[0])
            else:
                rows = (self.alive[step].squeeze(-1),)
                new = self.cell.step(driven[step][rows], tuple(s[rows] for s in state), weights)
                state = tuple(s.index_put(rows, n) for s, n in zip(state, new, strict=True))
                outputs.append(torch.zeros_like(state[0]).index_put(rows, new[0]))
            on_step(step, new[-1])
        return torch.stack(outputs[::-1] if self.reverse else outputs), state

    def running(self, x: Tensor) -> Tensor:
        """[steps, batch, features] -> [steps of sequences that still go on, features]."""
        return x.flatten(0, 1) if self.alive is None else x[self.alive.squeeze(-1)]

    def some(self, most: int) -> "Sequences":
        """At most so many sequences, evenly spread over the batch, as far as the longest of them goes."""
        few = slice(None, None, -(-self.inputs.shape[1] // most))
        if self.alive is None:
            return replace(self, inputs=self.inputs[:, few])
        steps = self.alive[:, few].any(1).squeeze(-1)
        return replace(self, inputs=self.inputs[steps][:, few], alive=self.alive[steps][:, few])
