"""Trials: a recorded step is trained again on copies of the weights, as it was and with one edit."""

from unstuck.trials.recording import Recording
from unstuck.trials.verdict import tried

__all__ = ["Recording", "tried"]
