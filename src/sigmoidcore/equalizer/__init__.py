"""`Equalizer`: slopes during training."""
