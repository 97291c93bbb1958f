"""A sample in a few numbers and one picture, whatever the number of layers."""

import math
import statistics
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from sigmoidcore.diagnosis.measure.measurement import Measurement
from sigmoidcore.diagnosis.wording import short
from sigmoidcore.equalizer.equalizer import Sample

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Sink = Callable[[Measurement | Sample], object]
"""A function of one argument: a `Measurement` of a `Monitor` or a `Sample` of an `Equalizer`."""

SCALARS = {
    "spread": "largest over smallest gradient size of the layers with weights",
    "smallest_gradient": "smallest gradient size of the layers with weights",
    "largest_gradient": "largest gradient size of the layers with weights",
    "saturated": "largest fraction of saturated neurons in an activation",
    "dead": "largest fraction of dead neurons in an activation",
    "smallest_sample_spread": "smallest spread of a layer's outputs over the samples; 0 if all samples are alike",
    "update": "median over the parameters of the size of the step's change over the size of the parameter",
    "not_finite": "number of values that are not finite, in outputs, gradients and parameters",
    "equalizer_spread": "largest over smallest gradient size of the cores",
    "slopes_changed": "number of layers whose slope the Equalizer changed",
    "neurons_opened": "number of saturated neurons that the Equalizer opened",
}
"""The names that `scalars` returns, and their meaning; the last three belong to an `Equalizer`."""


def scalars(sample: Measurement | Sample) -> dict[str, float]:
    """The numbers of a sample, by their names in `SCALARS`; unknown values are left out.

    Example:
        >>> scalars(Sample(step=3, spread=1.5, log_sizes=(0.0, 0.4), slopes=1, neurons=0))
        {'equalizer_spread': 1.5, 'slopes_changed': 1, 'neurons_opened': 0}
    """
    if isinstance(sample, Sample):
        return {"equalizer_spread": sample.spread, "slopes_changed": sample.slopes, "neurons_opened": sample.neurons}
    numbers: dict[str, float] = {}
    profile, layers = sample.profile, sample.layers
    if profile.names:
        numbers["spread"] = profile.spread
        numbers["smallest_gradient"] = float(profile.sizes.min())
        numbers["largest_gradient"] = float(profile.sizes.max())
    for name, summarise, values in (
        ("saturated", max, [layer.saturated for layer in layers]),
        ("dead", max, [layer.dead for layer in layers]),
        ("smallest_sample_spread", min, [layer.spread for layer in layers]),
        ("update", statistics.median, [weight.update for weight in sample.weights]),
    ):
        known = [value for value in values if value is not None and not math.isnan(value)]
        if known:
            numbers[name] = summarise(known)
    numbers["not_finite"] = sum(layer.nonfinite + layer.nonfinite_gradient for layer in layers)
    numbers["not_finite"] += sum(weight.nonfinite + weight.nonfinite_gradient for weight in sample.weights)
    return numbers


def picture(sample: Measurement | Sample) -> NDArray[np.uint8]:
    """The gradient profile over depth; for a measurement also saturation and outputs, as in `Diagnosis.plot`.

    Returns:
        RGB image, [height, 900, 3], uint8; the height depends on the content.

    Raises:
        ImportError: matplotlib is missing (extra `plots`).
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    from sigmoidcore.diagnosis.report.figures import overview

    figure = _profile(sample) if isinstance(sample, Sample) else overview(sample)
    canvas: Any = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[:, :, :3].copy()


def _profile(sample: Sample) -> "Figure":
    """The gradient profile of the cores."""
    from sigmoidcore.plots.figures import draw_profiles
    from sigmoidcore.plots.style import new_figure, style_axes

    with np.errstate(over="ignore"):
        sizes = np.exp(np.array(sample.log_sizes))
    figure = new_figure(9.0, 3.8)
    axes = figure.subplots()
    draw_profiles(axes, {"": (np.arange(1.0, len(sizes) + 1), sizes)})
    title = f"Gradient profile of the cores, spread {short(sample.spread)}"
    style_axes(axes, title, "cores, input to loss (64 of them at most)", "gradient size")
    return figure
