"""Slope, gain, saturation: the formulas and the solvers. Tensors in, tensors out; no modules.

Vocabulary: preactivation x, slope alpha > 0, shift mu, scaled preactivation z = alpha (x - mu), output y = sigmoid(z).
The batch is dimension 0; every other dimension belongs to one sample.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from unstuck.observation.sizes import norm


def relative_slope(z: Tensor) -> Tensor:
    """Relative slope s = 4 sigma'(z) = 4 sigma(z) sigma(-z), in [0, 1]; 1 in the middle, near 0 when saturated.

    The product of the two tails keeps its relative precision where 1 - tanh(z/2)^2 has lost all of it.

    Example:
        >>> relative_slope(torch.tensor([0.0, 2.0]))
        tensor([1.0000, 0.4200])
    """
    return 4 * torch.sigmoid(z) * torch.sigmoid(-z)


def local_derivative(x: Tensor, alpha: Tensor | float, shift: Tensor | float = 0.0) -> Tensor:
    """Local derivative d = alpha sigma'(alpha (x - mu)) = dy/dx of a core.

    Example:
        >>> local_derivative(torch.tensor(1.0), 4.0, 1.0)
        tensor(1.)
    """
    return alpha * relative_slope(alpha * (x - shift)) / 4


def mean_relative_slope(z: Tensor) -> Tensor:
    """Mean relative slope of each neuron over the batch (and over positions); the article's "gradient near 0".

    From scaled preactivations [batch, ..., neurons] to [neurons].

    Example:
        >>> mean_relative_slope(torch.tensor([[0.0, 20.0], [0.0, 20.0]])) < 0.05
        tensor([False,  True])
    """
    return relative_slope(z).flatten(0, -2).mean(0)


def gradient_size(gradient: Tensor, samples: int | None = None) -> Tensor:
    """Gradient size g: root mean square over the batch of the L2 norm, per sample, of d loss / d x.

    Args:
        gradient: shape [batch, ...].
        samples: the number of samples, if the first dimension does not count them (time first, rows of positions).

    Returns:
        A 0-dim tensor. With a mean loss it is smaller by the batch size than with a sum, in every layer alike.

    Example:
        >>> gradient_size(torch.tensor([[3.0, 4.0], [0.0, 5.0]]))
        tensor(5.)
    """
    return (norm(gradient) / math.sqrt(len(gradient) if samples is None else samples)).to(gradient.dtype)


def tangential_weights(x: Tensor) -> Tensor:
    """Mean squares, per sample and neuron, of a gradient that is orthogonal to x and otherwise isotropic.

    A deep stack of cores with a level gradient normalises its signal: later layers hardly depend on the length of x, so
    the gradient is orthogonal to x. A vector drawn evenly from the sphere orthogonal to x has
    ``E[v_i^2] = (1 - x_i^2 / |x|^2) n / (n - 1)``, in units of its mean square. Without these weights the gain is
    underestimated by about u^2 / (2 n) a layer: nothing at 10 layers, a factor of 10^5 at 10,000.

    Args:
        x: centred preactivations, shape [batch, ...]; n counts all dimensions but the batch.

    Returns:
        Weights of mean 1 over each sample, the shape of `x`; 1 for samples that are 0, and if n = 1.
    """
    n = x[0].numel()
    if n < 2:
        return torch.ones_like(x)
    largest = x.abs().flatten(1).amax(1).reshape(-1, *[1] * (x.dim() - 1))
    squares = (x / torch.where(largest > 0, largest, 1)).square()
    total = squares.flatten(1).sum(1).reshape(-1, *[1] * (x.dim() - 1))
    share = torch.where(total > 0, squares / total, 1.0 / n)
    return (1 - share) * (n / (n - 1))


def slope_for_gain(
    x: Tensor, target: float = 1.0, *, weights: Tensor | None = None, start: float | None = None
) -> tuple[float, float]:
    """The slope of a layer for which sqrt(mean(d^2 weights)) equals `target`: one slope for all neurons.

    sigma' <= 1/4 makes 4 target a lower bound; Newton's method in log alpha goes up from there, with
    d log d / d log alpha = 1 - z tanh(z/2). The gain rises with alpha for every distribution of x with enough mass
    near 0. If it does not (all neurons far from 0, of two signs), the smallest slope that reaches the target is
    returned, or, if none does, the slope of the largest gain.

    Args:
        x: centred preactivations x - mu, shape [batch, ...], finite.
        target: wanted root mean square of the local derivative; positive.
        weights: weights of the neurons, mean 1, the shape of `x`; default 1.
        start: a slope that is probably near, such as that of the layer before; saves steps.

    Returns:
        The slope, and the gain that it reaches (`target` to a relative 1e-5, or less where no slope reaches it).

    Raises:
        ValueError: `target` is not a positive finite number, or `x` is empty.

    Example:
        >>> alpha, reached = slope_for_gain(torch.tensor([[-0.1, 0.1]]))
        >>> round(alpha, 4), round(reached, 4)
        (4.177, 1.0)
    """
    if not (math.isfinite(target) and target > 0):
        raise ValueError(f"target must be a positive finite number, got {target}")
    if x.numel() == 0:
        raise ValueError("x is empty: give at least one sample")
    x = x.detach().to(torch.promote_types(x.dtype, torch.float32))
    squares, products = torch.empty_like(x), torch.empty_like(x)

    def evaluate(log_alpha: float) -> tuple[float, float]:
        """log(gain / target) and its derivative by log alpha."""
        torch.mul(x, math.exp(log_alpha) / 2, out=products)
        torch.tanh(products, out=squares)
        products.mul_(squares)
        squares.square_().neg_().add_(1).square_()
        if weights is not None:
            squares.mul_(weights)
        mean, tilt = torch.stack([squares.mean(), torch.dot(squares.flatten(), products.flatten())]).tolist()
        if mean <= 0 or not math.isfinite(mean):
            return -math.inf, 0.0
        return log_alpha + 0.5 * math.log(mean) - floor, 1 - 2 * tilt / (mean * x.numel())

    floor = math.log(4 * target)
    log_alpha = floor if start is None else max(floor, math.log(start))
    for _ in range(12):
        error, tilt = evaluate(log_alpha)
        if tilt < 0.1 or not math.isfinite(error):
            break
        log_alpha = max(floor, log_alpha - error / tilt)
        if abs(error) < 1e-3 * tilt**2:  # Newton's method leaves the square of this
            return math.exp(log_alpha), target
    return _first_slope_that_reaches(evaluate, floor, target)


def _first_slope_that_reaches(
    evaluate: Callable[[float], tuple[float, float]], floor: float, target: float
) -> tuple[float, float]:
    """Scan upward from the lower bound, by a tenth at a time up to a factor of 1e6, then bisect the first crossing."""
    grid = [floor + 0.1 * k for k in range(140)]
    errors = [evaluate(g)[0] for g in grid]
    crossing = next((k for k, e in enumerate(errors) if e >= 0), None)
    if crossing is None:
        best = max(range(len(grid)), key=errors.__getitem__)
        return math.exp(grid[best]), target * math.exp(errors[best])
    low, high = grid[max(0, crossing - 1)], grid[crossing]
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (low, middle) if evaluate(middle)[0] >= 0 else (middle, high)
    return math.exp(high), target * math.exp(evaluate(high)[0])


def set_to_level(
    mean: Tensor, size: Tensor | float, level_mean: Tensor | float, level_size: Tensor | float
) -> tuple[Tensor, Tensor]:
    """Slope and shift that bring a preactivation to a level: alpha = u / r and mu = m - c / alpha.

    Then z = alpha (x - mu) has the mean c and the size u. `calibrate`, `prepare` and the `Equalizer` all set cores so.

    Args:
        mean: mean m of the preactivations of each neuron, shape [neurons] or [].
        size: size r of the preactivations around it, of each neuron or of the layer; positive.
        level_mean: wanted mean c of z.
        level_size: wanted size u of z, the saturation level; positive.

    Returns:
        Slope and shift; shapes broadcast.

    Example:
        >>> set_to_level(torch.tensor(3.0), 2.0, torch.tensor(0.5), 1.0)
        (tensor(0.5000), tensor(2.))
    """
    slope = torch.as_tensor(level_size, dtype=mean.dtype, device=mean.device) / size
    return slope, mean - level_mean / slope
