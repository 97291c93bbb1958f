"""The rules of the diagnosis that name a cause, by the words of the collection.

The maintainers wrote it from these words and from what its authors would accept; a cause without a rule is missed.
"""

from collections.abc import Mapping

RULES: Mapping[str, tuple[str, ...]] = {
    "a loss fed with the wrong quantity": ("US601",),
    "a target masked out of the loss": ("US701",),
    "an input does not arrive": ("US703",),
    "axes mixed in a reshape": ("US506", "US706"),
    "axes mixed in the pooling": ("US506",),
    "categories collide in one table": ("US712",),
    "clipping at the wrong scale": ("US301", "US306"),
    "codebook cut from the loss": ("US501", "US502"),
    "dead output activation": ("US202", "US502"),
    "false negatives in the batch": ("US704", "US708"),
    "graph cut at a checkpoint": ("US501",),
    "graph cut by checkpointing": ("US501",),
    "initialisation overwritten": ("US201", "US203", "US204", "US607"),
    "labels shifted twice": ("US701",),
    "latents not scaled to the noise": ("US206", "US604", "US711"),
    "loss flat where the training begins": ("US502",),
    "loss input not normalised": ("US601",),
    "loss terms out of balance": ("US609",),
    "loss values copied out of the graph": ("US501", "US601"),
    "module shared instead of copied": ("US501", "US505", "US705"),
    "noise schedule too short": ("US711",),
    "parameters not in the optimizer": ("US303", "US505"),
    "penalty without a gradient": ("US501", "US601"),
    "positive pairs wrong": ("US704", "US708"),
    "precision of the weights too low": ("US301",),
    "router without gradient": ("US501", "US502"),
    "schedule overrides the learning rates": ("US301", "US302"),
    "target visible in the input": ("US606",),
    "targets not aligned with inputs": ("US704",),
    "the learning rate ends too early": ("US301",),
    "the mask shows the future": ("US606",),
    "the optimizer holds parameters that were replaced": ("US303",),
    "the output is read from padding": ("US702", "US703"),
    "the reference moves with the model": ("US705",),
    "the router gets no gradient": ("US501", "US502"),
    "updates rounded away": ("US301",),
}
"""Codes of rules by cause."""
