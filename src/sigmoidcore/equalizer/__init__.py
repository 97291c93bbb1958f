"""`Equalizer`: slopes during training."""

from sigmoidcore.equalizer.equalizer import Equalizer, Sample
from sigmoidcore.equalizer.neuron_rule import open_neurons

__all__ = [
    "Equalizer",
    "Sample",
    "open_neurons",
]
