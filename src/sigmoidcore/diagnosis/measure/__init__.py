"""Measurements of one training step, from the hooks to the numbers."""

from sigmoidcore.diagnosis.measure.measurement import Layer, Measurement, Subject, Weight
from sigmoidcore.diagnosis.measure.one_batch import measure
from sigmoidcore.diagnosis.measure.probe import Probe

__all__ = ["Layer", "Measurement", "Probe", "Subject", "Weight", "measure"]
