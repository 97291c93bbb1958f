"""After a pass that solves: how level the profile is, and which gains would make it more level."""

import math
from collections.abc import Iterable, Mapping

from torch import nn

from sigmoidcore.calibration.solver import Solution
from sigmoidcore.core import SigmoidCore
from unstuck.observation.profile import Profile, spread

LEVEL_ENOUGH = 1.1  # a profile within a tenth is not corrected further: another batch differs by nearly as much
NOT_LEVEL = 1.5  # a profile that is less level than this after all passes is reported
NEARLY_BINARY = 3.0  # a first core above this level passes on little more than the signs of its inputs
SHALLOW = 10  # more cores than this that are not centered are reported


def free_spread(profile: Profile, solution: Solution) -> float:
    """The spread over the cores that the solver can level: no fixed slopes, no steps of recurrent layers."""
    # The recurrent solver levels steps for a loss at the end; with a loss on every step, a level gradient gathers.
    free = [i for i, name in enumerate(profile.names) if solution.by_gain(name)]
    return spread(profile.sizes[free]) if free else 1.0


def corrected_gains(log_gains: Mapping[str, float], profile: Profile, solution: Solution) -> dict[str, float]:
    """The logarithms of gains that would have given each core the gradient size of those that it feeds, if not 0."""
    squares: dict[str, float] = {}
    for name, size in zip(profile.names, profile.sizes.tolist(), strict=True):
        layer = name if name in solution.layers else name.rpartition("[")[0]  # the steps of a recurrent layer together
        squares[layer] = squares.get(layer, 0.0) + size**2
    logs = {name: 0.5 * math.log(square) for name, square in squares.items() if square > 0}
    fed: dict[str, list[str]] = {}
    for name, sources in solution.sources.items():
        for source in sources:
            fed.setdefault(source, []).append(name)
    corrected = dict(log_gains)
    for name, readers in fed.items():
        wanted = [logs[reader] for reader in readers if reader in logs]
        if solution.by_gain(name) and wanted and name in logs:
            corrected[name] = corrected.get(name, 0.0) + sum(wanted) / len(wanted) - logs[name]
    return corrected


def remarks(profile: Profile, solution: Solution, saturation: float | None) -> list[str]:
    """What could be better, in sentences for the report."""
    found = []
    left = free_spread(profile, solution)
    if not math.isfinite(profile.spread):
        found.append(
            "the profile is not level: a gradient is 0 or not finite; check that the loss uses every layer, and "
            "that no weight on the way is 0 (as residual branches that start at 0 have)"
        )
    elif left > NOT_LEVEL:
        found.append(
            f"the profile is level to a factor of {left:.3g} only; a lower saturation, or fresh weights by `prepare`, "
            "may do better"
        )
    first = next((n for n, sources in solution.sources.items() if not sources), "")
    binary = saturation is None and solution.levels.get(first, 0.0) > NEARLY_BINARY
    if binary and isinstance(solution.layers[first], SigmoidCore):
        found.append(
            f"gain 1 makes the first core '{first}' nearly binary (level {solution.levels[first]:.3g}); "
            "saturation=1 would keep what its inputs say"
        )
    found += uncentered(solution.layers.values())
    if solution.fixed:
        found.append("the saturation level fixes the first core's slope, and so its gradient size")
    if solution.normalised:
        found.append(
            f"a normalisation scales what some cores read ({len(solution.normalised)}) and undoes the size that their "
            "slopes give: these set the saturation level only"
        )
    return found


def uncentered(layers: Iterable[nn.Module]) -> list[str]:
    """What to say of a deep network whose cores are not centered: a sentence or nothing."""
    count = sum(isinstance(core, SigmoidCore) and not core.centered for core in layers)
    if count <= SHALLOW:
        return []
    return [
        f"{count} cores are not centered. Their mean output of 1/2 keeps so deep a network from learning, also with a "
        "level gradient. Build the model again and call sc.convert(model, centered=True) before sc.prepare; pass "
        "centered=True to a SigmoidCore"
    ]
