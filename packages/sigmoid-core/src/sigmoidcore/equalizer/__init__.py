"""`Equalizer`: slopes during training."""

from sigmoidcore.equalizer.equalizer import Equalizer
from sigmoidcore.equalizer.sample import Sample

__all__ = ["Equalizer", "Sample"]
