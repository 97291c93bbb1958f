"""`convert`: hidden activations of any model become cores."""

from sigmoidcore.conversion.activation_sites import Site
from sigmoidcore.conversion.convert import Plan, convert, planned
from sigmoidcore.conversion.eligibility import UNCENTERED, is_core
from sigmoidcore.conversion.report import Activation, Conversion, few
from sigmoidcore.conversion.source_lines import FunctionalCall
from sigmoidcore.conversion.tracing import UntraceableError

__all__ = [
    "UNCENTERED",
    "Activation",
    "Conversion",
    "FunctionalCall",
    "Plan",
    "Site",
    "UntraceableError",
    "convert",
    "few",
    "is_core",
    "planned",
]
