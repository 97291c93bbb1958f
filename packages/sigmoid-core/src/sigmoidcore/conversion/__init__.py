"""`convert`: hidden activations of any model become cores."""

from sigmoidcore.conversion.convert import convert
from sigmoidcore.conversion.report import Activation, Conversion
from sigmoidcore.conversion.tracing import UntraceableError

__all__ = ["Activation", "Conversion", "UntraceableError", "convert"]
