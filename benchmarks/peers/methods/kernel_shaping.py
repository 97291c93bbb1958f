"""Deep Kernel Shaping and Tailored Activation Transformations: activations whose kernel suits the depth.

For x of N(0, 1) and y = f(x) they look at Q(1) = E[y^2], Q'(1) = E[y f'(x) x], and at the map C(c) of the correlation
of two inputs to that of their outputs: C(0) = E[y]^2 and C'(1) = E[f'(x)^2].
"""

import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from peers.method import Method, Problem
from peers.weights import initialised

NODES, WEIGHTS = np.polynomial.hermite_e.hermegauss(200)


class ShapedTanh(nn.Module):
    """output_scale (tanh(input_scale x + input_shift) + output_shift).

    The four numbers fulfil Q(1) = 1, Q'(1) = 1, C(0) = 0 and C'(1) = `slope`, as the paper asks.
    """

    def __init__(self, slope: float) -> None:
        from scipy.optimize import root  # slow to import

        super().__init__()

        def moments(p: NDArray[np.float64]) -> tuple[float, float, NDArray[np.float64]]:
            y = np.tanh(p[0] * NODES + p[1])
            mean = _expected(y)
            scale = 1 / math.sqrt(_expected((y - mean) ** 2))
            derivative = scale * p[0] * (1 - y**2)
            errors = [_expected(scale * (y - mean) * derivative * NODES) - 1, _expected(derivative**2) - slope]
            return -mean, scale, np.array(errors)

        found = root(lambda p: moments(p)[2], np.array([1.0, 1.0]), tol=1e-12)
        if not found.success:
            raise ValueError(f"no tanh has a C map of slope {slope:g} at 1: choose another zeta")
        self.input_scale, self.input_shift = map(float, found.x)
        self.output_shift, self.output_scale, _ = moments(found.x)

    def forward(self, x: Tensor) -> Tensor:
        return self.output_scale * (torch.tanh(self.input_scale * x + self.input_shift) + self.output_shift)


class TailoredReLU(nn.Module):
    """sqrt(2 / (1 + a^2)) LeakyReLU(x) of negative slope a, whose C map takes 0 to `target` in `depth` layers."""

    def __init__(self, target: float, depth: int) -> None:
        from scipy.optimize import brentq

        super().__init__()

        def reached(a: float) -> float:
            c = 0.0
            for _ in range(depth):
                c = leaky_relu_map(c, a)
            return c

        self.negative_slope = float(brentq(lambda a: reached(a) - target, 0.0, 1.0)) if reached(0.0) > target else 0.0

    def forward(self, x: Tensor) -> Tensor:
        a = self.negative_slope
        return math.sqrt(2 / (1 + a**2)) * nn.functional.leaky_relu(x, a)


def leaky_relu_map(c: float, a: float) -> float:
    """The C map of a leaky ReLU of negative slope a, scaled to Q(1) = 1."""
    c = min(c, 1.0)
    return c + (1 - a) ** 2 / (math.pi * (1 + a**2)) * (math.sqrt(1 - c**2) - c * math.acos(c))


def scaled_orthogonal(weight: Tensor) -> Tensor:
    """Draw a kernel [out, in, ...] that keeps Q: orthogonal times max(1, sqrt(out / in)), 0 but at its centre."""
    out, inputs = weight.shape[:2]
    drawn = nn.init.orthogonal_(torch.empty(out, inputs), gain=max(1.0, math.sqrt(out / inputs)))
    with torch.no_grad():
        centre = weight.zero_()
        for size in reversed(weight.shape[2:]):
            centre = centre[..., size // 2]
        centre.copy_(drawn)
    return weight


def shaped(problem: Problem, zeta: float) -> nn.Module:
    """DKS: C'(1) is zeta over all layers, so zeta^(1 / depth) in each."""
    activation = ShapedTanh(zeta ** (1 / problem.depth))
    return initialised(problem.plain(lambda width: activation), scaled_orthogonal)


def tailored(problem: Problem, eta: float) -> nn.Module:
    """TAT for leaky ReLUs: C(0) is eta over all layers."""
    activation = TailoredReLU(eta, problem.depth)
    return initialised(problem.plain(lambda width: activation), scaled_orthogonal)


def _expected(values: NDArray[np.float64]) -> float:
    """Mean over N(0, 1) of a function's values at the nodes."""
    return float(WEIGHTS @ values) / math.sqrt(2 * math.pi)


METHODS = (
    Method("dks", "Martens et al. (2021), arXiv 2110.01765", shaped, knob="zeta", knobs=(1.5, 1.1, 3.0, 10.0)),
    Method("tat", "Zhang, Botev and Martens (2022), arXiv 2203.08120", tailored, knob="eta", knobs=(0.9, 0.8, 0.95)),
)
