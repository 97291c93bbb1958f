"""Observers of layers, and the gradient profile that they measure."""

from sigmoidcore.observation.gradients import GradientObserver
from sigmoidcore.observation.observer import LayerObserver, Observer
from sigmoidcore.observation.process_group import Alone, Ranks
from sigmoidcore.observation.profile import Inputs, LossFn, Profile, gradient_profile, watched_layers

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
