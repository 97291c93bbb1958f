"""Observers of layers, and the gradient profile that they measure."""

from sigmoidcore.observation.gradients import GradientObserver
from sigmoidcore.observation.profile import gradient_profile, watched_layers
from unstuck.observation import Alone, Inputs, LayerObserver, LossFn, Observer, Profile, Ranks

__all__ = [
    "Alone",
    "GradientObserver",
    "Inputs",
    "LayerObserver",
    "LossFn",
    "Observer",
    "Profile",
    "Ranks",
    "gradient_profile",
    "watched_layers",
]
