"""Ablation: which part of the method does what, at 30 to 10,000 layers, and where something is wrong.

Digits, width 64, Adam, batch 100, 10 epochs. Rows "without": the whole method less one part. Rows "+": the parts one
after the other, added to plain sigmoids with PyTorch's weights and a rate of 0.001. A part is taken away in the code of
the package, so nothing else differs. What takes its place:

- slope: 4 in every layer, whose gain is 1 where z is near 0 (a tanh network with orthogonal weights of gain 1)
- shift: 0. Centering: outputs from 0 to 1. Orthogonal weights: normal ones of the same size
- tangential weights: equal ones. Correction of the profile by backward passes: none
- depth-scaled rate: 0.001, or 0.0001, for all parameters
- layer rule (the exception: slopes that follow the profile) and neuron rule (what sets back) of the Equalizer: none

Spread of the profile before training, on the test set, which `prepare` has not seen; test accuracy of the best epoch
and of the last one. At 10,000 layers the spread only. Faults, with 30 layers: all inputs 10 larger; two slopes times 8
and 1/20 after `prepare`; half of the neurons of every fifth layer shut by their biases; 8 residual blocks.
"""

import hashlib
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import partial
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor, nn

import sigmoidcore as sc
from _branched import BRANCHED
from _report import Report, arguments
from peers.method import one_rate
from sigmoidcore.calibration import orthogonal, solver
from sigmoidcore.equalizer import equalizer
from training import DivergedError, Split, digits, train

WIDTH, EPOCHS, SATURATION, SAMPLES = 64, 10, 0.5, 256
ADAM = 0.001
loss_fn = nn.functional.cross_entropy
calibration = sys.modules["sigmoidcore.calibration.calibrate"]  # a function hides it in its package

RATE, SLOPE, SHIFT, CENTERING, ORTHOGONAL, TANGENTIAL, CORRECTION, LAYER, NEURON = PARTS = (
    "depth-scaled rate",
    "slope",
    "shift",
    "centering",
    "orthogonal weights",
    "tangential weights",
    "correction",
    "layer rule",
    "neuron rule",
)
Parts = frozenset[str]
WHOLE = frozenset(PARTS)
NETWORKS: dict[str, Parts] = {
    "whole": WHOLE,
    **{f"without {part}": WHOLE - {part} for part in PARTS},
    "without tangential weights and correction": WHOLE - {TANGENTIAL, CORRECTION},
    "plain sigmoids": frozenset(),
    **{f"+ {part}": frozenset(PARTS[: i + 1]) for i, part in enumerate(PARTS[:-1])},
}
"""Rows of the table, and the parts that they have; with the last part, the whole."""
SMALLER_RATE = "without depth-scaled rate, 0.0001"
DEEPEST = ("whole", *(f"without {part}" for part in (TANGENTIAL, CORRECTION, f"{TANGENTIAL} and {CORRECTION}")))
"""Rows at 10,000 layers."""


def _uncentred(name: str, core: sc.SigmoidCore, x: Tensor) -> tuple[Tensor, Tensor, float]:
    """`solver.centre` with a mean of 0."""
    _, mean, _ = centre(name, core, x)
    signal = x.detach()
    return signal, torch.zeros_like(mean), float(signal.square().mean().sqrt())


def _normal(weight: Tensor, generator: torch.Generator) -> None:
    """In place of `orthogonal.orthogonal_`."""
    with torch.no_grad():
        weight.normal_(std=max(weight.shape) ** -0.5, generator=generator)


centre = solver.centre
REPLACEMENTS: dict[str, tuple[Any, str, Any]] = {
    SLOPE: (solver, "slope_for_gain", lambda x, target, **options: (4 * target, target)),
    SHIFT: (solver, "centre", _uncentred),
    ORTHOGONAL: (orthogonal, "orthogonal_", _normal),
    TANGENTIAL: (solver, "tangential_weights", torch.ones_like),
    CORRECTION: (calibration, "MOST_PASSES", 1),
    LAYER: (equalizer.ProfileRule, "follow", lambda *arguments: []),
    NEURON: (equalizer.LevelRule, "expect", lambda *arguments, **options: None),
}


@contextmanager
def only(parts: Parts) -> Iterator[None]:
    """The package without the other parts; without slopes there is nothing to correct."""
    parts = parts if SLOPE in parts else parts - {CORRECTION}
    with ExitStack() as stack:
        for part, (module, name, replacement) in REPLACEMENTS.items():
            if part not in parts:
                stack.enter_context(patch.object(module, name, replacement))
        stack.enter_context(warnings.catch_warnings())
        warnings.simplefilter("ignore", UserWarning)  # cores that are not centered are the point
        yield


def chain(parts: Parts, depth: int, split: Split) -> tuple[nn.Module, int]:
    """A plain network, prepared as far as its parts say, and the forward passes that this took."""
    centered = CENTERING in parts
    alpha = 4.0 if centered else 1.0
    model = sc.MLP(64, WIDTH, depth, 10, activation=lambda width: sc.SigmoidCore(width, alpha=alpha, centered=centered))
    if parts <= {RATE}:
        return model, 0
    keeps_weights = parts <= {RATE, SLOPE, SHIFT, CENTERING}
    return model, prepared(model, split, sc.calibrate if keeps_weights else sc.prepare)


def prepared(model: nn.Module, split: Split, verb: Callable[..., sc.Calibration] = sc.prepare) -> int:
    """Prepare or calibrate a network; returns the forward passes."""
    x, y = split.train_x[:SAMPLES], split.train_y[:SAMPLES]
    return verb(model, x, targets=y, loss_fn=loss_fn, saturation=SATURATION).passes


def spread(model: nn.Module, split: Split) -> float:
    """Of the profile on the test set."""
    return sc.gradient_profile(model, split.test_x, split.test_y, loss_fn).spread


def trained(model: nn.Module, parts: Parts, split: Split, rate: float, epochs: int, seed: int) -> dict[str, Any]:
    """Accuracies of the best and the last epoch; of those before the loss was not finite.

    Many parts do nothing in many rows. A network that has been trained before, with an Equalizer that changed nothing,
    is not trained again.
    """
    rule: dict[str, Any] = {} if RATE in parts else {"rates": one_rate, "lr": rate}
    start = (fingerprint(model, split), RATE in parts, rate, seed)
    if start in _known:
        return _known[start]
    finished = True
    try:
        result = train(model, split, epochs=epochs, seed=seed, equalize=bool(parts & {LAYER, NEURON}), **rule)
    except DivergedError as error:
        result, finished = error.result, False
    accuracies = result.accuracies or [0.0]
    found = {
        "best": round(max(accuracies), 2),
        "last": round(accuracies[-1], 2),
        "loss": result.losses[-1] if finished else None,
        "finished": finished,
        "changes": sum(look.slopes + look.neurons + look.recovered > 0 for look in result.history),
    }
    if parts >= {LAYER, NEURON} and not found["changes"]:
        _known[start] = found
    return found


_known: dict[Any, dict[str, Any]] = {}


def fingerprint(model: nn.Module, split: Split) -> bytes:
    """Of all weights, slopes and shifts, and of the data."""
    tensors = [*model.state_dict().values(), split.train_x]
    return hashlib.sha256(torch.cat([tensor.detach().flatten() for tensor in tensors]).numpy().tobytes()).digest()


def measured(network: str, depth: int, split: Split, epochs: int, seed: int) -> dict[str, Any]:
    """One training of a row of the table; at 10,000 layers without the training."""
    parts = WHOLE - {RATE} if network == SMALLER_RATE else NETWORKS[network]
    torch.manual_seed(seed)
    with only(parts):
        model, passes = chain(parts, depth, split)
        before = {"spread": spread(model, split), "passes": passes}
        if depth == 10_000:
            return before
        rate = ADAM / 10 if network == SMALLER_RATE else ADAM
        return before | trained(model, parts, split, rate, epochs, seed)


def larger_inputs(parts: Parts, split: Split) -> tuple[nn.Module, Split]:
    """All inputs 10 larger."""
    split = replace(split, train_x=split.train_x + 10, test_x=split.test_x + 10)
    return chain(parts, 30, split)[0], split


def wrong_slopes(parts: Parts, split: Split, factor: float) -> tuple[nn.Module, Split]:
    """Two slopes changed after `prepare`."""
    model, _ = chain(parts, 30, split)
    cores = [module for module in model.modules() if isinstance(module, sc.SigmoidCore)]
    for core in (cores[3], cores[15]):
        core.set_slope(core.alpha * factor)
    return model, split


def shut_neurons(parts: Parts, split: Split) -> tuple[nn.Module, Split]:
    """Half of the neurons of every fifth layer, by their biases."""
    model, _ = chain(parts, 30, split)
    with torch.no_grad():
        for linear in [m for m in model.modules() if isinstance(m, nn.Linear)][4:-1:5]:
            linear.bias[::2] += 5.0
    return model, split


def residual(parts: Parts, split: Split) -> tuple[nn.Module, Split]:
    """8 residual blocks."""
    model = BRANCHED["pre-activation residual"]()
    sc.convert(model, centered=True)
    prepared(model, split)
    return model, split


FAULTS: dict[str, tuple[Callable[[Parts, Split], tuple[nn.Module, Split]], tuple[str, ...]]] = {
    "inputs + 10": (larger_inputs, (SHIFT,)),
    "two slopes x 8": (partial(wrong_slopes, factor=8.0), (LAYER, NEURON)),
    "two slopes / 20": (partial(wrong_slopes, factor=1 / 20), (LAYER, NEURON)),
    "half of the neurons shut": (shut_neurons, (LAYER, NEURON)),
    "residual blocks": (residual, (TANGENTIAL, CORRECTION)),
}
"""Where something is wrong or is not a chain, and the parts that may help."""


def measure_faults(report: Report, split: Split, epochs: int) -> None:
    for case, (make, helping) in FAULTS.items():
        for network in ("whole", *(f"without {part}" for part in helping)):
            for seed in report.seeds:
                key = {"case": case, "network": network, "depth": 30, "seed": seed}
                if report.wants(**key):
                    torch.manual_seed(seed)
                    with only(NETWORKS[network]):
                        model, data = make(NETWORKS[network], split)
                        before = spread(model, data)
                        found = trained(model, NETWORKS[network], data, ADAM, epochs, seed)
                    report.add(**key, spread=before, **found)


def main() -> None:
    options = arguments(__doc__).parse_args()
    torch.set_flush_denormal(True)
    epochs = 2 if options.quick else EPOCHS
    report = Report(
        "ablation",
        options,
        key=("case", "network", "depth", "seed"),
        seeds=[0] if options.quick else [0, 1, 2, 3, 4],
        settings={"width": WIDTH, "batch": 100, "epochs": epochs, "saturation": SATURATION},
    )
    split = digits()

    def measure(depth: int, networks: Iterable[str], seeds: Iterable[int]) -> None:
        for seed in seeds:
            for network in networks:
                key = {"case": "chain", "network": network, "depth": depth, "seed": seed}
                if report.wants(**key):
                    report.add(**key, **measured(network, depth, split, epochs, seed))

    rows = (*NETWORKS, SMALLER_RATE)
    if options.quick:
        measure(4, rows, report.seeds)
    else:
        measure(30, rows, report.seeds)
        measure(100, rows, report.seeds)
        measure(10_000, DEEPEST, report.seeds[:1])
    measure_faults(report, split, epochs)
    if not options.quick:
        measure(1000, rows, report.seeds)  # last, because it takes longest: a file may end with fewer seeds
    report.finish()


if __name__ == "__main__":
    main()
