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
        x: preactivations, any shape; real numbers, converted to float64.
        alpha: slope, > 0; a number or an array that broadcasts with x.
        shift: shift, a number or an array that broadcasts with x.

    Returns:
        float64, of the broadcast shape, each in [0, 1]; a NumPy scalar when all inputs are scalars.

    Raises:
        TypeError: an input is not made of real numbers.
        ValueError: an input is not finite, alpha is not positive, or the shapes do not broadcast.

    Source: the article, section 3: y = 1 / (1 + e^-x) of the adjusted input x' = alpha x; its training loop moves x.

    Example:
        >>> sigmoid_core([-1.0, 0.0, 1.0], alpha=2.0)
        array([0.11920292, 0.5       , 0.88079708])
        >>> float(sigmoid_core(3, alpha=0.5, shift=3))
        0.5
    """
    xs, alphas, shifts = _finite(x, "x"), _positive(alpha, "alpha"), _finite(shift, "shift")
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
            epoch k. Read-only, as x and y are.
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
        TypeError: an input is not made of real numbers.
        ValueError: epochs is negative or not an integer; an input is empty, not finite, or of the wrong shape or
            sign; or training leaves the positive slopes or the finite numbers.

    Source: the article, section 4; the defaults are its values. docs/article.md derives the gradient.

    Example:
        >>> print(fit(POINTS_X, POINTS_Y))
        y = sigmoid(1.323 (x - 0.8844)), 6 points, 1000 epochs, mean squared error 0.145 -> 0.00173
    """
    xs, ys = _points(x, y)
    start_alpha, rate = (_number(*pair) for pair in ((alpha, "alpha"), (learning_rate, "learning_rate")))
    if type(epochs) is not int or epochs < 0:
        raise ValueError(f"epochs must be an integer of at least 0, got {epochs!r}")

    points = list(zip(xs.tolist(), ys.tolist(), strict=True))
    slope, shift = start_alpha, 0.0
    loss = np.empty(epochs + 1)
    loss[0] = _mean_squared_error(points, slope, shift)
    for epoch in range(1, epochs + 1):
        for point_x, point_y in points:
            slope_gradient, shift_gradient = gradient(point_x, point_y, slope, shift)
            stepped, shift = slope - rate * slope_gradient, shift - rate * shift_gradient
            if not (0.0 < stepped < math.inf and math.isfinite(shift)):
                raise ValueError(
                    f"epoch {epoch}, point x={point_x:g}, y={point_y:g}: the step takes alpha from {slope:g} to "
                    f"{stepped:g} and shift to {shift:g}; alpha must stay positive and both finite. Lower "
                    f"learning_rate (it is {rate:g}); if y falls as x rises, pass -x"
                )
            slope = stepped
        loss[epoch] = _mean_squared_error(points, slope, shift)
    for array in (xs, ys, loss):
        array.flags.writeable = False
    return Fit(x=xs, y=ys, start_alpha=start_alpha, alpha=slope, shift=shift, loss=loss)


def _sigmoid(z: float) -> tuple[float, float]:
    """sigmoid(z) and sigmoid'(z), neither overflowing nor cancelling."""
    decay = math.exp(-abs(z))
    return (1.0 if z >= 0 else decay) / (1.0 + decay), decay / (1.0 + decay) ** 2


def _mean_squared_error(points: list[tuple[float, float]], alpha: float, shift: float) -> float:
    residuals = [y - _sigmoid(alpha * (x - shift))[0] for x, y in points]
    loss = sum(residual * residual for residual in residuals) / len(points)
    if not math.isfinite(loss):
        largest = max((y for _, y in points), key=abs)
        raise ValueError(f"the squared error overflows at y={largest:g}: a sigmoid stays in (0, 1), so scale y into it")
    return loss


def _finite(value: ArrayLike, name: str) -> Floats:
    """The value as a new float64 array, if it is made of finite real numbers."""
    try:
        numbers = np.asarray(value)
    except ValueError as error:
        raise ValueError(f"{name} is ragged: give rows of one length") from error
    if numbers.dtype.kind not in "iuf":
        raise TypeError(f"{name} must be real numbers, got {value!r:.60}; convert it to float first")
    array = numbers.astype(np.float64)
    return _require(np.isfinite(array), array, name, "must be finite; remove or replace it")


def _positive(value: ArrayLike, name: str) -> Floats:
    array = _finite(value, name)
    remedy = "to mirror the curve, negate x instead" if name == "alpha" else "choose a small positive number"
    return _require(array > 0, array, name, f"must be > 0; {remedy}")


def _number(value: ArrayLike, name: str) -> float:
    array = _positive(value, name)
    if array.ndim:
        raise ValueError(f"{name} has shape {array.shape}: give one number")
    return float(array)


def _require(holds: NDArray[np.bool_], array: Floats, name: str, rule: str) -> Floats:
    """The array; a ValueError names the first element for which `holds` is false."""
    for index in np.argwhere(~np.atleast_1d(holds))[:1].tolist():
        place = f"{name}{index}" if array.ndim else name
        raise ValueError(f"{place} is {float(np.atleast_1d(array)[tuple(index)])!r}: {name} {rule}")
    return array


def _points(x: ArrayLike, y: ArrayLike) -> tuple[Floats, Floats]:
    xs, ys = _finite(x, "x"), _finite(y, "y")
    if xs.ndim != 1 or xs.shape != ys.shape or xs.size == 0:
        raise ValueError(f"x has shape {xs.shape} and y {ys.shape}: give one output for each x, in two flat sequences")
    return xs, ys
