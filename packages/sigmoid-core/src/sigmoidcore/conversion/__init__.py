"""`convert`: hidden activations of any model become cores."""

from sigmoidcore.conversion.activation_sites import Site
from sigmoidcore.conversion.activations import FUNCTIONS, KINDS
from sigmoidcore.conversion.convert import ConversionPlan, convert, planned
from sigmoidcore.conversion.eligibility import has_mean, is_core
from sigmoidcore.conversion.report import Activation, Conversion
from sigmoidcore.conversion.tracing import UntraceableError

__all__ = [
    "FUNCTIONS",
    "KINDS",
    "Activation",
    "Conversion",
    "ConversionPlan",
    "Site",
    "UntraceableError",
    "convert",
    "has_mean",
    "is_core",
    "planned",
]
