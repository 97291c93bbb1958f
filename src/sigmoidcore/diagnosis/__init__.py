"""`diagnose` and `Monitor`: measure any network, find what is wrong and suggest what to do."""

from sigmoidcore.diagnosis.diagnose import diagnose
from sigmoidcore.diagnosis.diagnosis import Diagnosis
from sigmoidcore.diagnosis.findings import Finding, Severity
from sigmoidcore.diagnosis.monitor import Monitor

__all__ = ["Diagnosis", "Finding", "Monitor", "Severity", "diagnose"]
