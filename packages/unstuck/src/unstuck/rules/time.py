"""The gradient vanishes through time."""

import math
from collections.abc import Sequence

from unstuck.language import _
from unstuck.rules.evidence import Evidence
from unstuck.rules.rule import Found, rule
from unstuck.wording import named, number, same_in

FORGOTTEN_SHARE = 1.2e-7
"""The rounding of float32."""

REMEMBER = (
    "Start the bias of an LSTM's forget gate at 1 or more, use orthogonal recurrent weights or shorter sequences, or "
    "let the loss read every step."
)


@rule("US103", "gradient vanishes through time", remedy=REMEMBER, hidden_by=("US401",), signal=True)
def vanishing(evidence: Evidence) -> Found | None:
    """The inputs of the first steps have no influence on the weights: the layer cannot learn long dependences."""
    recurrent = [x for x in evidence.layers if x.steps and all(map(math.isfinite, x.steps))]
    shares = ((_remembered(x.steps or ()), x.name) for x in recurrent)
    found = sorted((share, name) for share, name in shares if share < FORGOTTEN_SHARE)
    if not found:
        return None
    value, names = found[0][0], tuple(name for _, name in found)
    text = _(
        "Only {share} of the gradient through time in {name} reaches the first steps: it cannot learn from them.",
        share=number(value), name=named(names[0]),
    )  # fmt: skip
    return Found(names, value, FORGOTTEN_SHARE, text + same_in(names))


def _remembered(steps: Sequence[float]) -> float:
    """Largest gradient in the first tenth of the steps over the largest of all; 1 without a gradient there."""
    early, largest = max(steps[: max(1, len(steps) // 10)]), max(steps)
    if largest == 0:
        return 1.0
    if early == 0 and next(step for step in steps if step > 0) > 1e-3 * largest:
        return 1.0  # the gradient ends at once: the sequence was cut, or these steps are padding
    return early / largest
