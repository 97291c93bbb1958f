"""The rules of the diagnosis that name a cause, by the words of the collection.

The maintainers wrote it from these words alone; a cause without a rule counts as missed.
"""

from collections.abc import Mapping

RULES: Mapping[str, tuple[str, ...]] = {
    "another copy is trained": ("US303", "US304"),
    "answer among the inputs": ("US606",),
    "axes scrambled": ("US506",),
    "axis wrong": ("US506",),
    "clipped too much": ("US301",),
    "codebook collapses": ("US203",),
    "codebook gets no gradient": ("US501", "US502"),
    "condition not seen": ("US703",),
    "discrete step without gradient": ("US501", "US502"),
    "end never taught": ("US701",),
    "frozen by mistake": ("US505",),
    "gradient not stopped": ("US309",),
    "gradients cleared too early": ("US306",),
    "gradients not cleared": ("US305",),
    "graph cut": ("US501",),
    "graph cut in a generator": ("US501",),
    "head at a blind token": ("US702", "US703"),
    "inputs not scaled": ("US206",),
    "labels shifted wrongly": ("US606", "US701"),
    "logarithm missing": ("US601",),
    "loss on the wrong tokens": ("US606", "US701", "US702"),
    "mask inverted": ("US606", "US702"),
    "multiplied by zero": ("US502", "US703"),
    "new layer not trained": ("US303", "US505"),
    "no labels left": ("US701",),
    "no signal in the rewards": ("US502", "US704"),
    "not in the optimizer": ("US303",),
    "one loss drowns the other": ("US609",),
    "padding read as content": ("US702",),
    "patches joined wrongly": ("US506",),
    "positions missing": ("US703",),
    "router gets no gradient": ("US502",),
    "schedule wrong": ("US301", "US302"),
    "shapes broadcast": ("US602",),
    "steps too large": ("US302",),
    "target wrong": ("US704",),
    "teacher in training mode": ("US509", "US510"),
    "texts see each other": ("US606",),
    "two softmaxes": ("US601",),
    "update too small": ("US301",),
    "updates rounded away": ("US301",),
    "wrong pairs": ("US704",),
    "wrong positives": ("US704",),
    "zero times zero": ("US502",),
}
"""Codes of rules by cause."""
