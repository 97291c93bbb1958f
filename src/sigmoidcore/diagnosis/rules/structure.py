"""SC501 to SC504: parameters that no gradient reaches or that are none, gradients of exactly 0, neurons all alike."""

from sigmoidcore.diagnosis.findings import Severity
from sigmoidcore.diagnosis.measure.measurement import Weight
from sigmoidcore.diagnosis.rules import gradient, units
from sigmoidcore.diagnosis.rules.evidence import Evidence, is_zero, kin
from sigmoidcore.diagnosis.rules.rule import Found, Rule
from sigmoidcore.diagnosis.rules.wording import listed, named

SEVERAL = 3
"""Measurements of a training after which what never gets a gradient is no matter of a batch."""


def _no_gradient(evidence: Evidence) -> Found | None:
    reached = {w.name for m in evidence.measurements for w in m.weights if w.gradient is not None}
    training = [w for w in evidence.now.weights if w.trains]
    missing = [w.name for w in training if w.name not in reached]
    if not missing:
        return None
    if len(missing) == len(training) and not any(evidence.live):
        return Found(
            tuple(missing),
            len(missing),
            0,
            f"No parameter gets a gradient, neither {listed(missing[:2])} nor any other.",
            Severity.ERROR,
            "The loss does not depend on the model through differentiable steps: look for detach(), .item(), .data,"
            " NumPy, argmax or torch.no_grad() on the way.",
        )
    without = set(missing)
    cut = [w for i in _before_a_cut(evidence) for w in evidence.layers[i].weights if w in without]
    if cut:
        names = tuple(dict.fromkeys(cut))
        return Found(
            names,
            len(names),
            0,
            f"{listed(names)} should train and {'gets' if len(names) == 1 else 'get'} no gradient, and later layers"
            " do: the graph is cut in between.",
        )
    spare = _spare(evidence, without)
    if len(spare) == len(missing) and len(evidence.measurements) < SEVERAL:
        return Found(
            tuple(missing),
            len(missing),
            0,
            f"{listed(missing)} {'gets' if len(missing) == 1 else 'get'} no gradient in this batch, and others "
            "of their kind do.",
            Severity.NOTE,
            "Nothing, if other batches use them, as those of an expert, or if they are the last of a row of blocks "
            "whose output nothing reads. A Monitor tells whether they ever get one. DDP needs "
            "find_unused_parameters=True.",
        )
    missing = [name for name in missing if name not in spare or len(evidence.measurements) >= SEVERAL]
    unused = [w.name for w in training if w.name in set(missing) and not w.used]
    what = "the forward pass does not use them" if len(unused) == len(missing) else "the loss does not depend on them"
    return Found(
        tuple(missing),
        len(missing),
        0,
        f"{listed(missing)} should train and {'gets' if len(missing) == 1 else 'get'} no gradient: {what}.",
        remedy="Use them, or, if they are to stay as they are, set requires_grad to False: that says so and saves "
        "memory. DDP needs find_unused_parameters=True.",
    )


def _spare(evidence: Evidence, without: set[str]) -> set[str]:
    """Parameters beside others of their kind, in one list of modules, that do get a gradient."""
    used = {(name, w.shape) for w in evidence.now.weights if w.gradient is not None for name in kin(w.name)}
    return {
        w.name for w in evidence.now.weights if w.name in without and any((n, w.shape) in used for n in kin(w.name))
    }


def _before_a_cut(evidence: Evidence) -> list[int]:
    """Layers without a gradient that feed layers with one, also where that is not seen because tensors were rebuilt."""
    first = next((i for i, live in enumerate(evidence.live) if live), 0)
    rebuilt = first if not evidence.layers[first].sources else 0
    return [
        i
        for i, layer in enumerate(evidence.layers)
        if layer.role == "weights" and layer.gradient is None and (evidence.feeds_live[i] or i < rebuilt)
    ]


def _matrices(evidence: Evidence) -> list[Weight]:
    return [w for w in evidence.now.weights if w.trains and len(w.shape) > 1]


def _zero_gradient(evidence: Evidence) -> Found | None:
    matrices = [w for w in _matrices(evidence) if w.gradient is not None]
    zero = [w for w in matrices if w.gradient == 0]
    if not zero:
        return None
    if gradient.underflown(evidence):
        return None
    names = tuple(w.name for w in zero)
    if evidence.sinks and not any(evidence.references):
        if evidence.now.loss == 0:
            return Found(names, 0.0, 0.0, "The loss is 0, and so is every gradient.", Severity.NOTE)
        return Found(
            names,
            0.0,
            0.0,
            "The loss gives the network a gradient of exactly 0: no layer learns anything.",
            Severity.ERROR,
            "Look for what is flat between the last layer and the loss: a ReLU, a clamp, a round, a saturated sigmoid,"
            " a factor or a mask of 0.",
        )
    stuck = [w.name for w in zero if is_zero(w) and not evidence.growing]
    if stuck:
        return Found(
            tuple(stuck),
            0.0,
            0.0,
            f"{listed(stuck)} {'is 0 and gets' if len(stuck) == 1 else 'are 0 and get'} a gradient of exactly 0: it"
            " stays so.",
            Severity.ERROR if len(zero) == len(matrices) else None,
            "Two factors that start at 0 keep each other there: start only one of them at 0.",
        )
    lost = gradient.lost(evidence)
    if lost and not gradient.fades(evidence):
        last = evidence.layers[lost[-1]].name
        following = [evidence.layers[c].name for c in evidence.next_live(lost[-1])]
        after = f" and {named(following[0])}" if following else ""
        layers = tuple(evidence.layers[i].name for i in reversed(lost))
        flat = [a.name for i in evidence.consumers[lost[-1]] if (a := evidence.layers[i]).dead == 1]
        if flat:
            return Found(
                (flat[0], *layers),
                0.0,
                0.0,
                f"The gradient becomes exactly 0 at {named(flat[0])}: none of its units lets any through for any of "
                f"these {evidence.layers[evidence.consumers[lost[-1]][0]].rows} rows.",
                Severity.ERROR,
                units.DEAD_UNITS.remedy,
            )
        return Found(
            layers,
            0.0,
            0.0,
            f"The gradient becomes exactly 0 between {named(last)}{after}: {listed(layers, evidence.weighted)} "
            f"{'gets' if len(layers) == 1 else 'get'} none of it.",
            Severity.ERROR,
        )
    if units.dead(evidence) or units.saturated(evidence) or gradient.fades(evidence):
        return None
    reason = (
        f": {listed([w.name for w in evidence.growing])} {'starts' if len(evidence.growing) == 1 else 'start'} at 0"
        if evidence.growing
        else " on this batch"
    )
    return Found(
        names,
        0.0,
        0.0,
        f"The gradient of {listed(names)} is exactly 0{reason}.",
        Severity.NOTE,
        "Nothing, if it starts at 0 on purpose or has no part in this batch: the next steps will tell.",
    )


def _alike(evidence: Evidence) -> Found | None:
    found: dict[str, None] = {}
    for i, layer in enumerate(evidence.layers):
        if (
            layer.role != "weights"
            or not evidence.feeds_weights[i]
            or layer.kind.startswith(("Embedding", "embedding"))
        ):
            continue
        for name in layer.weights:
            weight = evidence.weights.get(name)
            if weight is None or not weight.trains or not weight.alike or len(weight.shape) < 2 or weight.shape[0] < 2:
                continue
            if len(weight.shape) > 2 and weight.shape[1] == 1 and layer.sources:
                continue  # one channel each: they read different ones
            others = [evidence.weights[w] for w in layer.weights if w in evidence.weights]
            if any(other.shape == weight.shape and not other.alike and other.size > 0 for other in others):
                continue  # it is a part of what multiplies only, as the deviations of a Bayesian layer are
            found[name] = None
    if not found:
        return None
    names = tuple(found)
    return Found(
        names,
        len(names),
        0,
        f"All rows of {listed(names)} are the same: the neurons that they feed compute the same and, if the weights "
        "after them are alike as well, stay the same.",
    )


def _stray(evidence: Evidence) -> Found | None:
    strays = evidence.now.strays
    if not strays:
        return None
    them, are = ("it", "trains and is no parameter") if len(strays) == 1 else ("them", "train and are no parameters")
    return Found(
        strays,
        len(strays),
        0,
        f"{listed(strays)} {are} of the model: an optimizer of model.parameters() does not move {them}, and no "
        f"state_dict() saves {them}.",
    )


NO_GRADIENT = Rule(
    id="SC501",
    name="parameters without a gradient",
    severity=Severity.WARNING,
    formula=("a parameter with `requires_grad` has `.grad` None in all measurements"),
    thresholds={"measurements after which it is never a note": SEVERAL},
    source="Arithmetic; the number of measurements is a choice.",
    why=(
        "The graph is cut between two layers, or the loss does not depend on the parameters, as on those of a head "
        "that is not used: it should train, and does not. Error: no parameter gets one. In a training, a gradient at "
        "any measured step is enough. Note: others of its kind get one, whose name differs in a number only and whose "
        "shape is the same, as with experts of a sparse mixture that no token of this batch was sent to, or the last "
        "of WaveNet's residual convolutions."
    ),
    remedy=(
        "Look for detach(), .item(), .data, NumPy or torch.no_grad() between these layers, and for a part that is not "
        "called; if it is on purpose, set requires_grad to False."
    ),
    check=_no_gradient,
    example="""
class Cut(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Linear(64, 64), nn.Linear(64, 10)

    def forward(self, x):
        return self.last(torch.relu(self.first(x)).detach())

model = Cut()
""",
)

ZERO_GRADIENT = Rule(
    id="SC502",
    name="gradient of exactly zero",
    severity=Severity.WARNING,
    formula=r"$\lVert \partial L / \partial W \rVert = 0$ for a weight that trains",
    thresholds={},
    source="Arithmetic.",
    why=(
        "Error: every gradient is 0 while the loss is not; or it becomes 0 between two layers at once, and all "
        "layers before get nothing; or all weights are 0 and stay so. Warning: a weight is 0 and its gradient, "
        "too. Note: weights behind one that starts at 0 and has a gradient (it will be gone after a step), and "
        "parts that this batch does not concern."
    ),
    remedy="Look for what is flat between these layers: round, sign, argmax, a clamp, a factor or a mask of 0.",
    check=_zero_gradient,
    example="""
class Rounded(nn.Module):
    def forward(self, x):
        return x.round()

model = nn.Sequential(nn.Linear(64, 64), nn.Tanh(), Rounded(), nn.Linear(64, 10))
""",
    hidden_by=("SC401",),
)

ALIKE = Rule(
    id="SC503",
    name="neurons all alike",
    severity=Severity.WARNING,
    formula="all rows of a weight that trains are the same, and not 0; its layer feeds another one",
    thresholds={},
    source="Arithmetic: equal rows that get equal gradients stay equal.",
    why=(
        "The layer is as good as one neuron: the symmetry between its neurons is not broken, or only by what "
        "comes after. Embeddings and convolutions of single channels are left alone: their rows read different "
        "things."
    ),
    remedy="Draw the weights at random; a constant is for biases and the weights of normalisations.",
    check=_alike,
    example="""
model = nn.Sequential(nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, 10))
for p in model.parameters():
    nn.init.constant_(p, 0.01)
""",
)

STRAY = Rule(
    id="SC504",
    name="weights that are no parameters",
    severity=Severity.WARNING,
    formula="a layer takes a weight that has `requires_grad`, that `model.parameters()` lacks, and that one of the "
    "modules that run keeps in a list, a tuple, a dict or as a plain tensor",
    thresholds={},
    source="Arithmetic.",
    why=(
        "PyTorch finds modules and parameters that are attributes of a module, and does not look into lists and dicts. "
        "What is in there has a gradient and never moves; `to()`, `train()` and `state_dict()` leave it out. Weights "
        'that no module of the model keeps, as those of another network that the forward calls, are under "not seen" '
        "only. Frozen ones and those that the model has elsewhere, too, are left alone."
    ),
    remedy=(
        "Keep modules in nn.ModuleList or nn.ModuleDict, tensors in nn.Parameter or nn.ParameterList, and make the "
        "optimizer after that. If another optimizer trains them on purpose, there is nothing to do."
    ),
    check=_stray,
    example="""
class Listed(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = [nn.Linear(64, 64), nn.Linear(64, 64)]
        self.head = nn.Linear(64, 10)

    def forward(self, x):
        for layer in self.layers:
            x = torch.relu(layer(x))
        return self.head(x)

model = Listed()
""",
)
