"""SC601: the loss reads something else than it expects."""

from sigmoidcore.diagnosis.rules.evidence import Evidence
from sigmoidcore.diagnosis.rules.rule import Found
from sigmoidcore.diagnosis.rules.units import plain
from sigmoidcore.diagnosis.rules.wording import named

LOGITS, LOG_PROBABILITIES = "logits (any real number)", "log-probabilities"
NOT_LOGITS = {"softmax", "softmax2d", "sigmoid", "sigmoidcore", "hardsigmoid", "relu"}
NOT_LOGARITHMS = NOT_LOGITS | {"weights"}
EXPECTS = {
    "cross_entropy": (LOGITS, NOT_LOGITS),
    "binary_cross_entropy_with_logits": (LOGITS, NOT_LOGITS),
    "multilabel_soft_margin_loss": (LOGITS, NOT_LOGITS),
    "nll_loss": (LOG_PROBABILITIES, NOT_LOGARITHMS),
    "kl_div": (LOG_PROBABILITIES, NOT_LOGARITHMS),
}
"""By loss function: the input that it expects, and layers that it must not read ("weights": any with weights)."""

REPLACE = "Give the loss the input that it expects."


def wrong_input(evidence: Evidence) -> Found | None:
    """Nothing fails, but the network learns slowly, or the wrong thing.

    `cross_entropy`, `binary_cross_entropy_with_logits` and `multilabel_soft_margin_loss` must not read a softmax,
    sigmoid, hardsigmoid or ReLU directly. `nll_loss` and `kl_div` must not read these, nor a layer with weights without
    a log-softmax after it. A softmax of probabilities is nearly flat, and the negative of something that is not a
    logarithm has no lower bound.

    *Source.* PyTorch's documentation of these functions.
    """
    function, position = evidence.latest.loss_function, evidence.latest.loss_reads
    if position is None or function not in EXPECTS:
        return None
    layer = evidence.layers[position]
    kind = "weights" if layer.role == "weights" else plain(layer.kind)
    expected, wrong = EXPECTS[function]
    if kind not in wrong:
        return None
    source = "a layer without log_softmax" if kind == "weights" else f"a {layer.kind.removesuffix('()')}"
    if expected == LOGITS:
        reason = "logits may be negative" if kind == "relu" else f"{function} has its own"
        remedy = f"Remove {named(layer.name)}: {reason}."
    else:
        right = "cross_entropy" if function == "nll_loss" else "log_softmax"
        remedy = f"Use {right} on the {'output' if kind == 'weights' else 'input'} of {named(layer.name)}."
    text = f"{function} expects {expected} but reads {named(layer.name)}, {source}."
    return Found((layer.name,), 1.0, 0.0, text, remedy)
