"""`calibrate` and `prepare`: slopes, shifts and fresh weights before training."""

from sigmoidcore.calibration.branches import Branch
from sigmoidcore.calibration.calibrate import Calibration, calibrate, prepare
from sigmoidcore.calibration.learning_rates import depth_scaled_lr

__all__ = ["Branch", "Calibration", "calibrate", "depth_scaled_lr", "prepare"]
