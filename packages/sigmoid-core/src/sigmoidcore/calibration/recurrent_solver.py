"""Level through time: the slopes and shifts of a recurrent layer for which the gradient keeps its size over a sequence.

One layer in one direction runs from the zero state, with random cotangents on its last output. The size of step t is
the gradient size of the memory after it: of h_t, or of c_t for an LSTM. The tilt is how much these sizes fall on the
way back: the slope of the line through their logarithms, times the number of steps. Level is a tilt of 0.

Shifts give each unit a time constant, and all slopes are multiplied by one number, near the smallest at which the tilt
is 0: below it the gradient vanishes, above it explodes. docs/recurrent.md has the mathematics.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import linear
from torch.nn.utils.rnn import PackedSequence

from sigmoidcore.gain import gradient_size
from sigmoidcore.nn.recurrent import CoreRNN, RecurrentCores
from sigmoidcore.nn.recurrent_cells import Cell, Sequences, Weights, fold
from unstuck.observation.batch import random_loss

SEQUENCES = 64  # sequences that are run step by step, spread evenly over the batch
LEVEL = 0.03  # a tilt of this size, 3 % over the whole sequence, is level
UNEVEN = 3.0  # sizes that differ by more than this are not level, though they have no tilt
LEAST, MOST = math.log(1e-6), math.log(100.0)  # logarithms of the multipliers between which the rule looks
STEP = 0.4  # the first step of the search, in log multiplier
HALVINGS = 12
ROUNDS = 4  # times that the size of fresh input weights is set anew for the slopes found


@dataclass(frozen=True)
class Found:
    """The result of `solve` for one layer in one direction."""

    slope: Tensor  # [gates * hidden]
    shift: Tensor  # [gates * hidden]
    scale: float  # factor of the weights of the inputs; 1 without a saturation level
    tilt: float  # remaining
    spread: float  # largest over smallest gradient size


@torch.no_grad()
def solve_layer(
    layer: RecurrentCores, input: Tensor | PackedSequence, saturation: float | None
) -> tuple[float, float, *tuple[str, ...]]:
    """Set slopes, shifts and, for a saturation level, the size of input weights; mean slope, level and notes."""
    notes: list[str] = []

    def set_one(suffix: str, sequences: Sequences) -> None:
        slope, shift = layer.tensor("slope", suffix), layer.tensor("shift", suffix)
        found = solve(sequences, layer.weights(suffix), slope, shift, saturation)
        layer.tensor("weight_ih", suffix).mul_(found.scale)
        slope.copy_(found.slope)
        if isinstance(layer, CoreRNN):
            layer.steps.fill_(len(sequences.inputs))
        shift.copy_(found.shift)
        notes.extend(_remarks(found, suffix, len(sequences.inputs)))

    slope, level = measure_layer(layer, input, set_one)
    return slope, level, *notes


@torch.no_grad()
def measure_layer(
    layer: RecurrentCores,
    input: Tensor | PackedSequence,
    set_one: Callable[[str, Sequences], None] = lambda suffix, sequences: None,
) -> tuple[float, float]:
    """Mean slope and mean saturation level over one batch of sequences; `set_one` is called before each layer runs."""
    slopes, levels = [], []

    def run(suffix: str, sequences: Sequences) -> Tensor:
        set_one(suffix, sequences)
        weights = layer.effective_weights(suffix)
        slopes.append(float(layer.tensor("slope", suffix).mean()))
        levels.append(saturation_level(sequences, weights))
        return sequences.unroll(weights)[0]

    layer.run_layers(input, run)
    return sum(slopes) / len(slopes), sum(levels) / len(levels)


def _remarks(found: Found, suffix: str, steps: int) -> list[str]:
    """What is not level, in a sentence."""
    if abs(found.tilt) > LEVEL:
        verb, size = "falls" if found.tilt > 0 else "grows", abs(found.tilt)
        return [f"no slopes of {suffix} make its gradient level: over {steps} steps back it {verb} by e^{size:.3g}"]
    if found.spread > UNEVEN:
        return [
            f"the gradient of {suffix} goes up and down through time by a factor of {found.spread:.3g}; "
            "more units, or fresh weights by `prepare`, may do better"
        ]
    if steps == 1:
        return ["sequences of one step have no time in which a gradient could change: nothing to level"]
    return []


def solve(
    sequences: Sequences, weights: Weights, slope: Tensor, shift: Tensor, saturation: float | None = None
) -> Found:
    """Slopes and shifts for which the gradient is level through time; changes nothing.

    Without a saturation level, the present slopes stay unless the new ones have both a smaller tilt and a smaller
    spread. If no multiplier between 1e-6 and 100 makes the tilt 0, the tilt of the result is not 0.

    Source:
        Time constants of gates: Tallec, Ollivier (2018), arXiv 1804.11188, who draw them at random. Gated networks at
        the edge of chaos: Chen, Pennington, Schoenholz (2018), arXiv 1806.05394.
    """
    cell, some = sequences.cell, sequences.some(SEQUENCES)
    wanted = _wanted_means(cell, weights, len(sequences.inputs))
    start = _rows(cell, weights, cell.slopes)

    def try_out(weights: Weights, slope: Tensor, shift: Tensor, scale: float = 1.0) -> Found:
        logs = log_sizes(some, fold(cell, weights, slope, shift))
        return Found(slope, shift, scale, tilt(logs), math.exp(min(float(logs.max() - logs.min()), 700.0)))

    found = now = try_out(weights, slope, shift)
    if saturation is None and abs(now.tilt) <= LEVEL:
        return now
    log, scale = 0.0, 1.0
    for _ in range(1 if saturation is None else ROUNDS):
        scaled = weights._replace(ih=weights.ih * scale)
        mean = _mean(sequences, scaled)

        def multiplied(log: float, scaled: Weights = scaled, mean: Tensor = mean, scale: float = scale) -> Found:
            slope = start * math.exp(log)
            return try_out(scaled, slope, mean - wanted / slope, scale)

        log, found = _search(multiplied, log)
        if found.tilt == -math.inf or not bool(torch.isfinite(found.shift).all()):
            raise ValueError(
                "no slopes give finite gradients through time: weights or inputs are not finite or too large, scale "
                "them down"
            )
        level = saturation_level(some, fold(cell, scaled, found.slope, found.shift))
        if saturation is None or level == 0 or abs(saturation / level - 1) < 0.02:
            break
        scale *= saturation / level
    as_level = abs(now.tilt) <= abs(found.tilt) or now.spread <= found.spread
    return now if saturation is None and as_level else found


def log_sizes(sequences: Sequences, weights: Weights) -> Tensor:
    """Logarithms of the memory's gradient sizes for random cotangents on the last output: [steps], float64."""
    memory: list[Tensor] = []
    with torch.enable_grad():
        _, last = sequences.unroll(weights, on_step=lambda _, m: memory.append(m))
        gradients = torch.autograd.grad(random_loss(last[0]), memory)
    return torch.stack([gradient_size(g) for g in gradients]).to("cpu", torch.float64).log()


def tilt(logs: Tensor) -> float:
    """Slope of the line through `logs` [steps], times their number; inf for a gradient of 0, -inf if one overflows."""
    if bool((torch.isnan(logs) | (logs == math.inf)).any()):
        return -math.inf
    if bool((logs == -math.inf).any()):
        return math.inf
    if len(logs) == 1:
        return 0.0
    steps = torch.arange(len(logs), dtype=logs.dtype) - (len(logs) - 1) / 2
    return float((steps @ logs) / (steps @ steps)) * len(logs)


@torch.no_grad()
def saturation_level(sequences: Sequences, weights: Weights) -> float:
    """Standard deviation of z over batch and time, root mean square over all gates; a reset gate counts as open."""
    outputs, _ = sequences.unroll(weights)
    first = sequences.zero_state(weights)[0].unsqueeze(0)
    before = torch.cat([outputs[1:], first] if sequences.reverse else [first, outputs[:-1]])
    z = linear(sequences.inputs, weights.ih) + linear(before, weights.hh)
    z = sequences.running(_rows(sequences.cell, weights, sequences.cell.slopes) * z)
    return float((z - z.mean(0)).square().mean().sqrt())


def _search(multiplied: Callable[[float], Found], log: float) -> tuple[float, Found]:
    """The log multiplier with the smallest tilt: from `log` on to a change of sign, then by bisection."""
    # Upward in equal steps, since the gradient vanishes again when all gates are shut; downward ever faster.
    seen = {log: multiplied(log)}
    step = STEP if seen[log].tilt > 0 else -STEP
    last = end = log
    while abs(seen[end].tilt) > LEVEL and (seen[end].tilt > 0) == (step > 0) and LEAST < end < MOST:
        last, end = end, end + step
        seen[end] = multiplied(end)
        step *= 1.0 if step > 0 else 1.5
    low, high = sorted((last, end))  # below it vanishes, above it explodes
    for _ in range(HALVINGS):
        if min(abs(found.tilt) for found in seen.values()) <= LEVEL or not seen[low].tilt > 0 > seen[high].tilt:
            break
        middle = (low + high) / 2
        seen[middle] = multiplied(middle)
        low, high = (middle, high) if seen[middle].tilt > 0 else (low, middle)
    return min(seen.items(), key=lambda item: abs(item[1].tilt))


def _wanted_means(cell: Cell, weights: Weights, steps: int) -> Tensor:
    """Of z, [rows]: +-log(tau - 1) = logit(1 - 1/tau) for gates that keep the memory and let new in, 0 for others.

    The time constants tau of the units are evenly spread from 2 to `steps`.
    """
    hidden = weights.hh.shape[0] // len(cell.slopes)
    tau = 2 + (max(steps, 2) - 2) * (torch.arange(hidden, dtype=torch.float64) + 0.5) / hidden
    logit = (tau - 1).log()
    return torch.cat([leak * logit for leak in cell.leaks]).to(weights.hh)


def _mean(sequences: Sequences, weights: Weights) -> Tensor:
    """Mean of x from the inputs alone, [rows]: the state's part would change with the slopes."""
    mean = linear(sequences.running(sequences.inputs).mean(0), weights.ih, weights.bias_ih)
    hidden = len(mean) // len(sequences.cell.slopes)
    with_bias = len(mean) - hidden if sequences.cell.resets else len(mean)
    return torch.cat([mean[:with_bias] + weights.bias_hh[:with_bias], mean[with_bias:]])


def _rows(cell: Cell, weights: Weights, values: tuple[float, ...]) -> Tensor:
    """A value a gate -> a value a row, [rows]."""
    return weights.hh.new_tensor(values).repeat_interleave(weights.hh.shape[0] // len(cell.slopes))
