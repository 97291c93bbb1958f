"""The article's algorithm, as it is meant, in NumPy.

The project starts from an article (in Chinese) on Sigmoid Core, a way to keep the gradient of a network of sigmoids
from vanishing. This module is the article's own example, made to run:

========================  ==========================================================
the article               here
========================  ==========================================================
section 3, steps 1 and 2  `sigmoid_core`: y = sigmoid(z), z = alpha (x - shift)
section 3, step 3         `gradient`: of one point's squared error, in alpha and shift
section 4, the data       `POINTS_X`, `POINTS_Y`
section 4, the training   `fit`: stochastic gradient descent, one point at a time
========================  ==========================================================

Step 4, "if the gradient is close to 0, adjust the sigmoid's parameters", needs a network: `sigmoidcore.calibrate` takes
it before training and `sigmoidcore.Equalizer` during training. The article's printed training loop differs from this
module in four places; docs/article.md shows each.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = ["POINTS_X", "POINTS_Y", "Fit", "fit", "gradient", "sigmoid_core"]

POINTS_X: tuple[float, ...] = (-5.0, -3.0, -1.0, 1.0, 3.0, 5.0)
"""The article's six preactivations (section 4)."""

POINTS_Y: tuple[float, ...] = (0.000001, 0.00001, 0.001, 0.5, 0.999, 0.999999)
"""The outputs that belong to `POINTS_X` (section 4)."""

Floats = NDArray[np.float64]


def sigmoid_core(x: ArrayLike, alpha: ArrayLike, shift: ArrayLike = 0.0) -> np.float64 | Floats:
    """The output of a Sigmoid Core, y = 1 / (1 + exp(-z)) with z = alpha (x - shift).

    The relative error is below 1e-15 wherever y is a normal number (z >= -708), with z as float64 computes it.

    Args:
        x: preactivations, real numbers of any shape.
        alpha: slope, > 0; a number or an array that broadcasts with x.
        shift: shift, a number or an array that broadcasts with x.

    Returns:
        float64, of the broadcast shape, each in [0, 1]; a NumPy scalar when all inputs are scalars.

    Raises:
        ValueError: alpha is not positive, or the shapes do not broadcast.

    Source: the article, section 3: y = 1 / (1 + e^-x) of the adjusted input x' = alpha x; its training loop moves x.

    Example:
        >>> sigmoid_core([-1.0, 0.0, 1.0], alpha=2.0)
        array([0.11920292, 0.5       , 0.88079708])
        >>> float(sigmoid_core(3, alpha=0.5, shift=3))
        0.5
    """
    xs, alphas, shifts = (np.asarray(values, np.float64) for values in (x, alpha, shift))
    if not np.all(alphas > 0):
        raise ValueError(f"alpha must be > 0, got {alphas.min()}: to mirror the curve, negate x instead")
    with np.errstate(over="ignore", under="ignore"):
        z = alphas * (xs - shifts)
        decay = np.exp(-np.abs(z))
        y: np.float64 | Floats = np.where(z >= 0, 1.0, decay)[()] / (1.0 + decay)
    return y


def gradient(x: float, y: float, alpha: float, shift: float = 0.0) -> tuple[float, float]:
    """The gradient of one point's squared error, (d loss / d alpha, d loss / d shift).

    With z = alpha (x - shift) and the local derivative d = alpha sigmoid'(z), the chain rule on
    loss = (y - sigmoid(z))^2 gives

        d loss / d alpha = -2 (y - sigmoid(z)) sigmoid'(z) (x - shift)
        d loss / d shift = +2 (y - sigmoid(z)) d

    Source: the article, section 3, step 3, and section 4, whose `gradient` lacks the factor sigmoid'(z).

    Example:
        >>> [round(part, 6) for part in gradient(x=2.0, y=1.0, alpha=1.0)]
        [-0.050062, 0.025031]
    """
    output, derivative = _sigmoid(alpha * (x - shift))
    common = -2.0 * (y - output) * derivative
    return common * (x - shift), -common * alpha


@dataclass(frozen=True, eq=False)
class Fit:
    """A Sigmoid Core fitted to points by `fit`; `str()` of it is a sentence.

    Attributes:
        x: the preactivations that were fitted, float64, (points,).
        y: the outputs asked for, float64, (points,).
        start_alpha: the slope before training; the shift before training is 0.
        alpha: the slope after training, > 0.
        shift: the shift after training.
        loss: mean squared error over all points, float64, (epochs + 1,): `loss[0]` before training, `loss[k]` after
            epoch k.
    """

    x: Floats
    y: Floats
    start_alpha: float
    alpha: float
    shift: float
    loss: Floats

    def predict(self, x: ArrayLike) -> np.float64 | Floats:
        """The fitted curve at x: `sigmoid_core(x, self.alpha, self.shift)`."""
        return sigmoid_core(x, self.alpha, self.shift)

    def __str__(self) -> str:
        sign, size = ("-" if self.shift >= 0 else "+"), abs(self.shift)
        return (
            f"y = sigmoid({self.alpha:.4g} (x {sign} {size:.4g})), {self.x.size} points, {self.loss.size - 1} epochs, "
            f"mean squared error {self.loss[0]:.3g} -> {self.loss[-1]:.3g}"
        )


def fit(x: ArrayLike, y: ArrayLike, alpha: float = 0.1, learning_rate: float = 0.01, epochs: int = 1000) -> Fit:
    """Fit slope and shift to points by the article's stochastic gradient descent.

    Each epoch takes the points one at a time, in order; each point moves slope and shift against its own `gradient`:
    alpha -= learning_rate * d loss / d alpha, shift -= learning_rate * d loss / d shift. The shift starts at 0.

    A step that takes the slope to 0 or below ends with an error: the learning rate is too large, or y falls as x rises.

    Args:
        x: preactivations, (points,), at least one.
        y: outputs to reach, (points,). A target outside (0, 1) is allowed and cannot be reached.
        alpha: the slope to start from, > 0.
        learning_rate: > 0.
        epochs: passes over the points, >= 0.

    Raises:
        ValueError: an argument is out of range or not finite, x and y have different shapes, or training leaves the
            positive slopes or the finite numbers.

    Source: the article, section 4; the defaults are its values. docs/article.md derives the gradient.

    Example:
        >>> print(fit(POINTS_X, POINTS_Y))
        y = sigmoid(1.323 (x - 0.8844)), 6 points, 1000 epochs, mean squared error 0.145 -> 0.00173
    """
    xs, ys = np.array(x, np.float64), np.array(y, np.float64)
    if xs.ndim != 1 or xs.shape != ys.shape or xs.size == 0:
        raise ValueError(f"x has shape {xs.shape} and y {ys.shape}: give one output for each x, in two flat sequences")
    if not (np.isfinite(xs).all() and np.isfinite(ys).all()):
        raise ValueError("x and y must be finite: remove or replace the points that are not")
    if not (0 < alpha < math.inf and 0 < learning_rate < math.inf and epochs >= 0):
        raise ValueError(
            f"alpha and learning_rate must be positive and epochs at least 0, got {alpha}, {learning_rate} and {epochs}"
        )
    points = list(zip(xs.tolist(), ys.tolist(), strict=True))
    slope, shift = float(alpha), 0.0
    loss = np.empty(epochs + 1)
    loss[0] = _mean_squared_error(points, slope, shift)
    for epoch in range(1, epochs + 1):
        for point_x, point_y in points:
            slope_gradient, shift_gradient = gradient(point_x, point_y, slope, shift)
            stepped, shift = slope - learning_rate * slope_gradient, shift - learning_rate * shift_gradient
            if not (0.0 < stepped < math.inf and math.isfinite(shift)):
                raise ValueError(
                    f"epoch {epoch}, point x={point_x:g}, y={point_y:g}: the step takes alpha from {slope:g} to "
                    f"{stepped:g} and shift to {shift:g}; alpha must stay positive and both finite. Lower "
                    f"learning_rate (it is {learning_rate:g}); if y falls as x rises, pass -x"
                )
            slope = stepped
        loss[epoch] = _mean_squared_error(points, slope, shift)
    return Fit(x=xs, y=ys, start_alpha=float(alpha), alpha=slope, shift=shift, loss=loss)


def _sigmoid(z: float) -> tuple[float, float]:
    """sigmoid(z) and sigmoid'(z), neither overflowing nor cancelling."""
    decay = math.exp(-abs(z))
    return (1.0 if z >= 0 else decay) / (1.0 + decay), decay / (1.0 + decay) ** 2


def _mean_squared_error(points: list[tuple[float, float]], alpha: float, shift: float) -> float:
    residuals = [y - _sigmoid(alpha * (x - shift))[0] for x, y in points]
    return sum(residual * residual for residual in residuals) / len(points)
