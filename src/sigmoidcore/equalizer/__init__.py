"""`Equalizer`: slopes during training."""

from sigmoidcore.equalizer.equalizer import Equalizer, Sample

__all__ = ["Equalizer", "Sample"]
