"""The rules of the diagnosis that name a cause, by its kind: the only place that connects the two.

It was written from the kinds alone, before any program was diagnosed, and holds for both halves. A kind without a rule
counts as missed. A new rule is added to the kinds that its name describes, never because a program needs it.
"""

from collections.abc import Mapping

from real_failures.program import Cause

RULES: Mapping[Cause, tuple[str, ...]] = {
    "vanishing gradient": ("SC101",),
    "exploding gradient": ("SC102", "SC104"),
    "gradient lost through time": ("SC103",),
    "saturated units": ("SC201",),
    "dead units": ("SC202", "SC502"),
    "collapsed units": ("SC203",),
    "learning rate too low": ("SC301",),
    "learning rate too high": ("SC302",),
    "weight decay too strong": ("SC307",),
    "no step": ("SC301", "SC304", "SC501"),
    "gradients not cleared": ("SC305",),
    "gradients cleared too early": ("SC306",),
    "optimizer state lost": ("SC308",),
    "parameters not in the optimizer": ("SC303",),
    "frozen parameters": ("SC505",),
    "graph cut": ("SC501",),
    "gradient not stopped": ("SC309",),
    "parameters not registered": ("SC504",),
    "weights all alike": ("SC502", "SC503"),
    "initialisation too large": ("SC102", "SC201", "SC204"),
    "initialisation too small": ("SC101", "SC203"),
    "loss input wrong": ("SC601",),
    "loss weights wrong": ("SC609", "SC610"),
    "axes mixed": ("SC506",),
    "targets broadcast": ("SC602",),
    "targets out of reach": ("SC603",),
    "targets not scaled": ("SC603", "SC604"),
    "inputs not scaled": ("SC205", "SC206"),
    "inputs constant": ("SC203", "SC206"),
    "information across the batch": ("SC506",),
    "normalisation wrong": ("SC509",),
    "wrong mode": ("SC509",),
    "no activation between layers": ("SC507",),
    "not finite": ("SC401",),
    "precision too low": ("SC402", "SC403"),
    "dropout too strong": ("SC510",),
    "mask wrong": ("SC511", "SC606", "SC612"),
    "positions missing": ("SC508",),
    "data wrong": ("SC605", "SC606", "SC608"),
}
"""Codes of rules by kind of cause. A code that `docs/rules.md` lacks is a rule that is still to be written."""
