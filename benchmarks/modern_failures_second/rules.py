"""The rules of the diagnosis that name a cause, by the words of the collection.

The maintainers wrote it from these words and from what its author would accept; a cause without a rule is missed.
"""

from collections.abc import Mapping

RULES: Mapping[str, tuple[str, ...]] = {
    "answer visible in the input": ("US606",),
    "attention mask inverted": ("US702",),
    "checkpointing drops gradients": ("US501",),
    "codebook without gradient": ("US501", "US502"),
    "condition missing": ("US703",),
    "encoder without gradient": ("US501", "US502"),
    "gradient zero by initialisation": ("US502",),
    "groups mixed up": ("US706",),
    "labels shifted twice": ("US701",),
    "logits and tokens off by one": ("US606", "US701"),
    "loss called wrongly": ("US601",),
    "loss multiplied by zero": ("US502",),
    "loss over one class": ("US601",),
    "missing detach": ("US309",),
    "new embeddings frozen": ("US505",),
    "new head frozen": ("US505",),
    "pooled where nothing is seen": ("US703",),
    "reference not a copy": ("US705",),
    "router without gradient": ("US502",),
    "rows scrambled": ("US506",),
    "too much dropout": ("US510",),
    "trained part under no_grad": ("US501",),
    "wrong amount of noise": ("US711",),
    "wrong noise": ("US711",),
    "wrong pairs": ("US704", "US708"),
    "wrong special token": ("US601",),
}
"""Codes of rules by cause."""
