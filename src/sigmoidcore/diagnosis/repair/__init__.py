"""Repairs of a diagnosed model, and the calls that findings suggest."""

from sigmoidcore.diagnosis.repair.calls import findings_of
from sigmoidcore.diagnosis.repair.mender import mend
from sigmoidcore.diagnosis.repair.mending import Change, Left, Mending

__all__ = ["Change", "Left", "Mending", "findings_of", "mend"]
