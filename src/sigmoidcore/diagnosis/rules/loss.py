"""SC601: the loss gets something else than it expects."""

from sigmoidcore.diagnosis.findings import Severity
from sigmoidcore.diagnosis.rules.evidence import Evidence
from sigmoidcore.diagnosis.rules.rule import Found, Rule
from sigmoidcore.diagnosis.rules.wording import named

LOGITS, LOGS = "logits (any number)", "logarithms of probabilities"
PROBABILITIES = {"softmax", "softmax2d", "sigmoid", "sigmoidcore", "hardsigmoid"}
EXPECTS = {
    "cross_entropy": (LOGITS, PROBABILITIES | {"relu"}),
    "binary_cross_entropy_with_logits": (LOGITS, PROBABILITIES | {"relu"}),
    "multilabel_soft_margin_loss": (LOGITS, PROBABILITIES | {"relu"}),
    "nll_loss": (LOGS, PROBABILITIES | {"relu", "weights"}),
    "kl_div": (LOGS, PROBABILITIES | {"relu", "weights"}),
}
"""By loss function: what it expects, and what it must not read."""


def _misread(evidence: Evidence) -> Found | None:
    now = evidence.now
    if now.loss_reads is None or now.loss_function not in EXPECTS:
        return None
    layer = now.layers[now.loss_reads]
    kind = "weights" if layer.role == "weights" else layer.kind.removesuffix("()").replace("_", "").lower()
    expected, wrong = EXPECTS[now.loss_function]
    if kind not in wrong:
        return None
    given = "a layer without any log_softmax" if kind == "weights" else f"a {layer.kind.removesuffix('()')}"
    if expected == LOGITS:
        remedy = f"Leave {named(layer.name)} out: {now.loss_function} has its own."
        if kind == "relu":
            remedy = f"Leave {named(layer.name)} out: logits may be negative."
    else:
        right = "cross_entropy" if now.loss_function == "nll_loss" else "log_softmax"
        remedy = f"Use {right} on what {named(layer.name)} " + ("gives." if kind == "weights" else "reads.")
    return Found(
        (layer.name,),
        1.0,
        0.0,
        f"{now.loss_function} expects {expected} and gets what {named(layer.name)} gives, {given}.",
        remedy=remedy,
    )


MISREAD = Rule(
    id="SC601",
    name="loss gets the wrong kind of number",
    severity=Severity.WARNING,
    formula="; ".join(f"`{name}` reads {', '.join(sorted(wrong))}" for name, (_, wrong) in EXPECTS.items())
    + ' ("weights": a layer with weights, and no log_softmax after it)',
    thresholds={},
    source="PyTorch's documentation of these functions.",
    why=(
        "Nothing fails, and the network learns slowly or the wrong thing: a softmax of probabilities is nearly "
        "flat, and the negative logarithm of what is no probability has no end."
    ),
    remedy="Give the loss what it expects.",
    check=_misread,
    example="""
model = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10), nn.Softmax(-1))
""",
)
