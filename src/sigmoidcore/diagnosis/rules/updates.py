"""SC301, SC302: the optimizer's steps are too small or too large for the weights."""

from statistics import median

from sigmoidcore.diagnosis.findings import Severity
from sigmoidcore.diagnosis.measure.measurement import Weight
from sigmoidcore.diagnosis.rules import gradient
from sigmoidcore.diagnosis.rules.evidence import Evidence, is_zero
from sigmoidcore.diagnosis.rules.rule import Found, Rule
from sigmoidcore.diagnosis.rules.wording import listed, number

STILL = 1.2e-7
VIOLENT = 0.1
SAMPLES = 3


def _updates(evidence: Evidence) -> dict[str, list[float]]:
    """Relative updates of each matrix that trains, in all measurements; not of those that started at 0."""
    steps = [m for m in evidence.measurements if any(w.update is not None for w in m.weights)]
    if len(steps) < SAMPLES:
        return {}
    found: dict[str, list[Weight]] = {}
    for measurement in steps:
        for weight in measurement.weights:
            found.setdefault(weight.name, []).append(weight)
    return {
        name: [w.update or 0.0 for w in seen if w.update is not None or not _moves(seen)]
        for name, seen in found.items()
        if seen[-1].trains and len(seen[-1].shape) > 1 and not any(map(is_zero, seen))
    }


def _moves(seen: list[Weight]) -> bool:
    """Whether its size changes, though no step of the optimizer that is watched may show it: another one has it."""
    return len({weight.size for weight in seen}) > 1


def _too_small(evidence: Evidence) -> Found | None:
    largest = {
        name: max(updates)
        for name, updates in _updates(evidence).items()
        if len(updates) >= SAMPLES and evidence.weights[name].gradient
    }
    found = sorted((name for name, update in largest.items() if update < STILL), key=lambda name: largest[name])
    if len(found) < len(largest):  # a gradient that has vanished explains its own weights, and not all of them
        lost = {w for i in gradient.lost(evidence) for w in evidence.layers[i].weights}
        found = [name for name in found if name not in lost]
    if not found:
        return None
    value = max(largest[name] for name in found)
    if value == 0 and len(found) == len(largest):
        text = (
            f"All weights stand still: no step that was seen changed {listed(found, tuple(largest), 'weights')} at all."
        )
        return Found(tuple(found), 0.0, STILL, text)
    return Found(
        tuple(found),
        largest[found[0]],
        STILL,
        f"No step that was seen changed {listed(found, tuple(largest), 'weights')} by more than {number(value)} of its "
        "size.",
    )


def _too_large(evidence: Evidence) -> Found | None:
    usual = {name: median(updates) for name, updates in _updates(evidence).items() if len(updates) >= SAMPLES}
    found = sorted((name for name, update in usual.items() if update > VIOLENT), key=lambda name: -usual[name])
    if not found:
        return None
    value = usual[found[0]]
    return Found(
        tuple(found),
        value,
        VIOLENT,
        f"A step usually changes {listed(found, tuple(usual), 'weights')} by up to {number(value)} of its size.",
        Severity.ERROR if value > 1 else None,
    )


TOO_SMALL = Rule(
    id="SC301",
    name="updates too small",
    severity=Severity.WARNING,
    formula=(
        r"$\max_t \lVert \Delta W_t \rVert / \lVert W_t \rVert < \text{still}$ over all steps that a `Monitor` "
        "measured"
    ),
    thresholds={"still": STILL, "measurements at least": SAMPLES},
    source=(
        "Arithmetic: the rounding of float32, 1.2e-7. Steps of that size are rounded away, and ten thousand of "
        "them, all in one direction, change a weight by a thousandth. SageMaker Debugger has 1e-8 "
        "(WeightUpdateRatio)."
    ),
    why=(
        "The weights stand still. The largest step counts, so that a warm-up or a decay to 0 is no fault. Only "
        "weights with two dimensions or more that train, have a gradient and did not start at 0 are judged. Those of "
        "layers that SC101 names are left out, unless all others stand still, too."
    ),
    remedy=(
        "Raise the learning rate. For networks of sigmoids and Adam, `depth_scaled_lr` knows it. Check that no "
        "scheduler holds it at 0, and that the optimizer has these parameters."
    ),
    check=_too_small,
    example="""
model = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
optimizer = torch.optim.Adam(model.parameters(), lr=1e-9)
with sc.Monitor(model, every=1) as monitor:
    for _ in range(5):
        optimizer.zero_grad()
        loss_fn(model(inputs), targets).backward()
        optimizer.step()
diagnosis = monitor.diagnosis()
""",
    hidden_by=("SC401", "SC502"),
)

TOO_LARGE = Rule(
    id="SC302",
    name="updates too large",
    severity=Severity.WARNING,
    formula=(
        r"the median over $t$ of $\lVert \Delta W_t \rVert / \lVert W_t \rVert > \text{violent}$, over the steps "
        "that a `Monitor` measured"
    ),
    thresholds={"violent": VIOLENT, "error above": 1.0, "measurements at least": SAMPLES},
    source=(
        "Rule of thumb: about 1e-3 is usual in trainings that go well (Karpathy, CS231n notes); a hundred times "
        "as much replaces the weights within ten steps. SageMaker Debugger has 10 (WeightUpdateRatio)."
    ),
    why="Each step undoes what the steps before have learned.",
    remedy="Lower the learning rate, and warm it up. For networks of sigmoids and Adam, `depth_scaled_lr` knows it.",
    check=_too_large,
    example="""
model = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
optimizer = torch.optim.Adam(model.parameters(), lr=1.0)
with sc.Monitor(model, every=1) as monitor:
    for _ in range(5):
        optimizer.zero_grad()
        loss_fn(model(inputs), targets).backward()
        optimizer.step()
diagnosis = monitor.diagnosis()
""",
    hidden_by=("SC401", "SC102"),
)
