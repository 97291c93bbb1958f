"""Open the saturated neurons of named activations; all other activations stay what they are."""

from collections import defaultdict
from collections.abc import Iterable
from contextlib import ExitStack
from typing import Any

import torch
from torch import nn

from sigmoidcore.conversion.activation_sites import Site, find
from sigmoidcore.conversion.convert import convert, planned
from sigmoidcore.conversion.dataflow import Fate
from sigmoidcore.conversion.report import Activation, few
from sigmoidcore.core import SigmoidCore
from sigmoidcore.diagnosis.measure.measurement import SHUT, Layer, Measurement
from sigmoidcore.equalizer.neuron_rule import in_rows, open_neurons
from sigmoidcore.gain import mean_relative_slope
from sigmoidcore.observation.process_group import Ranks
from sigmoidcore.observation.profile import Inputs, given, run, undisturbed

EXACT = ("Sigmoid", "Tanh", "sigmoid()", "tanh()")
"""Kinds of activations that become a core without another function."""


def as_cores(
    model: nn.Module, measurement: Measurement, names: Iterable[str]
) -> tuple[dict[str, SigmoidCore], tuple[Activation, ...], dict[str, str]]:
    """Make cores of the activations that are named, and of no others.

    Args:
        model: changed in place.
        measurement: of this model.
        names: of layers of the measurement.

    Returns:
        The cores by name; which of them are new; and why some are left, by name of their layer.
    """
    cores, wanted, left = _sorted(model, measurement, names)
    if not wanted:
        return cores, (), left
    conversion = convert(model, **_asked(model, wanted))
    whys = {activation.name: activation.why for activation in conversion.activations}
    for site_name, name in wanted.items():
        core = dict(model.named_modules(remove_duplicate=False)).get(site_name)
        if isinstance(core, SigmoidCore):
            cores[site_name] = core
        else:
            left[name] = whys[site_name]
    return cores, tuple(activation for activation in conversion.activations if activation.converted), left


def can_open(model: nn.Module, measurement: Measurement, names: Iterable[str]) -> tuple[bool, dict[str, str]]:
    """Whether `as_cores` would find or make a core, and why some would be left. The model is not changed."""
    cores, wanted, left = _sorted(model, measurement, names)
    choices = {choice.site.name: choice for choice in planned(model, **_asked(model, wanted)).choices} if wanted else {}
    left |= {name: choices[site].why for site, name in wanted.items() if not choices[site].cores}
    return bool(cores) or any(choices[site].cores for site in wanted), left


def _sorted(
    model: nn.Module, measurement: Measurement, names: Iterable[str]
) -> tuple[dict[str, SigmoidCore], dict[str, str], dict[str, str]]:
    """Cores that there are, by name; sites that may become cores, with the layers they are; and why others may not."""
    rows = {row.name: row for row in measurement.layers}
    named = [rows[name] for name in names if name in rows]
    cores: dict[str, SigmoidCore] = {}
    left: dict[str, str] = {}
    sites = find(model)[0]
    wanted: dict[str, str] = {}
    for row in named:
        module = dict(model.named_modules(remove_duplicate=False)).get(row.module)
        if sum(other.module == row.module and other.kind == row.kind for other in measurement.layers) > 1 and (
            not row.kind.endswith("()")
        ):
            left[row.name] = "it runs in several places: give each an activation of its own"
        elif isinstance(module, SigmoidCore):
            cores[row.module] = module
        elif row.kind not in EXACT:
            left[row.name] = f"no core computes what {row.kind} does"
        elif (site := _site_of(row, sites, measurement)) is None:
            left[row.name] = "which call of the model's forward it is, is not known: make it a module"
        else:
            wanted[site.name] = row.name
    return cores, wanted, left


def _asked(model: nn.Module, wanted: dict[str, str]) -> dict[str, Any]:
    """What `convert` is to be told: these, and no others. What reads them was measured, where it cannot be traced."""
    sites = find(model)[0]
    unknown = [site.name for site in sites if site.name in wanted and _unknown(site)]
    asked = {"exclude": [site.name for site in sites if site.name not in wanted]}
    return asked | ({"include": unknown} if unknown else {})


def _unknown(site: Site) -> bool:
    """Whether `convert` does not see what reads it."""
    return not site.uses or all(use.fate is Fate.UNSEEN for use in site.uses)


def open_saturated(model: nn.Module, inputs: Inputs, cores: dict[str, SigmoidCore]) -> dict[str, tuple[int, int]]:
    """Open the neurons of these cores that are saturated on a batch, from the input on: one forward pass.

    Each core sees what the cores before it give once they are open, so nothing is opened that was shut by another.

    Returns:
        By name, how many neurons were opened, of how many; those with none are left out.
    """
    opened: dict[str, tuple[int, int]] = {}
    ranks = Ranks()

    def before(name: str, core: SigmoidCore, x: torch.Tensor) -> None:
        x = in_rows(core, x.detach()).to(core.shift.dtype)
        z = core.alpha.reshape(-1) * (x - core.shift.reshape(-1))
        shut = ranks.means([mean_relative_slope(z)], [len(x)])[0] < SHUT
        if bool(shut.any()):
            count = open_neurons(core, x[:, shut], shut, SHUT, ranks)
            if count:
                opened[name] = count, shut.numel()

    with undisturbed(model, inputs), torch.no_grad(), ExitStack() as stack:
        for name, core in cores.items():

            def hook(module: Any, args: Any, kwargs: Any, name: str = name) -> None:
                before(name, module, given(args, kwargs))

            stack.callback(core.register_forward_pre_hook(hook, with_kwargs=True).remove)
        run(model, inputs)
    return opened


def told(left: dict[str, str]) -> list[str]:
    """Why some were left, a line for each reason."""
    by_reason: dict[str, list[str]] = defaultdict(list)
    for name, why in left.items():
        by_reason[why].append(name)
    return [f"{few(names)}: {why}" for why, names in by_reason.items()]


def _site_of(row: Layer, sites: list[Site], measurement: Measurement) -> Site | None:
    """Where `convert` sees what was measured: by name, or for the calls of a function by their order in a forward."""
    if not row.kind.endswith("()"):
        return next((site for site in sites if row.module in site.names and site.module is not None), None)
    calls = [other.name for other in measurement.layers if (other.module, other.kind) == (row.module, row.kind)]
    same = [site for site in sites if site.module is None and (site.owner, site.kind) == (row.module, row.kind)]
    same.sort(key=lambda site: -1 if site.index is None else site.index)
    return same[calls.index(row.name)] if len(same) == len(calls) else None
