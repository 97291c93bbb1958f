"""The rules of the diagnosis that name a cause, by the words of the collection.

The maintainers wrote it from these words and from what its authors would accept; a cause without a rule is missed.
"""

from collections.abc import Mapping

RULES: Mapping[str, tuple[str, ...]] = {
    "a class has the number of a special symbol": ("US601",),
    "a part of the network gets no gradient": ("US501",),
    "activation checkpointing cuts off the gradients of the adapters": ("US501",),
    "activation has no second derivative": ("US502",),
    "coordinates in the wrong range": ("US206",),
    "different things get the same embedding": ("US703", "US712"),
    "gradients made far too small before the step": ("US301",),
    "indices of a batch not shifted": ("US506", "US712"),
    "inputs badly scaled": ("US206", "US711"),
    "inputs contain the targets": ("US606",),
    "labels moved by one place too many": ("US701",),
    "logits of the contrastive loss in too narrow a range": ("US709",),
    "loss can be lowered without learning": ("US609",),
    "mask inverted": ("US606",),
    "normalised along an axis of length one": ("US502", "US601"),
    "only one class in the training data": ("US605",),
    "output detached from its network before the loss": ("US501",),
    "outputs cannot reach the data": ("US603",),
    "parameters missing in the optimizer": ("US303",),
    "positions applied along the wrong axis": ("US703",),
    "probabilities given to a loss that expects their logarithms": ("US601",),
    "rewards normalized over the wrong groups": ("US706",),
    "targets overwritten in place": ("US606", "US701"),
    "the answer is among the inputs": ("US606",),
    "the answer is in the input": ("US606",),
    "the end token is left out of the loss": ("US701",),
    "the router of the experts gets no gradient": ("US501", "US502"),
    "the targets do not belong to the inputs": ("US704",),
    "truncation removes the part that matters": ("US705",),
    "two losses of very different weight": ("US609",),
    "updates too small for the precision of the weights": ("US301",),
    "updates too small": ("US301",),
    "wrong pairs in a contrastive loss": ("US708",),
}
"""Codes of rules by cause."""
