"""The rules of the diagnosis that name a cause, by the words of the collection.

The maintainers wrote it from these words and from what its authors would accept; a cause without a rule is missed.
"""

from collections.abc import Mapping

RULES: Mapping[str, tuple[str, ...]] = {
    "axes mixed": ("US506",),
    "causal mask without effect": ("US606",),
    "clipped before unscaling": ("US301",),
    "condition constant": ("US703",),
    "dead density": ("US202", "US502"),
    "edges of a batch wrong": ("US712",),
    "end of text never a label": ("US701",),
    "frozen parameters": ("US505",),
    "gradients cleared too early": ("US306",),
    "graph cut": ("US501", "US601"),
    "information across the batch": ("US506",),
    "labels do not fit the inputs": ("US704",),
    "labels overwritten by the mask token": ("US606", "US701"),
    "labels shifted twice": ("US701",),
    "learning rate decays to zero at once": ("US301",),
    "learning rate gone": ("US301",),
    "logits confined": ("US709",),
    "loss input wrong": ("US601",),
    "loss term without gradient": ("US501", "US601"),
    "mask inverted": ("US606",),
    "outputs too short for the labels": ("US603",),
    "parameters replaced after the optimizer was built": ("US303",),
    "pooled token sees no context": ("US703",),
    "positions missing": ("US703",),
    "precision too low": ("US301",),
    "reference model not a frozen copy": ("US705",),
    "rewards grouped wrong": ("US706",),
    "softmax over one value": ("US501", "US502"),
    "target longer than the output": ("US603",),
    "targets broadcast": ("US602",),
    "targets not shifted": ("US606", "US701"),
    "truncation removes what differs": ("US705", "US708"),
    "wrong broadcasting": ("US506", "US711"),
    "zero initialised in series": ("US502",),
}
"""Codes of rules by cause."""
