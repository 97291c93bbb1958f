"""The public names, which `sigmoidcore` imports when the first of them is used."""

from sigmoidcore.calibration.calibrate import Calibration, calibrate, prepare
from sigmoidcore.calibration.learning_rates import depth_scaled_lr
from sigmoidcore.conversion.convert import convert
from sigmoidcore.conversion.report import Activation, Conversion
from sigmoidcore.core import SigmoidCore, sigmoid_core
from sigmoidcore.equalizer.equalizer import Equalizer
from sigmoidcore.folding.fold import fold
from sigmoidcore.nn import networks, recurrent
from sigmoidcore.nn.networks import MLP
from sigmoidcore.observation.profile import gradient_profile
from unstuck import Diagnosis, Monitor, diagnose
from unstuck.observation.profile import Profile

__all__ = [
    "MLP", "Activation", "Calibration", "Conversion", "Diagnosis", "Equalizer", "Monitor", "Profile", "SigmoidCore",
    "calibrate", "convert", "depth_scaled_lr", "diagnose", "fold", "gradient_profile", "networks", "prepare",
    "recurrent", "sigmoid_core",
]  # fmt: skip
