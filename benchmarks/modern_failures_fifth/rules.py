"""The rules of the diagnosis that name a cause, by the words of the collection.

The maintainers wrote it from these words and from what its authors would accept; a cause without a rule is missed.
"""

from collections.abc import Mapping

RULES: Mapping[str, tuple[str, ...]] = {
    "activation without second derivative": ("US502",),
    "augmentation of inputs and targets differs": ("US704",),
    "axes mixed by a reshape": ("US506",),
    "axes mixed": ("US506",),
    "axes mixed: order of repeated rows": ("US706",),
    "box format of the loss": ("US601",),
    "buffers missing in a copy": ("US509",),
    "clipping of scaled gradients": ("US301",),
    "data scrambled by a reshape": ("US506",),
    "decoder sees its own targets": ("US606",),
    "embedding rows collide": ("US712",),
    "embeddings of added tokens frozen": ("US505",),
    "end token taken out of the labels": ("US701",),
    "gradient of another loss": ("US305", "US309"),
    "graph cut": ("US501",),
    "infinite loss of a sample": ("US401", "US603"),
    "learned loss weights collapse": ("US609",),
    "noise of the wrong distribution": ("US711",),
    "padding in the loss": ("US702",),
    "pooled where nothing is known": ("US703",),
    "positions along the wrong axis": ("US703",),
    "positive pairs identical": ("US705", "US708"),
    "pretrained weights not loaded": ("US505",),
    "reference network is the trained network": ("US705",),
    "router gets no gradient": ("US501", "US502"),
    "schedule never stepped": ("US301",),
    "schedule runs too fast": ("US301",),
    "schedule wrong": ("US301",),
    "target leaks into the input": ("US606",),
    "updates lost in half precision": ("US301",),
    "weights of the parts of the loss": ("US609",),
    "wrong index given to the loss": ("US601", "US603"),
}
"""Codes of rules by cause."""
