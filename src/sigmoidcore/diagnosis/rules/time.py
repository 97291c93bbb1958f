"""SC103, SC104: the gradient vanishes or explodes through time."""

import math
from collections.abc import Iterator, Sequence

from sigmoidcore.diagnosis.findings import Severity
from sigmoidcore.diagnosis.rules.evidence import GATED, Evidence
from sigmoidcore.diagnosis.rules.rule import Found, Rule
from sigmoidcore.diagnosis.rules.wording import listed, named, number

FORGOTTEN = 1.2e-7
EXPLODED, BURST = 1e4, 1e8
CALLS = 8
"""A layer that is called so often in a row is a recurrent one that was written by hand."""


def _through_time(evidence: Evidence) -> Iterator[tuple[str, str, Sequence[float]]]:
    """Name, kind and gradient sizes, first step to last, of all that recurs."""
    for layer in evidence.layers:
        if layer.steps is not None and len(layer.steps) > 1 and all(map(math.isfinite, layer.steps)):
            yield layer.name, layer.kind, layer.steps
    calls: dict[tuple[str, ...], list[int]] = {}
    for i, layer in enumerate(evidence.layers):
        if evidence.live[i] and layer.weights and layer.steps is None:
            calls.setdefault(layer.weights, []).append(i)
    for places in calls.values():
        if len(places) >= CALLS and _in_a_row(evidence, places):
            first = evidence.layers[places[0]]
            yield first.name, first.kind, [evidence.gradient(i) for i in places]


def _in_a_row(evidence: Evidence, places: Sequence[int]) -> bool:
    """Whether each call reads, at some distance, what the call before gave."""
    calls, latest = set(places), [-1] * len(evidence.layers)  # of each layer: how many calls are behind it
    for i in range(places[0], places[-1] + 1):
        latest[i] = max((latest[source] for source in evidence.layers[i].sources), default=-1)
        if i in calls:
            latest[i] += 1
    return [latest[i] for i in places] == list(range(latest[places[0]], latest[places[0]] + len(places)))


def _vanishing(evidence: Evidence) -> Found | None:
    found = sorted(
        (left, name, kind) for name, kind, steps in _through_time(evidence) if (left := _remembered(steps)) < FORGOTTEN
    )
    if not found:
        return None
    value, first, _ = found[0]
    names = tuple(name for _, name, _ in found)
    convertible = any(kind in GATED for _, _, kind in found)
    return Found(
        names,
        value,
        FORGOTTEN,
        f"Of the gradient through time in {named(first)}, {number(value)} of the largest is left at the first steps:"
        f" what they read cannot be learned.{_others(names)}",
        call="sc.convert(model); sc.calibrate(model, inputs)" if convertible else None,
        remedy=None if convertible else VANISHING.without_cores,
    )


def _exploding(evidence: Evidence) -> Found | None:
    found = sorted(
        ((growth, name) for name, _, steps in _through_time(evidence) if (growth := _growth(steps)) > EXPLODED),
        reverse=True,
    )
    if not found:
        return None
    value, first = found[0]
    names = tuple(name for _, name in found)
    return Found(
        names,
        value,
        EXPLODED,
        f"The gradient through time in {named(first)} grows by {number(value)} from the last step to the first "
        f"ones.{_others(names)}",
        Severity.ERROR if value > BURST else None,
    )


def _others(names: Sequence[str]) -> str:
    return f" It is so in {listed(names)}." if len(names) > 1 else ""


def _remembered(steps: Sequence[float]) -> float:
    """Largest gradient in the first tenth of the steps over the largest of all; 1 if there is nothing to say."""
    early, largest = max(steps[: max(1, len(steps) // 10)]), max(steps)
    if largest == 0 or (early == 0 and _cut(steps, largest)):
        return 1.0
    return early / largest


def _cut(steps: Sequence[float], largest: float) -> bool:
    """Whether the gradient ends at once: the sequence was cut, or these steps are padding."""
    return next(step for step in steps if step > 0) > 1e-3 * largest


def _growth(steps: Sequence[float]) -> float:
    """Largest gradient over the largest in the last tenth of the steps that have one; 1 if there is none."""
    if max(steps) == 0:
        return 1.0
    end = max(t for t, step in enumerate(steps) if step > 0) + 1
    return max(steps) / max(steps[end - max(1, end // 10) : end])


VANISHING = Rule(
    id="SC103",
    name="gradient vanishes through time",
    severity=Severity.WARNING,
    formula=(
        r"$\max_{t \le T/10} g_t < \text{forgotten} \cdot \max_t g_t$, with the gradient size $g_t$ at step $t$ "
        "of a recurrent layer, or at call $t$ of a layer that is called eight times or more, each time on what "
        "the last call gave"
    ),
    thresholds={"forgotten": FORGOTTEN},
    source=(
        "Arithmetic: all steps share their weights, so their gradients are added up, and float32 rounds away "
        "what is below 1.2e-7 of the sum. PyTorch's `nn.LSTM`, as drawn, keeps six tenths of the gradient in a "
        "step, and is below that after some 40 steps if the loss reads the last one only."
    ),
    why=(
        "What the first steps read has no influence on the weights: dependences that are as long as the sequence "
        "are not learned. Steps that get exactly 0 (padding, a cut sequence) are left alone."
    ),
    remedy=(
        "Set the slopes of the gates from a batch, before training (`convert`, `calibrate`); start the bias of "
        "an LSTM's forget gate at 1 or more; or use orthogonal recurrent weights, shorter sequences, or a loss "
        "that reads every step."
    ),
    without_cores=(
        "Start the bias of an LSTM's forget gate at 1 or more; or use orthogonal recurrent weights, shorter sequences, "
        "or a loss that reads every step. For `nn.RNN`, `nn.LSTM` and `nn.GRU`, which run over a whole sequence, "
        "`convert` and `calibrate` set the slopes of the gates."
    ),
    check=_vanishing,
    example="""
class Last(nn.Module):
    def __init__(self):
        super().__init__()
        self.lstm, self.head = nn.LSTM(8, 64, batch_first=True), nn.Linear(64, 10)

    def forward(self, x):
        return self.head(self.lstm(x)[0][:, -1])

model, inputs = Last(), torch.randn(128, 100, 8)
""",
    hidden_by=("SC401",),
)

EXPLODING = Rule(
    id="SC104",
    name="gradient explodes through time",
    severity=Severity.WARNING,
    formula=(
        r"$\max_t g_t > \text{exploded} \cdot \max_{t > 0.9\,T} g_t$, as SC103; $T$ is the last step that has a "
        "gradient"
    ),
    thresholds={"exploded": EXPLODED, "error above": BURST},
    source=(
        "Arithmetic: where a loss reads every step, a level gradient gathers on the way back, at most by the "
        "number of steps; 1e4 is beyond a thousand of them."
    ),
    why="One long sequence sets the whole step. Clipping keeps it finite, and throws away what the other samples say.",
    remedy=(
        "Draw orthogonal recurrent weights, or smaller ones; use a layer with gates (GRU, LSTM); clip the gradient."
    ),
    check=_exploding,
    example="""
class Last(nn.Module):
    def __init__(self):
        super().__init__()
        self.rnn, self.head = nn.RNN(8, 64, nonlinearity="relu", batch_first=True), nn.Linear(64, 10)
        nn.init.orthogonal_(self.rnn.weight_hh_l0, gain=2.5)

    def forward(self, x):
        return self.head(self.rnn(x)[0][:, -1])

model, inputs = Last(), torch.randn(128, 50, 8)
""",
    hidden_by=("SC401",),
)
