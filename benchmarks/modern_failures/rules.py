"""The rules of the diagnosis that name a cause, by its kind: the only place that connects the two.

It was written from the kinds alone; a kind without a rule counts as missed.
"""

from collections.abc import Mapping

from modern_failures.program import Cause

RULES: Mapping[Cause, tuple[str, ...]] = {
    "labels shifted twice": ("US701",),
    "labels not shifted": ("US606",),
    "padding in the loss": ("US702",),
    "end token not in the loss": ("US701",),
    "all labels ignored": ("US701",),
    "loss of the wrong positions": ("US606", "US701"),
    "later tokens visible": ("US606",),
    "documents of a packed row visible": ("US606",),
    "padding visible": ("US702",),
    "other samples visible": ("US506",),
    "condition ignored": ("US703",),
    "inputs hidden": ("US703",),
    "positions wrong": ("US703", "US707"),
    "pairs shuffled apart": ("US704",),
    "positives wrong": ("US704", "US708"),
    "targets wrong": ("US704",),
    "targets trivial": ("US605", "US606"),
    "targets impossible": ("US603", "US704"),
    "groups mixed": ("US706",),
    "reference is the policy": ("US502", "US705"),
    "ratio always one": ("US502", "US705"),
    "advantages zero": ("US502",),
    "constant loss": ("US502", "US601", "US705"),
    "teacher in training mode": ("US509", "US510"),
    "target encoder with gradient": ("US309",),
    "buffers not averaged": ("US509",),
    "experts unused": ("US710",),
    "parameters not in the optimizer": ("US303",),
    "frozen and random": ("US501", "US505"),
    "graph cut": ("US501",),
    "router without gradient": ("US502",),
    "codes without gradient": ("US501", "US502"),
    "codes unused": ("US203", "US710"),
    "no step": ("US301", "US303", "US304", "US501", "US505"),
    "updates rounded away": ("US301",),
    "adapter scaled wrong": ("US302",),
    "gradients unscaled twice": ("US301",),
    "clipped to nothing": ("US301",),
    "accumulated and not divided": ("US302", "US305"),
    "gradients cleared too early": ("US306",),
    "schedule zero or all warm-up": ("US301",),
    "rate of another kind of network": ("US301", "US302"),
    "initialisation too large": ("US102", "US201", "US204", "US607"),
    "weight decay too strong": ("US307",),
    "axes mixed": ("US506",),
    "normalisation wrong": ("US509",),
    "loss input wrong": ("US601",),
    "loss weights wrong": ("US609",),
    "inputs scaled wrong": ("US206",),
    "not finite": ("US401",),
}
"""Codes of rules by kind of cause."""
