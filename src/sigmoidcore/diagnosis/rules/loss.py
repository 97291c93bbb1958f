"""SC601: the loss reads something else than it expects."""

from sigmoidcore.diagnosis.rules.evidence import Evidence
from sigmoidcore.diagnosis.rules.rule import Found
from sigmoidcore.diagnosis.rules.units import plain
from sigmoidcore.diagnosis.wording import named

READS_LOGITS = ("cross_entropy", "binary_cross_entropy_with_logits", "multilabel_soft_margin_loss")
READS_LOGARITHMS = ("nll_loss", "kl_div")
BOUNDED = ("softmax", "softmax2d", "sigmoid", "sigmoidcore", "hardsigmoid", "relu")
"""Activations whose outputs are neither logits nor logarithms."""

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
    if position is None:
        return None
    layer = evidence.layers[position]
    kind, weighted = plain(layer.kind), layer.role == "weights"
    if function in READS_LOGITS and kind in BOUNDED and not weighted:
        expected, reason = "logits (any real number)", f"{function} has its own"
        remedy = f"Remove {named(layer.name)}: {'logits may be negative' if kind == 'relu' else reason}."
    elif function in READS_LOGARITHMS and (kind in BOUNDED or weighted):
        expected, right = "log-probabilities", "cross_entropy" if function == "nll_loss" else "log_softmax"
        remedy = f"Use {right} on the {'output' if weighted else 'input'} of {named(layer.name)}."
    else:
        return None
    source = "a layer without log_softmax" if weighted else f"a {layer.kind.removesuffix('()')}"
    text = f"{function} expects {expected} but reads {named(layer.name)}, {source}."
    return Found((layer.name,), 1.0, 0.0, text, remedy)
