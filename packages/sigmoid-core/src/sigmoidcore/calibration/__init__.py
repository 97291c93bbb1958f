"""`calibrate` and `prepare`: slopes, shifts and fresh weights before training."""

from sigmoidcore.calibration.calibrate import Calibration, calibrate, prepare
from sigmoidcore.calibration.learning_rates import depth_scaled_lr

__all__ = ["Calibration", "calibrate", "depth_scaled_lr", "prepare"]
