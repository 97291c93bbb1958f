"""The layer rule: slopes of layers change where the gradient leaves the band around its median size."""

import math
from collections.abc import Mapping, Sequence

from torch import Tensor

from sigmoidcore.core import SigmoidCore
from sigmoidcore.observation.gradients import FOLLOWED, CorePass, consumers

STEEPER = 0.5
"""Mean relative slope of a layer from which on its slope may be raised; a saturated one would only saturate more."""
FULL = math.log(20)
"""A difference (of logarithms, beyond the band) from which on a slope makes up for all of it at once."""
LEAST = 0.1
"""The share of a small difference that a slope makes up for in one sample."""
MOST = math.log(2)
"""A slope changes at most by this factor (in logarithms) a sample."""

Consumers = list[list[tuple[int, bool]]]
"""For each core the indices of the cores that it feeds, and whether only through a normalisation."""


def level_layers(
    cores: Sequence[SigmoidCore], logs: Tensor, relative: Sequence[Tensor], fed: Consumers, tolerance: float
) -> list[float]:
    """Change the slopes of cores whose gradient differs from that of the cores that they feed; see `Equalizer`.

    Args:
        cores: the cores.
        logs: logarithms of the gradient profile, [cores].
        relative: mean relative slopes of the neurons of each core.
        fed: the cores that each core feeds.
        tolerance: half width of the band, a factor above 1.

    Returns:
        The size of the change of each slope that was changed, in logarithms.
    """
    excess = excess_of(logs, tolerance)
    if not bool(excess.any()):
        return []
    behind, normalised = _excess_behind(excess, fed)
    change = excess - behind
    change = (change * (change / FULL).square().clamp(LEAST, 1)).clamp(-MOST, MOST)
    moved = []
    for i in change.nonzero().flatten().tolist():
        open_enough = bool(relative[i].mean() >= STEEPER)
        if open_enough if change[i] < 0 else not (open_enough and i in normalised):
            cores[i].set_slope(cores[i].alpha * math.exp(-float(change[i])))
            moved.append(abs(float(change[i])))
    return moved


def excess_of(logs: Tensor, tolerance: float) -> Tensor:
    """What exceeds the band around the median, [cores]; 0 inside."""
    errors = logs - logs.median()
    return errors.sign() * (errors.abs() - math.log(tolerance)).clamp_min(0)


def find_consumers(passes: Mapping[str, Sequence[CorePass]]) -> Consumers:
    """What each core feeds; the next core if the graph cannot be followed."""
    if len(passes) > FOLLOWED or any(p.again for of_core in passes.values() for p in of_core):
        return [[(i, False)] for i in range(1, len(passes))] + [[]]
    places = {name: i for i, name in enumerate(passes)}
    return [[(places[name], norm) for name, norm in fed.items()] for fed in consumers(passes).values()]


def _excess_behind(excess: Tensor, fed: Consumers) -> tuple[Tensor, set[int]]:
    """The mean excess of the cores that each core feeds, its own if there are none; and who feeds norms only.

    The slope of a core that feeds none changes the gradient of all before it as much as its own: it levels nothing.
    """
    behind, normalised = excess.clone(), set()
    for i, those in enumerate(fed):
        plain = [k for k, through_norm in those if not through_norm]
        if those:
            behind[i] = excess[plain or [k for k, _ in those]].mean()
        if those and not plain:
            normalised.add(i)
    return behind, normalised
