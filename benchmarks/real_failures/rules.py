"""The rules of the diagnosis that name a cause, by its kind: the only place that connects the two.

It was written from the kinds alone, before any program was diagnosed, and holds for both halves. A kind without a rule
counts as missed. A new rule is added to the kinds that its name describes, never because a program needs it.
"""

from collections.abc import Mapping

from real_failures.program import Cause

RULES: Mapping[Cause, tuple[str, ...]] = {
    "vanishing gradient": ("US101",),
    "exploding gradient": ("US102", "US104"),
    "gradient lost through time": ("US103",),
    "saturated units": ("US201",),
    "dead units": ("US202", "US502"),
    "collapsed units": ("US203",),
    "learning rate too low": ("US301",),
    "learning rate too high": ("US302",),
    "weight decay too strong": ("US307",),
    "no step": ("US301", "US304", "US501"),
    "gradients not cleared": ("US305",),
    "gradients cleared too early": ("US306",),
    "optimizer state lost": ("US308",),
    "parameters not in the optimizer": ("US303",),
    "frozen parameters": ("US505",),
    "graph cut": ("US501",),
    "gradient not stopped": ("US309",),
    "parameters not registered": ("US504",),
    "weights all alike": ("US502", "US503"),
    "initialisation too large": ("US102", "US201", "US204"),
    "initialisation too small": ("US101", "US203"),
    "loss input wrong": ("US601",),
    "loss weights wrong": ("US609", "US610"),
    "axes mixed": ("US506",),
    "targets broadcast": ("US602",),
    "targets out of reach": ("US603",),
    "targets not scaled": ("US603", "US604"),
    "inputs not scaled": ("US205", "US206"),
    "inputs constant": ("US203", "US206"),
    "information across the batch": ("US506",),
    "normalisation wrong": ("US509",),
    "wrong mode": ("US509",),
    "no activation between layers": ("US507",),
    "not finite": ("US401",),
    "precision too low": ("US402", "US403"),
    "dropout too strong": ("US510",),
    "mask wrong": ("US511", "US606", "US612"),
    "positions missing": ("US508",),
    "data wrong": ("US605", "US606", "US608"),
}
"""Codes of rules by kind of cause. One that `docs/rules.md` lacks is still to be written, or has left."""
