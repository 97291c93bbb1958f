"""`convert`: hidden activations of any model become cores."""

from sigmoidcore.conversion.activation_sites import Site
from sigmoidcore.conversion.activations import FUNCTIONS, KINDS, WITH_MEAN
from sigmoidcore.conversion.convert import ConversionPlan, convert, planned
from sigmoidcore.conversion.report import Activation, Conversion
from sigmoidcore.conversion.tracing import UntraceableError

__all__ = [
    "FUNCTIONS",
    "KINDS",
    "WITH_MEAN",
    "Activation",
    "Conversion",
    "ConversionPlan",
    "Site",
    "UntraceableError",
    "convert",
    "planned",
]
